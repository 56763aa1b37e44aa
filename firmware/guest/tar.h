/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_TAR_H
#define NIDO_FIRMWARE_GUEST_TAR_H

/*
 * Tar streams: what nido cp sends between the host and a guest, and what it takes and makes as "-".
 * Both ends compile this file. Written is POSIX.1-2017's pax format (pax, "ustar Interchange Format"
 * and "pax Extended Header"): a ustar header, with an extended one before it where a name, a number or
 * a time's nanoseconds do not fit. Read are those, and what GNU tar writes by itself (long names, numbers in
 * base 256), but no sparse files.
 *
 * What is read may come from a guest: any bytes give entries that make sense, or an error.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TAR_BLOCK_BYTES  512u
#define TAR_PATH_BYTES   4096u /* with the NUL */
#define TAR_HEADER_BYTES 10240u
#define TAR_END_BYTES    (2 * TAR_BLOCK_BYTES)
#define TAR_WHY_BYTES    512u

enum tar_kind {
    TAR_FILE,
    TAR_DIRECTORY,
    TAR_SYMLINK,
    TAR_HARD_LINK,
    TAR_NODE /* devices, FIFOs */
};

struct tar_entry {
    enum tar_kind kind;
    char path[TAR_PATH_BYTES], link[TAR_PATH_BYTES];
    mode_t mode; /* permissions and the three bits above them */
    uint64_t uid, gid, size;
    int64_t mtime_s;
    uint32_t mtime_ns;
};

/* The header of a file, a directory or a symbolic link; its bytes follow, and zeros up to a whole block.
 * Returns how many bytes it has. */
size_t tar_put(const struct tar_entry *entry, uint8_t bytes[TAR_HEADER_BYTES]);

struct tar_reader {
    /* > 0: so many bytes; 0: the end; else a negative errno. */
    ssize_t (*read)(void *self, void *bytes, size_t count);
    void *self;
    struct tar_entry entry; /* the last that tar_next found */
    uint64_t left;          /* of its bytes */
    unsigned padding;       /* behind them */
    char why[TAR_WHY_BYTES];
};

/* 1: `entry` is the next one; 0: the archive's end, and the stream's; -1: `why` tells. */
int tar_next(struct tar_reader *reader);
/* Bytes of the entry: > 0, or 0 at its end, or -1, and `why` tells. */
ssize_t tar_read(struct tar_reader *reader, void *bytes, size_t count);

/* Replaces what a terminal would act on. */
void tar_harmless(char *text);
/* "PATH: TEXT", harmless. */
void tar_explain(char why[TAR_WHY_BYTES], const char *path, const char *text);

#endif
