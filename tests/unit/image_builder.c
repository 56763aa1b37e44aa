/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_builder.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <elf.h>
#include <lz4hc.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define SETUP_SECTORS   4u
#define CODE_OFFSET     ((SETUP_SECTORS + 1) * 512)
#define PAYLOAD_OFFSET  0x240u /* behind the two entry points */
#define LZ4_BLOCK_BYTES (8u << 20)

const struct image_elf image_small_kernel = {
    .entry = 0x1000100,
    .segments =
        {
            {0x200000, 0x4000, 0x1000000, 0x4000, 0xffffffff81000000},
            {0x205000, 0x1800, 0x1004000, 0x4000, 0xffffffff81004000},
        },
    .count = 2,
};

/* The tests cannot go on without memory or a memfd, and say so by dying. */
static void *need(void *pointer)
{
    if (!pointer)
        __builtin_trap();
    return pointer;
}

struct blob blob_zeroed(size_t length)
{
    return (struct blob){need(calloc(1, length ? length : 1)), length};
}

struct blob blob_pattern(size_t length, unsigned seed)
{
    struct blob blob = blob_zeroed(length);
    uint32_t value = seed * 2654435761u + 1;
    for (size_t i = 0; i < length; i++) {
        value = value * 1664525 + 1013904223;
        /* Some runs, so that every packer finds something to do. */
        blob.at[i] = (i / 64) % 3 == 0 ? (uint8_t)seed : (uint8_t)(value >> 24);
    }
    return blob;
}

void blob_free(struct blob *blob)
{
    free(blob->at);
    *blob = (struct blob){0};
}

struct image_file image_file_make(const void *bytes, size_t length)
{
    struct image_file file = {.fd = memfd_create("image", MFD_CLOEXEC)};
    if (file.fd < 0 || ftruncate(file.fd, (off_t)length) < 0)
        __builtin_trap();
    for (size_t at = 0; at < length;) {
        ssize_t n = pwrite(file.fd, (const uint8_t *)bytes + at, length - at, (off_t)at);
        if (n <= 0)
            __builtin_trap();
        at += (size_t)n;
    }
    snprintf(file.path, sizeof(file.path), "/proc/self/fd/%d", file.fd);
    return file;
}

void image_file_remove(struct image_file *file)
{
    close(file->fd);
    file->fd = -1;
}

static size_t pack_gzip(struct blob *to, const void *plain, size_t length)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)plain,
                  .avail_in = (uInt)length,
                  .next_out = to->at,
                  .avail_out = (uInt)to->length};
    if (deflateInit2(&z, 1, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY) != Z_OK ||
        deflate(&z, Z_FINISH) != Z_STREAM_END)
        __builtin_trap();
    deflateEnd(&z);
    return z.total_out;
}

static size_t pack_lz4(struct blob *to, const uint8_t *plain, size_t length)
{
    put_le32(to->at, 0x184c2102);
    size_t at = 4;
    for (size_t done = 0; done < length; done += LZ4_BLOCK_BYTES) {
        size_t block = MIN(length - done, (size_t)LZ4_BLOCK_BYTES);
        int n = LZ4_compress_HC((const char *)plain + done, (char *)to->at + at + 4, (int)block,
                                (int)(to->length - at - 4), 3);
        if (n <= 0)
            __builtin_trap();
        put_le32(to->at + at, (uint32_t)n);
        at += 4 + (size_t)n;
    }
    return at;
}

static size_t pack_lzma(enum unpack_format format, struct blob *to, const void *plain,
                        size_t length)
{
    lzma_options_lzma options;
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_lzma_preset(&options, 0))
        __builtin_trap();
    lzma_ret status = format == UNPACK_XZ ? lzma_easy_encoder(&z, 0, LZMA_CHECK_CRC32)
                                          : lzma_alone_encoder(&z, &options);
    z.next_in = plain;
    z.avail_in = length;
    z.next_out = to->at;
    z.avail_out = to->length;
    if (status != LZMA_OK || lzma_code(&z, LZMA_FINISH) != LZMA_STREAM_END)
        __builtin_trap();
    size_t total = z.total_out;
    lzma_end(&z);
    return total;
}

