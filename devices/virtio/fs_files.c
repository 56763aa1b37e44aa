/* SPDX-License-Identifier: Apache-2.0 */
/* FUSE's requests on open files and directories. Data is read and written where the guest has it. */
#include "base/checked.h"
#include "devices/virtio/fs_session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define OUT_HEADER sizeof(struct fuse_out_header)

/* ---- opening and closing ---- */

/* Who only reads has nothing that a FLUSH at close() could complain of. */
static uint32_t open_flags(const struct fs_session *session, uint32_t flags)
{
    const uint32_t quick = (flags & O_ACCMODE) == O_RDONLY ? FOPEN_NOFLUSH : 0;
    switch (session->cache) {
    case VIRTIO_FS_CACHE_ALWAYS:
        return quick | FOPEN_KEEP_CACHE;
    case VIRTIO_FS_CACHE_NONE:
        return quick | FOPEN_DIRECT_IO;
    case VIRTIO_FS_CACHE_AUTO:
        break;
    }
    return quick;
}

int fs_open(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_open_in *in = request->args;
    uint64_t handle;
    int ret = share_open_file(session->share, request->header.nodeid, (int)in->flags,
                              in->open_flags & FUSE_OPEN_KILL_SUIDGID, &handle);
    if (ret < 0)
        return ret;
    *(struct fuse_open_out *)(void *)session->reply =
        (struct fuse_open_out){.fh = handle, .open_flags = open_flags(session, in->flags)};
    return sizeof(struct fuse_open_out);
}

int fs_create(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_create_in *in = request->args;
    const struct share_owner owner = fs_caller(request);
    struct share_entry entry;
    uint64_t handle;
    const char *name = fs_next_name(request);
    if (!name)
        return -EINVAL;
    int ret =
        share_create(session->share, request->header.nodeid, name, (int)in->flags,
                     in->open_flags & FUSE_OPEN_KILL_SUIDGID, in->mode, &owner, &entry, &handle);
    if (ret < 0)
        return ret;
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } *out = (void *)session->reply;
    fs_fill_entry(session, &out->entry, &entry);
    out->open = (struct fuse_open_out){.fh = handle, .open_flags = open_flags(session, in->flags)};
    return sizeof(*out);
}

int fs_opendir(struct fs_session *session, struct fs_request *request)
{
    uint64_t handle;
    int ret = share_open_directory(session->share, request->header.nodeid, &handle);
    if (ret < 0)
        return ret;
    const bool keep = session->cache == VIRTIO_FS_CACHE_ALWAYS;
    *(struct fuse_open_out *)(void *)session->reply = (struct fuse_open_out){
        .fh = handle, .open_flags = keep ? FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE : 0};
    return sizeof(struct fuse_open_out);
}

int fs_release(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_release_in *in = request->args;
    share_release(session->share, in->fh);
    return 0;
}

int fs_releasedir(struct fs_session *session, struct fs_request *request)
{
    return fs_release(session, request);
}

/* ---- bytes ---- */

int fs_read(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_read_in *in = request->args;
    uint64_t length = MIN((uint64_t)in->size, (uint64_t)request->room);
    length = MIN(length, (uint64_t)INT32_MAX - OUT_HEADER);
    unsigned count = fs_writable(session, request, OUT_HEADER, length);
    request->in_place = true;
    return (int)share_read(session->share, in->fh, session->iov, count, in->offset);
}

/* A page that was mapped and written to has its place; only a write by O_APPEND looks for the
 * end. */
static unsigned write_flags(const struct fuse_write_in *in)
{
    unsigned flags = 0;
    if ((in->flags & O_APPEND) && !(in->write_flags & FUSE_WRITE_CACHE))
        flags |= SHARE_APPEND;
    if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
        flags |= SHARE_WRITE_DROPS_SUID;
    return flags;
}

int fs_write(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_write_in *in = request->args;
    if (in->size > request->data_bytes || in->size > INT32_MAX)
        return -EINVAL;
    unsigned count = fs_readable(session, request, request->data_at, in->size);
    ssize_t done =
        share_write(session->share, in->fh, session->iov, count, in->offset, write_flags(in));
    if (done < 0)
        return (int)done;
    *(struct fuse_write_out *)(void *)session->reply =
        (struct fuse_write_out){.size = (uint32_t)done};
    return sizeof(struct fuse_write_out);
}

