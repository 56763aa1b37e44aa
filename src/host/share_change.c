/* SPDX-License-Identifier: Apache-2.0 */
/* What changes a share: names that come and go, and attributes. */
#include "base/checked.h"
#include "host/share_table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MODE_BITS   07777
#define UNCHANGED   ((uint32_t)-1)
#define XATTR_FLAGS (XATTR_CREATE | XATTR_REPLACE)

/* ---- new names ---- */

/* The entry of what a system call that returned `ret` has made. */
static int made(struct share *share, uint64_t directory, const char *name, int ret,
                struct share_entry *entry)
{
    int code = errno;
    share_end_as(share);
    return ret < 0 ? -code : share_lookup(share, directory, name, entry);
}

/* Before something new of that owner's is made: made() is what comes after. */
static int begin_new(struct share *share, uint64_t number, const char *name,
                     const struct share_owner *owner, struct share_node **directory)
{
    int ret = share_check_new(share, number, name, directory);
    if (ret == 0)
        ret = share_check_room(share, 1, 0);
    return ret == 0 ? share_begin_as(share, owner) : ret;
}

int share_mkdir(struct share *share, uint64_t number, const char *name, mode_t mode,
                const struct share_owner *owner, struct share_entry *entry)
{
    struct share_node *directory;
    int ret = begin_new(share, number, name, owner, &directory);
    if (ret < 0)
        return ret;
    return made(share, number, name, mkdirat(directory->fd, name, mode & MODE_BITS), entry);
}

int share_mknod(struct share *share, uint64_t number, const char *name, mode_t mode,
                const struct share_owner *owner, struct share_entry *entry)
{
    struct share_node *directory;
    int ret = share_check_new(share, number, name, &directory);
    if (ret == 0 && !S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        ret = -EPERM;
    if (ret == 0)
        ret = share_check_room(share, 1, 0);
    if (ret == 0)
        ret = share_begin_as(share, owner);
    if (ret < 0)
        return ret;
    mode &= S_IFMT | MODE_BITS;
    return made(share, number, name, mknodat(directory->fd, name, mode, 0), entry);
}

int share_symlink(struct share *share, uint64_t number, const char *name, const char *target,
                  const struct share_owner *owner, struct share_entry *entry)
{
    struct share_node *directory;
    int ret = begin_new(share, number, name, owner, &directory);
    if (ret < 0)
        return ret;
    return made(share, number, name, symlinkat(target, directory->fd, name), entry);
}

/* By way of /proc/self/fd, because linkat() of a bare descriptor takes a privilege. */
int share_link(struct share *share, uint64_t number, uint64_t directory_number, const char *name,
               struct share_entry *entry)
{
    char from[SHARE_PROC_NAME_BYTES];
    struct share_node *directory;
    int ret = share_check_new(share, directory_number, name, &directory);
    int fd = ret < 0 ? ret : share_fd(share, number);
    if (fd < 0)
        return fd;
    ret = linkat(share->proc_fd, share_proc_name(fd, from), directory->fd, name, AT_SYMLINK_FOLLOW);
    return ret < 0 ? -errno : share_lookup(share, directory_number, name, entry);
}

/* ---- names that go ---- */

static int remove_name(struct share *share, uint64_t number, const char *name, int flags)
{
    struct share_node *directory;
    int ret = share_check_new(share, number, name, &directory);
    if (ret < 0)
        return ret;
    return unlinkat(directory->fd, name, flags) < 0 ? -errno : 0;
}

int share_unlink(struct share *share, uint64_t directory, const char *name)
{
    return remove_name(share, directory, name, 0);
}

int share_rmdir(struct share *share, uint64_t directory, const char *name)
{
    return remove_name(share, directory, name, AT_REMOVEDIR);
}

int share_rename(struct share *share, uint64_t number, const char *name, uint64_t new_number,
                 const char *new_name, unsigned flags)
{
    struct share_node *directory, *new_directory = NULL;
    int ret = share_check_new(share, number, name, &directory);
    if (ret == 0)
        ret = share_check_new(share, new_number, new_name, &new_directory);
    if (ret == 0 && (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)))
        ret = -EINVAL;
    if (ret < 0)
        return ret;
    ret = renameat2(directory->fd, name, new_directory->fd, new_name, flags);
    return ret < 0 ? -errno : 0;
}

/* ---- attributes ---- */

/* Which id of the host the other side means. Where ids are not kept, 0 is the process's own, and
 * what is shown already may be said again. */
static int real_id(const struct share *share, uint32_t wanted, uint32_t own, uint32_t now,
                   uint32_t *real)
{
    uint32_t shown = now == own ? 0 : SHARE_NOBODY;
    *real = wanted;
    if (share->keeps_ids || wanted == UNCHANGED)
        return 0;
    *real = wanted == 0 ? own : UNCHANGED;
    return wanted == 0 || wanted == shown ? 0 : -EPERM;
}

static int set_owner(const struct share *share, int fd, const struct share_changes *changes)
{
    struct statx now;
    uint32_t uid = UNCHANGED, gid = UNCHANGED;
    int ret = share_table_stat(fd, &now);
    if (ret == 0 && (changes->what & SHARE_SET_UID))
        ret = real_id(share, changes->uid, share->uid, now.stx_uid, &uid);
    if (ret == 0 && (changes->what & SHARE_SET_GID))
        ret = real_id(share, changes->gid, share->gid, now.stx_gid, &gid);
    if (ret < 0)
        return ret;
    ret = fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    return ret < 0 ? -errno : 0;
}

static int set_mode(const struct share *share, int fd, mode_t mode)
{
    char name[SHARE_PROC_NAME_BYTES];
    int ret = fchmodat(share->proc_fd, share_proc_name(fd, name), mode & MODE_BITS, 0);
    return ret < 0 ? -errno : 0;
}

