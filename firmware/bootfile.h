/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_BOOTFILE_H
#define NIDO_FIRMWARE_BOOTFILE_H

/*
 * A kernel or initrd file, read with pread(). It is never mapped: a file that shrinks under a
 * mapping raises SIGBUS, a file that shrinks under pread() gives an error value.
 */

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct bootfile {
    int fd;
    uint64_t size_bytes; /* not 0 */
};

/* Opens a regular file that is not empty. The sentence leaves the path to the caller's prefix. */
int bootfile_open(struct bootfile *file, const char *path, struct nido_error *err);
/* The same, and reads its first bytes: as many as it has of *length, which becomes how many. */
int bootfile_open_head(struct bootfile *file, const char *path, void *head, size_t *length,
                       struct nido_error *err);
void bootfile_close(struct bootfile *file); /* for own_bootfile; closing twice is harmless */

#define own_bootfile __attribute__((cleanup(bootfile_close)))

/* Reads all of [offset, offset + length); a file that ends before that is an error. */
int bootfile_read(const struct bootfile *file, uint64_t offset, void *to, size_t length,
                  struct nido_error *err);

#endif
