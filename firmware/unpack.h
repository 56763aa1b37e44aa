/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_UNPACK_H
#define NIDO_FIRMWARE_UNPACK_H

/*
 * Unpacks a kernel's payload on the host, each format with its own library, straight into guest
 * RAM. What it needs besides is a bounded buffer, given back to the host before it returns.
 */

#include "base/error.h"
#include "firmware/bootfile.h"

#include <stddef.h>
#include <stdint.h>

enum unpack_format {
    UNPACK_UNKNOWN,
    UNPACK_GZIP,
    UNPACK_ZSTD,
    UNPACK_LZ4, /* the legacy frame, the only one that the Linux kernel's build makes */
    UNPACK_XZ,
    UNPACK_LZMA,
};

#define UNPACK_MAGIC_BYTES 8u

/* By the first UNPACK_MAGIC_BYTES of the data. */
enum unpack_format unpack_recognise(const uint8_t magic[UNPACK_MAGIC_BYTES]);
const char *unpack_format_name(enum unpack_format format); /* for people: "gzip" */

/* Unpacks [offset, offset + length) of `file` to exactly `to_bytes` bytes at `to`; any other
 * amount is an error, and never a byte more is written. `to_bytes` is below 4 GiB. */
int unpack(enum unpack_format format, const struct bootfile *file, uint64_t offset, uint64_t length,
           void *to, size_t to_bytes, struct nido_error *err);

/* The same for data that do not say how much they unpack to: it must fit into `room_bytes`, below
 * 4 GiB, and *unpacked_bytes tells how much it was. */
int unpack_all(enum unpack_format format, const struct bootfile *file, uint64_t offset,
               uint64_t length, void *to, size_t room_bytes, size_t *unpacked_bytes,
               struct nido_error *err);

/* The first `room_bytes` of what they unpack to, or less when that is all. What follows is not looked
 * at, so it may be broken, or missing. `room_bytes` is at most 8 MiB. */
int unpack_part(enum unpack_format format, const struct bootfile *file, uint64_t offset,
                uint64_t length, void *to, size_t room_bytes, size_t *unpacked_bytes,
                struct nido_error *err);

#endif
