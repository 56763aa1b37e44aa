/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/exposure.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* More directories than a path can name. */
#define DEPTH_MAX 4096

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool is_writable_share(const struct nido_config *config, const struct stat *directory)
{
    struct stat share;
    for (unsigned i = 0; i < config->share_count; i++)
        if (!config->shares[i].read_only && stat(config->shares[i].path, &share) == 0 &&
            is_same(directory, &share))
            return true;
    return false;
}

/* Whether the directory is such a share, or below one. Who may write to all of "/" needs no link to get anywhere. */
static bool is_inside(const struct nido_config *config, int directory_fd)
{
    struct stat here, above;
    own_fd int fd = openat(directory_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &here) < 0)
        return false;
    for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
        int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        own_close_fd(&fd);
        fd = up;
        if (fd < 0 || fstat(fd, &above) < 0 || is_same(&here, &above))
            return false;
        if (is_writable_share(config, &here))
            return true;
        here = above;
    }
    return false;
}

/* The first directory on the way to the path that the guest can write to, and in *rest what comes behind. A negative
 * errno: there is none. */
static int open_exposed(const struct nido_config *config, const char *path, const char **rest)
{
    const char *next = path + strspn(path, "/");
    own_fd int fd = open(next > path ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && !is_inside(config, fd)) {
        size_t length = strcspn(next, "/");
        if (!next[length])
            return -ENOENT;
        own_mem char *name = strndup(next, length);
        int below = name ? openat(fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
        own_close_fd(&fd);
        fd = below;
        next += length + strspn(next + length, "/");
    }
    *rest = next;
    return fd < 0 ? -ENOENT : own_take_fd(&fd);
}

static bool has_writable_share(const struct nido_config *config)
{
    for (unsigned i = 0; i < config->share_count; i++)
        if (!config->shares[i].read_only)
            return true;
    return false;
}

bool exposure_is_exposed(const struct nido_config *config, const char *path)
{
    const char *rest;
    own_fd int fd = has_writable_share(config) ? open_exposed(config, path, &rest) : -1;
    return fd >= 0;
}

/* Without waiting for a FIFO's reader: the guest can make one. */
static int open_below(int directory_fd, const char *path, int flags, mode_t mode)
{
    const struct open_how how = {
        .flags = (unsigned)flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
    };
    struct stat file;
    own_fd int fd = (int)syscall(SYS_openat2, directory_fd, path, &how, sizeof(how));
    if (fd < 0)
        return -errno;
    if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode))
        return -EINVAL;
    return own_take_fd(&fd);
}

int exposure_open(const struct nido_config *config, const char *path, int flags, mode_t mode)
{
    const char *rest;
    own_fd int exposed = has_writable_share(config) ? open_exposed(config, path, &rest) : -1;
    if (exposed >= 0)
        return open_below(exposed, rest, flags, mode);
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    return fd < 0 ? -errno : fd;
}
