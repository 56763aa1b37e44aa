/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_FS_SESSION_H
#define NIDO_DEVICES_VIRTIO_FS_SESSION_H

/*
 * A conversation in FUSE (linux/fuse.h, the kernel's public header of the protocol), from INIT to
 * DESTROY or a reset of the device: requests of the guest become calls of host/share.h.
 *
 * Here are lengths checked and bytes copied, once, before anybody looks at them; below, in
 * fs_names.c and fs_files.c, a request is what its opcode says it is. All of it runs on the loop's
 * thread.
 */

#include "devices/virtio/fs.h"

#include <linux/fuse.h>

/* What a request holds besides data to be written: at most an extended attribute and its name. */
#define FS_ARGS_BYTES  (SHARE_XATTR_BYTES_MAX + 4096u)
#define FS_REPLY_BYTES SHARE_XATTR_BYTES_MAX

struct fs_session {
    struct share *share; /* not owned */
    const char *name;    /* for messages; not owned */
    enum virtio_fs_cache cache;
    bool flat;
    struct log_limit complaints;
    bool greeted;
    /* Written by the loop's thread, for anybody to read. */
    _Atomic uint64_t requests, failures, read_bytes, written_bytes, nodes, handles;
    struct iovec iov[VIRTQ_SIZE_MAX];
    _Alignas(8) uint8_t args[FS_ARGS_BYTES];
    _Alignas(8) uint8_t reply[FS_REPLY_BYTES];
};

struct fs_request {
    const struct virtq_chain *chain;
    struct fuse_in_header header;
    const void *args; /* the fixed part, long enough for the opcode; a copy */
    const char *rest; /* what follows it: names, as a rule. Empty where data follows */
    size_t rest_bytes;
    uint64_t data_at;    /* where data begins in the chain, and */
    uint64_t data_bytes; /* how much there is */
    size_t room;         /* for the reply's payload; the opcode's fixed part fits */
    bool in_place;       /* the payload is in the guest's memory already */
};

/* `session` is zeroed but for share, name and cache. */
void fs_session_forget(struct fs_session *session); /* as before INIT */

/* Serves one request. Returns how many bytes were written for the used ring, or -EINVAL where the
 * chain has no room for a FUSE header. */
int64_t fs_session_serve(struct fs_session *session, const struct virtq_chain *chain);

/* ---- for the opcodes ---- */

/* The next string of `rest`, or NULL where it does not end. */
const char *fs_next_name(struct fs_request *request);
/* Bytes [offset, offset + length) of the readable or writable part, which are there, as vectors in
 * session->iov. Returns how many. */
unsigned fs_readable(struct fs_session *session, const struct fs_request *request, uint64_t offset,
                     uint64_t length);
unsigned fs_writable(struct fs_session *session, const struct fs_request *request, uint64_t offset,
                     uint64_t length);

/* How long names, and attributes of a thing of that mode, stay good. */
uint64_t fs_valid_s(const struct fs_session *session);
struct timespec fs_attr_valid(const struct fs_session *session, mode_t mode);
void fs_fill_attr(struct fuse_attr *to, const struct statx *from);
void fs_fill_entry(const struct fs_session *session, struct fuse_entry_out *to,
                   const struct share_entry *from);
struct share_owner fs_caller(const struct fs_request *request);

/* Each puts its payload into session->reply and returns its length, or a negative errno. */
typedef int fs_serve(struct fs_session *session, struct fs_request *request);

fs_serve fs_lookup, fs_getattr, fs_setattr, fs_readlink, fs_symlink, fs_mknod, fs_mkdir, fs_unlink,
    fs_rmdir, fs_rename, fs_rename2, fs_link, fs_statfs, fs_setxattr, fs_getxattr, fs_listxattr,
    fs_removexattr, fs_syncfs;
fs_serve fs_open, fs_create, fs_read, fs_write, fs_release, fs_flush, fs_fsync, fs_opendir,
    fs_readdir, fs_readdirplus, fs_releasedir, fs_fsyncdir, fs_lseek, fs_fallocate,
    fs_copy_file_range;

#endif
