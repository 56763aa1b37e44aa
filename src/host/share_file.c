/* SPDX-License-Identifier: Apache-2.0 */
/* A share's regular files, once they are open: bytes go straight between them and the caller's
 * memory. */
#include "base/checked.h"
#include "host/share_table.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* What an opener may choose. Whether it is appended to is told again with each write: an old file
 * may be one that is opened for nothing else (chattr +a). */
#define NEW_FLAGS      (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC)
#define OPEN_FLAGS     (NEW_FLAGS | O_APPEND)
#define CREATE_MODE    07777
#define ALLOCATE_FLAGS (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)
#define CREATE_TRIES   8
#define OPEN_FILE      0u /* no node's number */

/* The file's descriptor, or -EBADF. */
static int file_of(struct share *share, uint64_t number)
{
    const struct share_handle *handle = share_find_handle(share, number);
    return handle && !handle->is_directory ? handle->fd : -EBADF;
}

static int any_of(struct share *share, uint64_t number)
{
    const struct share_handle *handle = share_find_handle(share, number);
    return handle ? handle->fd : -EBADF;
}

/* Offsets and lengths that a file can have. */
static bool is_range(uint64_t offset, uint64_t length)
{
    return checked_inside(offset, length, INT64_MAX);
}

/* ---- opening ---- */

