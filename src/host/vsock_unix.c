/* SPDX-License-Identifier: Apache-2.0 */
#include "host/vsock_unix.h"

#include "base/own.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

int vsock_unix_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* A non-blocking connect on a unix socket succeeds or fails at once; it is never under way. */
static int connect_to(int fd, const char *path)
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
    own_fd int fd = vsock_unix_socket();
    if (fd < 0)
        return true;
    int ret = connect_to(fd, path);
    return ret == 0 || ret == -EAGAIN;
}

/* Makes the way free for bind(): a socket outlives the program that made it, until it is
 * unlinked. */
static int remove_stale(const char *path, struct nido_error *err)
{
    struct stat file;
    if (lstat(path, &file) < 0)
        return 0; /* bind() tells what else is wrong */
    if (!S_ISSOCK(file.st_mode))
        return error_set(err, EEXIST,
                         "vsock %s: a file of another kind has this name; name a path that is free",
                         path);
    if (is_live(path))
        return error_set(err, EADDRINUSE,
                         "vsock %s: another program listens there; end it, or name another path",
                         path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(err, errno, "vsock %s: cannot remove the stale socket", path);
    return 0;
}

/* Linux takes the file's mode from the socket's own inode, so this needs no umask(), which belongs
 * to the whole process. */
static int bind_private(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return 0;
}

static int start_listening(struct vsock_unix *host, struct nido_error *err)
{
    int ret = bind_private(host->fd, host->path);
    if (ret < 0)
        return error_errno(err, -ret, "vsock %s: cannot make the socket", host->path);
    struct stat file;
    if (lstat(host->path, &file) == 0) {
        host->dev = file.st_dev;
        host->ino = file.st_ino;
    }
    if (listen(host->fd, SOMAXCONN) < 0)
        return error_errno(err, errno, "vsock %s: cannot listen", host->path);
    return 0;
}

int vsock_unix_init(struct vsock_unix *host, const char *path, struct nido_error *err)
{
    *host = (struct vsock_unix){.fd = -1};
    if (strlen(path) >= sizeof(host->path))
        return error_set(err, ENAMETOOLONG,
                         "vsock %s: a socket's path has at most %zu bytes; name a shorter one",
                         path, sizeof(host->path) - 1);
    memcpy(host->path, path, strlen(path));
    int ret = remove_stale(path, err);
    if (ret < 0)
        return ret;
    host->fd = vsock_unix_socket();
    if (host->fd < 0)
        return error_errno(err, -host->fd, "vsock %s: cannot make a socket", path);
    ret = start_listening(host, err);
    if (ret < 0)
        vsock_unix_finish(host);
    return ret;
}

void vsock_unix_finish(struct vsock_unix *host)
{
    struct stat file;
    if (host->fd < 0)
        return;
    if (host->ino && lstat(host->path, &file) == 0 && file.st_dev == host->dev &&
        file.st_ino == host->ino)
        unlink(host->path);
    close(own_take_fd(&host->fd));
}

int vsock_unix_accept(const struct vsock_unix *host)
{
    int fd = accept4(host->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int vsock_unix_connect(const struct vsock_unix *host, int fd, uint32_t port)
{
    char path[sizeof(host->path) + sizeof("_4294967295")];
    snprintf(path, sizeof(path), "%s_%u", host->path, port);
    return connect_to(fd, path);
}
