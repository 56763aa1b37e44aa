/* SPDX-License-Identifier: Apache-2.0 */
#include "host/unix_listener.h"

#include "base/own.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

int unix_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* A non-blocking connect on a unix socket succeeds or fails at once; it is never under way. */
int unix_connect(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

/* Whether a program listens there. A queue that is full has somebody in front of it. */
static bool is_live(const char *path)
{
    own_fd int fd = unix_socket();
    if (fd < 0)
        return true;
    int ret = unix_connect(fd, path);
    return ret == 0 || ret == -EAGAIN;
}

/* Makes the way free for bind(): a socket's file outlives the program that made it. */
static int remove_stale(const char *path, struct nido_error *err)
{
    struct stat file;
    if (lstat(path, &file) < 0)
        return 0; /* bind() tells what else is wrong */
    if (!S_ISSOCK(file.st_mode))
        return error_set(err, EEXIST,
                         "%s: a file of another kind has this name; name a path that is free",
                         path);
    if (is_live(path))
        return error_set(err, EADDRINUSE,
                         "%s: another program listens there; end it, or name another path", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(err, errno, "%s: cannot remove the stale socket", path);
    return 0;
}

/* Linux takes the file's mode from the socket's own inode, so this needs no umask(), which belongs to the
 * whole process. */
static int bind_private(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return 0;
}

static int start_listening(struct unix_listener *listener, struct nido_error *err)
{
    int ret = bind_private(listener->fd, listener->path);
    if (ret < 0)
        return error_errno(err, -ret, "%s: cannot make the socket", listener->path);
    struct stat file;
    if (lstat(listener->path, &file) == 0) {
        listener->dev = file.st_dev;
        listener->ino = file.st_ino;
    }
    if (listen(listener->fd, SOMAXCONN) < 0)
        return error_errno(err, errno, "%s: cannot listen", listener->path);
    return 0;
}

int unix_listener_init(struct unix_listener *listener, const char *path, struct nido_error *err)
{
    *listener = (struct unix_listener){.fd = -1};
    if (strlen(path) >= sizeof(listener->path))
        return error_set(err, ENAMETOOLONG,
                         "%s: a socket's path has at most %zu bytes; name a shorter one", path,
                         sizeof(listener->path) - 1);
    memcpy(listener->path, path, strlen(path));
    int ret = remove_stale(path, err);
    if (ret < 0)
        return ret;
    listener->fd = unix_socket();
    if (listener->fd < 0)
        return error_errno(err, -listener->fd, "%s: cannot make a socket", path);
    ret = start_listening(listener, err);
    if (ret < 0)
        unix_listener_finish(listener);
    return ret;
}

void unix_listener_finish(struct unix_listener *listener)
{
    struct stat file;
    if (listener->fd < 0)
        return;
    if (listener->ino && lstat(listener->path, &file) == 0 && file.st_dev == listener->dev &&
        file.st_ino == listener->ino)
        unlink(listener->path);
    close(listener->fd);
    listener->fd = -1;
}

int unix_listener_accept(const struct unix_listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return fd < 0 ? -errno : fd;
}
