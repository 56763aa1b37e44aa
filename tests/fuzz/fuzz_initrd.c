/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Initrds that somebody else made, as far as nido looks into them:
 *   byte 0      how the archive is packed (low bits, 0: not at all), whether it is one of two (0x80),
 *               and whether the changes are to what is packed or (0x40) to the packed form
 *   then        changes of six bytes: offset (2), length (1: 1, 2, 4 or 8 bytes), value (3, repeated)
 * Passes when nothing is touched that should not be (the sanitizers say so) and a refusal has words.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/cpio.h"
#include "firmware/initrd_machine.h"
#include "tests/unit/image_builder.h"

#include "fuzz.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>

static void change(struct blob *image, const uint8_t *data, size_t size)
{
    for (; size >= 6; data += 6, size -= 6) {
        size_t at = get_le16(data), length = (size_t)1 << (data[2] & 3);
        for (size_t i = 0; i < length && at + i < image->length; i++)
            image->at[at + i] = data[3 + i % 3];
    }
}

/* Two have a program that says nothing, so that the walk goes on. */
static struct blob make_archive(bool twice)
{
    uint8_t elf[64] = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
    char *bytes = NULL;
    size_t length = 0;
    struct cpio cpio;
    FILE *to = open_memstream(&bytes, &length);
    if (!to)
        __builtin_trap();
    put_le16(elf + offsetof(Elf64_Ehdr, e_machine), twice ? EM_BPF : EM_AARCH64);
    for (unsigned i = 0; i < 1u + twice; i++) {
        cpio_begin(&cpio, to);
        cpio_directory(&cpio, "bin", 0755);
        cpio_file(&cpio, "bin/program", 0755, elf, sizeof(elf), NULL);
        if (cpio_end(&cpio, NULL) < 0)
            __builtin_trap();
    }
    fclose(to);
    return (struct blob){(uint8_t *)bytes, length};
}

static struct blob make_initrd(uint8_t kind, const uint8_t *data, size_t size)
{
    static const enum unpack_format formats[] = {UNPACK_UNKNOWN, UNPACK_GZIP, UNPACK_ZSTD,
                                                 UNPACK_LZ4,     UNPACK_XZ,   UNPACK_LZMA};
    enum unpack_format format = formats[(kind & 0x3f) % ARRAY_SIZE(formats)];
    struct blob initrd = make_archive(kind & 0x80);
    if (!(kind & 0x40))
        change(&initrd, data, size);
    if (format != UNPACK_UNKNOWN) {
        struct blob packed = image_pack(format, initrd.at, initrd.length);
        blob_free(&initrd);
        initrd = packed;
    }
    if (kind & 0x40)
        change(&initrd, data, size);
    return initrd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nido_error err = {0};
    if (size == 0)
        return -1;
    own_blob struct blob initrd = make_initrd(data[0], data + 1, size - 1);
    own_image_file struct image_file image = image_file_make(initrd.at, initrd.length);
    struct bootfile file = {.fd = image.fd, .size_bytes = initrd.length};
    if (initrd_machine_check(&file, EM_X86_64, &err) < 0 && !err.text[0])
        __builtin_trap();
    return 0;
}
