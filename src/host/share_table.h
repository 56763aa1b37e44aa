/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_SHARE_TABLE_H
#define NIDO_HOST_SHARE_TABLE_H

/*
 * The inside of a share: its nodes and handles. Both are slots of an array; the number that the
 * other side knows one by is the slot's index with the slot's generation above it, so that the
 * number of one that is gone never means another.
 */

#include "host/share.h"

#include <sys/types.h>

#define SHARE_LISTING_BYTES SHARE_XATTR_BYTES_MAX

/* Which file it is: hard links lead to one node. */
struct share_key {
    uint64_t ino, mount;
    uint32_t major, minor;
};

/* A directory is open as long as it is known. What is no directory may be closed while descriptors
 * are scarce and nobody has it open to read or write; then it is found again in its directory. */
struct share_node {
    int fd;              /* O_PATH; -1: closed, or the slot is free */
    uint32_t generation; /* of the slot's tenant, or its next one */
    uint32_t next;       /* in the bucket, or among the free ones; 0: none */
    mode_t type;         /* S_IFMT bits: they never change; 0: the slot is free */
    uint64_t lookups;
    struct share_key key;
    /* Of what is no directory: */
    char *name;            /* by which it was last found in */
    uint64_t directory;    /* that node; 0: another file has taken its place, and it is lost */
    uint64_t born_ns;      /* 0: the file system does not say; then it stays open */
    uint32_t handles;      /* of it */
    uint32_t older, newer; /* among the idle ones; 0: none */
};

struct share_handle {
    int fd; /* -1: the slot is free */
    uint32_t generation;
    uint32_t next_free; /* 0: none */
    uint64_t node;
    bool is_directory;
    bool appends; /* the file has O_APPEND */
};

/* Directory entries that were read ahead: of the latest listing alone. A list of extended
 * attributes passes through as well. */
struct share_listing {
    uint64_t handle;      /* 0: none */
    uint64_t offset;      /* of the next entry */
    size_t at, end;       /* in `bytes` */
    uint64_t last_offset; /* of the entry before it, and */
    size_t last_at;
    _Alignas(8) char bytes[SHARE_LISTING_BYTES];
};

struct share {
    char *path;
    bool read_only;
    bool keeps_ids;
    char *only; /* the share of one file: its name in the root; NULL: all of a directory */
    uid_t uid;  /* the process's own */
    gid_t gid;
    int proc_fd; /* /proc/self/fd: the way from an O_PATH descriptor to one that reads */
    unsigned descriptors_max, nodes_max;
    unsigned node_count, handle_count;
    unsigned open_count;      /* nodes that have a descriptor, and */
    unsigned idle_count;      /* of them, those that may be closed, */
    uint32_t oldest, newest;  /* in the order of their last use; 0: none */
    struct share_node *nodes; /* [0] is not used, [1] is the root */
    uint32_t nodes_size, nodes_free;
    uint32_t *buckets; /* a power of two; the first node of each, 0: none */
    uint32_t bucket_count;
    struct share_handle *handles; /* [0] is not used */
    uint32_t handles_size, handles_free;
    struct share_listing listing;
};

/* Attributes of an open file, owners and all as they are on the host. */
int share_table_stat(int fd, struct statx *attr);
void share_table_show_owner(const struct share *share, struct statx *attr);

int share_table_init(struct share *share, int root_fd);
void share_table_finish(struct share *share);

/* NULL: not in force. */
struct share_node *share_find(struct share *share, uint64_t node);
struct share_handle *share_find_handle(struct share *share, uint64_t handle);

/* The node's descriptor, for use until the next call for another node's. A node that is closed is
 * found again: -ESTALE where another has its name by now, or none. Directories' nodes have theirs
 * without asking. */
int share_node_fd(struct share *share, struct share_node *node);
int share_fd(struct share *share, uint64_t node);

/* The node behind `fd`, an O_PATH descriptor that was found in `directory` by `name`; it owns `fd`
 * from here on, also on failure. Fills in `entry` but for is_mount. */
int share_add_node(struct share *share, int fd, uint64_t directory, const char *name,
                   struct share_entry *entry);

/* Owns `fd`, also on failure. */
int share_add_handle(struct share *share, int fd, uint64_t node, bool is_directory,
                     uint64_t *handle);

/* ---- what all of the share's files use ---- */

/* 0 for a directory of the share and a name that can stand in it. */
int share_check_step(struct share *share, uint64_t directory, const char *name,
                     struct share_node **node);
/* The one place that says what may be changed: -EROFS in a read-only share, -EPERM for the root of
 * the share of one file. */
int share_check_change(const struct share *share, uint64_t node);
/* Room for so many more nodes and handles; asked before something is made that could not be
 * answered. Closes what is idle. */
int share_check_room(struct share *share, unsigned nodes, unsigned handles);
/* A step, and a change. */
int share_check_new(struct share *share, uint64_t directory, const char *name,
                    struct share_node **node);

/* Opens what `fd` stands for once more; a regular file or a directory only. With `fd` negative, that
 * is the answer. */
int share_reopen(const struct share *share, int fd, int flags);
/* "17": the name of `fd` in proc_fd. */
#define SHARE_PROC_NAME_BYTES 16
const char *share_proc_name(int fd, char name[SHARE_PROC_NAME_BYTES]);

/* Between these the thread makes files as `owner`; nothing where the share does not keep ids.
 * begin: -EPERM where the process may not. */
int share_begin_as(const struct share *share, const struct share_owner *owner);
void share_end_as(const struct share *share);

/* Takes set-user-id and set-group-id off a regular file that is open. The host's kernel does it
 * itself, at a write, where this process is not root; so failing is fine. */
void share_drop_suid(int fd);

#endif