struct blob image_pack(enum unpack_format format, const void *plain, size_t length)
{
    struct blob to = blob_zeroed(length + length / 64 + 65536);

    switch (format) {
    case UNPACK_GZIP:
        to.length = pack_gzip(&to, plain, length);
        break;
    case UNPACK_ZSTD:
        to.length = ZSTD_compress(to.at, to.length, plain, length, 3);
        break;
    case UNPACK_LZ4:
        to.length = pack_lz4(&to, plain, length);
        break;
    case UNPACK_XZ:
    case UNPACK_LZMA:
        to.length = pack_lzma(format, &to, plain, length);
        break;
    case UNPACK_UNKNOWN: /* as bzip2 would begin */
        memcpy(to.at, "BZh91AY&SY", 10);
        to.length = 4096;
        break;
    }
    return to;
}

static uint64_t elf_file_bytes(const struct image_elf *elf)
{
    uint64_t end = 0x1000;
    for (unsigned i = 0; i < elf->count; i++)
        end = MAX(end, elf->segments[i].offset + elf->segments[i].file_bytes);
    return elf->file_bytes ? elf->file_bytes : end;
}

/* A note that is none of ours, then the PVH entry, as in a Linux kernel. */
static size_t put_notes(uint8_t *at, uint32_t pvh_gpa)
{
    static const uint8_t other[] = {4,   0,   0,   0, 6,   0,   0,   0,   6,   0, 0, 0,
                                    'X', 'e', 'n', 0, 'l', 'i', 'n', 'u', 'x', 0, 0, 0};
    static const uint8_t pvh[] = {4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0};
    memcpy(at, other, sizeof(other));
    memcpy(at + sizeof(other), pvh, sizeof(pvh));
    put_le64(at + sizeof(other) + sizeof(pvh), pvh_gpa);
    return sizeof(other) + sizeof(pvh) + 8;
}

struct blob image_elf_make(const struct image_elf *elf)
{
    struct blob file = blob_zeroed(elf_file_bytes(elf));
    Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = elf->entry,
        .e_phoff = sizeof(header),
        .e_ehsize = sizeof(header),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (uint16_t)(elf->count + (elf->pvh_gpa != 0)),
    };
    Elf64_Phdr *table = (Elf64_Phdr *)(void *)(file.at + sizeof(header));
    memcpy(file.at, &header, sizeof(header));

    for (unsigned i = 0; i < elf->count; i++) {
        const struct image_segment *segment = &elf->segments[i];
        struct blob content = blob_pattern(segment->file_bytes, i + 1);
        table[i] = (Elf64_Phdr){.p_type = PT_LOAD,
                                .p_offset = segment->offset,
                                .p_vaddr = segment->virtual_address,
                                .p_paddr = segment->gpa,
                                .p_filesz = segment->file_bytes,
                                .p_memsz = segment->memory_bytes};
        if (checked_inside(segment->offset, segment->file_bytes, file.length))
            memcpy(file.at + segment->offset, content.at, content.length);
        blob_free(&content);
    }
    if (elf->pvh_gpa)
        table[elf->count] = (Elf64_Phdr){.p_type = PT_NOTE,
                                         .p_offset = 0x800,
                                         .p_filesz = put_notes(file.at + 0x800, elf->pvh_gpa)};
    return file;
}

