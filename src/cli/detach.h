/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_DETACH_H
#define NIDO_CLI_DETACH_H

/*
 * --detach: the machine runs in a child process, in a session of its own, and the command returns once it
 * runs (and the command of a job does), with its name on standard output, or has failed, with its message. One that
 * is killed meanwhile takes the machine along. Begun before there are threads.
 */

#include "base/error.h"
#include "host/loop.h"

#include <stdbool.h>
#include <sys/types.h>

struct detach {
    pid_t child; /* in the parent; 0 in the child; -1 where nothing was detached */
    int socket;  /* to the other; -1: none */
    bool told;   /* the parent, the name */
    struct loop *loop;
    struct loop_source parent; /* the socket, until the parent has passed the name on */
    struct loop_task *deserted;
};

void detach_init(struct detach *detach);
int detach_begin(struct detach *detach, struct nido_error *err);
bool detach_is_parent(const struct detach *detach);

/* In the parent: the exit status of the command. */
int detach_wait(struct detach *detach);
/* In the child, or where nothing was detached: posts `deserted` to `loop` when the parent goes before it has
 * passed the name on. */
int detach_watch(struct detach *detach, struct loop *loop, struct loop_task *deserted,
                 struct nido_error *err);
/* On that loop, or before it runs; in the child, or where nothing was detached: tells the parent the name and
 * leaves its terminal. */
void detach_started(struct detach *detach, const char *name);

#endif