/* Linux leaves it to us, as with each write, but has no flag for it here: root alone may keep them. */
static void take_suid_off(struct fs_session *session, const struct fs_request *request,
                          uint64_t handle)
{
    if (request->header.uid != 0)
        share_take_suid_off(session->share, handle);
}

int fs_copy_file_range(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_copy_file_range_in *in = request->args;
    if (in->flags)
        return -EINVAL;
    take_suid_off(session, request, in->fh_out);
    ssize_t done =
        share_copy(session->share, in->fh_in, in->off_in, in->fh_out, in->off_out, in->len);
    if (done < 0)
        return (int)done;
    *(struct fuse_write_out *)(void *)session->reply =
        (struct fuse_write_out){.size = (uint32_t)done};
    return sizeof(struct fuse_write_out);
}

int fs_lseek(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_lseek_in *in = request->args;
    int64_t at = share_seek(session->share, in->fh, in->offset, (int)in->whence);
    if (at < 0)
        return (int)at;
    *(struct fuse_lseek_out *)(void *)session->reply =
        (struct fuse_lseek_out){.offset = (uint64_t)at};
    return sizeof(struct fuse_lseek_out);
}

int fs_fallocate(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_fallocate_in *in = request->args;
    take_suid_off(session, request, in->fh);
    return share_allocate(session->share, in->fh, (int)in->mode, in->offset, in->length);
}

int fs_flush(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_flush_in *in = request->args;
    return share_flush(session->share, in->fh);
}

int fs_fsync(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_fsync_in *in = request->args;
    return share_sync(session->share, in->fh, in->fsync_flags & FUSE_FSYNC_FDATASYNC);
}

int fs_fsyncdir(struct fs_session *session, struct fs_request *request)
{
    return fs_fsync(session, request);
}

/* ---- directories ---- */

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static void put_dirent(void *at, const struct share_dirent *entry, size_t name_length)
{
    struct fuse_dirent *out = at;
    out->ino = entry->ino;
    out->off = entry->next_offset;
    out->namelen = (uint32_t)name_length;
    out->type = entry->type;
    memcpy(out->name, entry->name, name_length);
    size_t used = FUSE_NAME_OFFSET + name_length;
    memset((uint8_t *)at + used, 0, FUSE_DIRENT_ALIGN(used) - used);
}

/* An entry that cannot be looked up (it may be gone, or descriptors may be getting scarce) is listed
 * without: node 0. The guest looks itself when it wants it. */
static void put_direntplus(struct fs_session *session, const struct fs_request *request,
                           uint8_t *at, const struct share_dirent *entry, size_t name_length)
{
    struct fuse_entry_out *out = (void *)at;
    struct share_entry found;
    *out = (struct fuse_entry_out){0};
    if (!is_dots(entry->name) && share_has_plenty(session->share) &&
        share_lookup(session->share, request->header.nodeid, entry->name, &found) == 0)
        fs_fill_entry(session, out, &found);
    put_dirent(at + sizeof(*out), entry, name_length);
}

/* An entry that does not fit any more is read again by the next request, from its offset. */
static int list(struct fs_session *session, struct fs_request *request, bool plus)
{
    const struct fuse_read_in *in = request->args;
    const uint64_t handle = in->fh;
    const size_t head = plus ? sizeof(struct fuse_entry_out) : 0;
    size_t room = MIN(request->room, (size_t)in->size), used = 0;
    uint64_t offset = in->offset;
    struct share_dirent entry;
    int got;
    room = MIN(room, (size_t)FS_REPLY_BYTES);
    while ((got = share_read_directory(session->share, handle, offset, &entry)) == 1) {
        size_t length = strlen(entry.name);
        size_t needed = head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);
        if (needed > room - used)
            return used ? (int)used : -EINVAL;
        if (plus)
            put_direntplus(session, request, session->reply + used, &entry, length);
        else
            put_dirent(session->reply + used, &entry, length);
        used += needed;
        offset = entry.next_offset;
    }
    return used ? (int)used : got;
}

int fs_readdir(struct fs_session *session, struct fs_request *request)
{
    return list(session, request, false);
}

int fs_readdirplus(struct fs_session *session, struct fs_request *request)
{
    return list(session, request, true);
}
