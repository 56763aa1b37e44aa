/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_ROOM_H
#define NIDO_FIRMWARE_ROOM_H

/*
 * Where a kernel and its initrd may lie: in RAM's first region, which on every architecture is the
 * one that boot protocols reach.
 */

#include "base/error.h"
#include "vm/mem.h"

#include <stdint.h>

/* The first address behind that region. */
uint64_t room_end(const struct mem *mem);

/* Says what to do when `what` ("it", "the initrd") needs RAM up to `end_gpa` and room_end() is
 * below that. */
int room_error(const struct mem *mem, const char *what, uint64_t end_gpa, struct nido_error *err);

#endif
