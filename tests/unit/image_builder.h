/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_IMAGE_BUILDER_H
#define NIDO_TESTS_UNIT_IMAGE_BUILDER_H

/* Makes small kernels for the tests: ELF files, packed in each way, wrapped in a bzImage. */

#include "firmware/unpack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes on the heap; blob_free() or a leak. */
struct blob {
    uint8_t *at;
    size_t length;
};

struct blob blob_zeroed(size_t length);
struct blob blob_pattern(size_t length, unsigned seed); /* the same seed, the same bytes */
void blob_free(struct blob *blob);

#define own_blob __attribute__((cleanup(blob_free)))

/* A path that opens a file with these bytes, for as long as the program runs. */
struct image_file {
    int fd;
    char path[64];
};

struct image_file image_file_make(const void *bytes, size_t length);
void image_file_remove(struct image_file *file);

#define own_image_file __attribute__((cleanup(image_file_remove)))

/* `length` packed bytes of `plain`, as `gzip`, `zstd`, `lz4 -l`, `xz --check=crc32` and `lzma`
 * would. */
struct blob image_pack(enum unpack_format format, const void *plain, size_t length);

#define IMAGE_SEGMENTS_MAX 20

struct image_segment {
    uint64_t offset, file_bytes, gpa, memory_bytes, virtual_address;
};

struct image_elf {
    uint64_t entry;
    struct image_segment segments[IMAGE_SEGMENTS_MAX];
    unsigned count;
    uint32_t pvh_gpa;    /* 0: no notes */
    uint64_t file_bytes; /* 0: up to the last segment's end */
};

/* The layout of a Linux kernel, scaled down: a segment at 16 MiB, another that the linker did not
 * place as far from its offset, with .bss. Ends at 0x1008000. */
extern const struct image_elf image_small_kernel;

/* Segment i is filled with blob_pattern(file_bytes, i + 1). Valid in all other ways. */
struct blob image_elf_make(const struct image_elf *elf);

/* A bzImage of protocol 2.15 with this payload and its unpacked size behind it. The header's other
 * fields are a 64-bit kernel's that prefers 16 MiB. */
struct blob image_bzimage_make(enum unpack_format format, const void *payload, size_t length,
                               uint32_t unpacked_bytes);
/* Both steps at once, for an ELF kernel. */
struct blob image_bzimage_of(enum unpack_format format, const struct image_elf *elf);

/* An arm64 Image: a header, then blob_pattern() up to `length`. */
struct blob image_arm64_make(uint64_t text_offset, uint64_t image_bytes, size_t length);
/* An EFI zboot image for arm64 of any file. */
struct blob image_zboot_of(enum unpack_format format, const struct blob *plain);

#define IMAGE_ARM64_HEADER_BYTES 64u

#define IMAGE_PREF_ADDRESS 0x1000000u
#define IMAGE_INIT_SIZE    0x600000u
#define IMAGE_CMDLINE_SIZE 2047u
#define IMAGE_INITRD_MAX   0x7fffffffu

#endif
