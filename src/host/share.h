/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_SHARE_H
#define NIDO_HOST_SHARE_H

/*
 * A directory of the host that somebody untrusted may work in, and nowhere else. Knows nothing of
 * who that is: devices/virtio/fs.c puts FUSE in front of it.
 *
 * Nothing leaves the share. There are no paths in here: a node is a file, directory or other thing
 * that was found, and as a rule held open by an O_PATH descriptor; from a directory's node one goes
 * by one name at a time, which is no "..", holds no slash and is not followed where it is a symbolic
 * link. So whatever anybody renames, links or swaps meanwhile, each step stays inside. Only regular files
 * and directories are opened to be read or written, and only through the node's descriptor: never a
 * device, FIFO or socket of the host.
 *
 * A share is used by one thread at a time, the first one to call share_adopt_thread(). Calls are
 * plain system calls and take as long as those do.
 *
 * All functions return 0 (or what they say) or a negative errno. Nodes and handles are numbers that
 * the other side may make up: one that is not in force is -ESTALE or -EBADF. There are bounds for
 * both, in struct share_config; beyond them, -ENFILE. A read-only share answers -EROFS to whatever would
 * change it.
 *
 * Owners. A share opened by root keeps all ids as they are. For anybody else what belongs to the
 * process's own user or group is shown as 0's, and the rest as NOBODY's, as in a user namespace;
 * new files are the process's own, and an owner can be changed to 0 alone.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#define SHARE_ROOT   1u /* the node that is always there */
#define SHARE_NOBODY 65534u

#define SHARE_XATTR_BYTES_MAX 65536u /* a value, or a list of names; the kernel's own limit */

struct share;

struct share_config {
    const char *path; /* a directory; or a regular file, then the root is a directory of this one
                       * file, in which nothing else is seen or changed */
    int found_fd; /* O_PATH, of what `path` names, where that is known already: it is not looked up
                       * again; 0: it is not. The caller's. */
    bool read_only;
    /* Directories, open files and the rest's nodes take a descriptor each; while they are scarce, a
     * node of what is not open goes without, and is found again by name, on file systems that know
     * when a file was born. What then was renamed, on either side, is -ESTALE, which makes Linux
     * look it up anew. */
    unsigned descriptors_max;
    unsigned nodes_max; /* what they take is memory: about 120 bytes each, and a name */
};

/* Errors name the path. */
int share_open(struct share **out, const struct share_config *config, struct nido_error *err);
void share_close(struct share *share); /* takes NULL */

/* The calling thread gets a umask (of 0) of its own, and as root the right to make files for other
 * users. Once for each thread that uses the share. On failure new files obey the process's umask. */
int share_adopt_thread(void);

/* Forgets every node but the root, and closes every handle. */
void share_reset(struct share *share);

struct share_counts {
    unsigned nodes, handles; /* in force; the root counts */
    unsigned descriptors;    /* that are open for them */
};
struct share_counts share_count(const struct share *share);
/* A quarter of the nodes is free, and of the descriptors, or could be: nodes may be taken that nobody
 * has asked for yet. */
bool share_has_plenty(const struct share *share);

/* ---- nodes ---- */

struct share_entry {
    uint64_t node;     /* never the number of a node that was forgotten before */
    struct statx attr; /* owners as the other side sees them */
    bool is_mount;     /* a directory on another file system than the one it was found in */
};

/* Whose a new file shall be; heeded where the share keeps ids. */
struct share_owner {
    uint32_t uid, gid;
};

/* Each success counts one more look-up of the node; it lives until as many are forgotten. */
int share_lookup(struct share *share, uint64_t directory, const char *name,
                 struct share_entry *entry);
void share_forget(struct share *share, uint64_t node, uint64_t count);

int share_stat(struct share *share, uint64_t node, struct statx *attr);
int share_statfs(struct share *share, uint64_t node, struct statvfs *stat);
/* Returns the length; what does not fit is cut off. No NUL at the end. */
int share_readlink(struct share *share, uint64_t node, char *to, size_t room);

/* ---- changes ---- */

int share_mkdir(struct share *share, uint64_t directory, const char *name, mode_t mode,
                const struct share_owner *owner, struct share_entry *entry);
/* Regular files, FIFOs and sockets; -EPERM for devices. */
int share_mknod(struct share *share, uint64_t directory, const char *name, mode_t mode,
                const struct share_owner *owner, struct share_entry *entry);
int share_symlink(struct share *share, uint64_t directory, const char *name, const char *target,
                  const struct share_owner *owner, struct share_entry *entry);
