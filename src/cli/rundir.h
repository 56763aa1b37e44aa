/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_RUNDIR_H
#define NIDO_CLI_RUNDIR_H

/*
 * Where running machines are found: one control socket NAME.sock each, in $XDG_RUNTIME_DIR/nido, or in
 * /tmp/nido-UID where there is no such directory. Only its user can look into it.
 */

#include "base/error.h"
#include "host/unix_listener.h"

#define RUNDIR_NAME_BYTES 64

/* Letters, digits, '-', '_' and '.', not beginning with a sign; at most RUNDIR_NAME_BYTES - 1. */
int rundir_check_name(const char *name, struct nido_error *err);

/* The directory, made if need be. */
int rundir_path(char *path, size_t path_bytes, struct nido_error *err);
int rundir_socket_path(const char *name, char path[UNIX_PATH_BYTES], struct nido_error *err);

/* Where the machine's vsock is, unless it has one of its own. */
int rundir_vsock_path(const char *name, char path[UNIX_PATH_BYTES], struct nido_error *err);
/* Removes what a machine that was killed has left; whoever does it holds the lock. */
void rundir_forget(const char *name);

/* Nobody else who holds this makes a socket there or takes one away. A descriptor: closing it lets go. */
int rundir_lock(struct nido_error *err);

/* Calls `visit` with each name that has a socket, in order, until it returns false. */
int rundir_each(bool (*visit)(const char *name, void *self), void *self, struct nido_error *err);

#endif