static bool opens_to_change(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

int share_open_file(struct share *share, uint64_t number, int flags, bool drop_suid,
                    uint64_t *handle)
{
    struct share_node *node = share_find(share, number);
    if (!node)
        return -ESTALE;
    if (node->type != S_IFREG)
        return node->type == S_IFDIR ? -EISDIR : node->type == S_IFLNK ? -ELOOP : -ENXIO;
    if ((flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    int ret = opens_to_change(flags) ? share_check_change(share, number) : 0;
    if (ret == 0)
        ret = share_check_room(share, 0, 1);
    if (ret < 0)
        return ret;
    int fd = share_reopen(share, share_node_fd(share, node), flags & OPEN_FLAGS);
    if (fd < 0)
        return fd;
    /* The mode of what is only read stays, whatever is asked for: the share may be read-only. */
    if (drop_suid && opens_to_change(flags))
        share_drop_suid(fd);
    ret = share_add_handle(share, fd, number, false, handle);
    if (ret == 0)
        share_find_handle(share, *handle)->appends = flags & O_APPEND;
    return ret;
}

/* A new file's node and handle. */
static int adopt(struct share *share, int fd, uint64_t directory, const char *name,
                 struct share_entry *entry, uint64_t *handle)
{
    int path_fd = share_reopen(share, fd, O_PATH);
    int ret = path_fd < 0 ? path_fd : share_add_node(share, path_fd, directory, name, entry);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    entry->is_mount = false;
    ret = share_add_handle(share, fd, entry->node, false, handle);
    if (ret < 0)
        share_forget(share, entry->node, 1);
    return ret;
}

static int open_existing(struct share *share, uint64_t directory, const char *name, int flags,
                         bool drop_suid, struct share_entry *entry, uint64_t *handle)
{
    int ret = share_lookup(share, directory, name, entry);
    if (ret < 0)
        return ret;
    ret = share_open_file(share, entry->node, flags, drop_suid, handle);
    if (ret < 0)
        share_forget(share, entry->node, 1);
    return ret;
}

/* Only with O_EXCL is it sure that what is opened is a regular file and no link, FIFO or device
 * that was put there meanwhile; so without, the two are tried in turn. */
int share_create(struct share *share, uint64_t number, const char *name, int flags, bool drop_suid,
                 mode_t mode, const struct share_owner *owner, struct share_entry *entry,
                 uint64_t *handle)
{
    struct share_node *directory;
    int ret = share_check_new(share, number, name, &directory);
    if (ret == 0)
        ret = share_check_room(share, 1, 1);
    for (unsigned i = 0; ret == 0 && i < CREATE_TRIES; i++) {
        ret = share_begin_as(share, owner);
        if (ret < 0)
            return ret;
        int fd = openat(directory->fd, name,
                        (flags & NEW_FLAGS) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                        mode & CREATE_MODE);
        int code = errno;
        share_end_as(share);
        if (fd >= 0)
            return adopt(share, fd, number, name, entry, handle);
        if (code != EEXIST || (flags & O_EXCL))
            return -code;
        ret = open_existing(share, number, name, flags, drop_suid, entry, handle);
        if (ret != -ENOENT)
            return ret;
        directory = share_find(share, number);
        ret = directory ? 0 : -ESTALE;
    }
    return ret < 0 ? ret : -ENOENT;
}

/* ---- bytes ---- */

ssize_t share_read(struct share *share, uint64_t number, const struct iovec *iov, unsigned count,
                   uint64_t offset)
{
    int fd = file_of(share, number);
    if (fd < 0)
        return fd;
    if (!is_range(offset, 0))
        return -EINVAL;
    ssize_t got = preadv(fd, iov, (int)count, (off_t)offset);
    return got < 0 ? -errno : got;
}

/* Not RWF_APPEND: overlayfs loses it on the way, and writes somewhere in the middle. */
static int set_append(struct share_handle *handle, bool append)
{
    if (handle->appends == append)
        return 0;
    int flags = fcntl(handle->fd, F_GETFL);
    if (flags < 0 || fcntl(handle->fd, F_SETFL, append ? flags | O_APPEND : flags & ~O_APPEND) < 0)
        return -errno;
    handle->appends = append;
    return 0;
}

ssize_t share_write(struct share *share, uint64_t number, const struct iovec *iov, unsigned count,
                    uint64_t offset, unsigned flags)
{
    int fd = file_of(share, number);
    if (fd < 0)
        return fd;
    if (!is_range(offset, 0))
        return -EFBIG;
    int ret = share_check_change(share, OPEN_FILE);
    if (ret < 0)
        return ret;
    if (flags & SHARE_WRITE_DROPS_SUID)
        share_drop_suid(fd);
    ret = set_append(share_find_handle(share, number), flags & SHARE_APPEND);
    if (ret < 0)
        return ret;
    ssize_t done = pwritev(fd, iov, (int)count, (off_t)offset);
    return done < 0 ? -errno : done;
}

int64_t share_seek(struct share *share, uint64_t number, uint64_t offset, int whence)
{
    int fd = file_of(share, number);
    if (fd < 0)
        return fd;
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (!is_range(offset, 0))
        return -ENXIO;
    off_t at = lseek(fd, (off_t)offset, whence);
    return at < 0 ? -errno : at;
}

int share_allocate(struct share *share, uint64_t number, int mode, uint64_t offset, uint64_t length)
{
    int fd = file_of(share, number);
    int ret = share_check_change(share, OPEN_FILE);
    if (fd < 0 || ret < 0)
        return fd < 0 ? fd : ret;
    if (mode & ~ALLOCATE_FLAGS)
        return -EOPNOTSUPP;
    if (!is_range(offset, length))
        return -EFBIG;
    return fallocate(fd, mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
}

ssize_t share_copy(struct share *share, uint64_t from, uint64_t from_offset, uint64_t to,
                   uint64_t to_offset, uint64_t length)
{
    int from_fd = file_of(share, from), to_fd = file_of(share, to);
    int ret = share_check_change(share, OPEN_FILE);
    if (from_fd < 0 || to_fd < 0 || ret < 0)
        return from_fd < 0 || to_fd < 0 ? -EBADF : ret;
    length = MIN(length, (uint64_t)SHARE_COPY_BYTES_MAX);
    if (!is_range(from_offset, length) || !is_range(to_offset, length))
        return -EFBIG;
    ret = set_append(share_find_handle(share, to), false); /* which copying will not do */
    if (ret < 0)
        return ret;
    off_t from_at = (off_t)from_offset, to_at = (off_t)to_offset;
    ssize_t done = copy_file_range(from_fd, &from_at, to_fd, &to_at, length, 0);
    return done < 0 ? -errno : done;
}

void share_take_suid_off(struct share *share, uint64_t number)
{
    int fd = file_of(share, number);
    if (fd >= 0 && share_check_change(share, OPEN_FILE) == 0)
        share_drop_suid(fd);
}

/* ---- to the storage ---- */

int share_flush(struct share *share, uint64_t number)
{
    int fd = file_of(share, number);
    int copy = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return fd < 0 ? fd : -errno;
    return close(copy) < 0 ? -errno : 0;
}

int share_sync(struct share *share, uint64_t number, bool data_only)
{
    int fd = any_of(share, number);
    if (fd < 0)
        return fd;
    return (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

int share_sync_all(struct share *share, uint64_t number)
{
    const struct share_node *node = share_find(share, number);
    if (!node)
        return -ESTALE;
    if (node->type != S_IFDIR)
        return -ENOTDIR;
    if (share->read_only)
        return 0;
    int fd = share_reopen(share, node->fd, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    int ret = syncfs(fd) < 0 ? -errno : 0;
    close(fd);
    return ret;
}
