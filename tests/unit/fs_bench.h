/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_FS_BENCH_H
#define NIDO_TESTS_UNIT_FS_BENCH_H

/*
 * A virtio-fs device on a directory of its own, and the guest's half of FUSE.
 *
 *     struct fs_bench bench;
 *     fs_bench_start(&bench, &(struct fs_wanted){0});              up to INIT, in /tmp/...
 *     fs_host_write(&bench, "a/file", "text");                     what the host does there
 *     struct fuse_entry_out entry;
 *     fs_look(&bench, FUSE_ROOT_ID, "a", &entry);                  0, or -ENOENT and the like
 *     fs_call(&bench, FUSE_READLINK, node, FS_NOTHING, to, 100);   any request
 *     fs_bench_finish(&bench);                                     removes the directory
 */

#include "devices/virtio/fs.h"
#include "tests/unit/guest_driver.h"

#include <linux/fuse.h>

#define FS_HIPRIO   0u
#define FS_REQUESTS 1u

#define FS_ROOM  (256u << 10) /* of a request, and of its answer */
#define FS_QUEUE 64u

struct fs_wanted {
    bool read_only;
    enum virtio_fs_cache cache;
    const char
        *file; /* the share is this file in the directory, which has it; NULL: the directory */
    unsigned descriptors_max; /* 0: 1000 */
    unsigned nodes_max;       /* 0: 1000 */
    bool no_init;
};

struct fs_bench {
    struct guest guest;
    struct virtio_device *device;
    char directory[64];
    uint64_t request_gpa, reply_gpa;
    uint64_t unique;
    uint32_t uid, gid, flags; /* the caller's; open(2)'s for fs_open() */
};

void fs_bench_start(struct fs_bench *bench, const struct fs_wanted *wanted);
void fs_bench_finish(struct fs_bench *bench);

/* ---- the host's side: paths in the directory ---- */

const char *fs_path(const struct fs_bench *bench, const char *name); /* until the next call but 3 */
void fs_host_write(const struct fs_bench *bench, const char *name, const char *text);
void fs_host_mkdir(const struct fs_bench *bench, const char *name);
/* The file's text; "" and failing where there is none. Until the next call. */
const char *fs_host_read(const struct fs_bench *bench, const char *name);
bool fs_host_has(const struct fs_bench *bench, const char *name);

/* ---- the guest's side ---- */

struct fs_parts {
    const void *fixed;
    size_t fixed_bytes;
    const char *name, *name2; /* with their NULs */
    const void *data;
    size_t data_bytes;
};
#define FS_NOTHING                                                                                 \
    (struct fs_parts)                                                                              \
    {                                                                                              \
        0                                                                                          \
    }
#define FS_FIXED(what) .fixed = &(what), .fixed_bytes = sizeof(what)

/* The payload's length, or the answer's error (negative). Checks header and lengths. */
int fs_call(struct fs_bench *bench, uint32_t opcode, uint64_t node, struct fs_parts parts,
            void *reply, size_t room);
/* Just these bytes, header and all; `unanswered` where there is no room for an answer. Returns what
 * the used ring says. */
uint32_t fs_send(struct fs_bench *bench, unsigned queue, const void *bytes, size_t length,
                 size_t room);
void *fs_reply(const struct fs_bench *bench); /* of fs_send() */

/* 0 or a negative errno. */
int fs_init(struct fs_bench *bench, uint32_t minor, struct fuse_init_out *out);
int fs_look(struct fs_bench *bench, uint64_t directory, const char *name,
            struct fuse_entry_out *entry);
uint64_t fs_find(struct fs_bench *bench, const char *name); /* in the root; it must be there */
void fs_forget(struct fs_bench *bench, uint64_t node, uint64_t count);
int fs_get(struct fs_bench *bench, uint64_t node, struct fuse_attr *attr);
int fs_set(struct fs_bench *bench, uint64_t node, const struct fuse_setattr_in *in,
           struct fuse_attr *attr);
int fs_open_node(struct fs_bench *bench, uint64_t node, uint32_t flags, uint64_t *handle);
int fs_open_directory(struct fs_bench *bench, uint64_t node, uint64_t *handle);
int fs_create_file(struct fs_bench *bench, uint64_t directory, const char *name, uint32_t flags,
                   uint32_t mode, struct fuse_entry_out *entry, uint64_t *handle);
int fs_read_at(struct fs_bench *bench, uint64_t handle, uint64_t offset, uint32_t length, void *to);
int fs_write_at(struct fs_bench *bench, uint64_t handle, uint64_t offset, const void *from,
                uint32_t length);
int fs_close(struct fs_bench *bench, uint64_t handle);
int fs_make_directory(struct fs_bench *bench, uint64_t directory, const char *name,
                      struct fuse_entry_out *entry);
int fs_remove(struct fs_bench *bench, uint64_t directory, const char *name);
int fs_move(struct fs_bench *bench, uint64_t from, const char *name, uint64_t to,
            const char *new_name, uint32_t flags);

#endif
