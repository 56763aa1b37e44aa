/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_KERNEL_CACHE_H
#define NIDO_FIRMWARE_KERNEL_CACHE_H

/*
 * Kernels that were unpacked once, kept for the next machine: reading one back takes a quarter of
 * the instructions that unpacking it takes.
 *
 * An entry is a file named after what it was made from: device, inode, size and both times of the
 * packed file. Whoever replaces or edits the packed file makes a new name. Entries are the user's
 * own, in a directory of his own; one that is anything else is passed over. Losing the cache costs
 * time only, so nothing here is an error: a cache that cannot be read or written is a cache without
 * the entry.
 */

#include "firmware/bootfile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KERNEL_CACHE_ENTRIES_MAX 8u

/* The unpacked form of `packed`, `size_bytes` long (0: its size is not known). False: not there. `directory` NULL: no
 * cache. */
bool kernel_cache_open(const char *directory, const struct bootfile *packed, uint64_t size_bytes,
                       struct bootfile *unpacked);

/* Keeps it. It appears whole or not at all, and the oldest entries beyond the limit go. */
void kernel_cache_store(const char *directory, const struct bootfile *packed, const void *bytes,
                        size_t size_bytes);

#endif