int share_link(struct share *share, uint64_t node, uint64_t directory, const char *name,
               struct share_entry *entry);
int share_unlink(struct share *share, uint64_t directory, const char *name);
int share_rmdir(struct share *share, uint64_t directory, const char *name);
/* RENAME_NOREPLACE and RENAME_EXCHANGE are the flags there are. */
int share_rename(struct share *share, uint64_t directory, const char *name, uint64_t new_directory,
                 const char *new_name, unsigned flags);

enum {
    SHARE_SET_MODE = 1 << 0,
    SHARE_SET_UID = 1 << 1,
    SHARE_SET_GID = 1 << 2,
    SHARE_SET_SIZE = 1 << 3,
    SHARE_SET_TIMES = 1 << 4,
    SHARE_DROP_SUID = 1 << 5, /* with SIZE: set-user-id and set-group-id go, as by a write */
    SHARE_BY_HANDLE = 1 << 6, /* `handle` has the right to change the size */
};

struct share_changes {
    unsigned what; /* SHARE_SET_* */
    mode_t mode;
    uint32_t uid, gid;
    uint64_t size_bytes;
    struct timespec times[2]; /* as for utimensat() */
    uint64_t handle;
};

int share_change(struct share *share, uint64_t node, const struct share_changes *changes,
                 struct statx *attr);

/* Extended attributes, those of users alone ("user.*"): -EOPNOTSUPP for others. With `room` 0, how
 * long the value or the list is. */
int share_getxattr(struct share *share, uint64_t node, const char *name, void *to, size_t room);
int share_listxattr(struct share *share, uint64_t node, char *to, size_t room);
int share_setxattr(struct share *share, uint64_t node, const char *name, const void *value,
                   size_t length, int flags);
int share_removexattr(struct share *share, uint64_t node, const char *name);

/* ---- open files and directories ---- */

/* Of `flags`, the access mode, O_TRUNC, O_SYNC and O_DSYNC count, and O_APPEND for what can only be
 * appended to. Regular files only. */
int share_open_file(struct share *share, uint64_t node, int flags, bool drop_suid,
                    uint64_t *handle);
/* Makes a file, or without O_EXCL opens the one that is there: only that is affected by
 * `drop_suid`. */
int share_create(struct share *share, uint64_t directory, const char *name, int flags,
                 bool drop_suid, mode_t mode, const struct share_owner *owner,
                 struct share_entry *entry, uint64_t *handle);
int share_open_directory(struct share *share, uint64_t node, uint64_t *handle);
void share_release(struct share *share, uint64_t handle);

/* As preadv() and pwritev(): less than asked for is no error. */
ssize_t share_read(struct share *share, uint64_t handle, const struct iovec *iov, unsigned count,
                   uint64_t offset);
enum {
    SHARE_APPEND = 1 << 0,          /* at the file's end, wherever that is by now */
    SHARE_WRITE_DROPS_SUID = 1 << 1 /* set-user-id and set-group-id go */
};
ssize_t share_write(struct share *share, uint64_t handle, const struct iovec *iov, unsigned count,
                    uint64_t offset, unsigned flags);

/* As SHARE_WRITE_DROPS_SUID, for share_allocate() and share_copy(). */
void share_take_suid_off(struct share *share, uint64_t handle);

int share_flush(struct share *share, uint64_t handle); /* what close() would have to complain of */
int share_sync(struct share *share, uint64_t handle, bool data_only);
int share_sync_all(struct share *share, uint64_t node); /* the whole file system */
/* SEEK_DATA and SEEK_HOLE. Returns the offset. */
int64_t share_seek(struct share *share, uint64_t handle, uint64_t offset, int whence);
/* FALLOC_FL_KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE. */
int share_allocate(struct share *share, uint64_t handle, int mode, uint64_t offset,
                   uint64_t length);
/* Returns how much was copied, at most SHARE_COPY_BYTES_MAX: the rest is to be asked for. */
#define SHARE_COPY_BYTES_MAX (64u << 20)
ssize_t share_copy(struct share *share, uint64_t from, uint64_t from_offset, uint64_t to,
                   uint64_t to_offset, uint64_t length);

struct share_dirent {
    uint64_t ino;
    uint64_t next_offset; /* where the entry after this one is found */
    uint8_t type;         /* DT_* */
    const char *name;     /* valid until the next call */
};

/* The entry at `offset`, which is 0 or an earlier entry's next_offset. 1, or 0 at the end. */
int share_read_directory(struct share *share, uint64_t handle, uint64_t offset,
                         struct share_dirent *entry);

#endif
