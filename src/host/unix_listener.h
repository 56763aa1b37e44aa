/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_UNIX_LISTENER_H
#define NIDO_HOST_UNIX_LISTENER_H

/*
 * A unix stream socket that we listen on under a path. Its descriptors are non-blocking and close-on-exec;
 * the path is readable and writable for its owner alone.
 */

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#define UNIX_PATH_BYTES sizeof(((struct sockaddr_un *)0)->sun_path)

struct unix_listener {
    int fd; /* -1: not open */
    char path[UNIX_PATH_BYTES];
    dev_t dev; /* the file that we made: another one in its place is not ours to remove */
    ino_t ino;
};

/* Replaces a socket that nobody listens on; refuses a live one (-EADDRINUSE), any other file (-EEXIST), and a
 * path that does not fit into a socket's address. Errors name the path. On failure nothing is left to
 * finish. */
int unix_listener_init(struct unix_listener *listener, const char *path, struct nido_error *err);
/* Removes the path, where it is still ours. Takes one that is not open. */
void unix_listener_finish(struct unix_listener *listener);

/* The next client, or a negative errno; -EAGAIN: none waits. The descriptor is the caller's. */
int unix_listener_accept(const struct unix_listener *listener);

/* A non-blocking socket to call with: a descriptor, or a negative errno. */
int unix_socket(void);
/* 0; -EAGAIN: somebody listens and has too many calls waiting; other errors: nobody is there. */
int unix_connect(int fd, const char *path);

#endif
