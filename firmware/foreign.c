/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/foreign.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/elf.h"
#include "firmware/unpack.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define ARM64_MAGIC    "ARM\x64"
#define ARM64_MAGIC_AT 0x38u

/* What is known by a few bytes at a fixed place; the first that fits counts. */
static const struct {
    unsigned at, length;
    const char *bytes;
    const char *sentence;
} kinds[] = {
    {ARM64_MAGIC_AT, 4, ARM64_MAGIC, "an arm64 Image"},
    {0x202, 4, "HdrS", "an x86 bzImage"},
    {4, 4, "zimg", "an EFI zboot image; take the kernel out of it, or its package's plain one"},
    {0, 2, "MZ", "an EFI program without a Linux boot header"},
    {0, 2, "\x1f\x8b", "a gzip file; unpack it first with gunzip"},
    {0, 6, "\xfd\x37zXZ\0", "an xz file; unpack it first with unxz"},
    {0, 4, "\x28\xb5\x2f\xfd", "a zstd file; unpack it first with unzstd"},
    {0, 4, "\x02\x21\x4c\x18", "an LZ4 file; unpack it first with unlz4"},
    {0, 4, "\x04\x22\x4d\x18", "an LZ4 file; unpack it first with unlz4"},
    {0, 3, "BZh", "a bzip2 file; unpack it first with bunzip2"},
    {0, 4, "\x27\x05\x19\x56", "a U-Boot image; take the kernel out of it with dumpimage"},
    {0, 4, "0707", "a cpio archive, as initrds are; did you swap --kernel and --initrd?"},
    {0, 4, "QFI\xfb", "a qcow2 disk image; give it as --disk"},
    {0, 2, "#!", "a script"},
};

#define ELF_HEAD_BYTES sizeof(Elf64_Ehdr)

/* What is read of a packed file to see the head of what it packs. */
#define PACKED_BYTES (256 * KIB)

/* PE format, "MS-DOS Stub" and "COFF File Header". */
#define PE_OFFSET_AT     0x3cu
#define PE_HEAD_BYTES    6u
#define PE_MACHINE_AT    4u
#define PE_MACHINE_ARM64 0xaa64u

static bool is_text(const uint8_t *head, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (head[i] >= 0x7f || (head[i] < ' ' && !memchr("\t\n\r\f", head[i], 4)))
            return false;
    }
    return true;
}

static int elf_error(const uint8_t *head, const char *wanted, struct nido_error *err)
{
    const uint8_t *field = head + offsetof(Elf64_Ehdr, e_machine);
    const char *machine =
        elf_machine_name(head[EI_DATA] == ELFDATA2MSB ? get_be16(field) : get_le16(field));
    return error_set(err, ENOEXEC, "not %s but an ELF file for %s", wanted,
                     machine ? machine : "a machine that nobody boots");
}

static bool is_arm64_zboot(const uint8_t *head, size_t length)
{
    if (length < PE_OFFSET_AT + 4 || memcmp(head, "MZ\0\0zimg", 8) != 0)
        return false;
    uint32_t at = get_le32(head + PE_OFFSET_AT);
    return checked_inside(at, PE_HEAD_BYTES, length) && memcmp(head + at, "PE\0\0", 4) == 0 &&
           get_le16(head + at + PE_MACHINE_AT) == PE_MACHINE_ARM64;
}

static bool is_packed_arm64(const uint8_t *head, size_t length, const struct bootfile *file)
{
    uint8_t unpacked[ARM64_MAGIC_AT + 4];
    size_t unpacked_bytes = 0;
    enum unpack_format format =
        file && length >= UNPACK_MAGIC_BYTES ? unpack_recognise(head) : UNPACK_UNKNOWN;
    return format != UNPACK_UNKNOWN &&
           unpack_part(format, file, 0, MIN(file->size_bytes, PACKED_BYTES), unpacked,
                       sizeof(unpacked), &unpacked_bytes, NULL) == 0 &&
           unpacked_bytes == sizeof(unpacked) &&
           memcmp(unpacked + ARM64_MAGIC_AT, ARM64_MAGIC, 4) == 0;
}

int foreign_error(const uint8_t *head, size_t length, const struct bootfile *file,
                  const char *wanted, struct nido_error *err)
{
    const char *what = is_text(head, length) ? "a text file" : "a file of an unknown kind";
    if (length >= ELF_HEAD_BYTES && memcmp(head, ELFMAG, SELFMAG) == 0)
        return elf_error(head, wanted, err);
    if (is_arm64_zboot(head, length))
        return error_set(err, ENOEXEC, "not %s but an arm64 kernel in an EFI zboot image", wanted);
    if (is_packed_arm64(head, length, file))
        return error_set(err, ENOEXEC, "not %s but a packed arm64 Image", wanted);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (checked_inside(kinds[i].at, kinds[i].length, length) &&
            memcmp(head + kinds[i].at, kinds[i].bytes, kinds[i].length) == 0) {
            what = kinds[i].sentence;
            break;
        }
    }
    return error_set(err, ENOEXEC, "not %s but %s", wanted, what);
}
