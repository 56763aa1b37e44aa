/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_CPIO_H
#define NIDO_FIRMWARE_CPIO_H

/*
 * Writes an initial RAM file system: a cpio archive of the "newc" kind, not compressed, as
 * Documentation/driver-api/early-userspace/buffer-format.rst tells. Everything in it is root's, and
 * of no date: the same content makes the same file. Archives may follow each other in one file.
 */

#include "base/error.h"

#include <stdint.h>
#include <stdio.h>

struct cpio {
    FILE *to;
    uint32_t inode;
    uint64_t written;
};

/* `to` stays the caller's. Directories come before what is in them; paths without a leading /. */
void cpio_begin(struct cpio *cpio, FILE *to);
void cpio_directory(struct cpio *cpio, const char *path, unsigned mode);
void cpio_device(struct cpio *cpio, const char *path, unsigned mode, unsigned major,
                 unsigned minor);
/* -EFBIG: more than the format can say. What else goes wrong, cpio_end() tells. */
int cpio_file(struct cpio *cpio, const char *path, unsigned mode, const void *bytes, size_t length,
              struct nido_error *err);
/* The end of the archive, padded, and flushed to the file. */
int cpio_end(struct cpio *cpio, struct nido_error *err);

#endif
