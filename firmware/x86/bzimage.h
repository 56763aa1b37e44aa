/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_BZIMAGE_H
#define NIDO_FIRMWARE_X86_BZIMAGE_H

/*
 * The Linux/x86 boot protocol's image: real-mode setup sectors with a header, then protected-mode
 * code that carries the compressed kernel (Documentation/arch/x86/boot.rst, version 2.06 on).
 *
 * The kernel is unpacked here, on the host, and entered at its own first instruction: the guest's
 * decompressor never runs. One that is packed in a way the host does not know is loaded as it is,
 * and unpacks itself. Unpacking skips what the decompressor does besides: with it goes KASLR.
 */

#include "base/error.h"
#include "firmware/bootfile.h"
#include "vm/mem.h"

#include <asm/bootparam.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bzimage {
    struct setup_header header; /* what the image has of it; the rest is 0 */
    uint64_t code_offset;       /* of the protected-mode code in the file */
    uint64_t code_bytes;
    uint64_t payload_offset; /* in the file; payload_bytes 0: the header does not say */
    uint64_t payload_bytes;
};

struct bzimage_place {
    uint64_t entry_gpa; /* for long mode */
    uint64_t end_gpa;   /* the kernel may use RAM up to here before it looks at the memory map */
};

#define BZIMAGE_HEAD_BYTES 0x290u /* up to the end of the header's room */

/* Whether the first bytes of a file look like one. */
bool bzimage_recognise(const uint8_t *head, size_t length);

/* Reads the header and checks everything in it against the file. */
int bzimage_parse(struct bzimage *image, const struct bootfile *file, struct nido_error *err);

/* `cache_path`: where unpacked kernels are kept (kernel_cache.h), or NULL. */
int bzimage_load(const struct bzimage *image, const struct bootfile *file, const char *cache_path,
                 struct mem *mem, struct bzimage_place *place, struct nido_error *err);

#endif
