/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_EXEC_H
#define NIDO_CLI_EXEC_H

/*
 * One more command in a machine that runs one: nido exec. The client asks on the control socket, with
 * {"do": "exec", "argv": [...], "env": [...], "dir": "/", "user": "", "tty": false, "rows": 0,
 * "columns": 0}, and keeps the connection; "dir" and "user" may be left out. From then on both sides send records of 8 bytes:
 *
 *     to the client    EXEC_STREAM, with the stream's descriptor: its bytes never pass through nido
 *                      EXEC_ENDED, and the connection's end
 *     from the client  EXEC_SIGNAL, EXEC_RESIZE; a connection that ends kills the command
 *
 * nido cp is the same with a command of nido's own in the guest (firmware/guest/copy.h): {"do": "cp", "out": true,
 * "paths": [...], "user": "", "setuid": false, "into": false}. Out of the guest its standard output is a tar stream,
 * else its standard input.
 */

#include "base/error.h"
#include "cli/job.h"
#include "host/loop.h"
#include "lib/agent.h"

#include <jansson.h>
#include <stdint.h>

enum exec_kind { EXEC_STREAM = 1, EXEC_ENDED, EXEC_SIGNAL, EXEC_RESIZE };

struct exec_record {
    uint16_t kind;
    uint16_t small; /* stream; enum agent_outcome; rows */
    uint32_t value; /* of the end; signal; columns */
};

/* With `fd` >= 0, a copy of it goes along. False: the peer is gone. */
bool exec_send(int socket, const struct exec_record *record, int fd);
/* 1, with *fd -1 or the caller's; 0: not now; -1: the peer is gone, or sends something else. */
int exec_receive(int socket, struct exec_record *record, int *fd);

/* Why a command did not start, by the value of AGENT_NOT_FOUND or AGENT_NOT_STARTED. */
const char *exec_trouble(uint32_t value);

struct exec_sessions;

int exec_sessions_create(struct exec_sessions **out, struct loop *loop, struct agent *agent,
                         const struct job_flags *flags, struct nido_error *err);
void exec_sessions_destroy(struct exec_sessions *sessions); /* takes NULL */

/* Takes a copy of `fd` to go on with. */
int exec_begin(struct exec_sessions *sessions, const json_t *request, int fd,
               struct nido_error *err);

#endif
