/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_TAR_OUT_H
#define NIDO_UNPACK_TAR_OUT_H

/*
 * Writes a tar archive as POSIX.1-2001 (pax) has it. Names go out byte for byte as they are, which a
 * library that thinks of character sets does not promise. What comes out is read by sqfstar.
 */

#include "base/error.h"
#include "unpack/member.h"

struct tar_out {
    int fd;
    size_t used;
    uint64_t left_bytes; /* of the contents that were promised */
    uint8_t buffer[128 << 10];
};

void tar_out_begin(struct tar_out *out, int fd);
/* A header by the name `path`. Contents of member->size_bytes follow. */
int tar_out_member(struct tar_out *out, const char *path, const struct member *member,
                   struct nido_error *err);
int tar_out_hard_link(struct tar_out *out, const char *path, const char *target,
                      const struct member *member, struct nido_error *err);
int tar_out_data(struct tar_out *out, const void *bytes, size_t count, struct nido_error *err);
int tar_out_end(struct tar_out *out, struct nido_error *err);

#endif
