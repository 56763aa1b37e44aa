/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_MEMBER_H
#define NIDO_UNPACK_MEMBER_H

/* A file of an archive, without its contents, as it goes from a reader to the tree and the writer. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define MEMBER_XATTRS_MAX 64u

struct member_xattr {
    const char *name;
    const void *value;
    size_t value_bytes;
};

/* What it points to belongs to the reader, until its next member. */
struct member {
    const char *path; /* as the archive has it: nothing about it is known */
    const char *link; /* of a symbolic link, where it leads; of a hard link, the other name */
    bool is_hard_link;
    mode_t mode; /* with the file's type */
    uint32_t uid, gid, mtime_s;
    uint32_t major, minor; /* of a device */
    uint64_t size_bytes;
    unsigned xattr_count;
    struct member_xattr xattrs[MEMBER_XATTRS_MAX];
};

#endif
