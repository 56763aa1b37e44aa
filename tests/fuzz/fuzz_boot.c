/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_load() with kernels that somebody else made. A file of random bytes is refused by its first
 * four, so most inputs are a list of changes to a good image instead:
 *   byte 0      which image: 0 raw bytes, else see make_kernel()
 *   then        changes of six bytes: offset (2), length (1: 1, 2, 4 or 8 bytes), value (3,
 * repeated) Passes when nothing is touched that should not be (the sanitizers say so) and a machine
 * that is ready to start would start inside of its RAM.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/boot.h"
#include "tests/unit/image_builder.h"

#include "fuzz.h"

#include <stdlib.h>

#define RAM_BYTES (20 * MIB)

/* Small offsets in the file make small images, and so many runs a second. */
static const struct image_elf layout = {
    .entry = 0x1000100,
    .segments = {{0x1000, 0x800, 0x1000000, 0x1000, 0xffffffff81000000},
                 {0x1800, 0x400, 0x1001000, 0x4000, 0}},
    .count = 2,
    .pvh_gpa = 0x1000200,
};

static void change(struct blob *image, const uint8_t *data, size_t size)
{
    for (; size >= 6; data += 6, size -= 6) {
        size_t at = get_le16(data), length = (size_t)1 << (data[2] & 3);
        for (size_t i = 0; i < length && at + i < image->length; i++)
            image->at[at + i] = data[3 + i % 3];
    }
}

static struct blob make_kernel(uint8_t kind, const uint8_t *data, size_t size)
{
    static const enum unpack_format formats[] = {UNPACK_LZ4, UNPACK_GZIP,    UNPACK_ZSTD,
                                                 UNPACK_XZ,  UNPACK_UNKNOWN, UNPACK_LZMA};
    struct blob kernel;
    if (kind == 0) {
        kernel = blob_zeroed(size);
        if (size)
            memcpy(kernel.at, data, size);
    } else if (kind == 1) {
        kernel = image_elf_make(&layout);
        change(&kernel, data, size);
    } else if (kind == 2) { /* a good wrapping around a bad kernel */
        struct blob plain = image_elf_make(&layout);
        change(&plain, data, size);
        struct blob packed = image_pack(UNPACK_LZ4, plain.at, plain.length);
        kernel = image_bzimage_make(UNPACK_LZ4, packed.at, packed.length, (uint32_t)plain.length);
        blob_free(&packed);
        blob_free(&plain);
    } else {
        kernel = image_bzimage_of(formats[kind % ARRAY_SIZE(formats)], &layout);
        change(&kernel, data, size);
    }
    return kernel;
}

static struct mem *make_ram(void)
{
    struct mem_range range = {0, RAM_BYTES};
    struct mem *mem = NULL;
    if (mem_create(&mem, &range, 1, MEM_ANONYMOUS, NULL) < 0)
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

    own_blob struct blob kernel = make_kernel(data[0] & 15, data + 1, size - 1);
    own_image_file struct image_file file = image_file_make(kernel.at, kernel.length);
    own_image_file struct image_file initrd = image_file_make(data, size);
    struct boot_request request = {
        .kernel_path = file.path, .initrd_path = initrd.path, .cmdline = "", .tables_gpa = 0xe0000};
    struct boot_entry entry;
    struct nido_error err = {0};
    int r = boot_load(&request, mem, &entry, &err);
    if (r < 0 ? !err.text[0] : entry.entry_gpa < MIB || entry.entry_gpa >= RAM_BYTES)
        __builtin_trap();
    return 0;
}
