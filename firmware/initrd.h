/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_INITRD_H
#define NIDO_FIRMWARE_INITRD_H

#include "base/error.h"
#include "vm/mem.h"

#include <stdint.h>

struct initrd {
    uint64_t gpa, length_bytes; /* 0 bytes: none */
};

/* Reads the file into RAM, page-aligned, as high as it goes at or above `lowest_gpa` and below
 * `limit_gpa` and the end of the first region. `path` may be NULL. `machine` is
 * an EM_ number: what the guest's programs are for. */
int initrd_load(struct initrd *initrd, const char *path, uint16_t machine, struct mem *mem,
                uint64_t lowest_gpa, uint64_t limit_gpa, struct nido_error *err);

#endif
