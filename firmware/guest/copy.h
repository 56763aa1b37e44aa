/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_COPY_H
#define NIDO_FIRMWARE_GUEST_COPY_H

/*
 * The two ends of nido cp: a tree becomes a tar stream, and a tar stream a tree. Both the host and the
 * guest's program compile this file. The end that unpacks on the host trusts nothing that it reads: it walks from
 * the directory it was given, one name at a time, through no symbolic link.
 */

#include "firmware/guest/tar.h"

#include <stdbool.h>
#include <stddef.h>

#define COPY_NAME_BYTES 256u

/* The name under which `path` travels: its last part, or "." where that is no name (".", "..", "/"), and
 * what is inside travels. */
void copy_name(const char *path, char name[COPY_NAME_BYTES]);

struct packer {
    /* 0, or a negative errno: nobody reads any more. */
    int (*write)(void *self, const void *bytes, size_t count);
    /* Of something that is left out, in words for a person. */
    void (*complain)(void *self, const char *text);
    void *self;
    unsigned complaints;
    char path[TAR_PATH_BYTES]; /* what is packed now, for messages */
    uint8_t *buffer;
    size_t count;
    int error;
    /* Here, as directories are as deep as somebody makes them. */
    uint8_t header[TAR_HEADER_BYTES];
    char why[TAR_WHY_BYTES];
};

/* Packs these trees, as far as they can be read, and the archive's end. 0, or a negative errno where it could
 * not be written. */
int pack_trees(struct packer *packer, char *const *paths);

/* Where a stream is unpacked: in a directory, or as one thing of the name `as` in it. */
struct unpack_place {
    int directory; /* O_PATH */
    char as[COPY_NAME_BYTES];
};

/* `into`: it must be a directory. -1: `why` tells; else the directory is the caller's. */
int unpack_open(struct unpack_place *place, const char *to, bool into, char why[TAR_WHY_BYTES]);

struct unpack_rules {
    mode_t mode_mask;
    char *const *names; /* nothing comes but these names of copy_name(); NULL: anything */
};

/* Unpacks all of the stream. What is in the place of a file or a link is replaced, not written through; a
 * directory that is there stays as it is. -1: `why` tells, and what came before is there. */
int unpack_trees(struct tar_reader *reader, const struct unpack_place *place,
                 const struct unpack_rules *rules, char why[TAR_WHY_BYTES]);

#endif