void share_drop_suid(int fd)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode))
        return;
    mode_t gone = stat.st_mode & S_ISUID;
    if (stat.st_mode & S_IXGRP)
        gone |= stat.st_mode & S_ISGID;
    if (gone)
        fchmod(fd, stat.st_mode & MODE_BITS & ~gone);
}

static int set_size(struct share *share, mode_t type, int node_fd,
                    const struct share_changes *changes)
{
    const struct share_handle *handle = NULL;
    int ret = 0;
    if (type != S_IFREG)
        return type == S_IFDIR ? -EISDIR : -EINVAL;
    if (changes->size_bytes > INT64_MAX)
        return -EFBIG;
    if (changes->what & SHARE_BY_HANDLE)
        handle = share_find_handle(share, changes->handle);
    if ((changes->what & SHARE_BY_HANDLE) && (!handle || handle->is_directory))
        return -EBADF;
    int fd = handle ? handle->fd : share_reopen(share, node_fd, O_WRONLY);
    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)changes->size_bytes) < 0)
        ret = -errno;
    if (ret == 0 && (changes->what & SHARE_DROP_SUID))
        share_drop_suid(fd);
    if (!handle)
        close(fd);
    return ret;
}

static int set_times(int fd, const struct timespec times[2])
{
    int ret = utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    return ret < 0 ? -errno : 0;
}

/* A change of owner takes set-user-id off, so a mode that comes along is set behind it. */
int share_change(struct share *share, uint64_t number, const struct share_changes *changes,
                 struct statx *attr)
{
    struct share_node *node = share_find(share, number);
    int ret = node ? share_check_change(share, number) : -ESTALE;
    int fd = ret < 0 ? ret : share_node_fd(share, node);
    if (fd < 0)
        return fd;
    if (changes->what & (SHARE_SET_UID | SHARE_SET_GID))
        ret = set_owner(share, fd, changes);
    if (ret == 0 && (changes->what & SHARE_SET_MODE))
        ret = node->type == S_IFLNK ? -EOPNOTSUPP : set_mode(share, fd, changes->mode);
    if (ret == 0 && (changes->what & SHARE_SET_SIZE))
        ret = set_size(share, node->type, fd, changes);
    if (ret == 0 && (changes->what & SHARE_SET_TIMES))
        ret = set_times(fd, changes->times);
    return ret < 0 ? ret : share_stat(share, number, attr);
}

/* ---- extended attributes ---- */

/* Those of other kinds mean something to the host: capabilities, access lists, labels. */
static int check_users(const char *name)
{
    if (strncmp(name, "user.", 5) != 0)
        return -EOPNOTSUPP;
    return name[5] ? 0 : -EINVAL;
}

/* There are no calls for O_PATH descriptors, nor any that start from a directory. Links and special
 * files have no such attributes. */
static int xattr_path(struct share *share, uint64_t number, char path[32])
{
    struct share_node *node = share_find(share, number);
    if (!node)
        return -ESTALE;
    if (node->type != S_IFREG && node->type != S_IFDIR)
        return -EOPNOTSUPP;
    if (share->only && number == SHARE_ROOT)
        return -EOPNOTSUPP;
    int fd = share_node_fd(share, node);
    if (fd < 0)
        return fd;
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return 0;
}

int share_getxattr(struct share *share, uint64_t node, const char *name, void *to, size_t room)
{
    char path[32];
    int ret = check_users(name);
    if (ret == 0)
        ret = xattr_path(share, node, path);
    if (ret < 0)
        return ret;
    ssize_t length = getxattr(path, name, to, MIN(room, (size_t)SHARE_XATTR_BYTES_MAX));
    return length < 0 ? -errno : (int)length;
}

/* Moves the names that may be seen to the front. */
static size_t keep_users(char *names, size_t length)
{
    size_t kept = 0, step;
    for (size_t at = 0; at < length; at += step) {
        step = strnlen(names + at, length - at - 1) + 1;
        if (check_users(names + at) < 0)
            continue;
        memmove(names + kept, names + at, step);
        kept += step;
    }
    return kept;
}

int share_listxattr(struct share *share, uint64_t node, char *to, size_t room)
{
    char path[32];
    int ret = xattr_path(share, node, path);
    if (ret == -EOPNOTSUPP)
        return 0;
    if (ret < 0)
        return ret;
    /* The listing's buffer is free between two calls. */
    char *names = share->listing.bytes;
    share->listing.handle = 0;
    ssize_t length = listxattr(path, names, sizeof(share->listing.bytes));
    if (length < 0)
        return -errno;
    size_t kept = keep_users(names, (size_t)length);
    if (room && room < kept)
        return -ERANGE;
    if (room)
        memcpy(to, names, kept);
    return (int)kept;
}

int share_setxattr(struct share *share, uint64_t node, const char *name, const void *value,
                   size_t length, int flags)
{
    char path[32];
    int ret = share_check_change(share, node);
    if (ret == 0)
        ret = check_users(name);
    if (ret == 0)
        ret = xattr_path(share, node, path);
    if (ret < 0)
        return ret;
    if (flags & ~XATTR_FLAGS)
        return -EINVAL;
    return setxattr(path, name, value, length, flags) < 0 ? -errno : 0;
}

int share_removexattr(struct share *share, uint64_t node, const char *name)
{
    char path[32];
    int ret = share_check_change(share, node);
    if (ret == 0)
        ret = check_users(name);
    if (ret == 0)
        ret = xattr_path(share, node, path);
    if (ret < 0)
        return ret;
    return removexattr(path, name) < 0 ? -errno : 0;
}
