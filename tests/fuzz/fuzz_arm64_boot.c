/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arm64's boot_load() with kernels that somebody else made. A file of random bytes is refused by
 * its first ones, so most inputs are a list of changes to a good image instead:
 *   byte 0      which image: 0 raw bytes, else see make_kernel()
 *   then        changes of six bytes: offset (2), length (1: 1, 2, 4 or 8 bytes), value (3,
 * repeated) Passes when nothing is touched that should not be (the sanitizers say so) and a machine
 * that is ready to start would start inside of its RAM, with a device tree that is whole.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/arm64/devicetree.h"
#include "firmware/arm64/layout.h"
#include "firmware/boot.h"
#include "tests/unit/image_builder.h"

#include "fuzz.h"

#include <libfdt.h>
#include <stdlib.h>

#define RAM_BYTES (8 * MIB)

static void change(struct blob *image, const uint8_t *data, size_t size)
{
    for (; size >= 6; data += 6, size -= 6) {
        size_t at = get_le16(data), length = (size_t)1 << (data[2] & 3);
        for (size_t i = 0; i < length && at + i < image->length; i++)
            image->at[at + i] = data[3 + i % 3];
    }
}

/* Even kinds change what is packed, odd ones the wrapping. */
static struct blob make_kernel(uint8_t kind, const uint8_t *data, size_t size)
{
    static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                                 UNPACK_LZMA};
    enum unpack_format format = formats[kind / 2 % ARRAY_SIZE(formats)];
    struct blob kernel = {0}, plain = image_arm64_make(kind & 1 ? 0x80000 : 0, MIB, 0x1000);
    if (kind == 0) {
        kernel = blob_zeroed(size);
        if (size)
            memcpy(kernel.at, data, size);
        blob_free(&plain);
        return kernel;
    }
    if (!(kind & 1))
        change(&plain, data, size);
    kernel =
        kind & 0x80 ? image_zboot_of(format, &plain) : image_pack(format, plain.at, plain.length);
    blob_free(&plain);
    if (kind & 1)
        change(&kernel, data, size);
    return kernel;
}

static struct mem *make_ram(void)
{
    static const uint64_t mpidr[1];
    const struct devicetree_machine machine = {.cpus = 1, .mpidr = mpidr};
    struct mem_range range = {RAM_BASE_GPA, RAM_BYTES};
    struct mem *mem = NULL;
    if (mem_create(&mem, &range, 1, MEM_ANONYMOUS, NULL) < 0 ||
        devicetree_write(&machine, mem, DEVICETREE_GPA, NULL) < 0)
        __builtin_trap();
    return mem;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem *mem;
    if (size == 0)
        return -1;
    if (!mem)
        mem = make_ram();

    own_blob struct blob kernel = make_kernel(data[0], data + 1, size - 1);
    own_image_file struct image_file file = image_file_make(kernel.at, kernel.length);
    own_image_file struct image_file initrd = image_file_make(data, size);
    struct boot_request request = {.kernel_path = file.path,
                                   .initrd_path = initrd.path,
                                   .cmdline = "",
                                   .tables_gpa = DEVICETREE_GPA};
    struct boot_entry entry;
    struct nido_error err = {0};
    int r = boot_load(&request, mem, &entry, &err);
    if (r < 0 ? !err.text[0]
              : entry.entry_gpa < IMAGE_BASE_GPA || entry.entry_gpa >= RAM_BASE_GPA + RAM_BYTES)
        __builtin_trap();
    if (fdt_check_full(mem_for_read(mem, DEVICETREE_GPA, DEVICETREE_BYTES), DEVICETREE_BYTES) != 0)
        __builtin_trap();
    return 0;
}
