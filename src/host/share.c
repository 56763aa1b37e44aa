/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a share, the steps from node to node, and what the other files of it have in common.
 */
#include "host/share.h"

#include "base/own.h"
#include "host/share_table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <unistd.h>

/* ---- opening ---- */

static bool is_in(int directory_fd, const char *name, const struct stat *file)
{
    struct stat there;
    return fstatat(directory_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           there.st_dev == file->st_dev && there.st_ino == file->st_ino;
}

/* Sets `only` and returns the directory that the file lies in. */
static int open_parent(struct share *share, int file_fd, const struct stat *file,
                       struct nido_error *err)
{
    char link[32];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file_fd);
    own_mem char *real = realpath(link, NULL);
    char *slash = real ? strrchr(real, '/') : NULL;
    if (!slash)
        return error_errno(err, errno, "share %s: cannot find where it lies", share->path);
    share->only = strdup(slash + 1);
    if (!share->only)
        return error_set(err, ENOMEM, "share %s: out of memory", share->path);
    *slash = '\0';
    own_fd int fd = open(*real ? real : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "share %s: cannot open its directory", share->path);
    /* Who can rename its directories could have led that elsewhere. */
    if (!is_in(fd, share->only, file))
        return error_set(err, ESTALE, "share %s: was replaced while it was opened", share->path);
    return own_take_fd(&fd);
}

static int open_root(struct share *share, int found_fd, struct nido_error *err)
{
    struct stat stat;
    own_fd int fd =
        found_fd ? fcntl(found_fd, F_DUPFD_CLOEXEC, 0) : open(share->path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0)
        return error_errno(err, errno, "share %s: cannot open it", share->path);
    if (S_ISREG(stat.st_mode))
        return open_parent(share, fd, &stat, err);
    if (!S_ISDIR(stat.st_mode))
        return error_set(err, ENOTDIR,
                         "share %s: neither a directory nor a regular file; name one of them",
                         share->path);
    return own_take_fd(&fd);
}

static int set_up(struct share *share, const struct share_config *config, struct nido_error *err)
{
    share->path = strdup(config->path);
    if (!share->path)
        return error_set(err, ENOMEM, "share: out of memory");
    share->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (share->proc_fd < 0)
        return error_errno(err, errno, "share %s: cannot open /proc/self/fd, which it needs",
                           share->path);
    int root_fd = open_root(share, config->found_fd, err);
    if (root_fd < 0)
        return root_fd;
    int ret = share_table_init(share, root_fd);
    return ret < 0 ? error_errno(err, -ret, "share %s: cannot set it up", share->path) : 0;
}

int share_open(struct share **out, const struct share_config *config, struct nido_error *err)
{
    struct share *share = calloc(1, sizeof(*share));
    if (!share)
        return error_set(err, ENOMEM, "share %s: out of memory", config->path);
    share->read_only = config->read_only;
    share->descriptors_max = config->descriptors_max;
    share->nodes_max = config->nodes_max;
    share->uid = geteuid();
    share->gid = getegid();
    share->keeps_ids = share->uid == 0;
    share->proc_fd = -1;
    int ret = set_up(share, config, err);
    if (ret < 0) {
        share_close(share);
        return ret;
    }
    *out = share;
    return 0;
}

void share_close(struct share *share)
{
    if (!share)
        return;
    share_table_finish(share);
    if (share->proc_fd >= 0)
        close(share->proc_fd);
    free(share->only);
    free(share->path);
    free(share);
}

/* Without SECBIT_NO_SETUID_FIXUP a thread that makes files for another user would lose the rights
 * of root while it does, and may not enter the directory that the user's groups let him into: who
 * may do what has been checked by the other side's kernel. */
int share_adopt_thread(void)
{
    if (geteuid() == 0)
        prctl(PR_SET_SECUREBITS, prctl(PR_GET_SECUREBITS) | SECBIT_NO_SETUID_FIXUP);
    if (unshare(CLONE_FS) < 0)
        return -errno;
    umask(0);
    return 0;
}

/* ---- what all files of the share use ---- */

