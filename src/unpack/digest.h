/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_DIGEST_H
#define NIDO_UNPACK_DIGEST_H

/* Digests as OCI writes them: ALGORITHM:HEX (image-spec, descriptor.md). */

#include "base/error.h"

#include <nettle/sha2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_BYTES_MAX  64u
#define DIGEST_TEXT_BYTES (8u + 2 * DIGEST_BYTES_MAX)

enum digest_kind { DIGEST_SHA256, DIGEST_SHA512 };

struct digest {
    enum digest_kind kind;
    uint8_t bytes[DIGEST_BYTES_MAX]; /* zeroes behind those of its kind */
};

/* -EINVAL: no digest, or of a kind that is not known. What it accepts is safe in a path. */
int digest_parse(struct digest *digest, const char *text, struct nido_error *err);
void digest_print(const struct digest *digest, char text[DIGEST_TEXT_BYTES]);
const char *digest_algorithm(const struct digest *digest); /* "sha256" */
bool digest_equal(const struct digest *a, const struct digest *b);

struct hasher {
    enum digest_kind kind;
    union {
        struct sha256_ctx sha256;
        struct sha512_ctx sha512;
    } u;
};

void hasher_begin(struct hasher *hasher, enum digest_kind kind);
void hasher_add(struct hasher *hasher, const void *bytes, size_t count);
void hasher_end(struct hasher *hasher, struct digest *digest);

#endif
