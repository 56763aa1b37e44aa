/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_SOURCE_H
#define NIDO_UNPACK_SOURCE_H

/*
 * A file whose content is known by its digest, and the tar archive in it, plain or packed with gzip,
 * xz, zstd or bzip2.
 *
 * Such a file is gone through more than once: to learn or check its digest, to see what is in it, to
 * copy that. The last time the digest is taken again on the way, so that a file which changes
 * meanwhile is noticed.
 */

#include "base/error.h"
#include "unpack/digest.h"
#include "unpack/member.h"

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#define SOURCE_BUFFER_BYTES (256u << 10)

struct source {
    int fd;
    uint64_t size_bytes;
    struct archive *outer; /* whose member it is, and not a file; else NULL */

    struct archive *archive; /* NULL: it is not being read */
    bool hashes;             /* while it is */
    struct hasher hasher;
    z_stream zlib;   /* its input is what of the buffer was not taken yet, packed so or not */
    bool is_gzip;    /* packed so */
    bool is_between; /* two members of that, or behind the last one */
    const char *gzip_error;            /* NULL: none */
    uint8_t *buffer, *inflated, *data; /* as it lies there, without gzip, and unpacked */
    uint64_t copied_bytes;             /* of the member's contents, holes included */
};

/* A regular file. Errors leave its name to the caller's prefix. */
int source_open(struct source *source, int directory_fd, const char *path, struct nido_error *err);
/* The member that `outer` is at: it can be read once, and has no digest. */
int source_open_inside(struct source *source, struct archive *outer, struct nido_error *err);
void source_close(
    struct source *source); /* closing twice, or what is all zeroes and fd -1, is harmless */

#define own_source __attribute__((cleanup(source_close)))

int source_digest(struct source *source, enum digest_kind kind, struct digest *digest,
                  struct nido_error *err);

/* From its start. */
int source_begin(struct source *source, bool hashes, enum digest_kind kind, struct nido_error *err);
/* From its start, where it is an ar archive, which is left to the caller to read. */
int source_begin_parts(struct source *source, struct nido_error *err);
/* 1: *member is the next one; 0: there is none. */
int source_next(struct source *source, struct member *member, struct nido_error *err);
/* The next piece of the member's contents, in order and without holes; *count is 0 at its end. */
int source_data(struct source *source, const struct member *member, const void **bytes,
                size_t *count, struct nido_error *err);
/* After the last member. Where it hashes, `expected` is what it must come to; where `marked`, the
 * archive must say itself that it is whole, as every tar does. */
int source_end(struct source *source, const struct digest *expected, bool marked,
               struct nido_error *err);

#endif