static int check_name(const char *name)
{
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

int share_check_step(struct share *share, uint64_t directory, const char *name,
                     struct share_node **node)
{
    *node = share_find(share, directory);
    if (!*node)
        return -ESTALE;
    if ((*node)->type != S_IFDIR)
        return -ENOTDIR;
    return check_name(name);
}

int share_check_change(const struct share *share, uint64_t node)
{
    if (share->read_only)
        return -EROFS;
    return share->only && node == SHARE_ROOT ? -EPERM : 0;
}

int share_check_new(struct share *share, uint64_t directory, const char *name,
                    struct share_node **node)
{
    int ret = share_check_step(share, directory, name, node);
    return ret < 0 ? ret : share_check_change(share, directory);
}

const char *share_proc_name(int fd, char name[SHARE_PROC_NAME_BYTES])
{
    char *at = name + SHARE_PROC_NAME_BYTES;
    *--at = '\0';
    do
        *--at = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    return at;
}

/* O_NONBLOCK: a file that somebody has a lease on is told apart from one that can be had now, and
 * waiting would hold up the share. */
int share_reopen(const struct share *share, int fd, int flags)
{
    char name[SHARE_PROC_NAME_BYTES];
    if (fd < 0)
        return fd;
    int opened = openat(share->proc_fd, share_proc_name(fd, name),
                        flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return opened < 0 ? -errno : opened;
}

int share_begin_as(const struct share *share, const struct share_owner *owner)
{
    if (!share->keeps_ids)
        return 0;
    setfsgid(owner->gid);
    setfsuid(owner->uid);
    /* They tell no errors; an impossible id tells what is in force. */
    if ((uint32_t)setfsgid((gid_t)-1) == owner->gid && (uint32_t)setfsuid((uid_t)-1) == owner->uid)
        return 0;
    share_end_as(share);
    return -EPERM;
}

void share_end_as(const struct share *share)
{
    if (!share->keeps_ids)
        return;
    setfsuid(share->uid);
    setfsgid(share->gid);
}

/* ---- steps, and looking ---- */

static bool is_other_mount(const struct share_node *directory, const struct statx *attr)
{
    return S_ISDIR(attr->stx_mode) && (directory->key.mount != attr->stx_mnt_id ||
                                       directory->key.major != attr->stx_dev_major ||
                                       directory->key.minor != attr->stx_dev_minor);
}

int share_lookup(struct share *share, uint64_t number, const char *name, struct share_entry *entry)
{
    struct share_node *directory;
    int ret = share_check_step(share, number, name, &directory);
    if (ret < 0)
        return ret;
    const bool alone = share->only && number == SHARE_ROOT;
    if (alone && strcmp(name, share->only) != 0)
        return -ENOENT;
    int fd = openat(directory->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ret = share_add_node(share, fd, number, name, entry);
    if (ret < 0)
        return ret;
    if (alone && !S_ISREG(entry->attr.stx_mode)) {
        share_forget(share, entry->node, 1);
        return -ENOENT;
    }
    directory = share_find(share, number); /* nodes may have moved */
    entry->is_mount = directory && is_other_mount(directory, &entry->attr);
    return 0;
}

int share_stat(struct share *share, uint64_t number, struct statx *attr)
{
    int fd = share_fd(share, number);
    int ret = fd < 0 ? fd : share_table_stat(fd, attr);
    if (ret == 0)
        share_table_show_owner(share, attr);
    return ret;
}

int share_statfs(struct share *share, uint64_t number, struct statvfs *stat)
{
    int fd = share_fd(share, number);
    if (fd < 0)
        return fd;
    return fstatvfs(fd, stat) < 0 ? -errno : 0;
}

int share_readlink(struct share *share, uint64_t number, char *to, size_t room)
{
    struct share_node *node = share_find(share, number);
    if (!node)
        return -ESTALE;
    if (node->type != S_IFLNK)
        return -EINVAL;
    int fd = share_node_fd(share, node);
    if (fd < 0)
        return fd;
    ssize_t length = readlinkat(fd, "", to, room);
    return length < 0 ? -errno : (int)length;
}
