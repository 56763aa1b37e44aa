/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_VSOCK_UNIX_H
#define NIDO_HOST_VSOCK_UNIX_H

/*
 * The host's end of a vsock: unix stream sockets, by the convention that Firecracker made common.
 *
 *     PATH         we listen here; a program of the host connects and names a port of the guest
 *     PATH_PORT    a program of the host listens here; we connect when the guest calls port PORT
 *
 * Every socket is non-blocking and close-on-exec. PATH is made readable and writable for its owner
 * alone: who can open it can talk to every service of the guest.
 */

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

struct vsock_unix {
    int fd; /* listens; -1: not open */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    dev_t dev; /* the file that we made: another one in its place is not ours to remove */
    ino_t ino;
};

/* Replaces a socket that nobody listens on; refuses a live one, any other file, and a path that
 * does not fit into a socket's address. On failure nothing is left to finish. */
int vsock_unix_init(struct vsock_unix *host, const char *path, struct nido_error *err);
/* Removes PATH, where it is still ours. */
void vsock_unix_finish(struct vsock_unix *host);

/* The next client, or a negative errno; -EAGAIN: none waits. The descriptor is the caller's. */
int vsock_unix_accept(const struct vsock_unix *host);

/* A socket to call with: a descriptor, or a negative errno. */
int vsock_unix_socket(void);
/* Connects it to PATH_PORT. 0; -EAGAIN: somebody listens, and has too many calls waiting: try the
 * same descriptor again later. Any other error: nobody is there. */
int vsock_unix_connect(const struct vsock_unix *host, int fd, uint32_t port);

#endif
