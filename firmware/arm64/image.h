/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_ARM64_IMAGE_H
#define NIDO_FIRMWARE_ARM64_IMAGE_H

/*
 * An arm64 kernel: an Image (Documentation/arch/arm64/booting.rst, "Call the kernel image") as it
 * is, packed as a whole (`Image.gz`, a `vmlinuz` that is a gzip or zstd file), or in an EFI zboot
 * program (drivers/firmware/efi/libstub/zboot-header.S). What is packed is unpacked here, on the
 * host: neither has anything that would do it in the guest without firmware.
 */

#include "base/error.h"
#include "firmware/bootfile.h"
#include "vm/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_HEADER_BYTES 64u

struct image_header {
    uint64_t text_offset; /* from a 2 MiB boundary */
    uint64_t image_bytes; /* with .bss */
};

struct image_place {
    uint64_t entry_gpa;
    uint64_t end_gpa; /* the kernel uses RAM up to here before it looks at the device tree */
};

/* Whether the first bytes of a file are one of the three. */
bool image_recognise(const uint8_t *head, size_t length);

/* Reads an Image's own header. */
int image_parse_header(struct image_header *header, const uint8_t bytes[IMAGE_HEADER_BYTES],
                       struct nido_error *err);

/* `cache_path`: where unpacked kernels are kept (kernel_cache.h), or NULL. */
int image_load(const struct bootfile *file, const char *cache_path, struct mem *mem,
               struct image_place *place, struct nido_error *err);

#endif
