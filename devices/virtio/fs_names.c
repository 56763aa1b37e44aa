/* SPDX-License-Identifier: Apache-2.0 */
/* FUSE's requests on nodes and names: what needs no open file. */
#include "base/checked.h"
#include "devices/virtio/fs_session.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static int entry_reply(struct fs_session *session, int ret, const struct share_entry *entry)
{
    if (ret < 0)
        return ret;
    fs_fill_entry(session, (void *)session->reply, entry);
    return sizeof(struct fuse_entry_out);
}

static int attr_reply(struct fs_session *session, int ret, const struct statx *attr)
{
    struct fuse_attr_out *out = (void *)session->reply;
    if (ret < 0)
        return ret;
    const struct timespec valid = fs_attr_valid(session, attr->stx_mode);
    *out = (struct fuse_attr_out){.attr_valid = (uint64_t)valid.tv_sec,
                                  .attr_valid_nsec = (uint32_t)valid.tv_nsec};
    fs_fill_attr(&out->attr, attr);
    return sizeof(*out);
}

/* Where nothing changes, that a name is not there can be remembered: node 0 says so. */
int fs_lookup(struct fs_session *session, struct fs_request *request)
{
    struct share_entry entry;
    const char *name = fs_next_name(request);
    if (!name)
        return -EINVAL;
    int ret = share_lookup(session->share, request->header.nodeid, name, &entry);
    if (ret == -ENOENT && session->cache == VIRTIO_FS_CACHE_ALWAYS) {
        *(struct fuse_entry_out *)(void *)session->reply =
            (struct fuse_entry_out){.entry_valid = fs_valid_s(session)};
        return sizeof(struct fuse_entry_out);
    }
    return entry_reply(session, ret, &entry);
}

int fs_getattr(struct fs_session *session, struct fs_request *request)
{
    struct statx attr;
    int ret = share_stat(session->share, request->header.nodeid, &attr);
    return attr_reply(session, ret, &attr);
}

static struct timespec time_to_set(uint32_t valid, uint32_t this, uint32_t now, uint64_t seconds,
                                   uint32_t nanoseconds)
{
    if (valid & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (!(valid & this))
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds};
}

static unsigned what_to_set(uint32_t valid)
{
    static const struct {
        uint32_t fuse;
        unsigned share;
    } bits[] = {
        {FATTR_MODE, SHARE_SET_MODE},
        {FATTR_UID, SHARE_SET_UID},
        {FATTR_GID, SHARE_SET_GID},
        {FATTR_SIZE, SHARE_SET_SIZE},
        {FATTR_ATIME, SHARE_SET_TIMES},
        {FATTR_MTIME, SHARE_SET_TIMES},
        {FATTR_ATIME_NOW, SHARE_SET_TIMES},
        {FATTR_MTIME_NOW, SHARE_SET_TIMES},
        {FATTR_KILL_SUIDGID, SHARE_DROP_SUID},
        {FATTR_FH, SHARE_BY_HANDLE},
    };
    unsigned what = 0;
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        if (valid & bits[i].fuse)
            what |= bits[i].share;
    return what;
}

