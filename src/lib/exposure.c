/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/exposure.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* More directories than a path can name. */
#define DEPTH_MAX 4096
#define LINKS_MAX 40u /* the kernel's own limit */

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

/* A path that is being walked: links of the host lead into shares too. */
struct way {
    int fd; /* the directory that was reached */
    char *text;
    const char *next; /* in `text`: what is left of it */
    unsigned links;
};

static void way_finish(struct way *way)
{
    own_close_fd(&way->fd);
    free(way->text);
}

/* Goes on with `text`, which the way owns from here on. From where it is, or from "/". */
static void way_take(struct way *way, char *text)
{
    free(way->text);
    way->text = text;
    way->next = text + strspn(text, "/");
    if (way->next == text)
        return;
    own_close_fd(&way->fd);
    way->fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* NULL: it is no link; or one of /proc, which leads to the thing itself, whatever its text is. */
static char *link_text(int directory_fd, const char *name)
{
    struct statfs kind;
    char text[PATH_MAX];
    if (fstatfs(directory_fd, &kind) < 0 || kind.f_type == PROC_SUPER_MAGIC)
        return NULL;
    ssize_t length = readlinkat(directory_fd, name, text, sizeof(text));
    return length > 0 ? strndup(text, (size_t)length) : NULL;
}

/* -ENOENT: there is nowhere to go. */
static int way_step(struct way *way)
{
    const size_t length = strcspn(way->next, "/");
    const char *behind = way->next + length;
    own_mem char *name = strndup(way->next, length);
    own_mem char *target = name ? link_text(way->fd, name) : NULL;
    char *text;
    if (target) {
        if (++way->links > LINKS_MAX || asprintf(&text, "%s%s", target, behind) < 0)
            return -ENOENT;
        way_take(way, text);
        return way->fd < 0 ? -ENOENT : 0;
    }
    if (!name || !*behind)
        return -ENOENT;
    int below = openat(way->fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    own_close_fd(&way->fd);
    way->fd = below;
    way->next = behind + strspn(behind, "/");
    return below < 0 ? -ENOENT : 0;
}

static int way_begin(struct way *way, const char *path)
{
    char *text = strdup(path);
    way->fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (text)
        way_take(way, text);
    return text && way->fd >= 0 ? 0 : -ENOENT;
}

/* On to the first directory that the guest can write to. A negative errno: there is none. */
static int way_walk(struct way *way, const struct nido_config *config)
{
    int ret = 0;
    while (ret == 0 && !is_inside(config, way->fd))
        ret = way_step(way);
    return ret;
}

static int find_exposed(struct way *way, const struct nido_config *config, const char *path)
{
    int ret = way_begin(way, path);
    return ret < 0 ? ret : way_walk(way, config);
}

/* What is above a share is not the guest's to move. */
static bool goes_up_from_share(const struct way *way, const struct nido_config *config)
{
    struct stat here;
    return strcspn(way->next, "/") == 2 && strncmp(way->next, "..", 2) == 0 &&
           fstat(way->fd, &here) == 0 && is_writable_share(config, &here);
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
    struct way way = {.fd = -1};
    bool exposed = has_writable_share(config) && find_exposed(&way, config, path) == 0;
    way_finish(&way);
    return exposed;
}

static int open_beneath(int directory_fd, const char *path, int flags, mode_t mode)
{
    const struct open_how how = {
        .flags = (unsigned)flags | O_CLOEXEC,
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
    };
    int fd = (int)syscall(SYS_openat2, directory_fd, path, &how, sizeof(how));
    return fd < 0 ? -errno : fd;
}

/* Without waiting for a FIFO's reader: the guest can make one. */
static int open_file_beneath(int directory_fd, const char *path, int flags, mode_t mode)
{
    struct stat file;
    int fd = open_beneath(directory_fd, path, flags | O_NOCTTY | O_NONBLOCK, mode);
    if (fd < 0 || (fstat(fd, &file) == 0 && S_ISREG(file.st_mode)))
        return fd;
    close(fd);
    return -EINVAL;
}

int exposure_open(const struct nido_config *config, const char *path, int flags, mode_t mode)
{
    struct way way = {.fd = -1};
    int fd;
    if (has_writable_share(config) && find_exposed(&way, config, path) == 0) {
        fd = open_file_beneath(way.fd, way.next, flags, mode);
    } else {
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
        fd = fd < 0 ? -errno : fd;
    }
    way_finish(&way);
    return fd;
}

int exposure_find(const struct nido_config *config, const char *path)
{
    struct way way = {.fd = -1};
    int ret = has_writable_share(config) ? find_exposed(&way, config, path) : -ENOENT;
    while (ret == 0 && goes_up_from_share(&way, config)) {
        ret = way_step(&way);
        ret = ret < 0 ? ret : way_walk(&way, config);
    }
    int fd = ret == 0 ? open_beneath(way.fd, *way.next ? way.next : ".", O_PATH, 0)
                      : open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 && ret < 0)
        fd = -errno;
    way_finish(&way);
    return fd;
}

int exposure_find_directory(const struct nido_config *config, const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    own_mem char *directory = slash ? strndup(path, MAX((size_t)(slash - path), 1u)) : strdup(".");
    return directory ? exposure_find(config, directory) : -ENOMEM;
}