static void put_header(uint8_t *file, size_t payload_bytes, size_t code_bytes)
{
    file[0x1f1] = SETUP_SECTORS;
    put_le32(file + 0x1f4, (uint32_t)(code_bytes / 16));
    put_le16(file + 0x1fe, 0xaa55);
    file[0x200] = 0xeb;
    file[0x201] = 0x6a; /* the header ends at 0x26c */
    memcpy(file + 0x202, "HdrS", 4);
    put_le16(file + 0x206, 0x020f);
    file[0x211] = 0x81; /* LOADED_HIGH, CAN_USE_HEAP */
    put_le32(file + 0x22c, IMAGE_INITRD_MAX);
    put_le32(file + 0x230, 0x200000); /* kernel_alignment */
    file[0x234] = 1;                  /* relocatable_kernel */
    put_le16(file + 0x236, 0x7f);     /* xloadflags */
    put_le32(file + 0x238, IMAGE_CMDLINE_SIZE);
    put_le32(file + 0x248, PAYLOAD_OFFSET);
    put_le32(file + 0x24c, (uint32_t)payload_bytes);
    put_le64(file + 0x258, IMAGE_PREF_ADDRESS);
    put_le32(file + 0x260, IMAGE_INIT_SIZE);
}

struct blob image_bzimage_make(enum unpack_format format, const void *payload, size_t length,
                               uint32_t unpacked_bytes)
{
    /* gzip data end with their size; behind the others the kernel's build puts it. */
    size_t payload_bytes = length + (format == UNPACK_GZIP ? 0 : 4);
    size_t code_bytes = align_up(PAYLOAD_OFFSET + payload_bytes, 16);
    struct blob file = blob_zeroed(CODE_OFFSET + code_bytes);

    put_header(file.at, payload_bytes, code_bytes);
    memcpy(file.at + CODE_OFFSET + PAYLOAD_OFFSET, payload, length);
    if (format != UNPACK_GZIP)
        put_le32(file.at + CODE_OFFSET + PAYLOAD_OFFSET + length, unpacked_bytes);
    return file;
}

struct blob image_bzimage_of(enum unpack_format format, const struct image_elf *elf)
{
    struct blob plain = image_elf_make(elf);
    struct blob packed = image_pack(format, plain.at, plain.length);
    struct blob file = image_bzimage_make(format, packed.at, packed.length, (uint32_t)plain.length);
    blob_free(&packed);
    blob_free(&plain);
    return file;
}

struct blob image_arm64_make(uint64_t text_offset, uint64_t image_bytes, size_t length)
{
    struct blob file = blob_pattern(length, 7);
    memset(file.at, 0, IMAGE_ARM64_HEADER_BYTES);
    put_le32(file.at, 0x14000010); /* b over the header */
    put_le64(file.at + 8, text_offset);
    put_le64(file.at + 16, image_bytes);
    put_le64(file.at + 24, 0xa); /* little-endian, 4 KiB pages, anywhere in RAM */
    memcpy(file.at + 0x38, "ARM\x64", 4);
    return file;
}

struct blob image_zboot_of(enum unpack_format format, const struct blob *plain)
{
    const size_t at = 0x1000;
    struct blob packed = image_pack(format, plain->at, plain->length);
    /* As in a bzImage: gzip data end with their size, behind the others it is put. */
    struct blob file = blob_zeroed(at + packed.length + (format == UNPACK_GZIP ? 0 : 4) + 0x200);
    memcpy(file.at, "MZ\0\0zimg", 8);
    put_le32(file.at + 8, (uint32_t)at);
    put_le32(file.at + 12, (uint32_t)packed.length);
    memcpy(file.at + 24, unpack_format_name(format), strlen(unpack_format_name(format)));
    put_le32(file.at + 0x38, 0x818223cd);
    put_le32(file.at + 0x3c, 0x40);
    memcpy(file.at + 0x40, "PE\0\0\x64\xaa", 6);
    memcpy(file.at + at, packed.at, packed.length);
    if (format != UNPACK_GZIP)
        put_le32(file.at + at + packed.length, (uint32_t)plain->length);
    blob_free(&packed);
    return file;
}