int fs_setattr(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_setattr_in *in = request->args;
    struct statx attr;
    const struct share_changes changes = {
        .what = what_to_set(in->valid),
        .mode = in->mode,
        .uid = in->uid,
        .gid = in->gid,
        .size_bytes = in->size,
        .times = {time_to_set(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
                  time_to_set(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)},
        .handle = in->fh,
    };
    int ret = share_change(session->share, request->header.nodeid, &changes, &attr);
    return attr_reply(session, ret, &attr);
}

int fs_readlink(struct fs_session *session, struct fs_request *request)
{
    size_t room = MIN(request->room, (size_t)PATH_MAX);
    if (!room)
        return -EINVAL;
    return share_readlink(session->share, request->header.nodeid, (char *)session->reply, room);
}

/* ---- new names ---- */

int fs_symlink(struct fs_session *session, struct fs_request *request)
{
    const struct share_owner owner = fs_caller(request);
    struct share_entry entry;
    const char *name = fs_next_name(request);
    const char *target = name ? fs_next_name(request) : NULL;
    if (!target)
        return -EINVAL;
    int ret = share_symlink(session->share, request->header.nodeid, name, target, &owner, &entry);
    return entry_reply(session, ret, &entry);
}

int fs_mknod(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_mknod_in *in = request->args;
    const struct share_owner owner = fs_caller(request);
    struct share_entry entry;
    const char *name = fs_next_name(request);
    if (!name)
        return -EINVAL;
    int ret = share_mknod(session->share, request->header.nodeid, name, in->mode, &owner, &entry);
    return entry_reply(session, ret, &entry);
}

int fs_mkdir(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_mkdir_in *in = request->args;
    const struct share_owner owner = fs_caller(request);
    struct share_entry entry;
    const char *name = fs_next_name(request);
    if (!name)
        return -EINVAL;
    int ret = share_mkdir(session->share, request->header.nodeid, name, in->mode, &owner, &entry);
    return entry_reply(session, ret, &entry);
}

int fs_link(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_link_in *in = request->args;
    struct share_entry entry;
    const char *name = fs_next_name(request);
    if (!name)
        return -EINVAL;
    int ret = share_link(session->share, in->oldnodeid, request->header.nodeid, name, &entry);
    return entry_reply(session, ret, &entry);
}

/* ---- names that go ---- */

int fs_unlink(struct fs_session *session, struct fs_request *request)
{
    const char *name = fs_next_name(request);
    return name ? share_unlink(session->share, request->header.nodeid, name) : -EINVAL;
}

int fs_rmdir(struct fs_session *session, struct fs_request *request)
{
    const char *name = fs_next_name(request);
    return name ? share_rmdir(session->share, request->header.nodeid, name) : -EINVAL;
}

static int rename_names(struct fs_session *session, struct fs_request *request,
                        uint64_t new_directory, uint32_t flags)
{
    const char *name = fs_next_name(request);
    const char *new_name = name ? fs_next_name(request) : NULL;
    if (!new_name)
        return -EINVAL;
    return share_rename(session->share, request->header.nodeid, name, new_directory, new_name,
                        flags);
}

int fs_rename(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_rename_in *in = request->args;
    return rename_names(session, request, in->newdir, 0);
}

int fs_rename2(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_rename2_in *in = request->args;
    return rename_names(session, request, in->newdir, in->flags);
}

/* ---- extended attributes ---- */

int fs_setxattr(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_setxattr_in *in = request->args; /* its first two fields */
    const uint32_t size = in->size, flags = in->flags;
    const char *name = fs_next_name(request);
    if (!name || request->rest_bytes < size)
        return -EINVAL;
    return share_setxattr(session->share, request->header.nodeid, name, request->rest, size,
                          (int)flags);
}

/* What a value's or list's length, or the thing itself, is answered with. */
static int xattr_reply(struct fs_session *session, int ret, uint32_t size)
{
    if (ret < 0 || size)
        return ret;
    *(struct fuse_getxattr_out *)(void *)session->reply =
        (struct fuse_getxattr_out){.size = (uint32_t)ret};
    return sizeof(struct fuse_getxattr_out);
}

/* With a size of 0 the length is asked for. */
static int xattr_room(const struct fs_request *request, uint32_t size)
{
    size_t needed = size ? size : sizeof(struct fuse_getxattr_out);
    return request->room < MIN(needed, (size_t)FS_REPLY_BYTES) ? -EINVAL : 0;
}

int fs_getxattr(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_getxattr_in *in = request->args;
    const uint32_t size = in->size;
    const char *name = fs_next_name(request);
    int ret = name ? xattr_room(request, size) : -EINVAL;
    if (ret < 0)
        return ret;
    ret = share_getxattr(session->share, request->header.nodeid, name, session->reply,
                         MIN(size, FS_REPLY_BYTES));
    return xattr_reply(session, ret, size);
}

int fs_listxattr(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_getxattr_in *in = request->args;
    const uint32_t size = in->size;
    int ret = xattr_room(request, size);
    if (ret < 0)
        return ret;
    ret = share_listxattr(session->share, request->header.nodeid, (char *)session->reply,
                          MIN(size, FS_REPLY_BYTES));
    return xattr_reply(session, ret, size);
}

int fs_removexattr(struct fs_session *session, struct fs_request *request)
{
    const char *name = fs_next_name(request);
    return name ? share_removexattr(session->share, request->header.nodeid, name) : -EINVAL;
}

/* ---- the file system ---- */

int fs_statfs(struct fs_session *session, struct fs_request *request)
{
    struct fuse_statfs_out *out = (void *)session->reply;
    struct statvfs stat;
    int ret = share_statfs(session->share, request->header.nodeid, &stat);
    if (ret < 0)
        return ret;
    *out = (struct fuse_statfs_out){.st = {
                                        .blocks = stat.f_blocks,
                                        .bfree = stat.f_bfree,
                                        .bavail = stat.f_bavail,
                                        .files = stat.f_files,
                                        .ffree = stat.f_ffree,
                                        .bsize = (uint32_t)stat.f_bsize,
                                        .namelen = (uint32_t)stat.f_namemax,
                                        .frsize = (uint32_t)stat.f_frsize,
                                    }};
    return sizeof(*out);
}

int fs_syncfs(struct fs_session *session, struct fs_request *request)
{
    return share_sync_all(session->share, request->header.nodeid);
}
