/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_CMDLINE_H
#define NIDO_FIRMWARE_CMDLINE_H

#include "base/error.h"
#include "vm/mem.h"

#include <stdint.h>

/* Copies the command line and its NUL to `gpa`. `limit_bytes` is what the kernel takes, without the
 * NUL: a longer line would be cut off silently, so it is refused. */
int cmdline_place(const char *cmdline, struct mem *mem, uint64_t gpa, uint32_t limit_bytes,
                  struct nido_error *err);

#endif
