/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_LOOP_H
#define NIDO_HOST_LOOP_H

/*
 * An event loop: epoll in one thread, which owns whatever is registered with it. A loop either has
 * a thread of its own (loop_start) or runs in the caller's (loop_run). Handlers run on the loop's
 * thread, one at a time. Work for the loop from other threads is posted, not locked.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;

/* A file descriptor and who cares. Owned by the caller; lives until after loop_remove(). */
struct loop_source {
    int fd;
    /* EPOLLIN, EPOLLOUT, ...; 0: what epoll tells unasked, which is EPOLLERR and EPOLLHUP. It tells those again and
     * again: a source that has nothing to do about them is removed. */
    uint32_t events;
    void (*ready)(struct loop_source *source, uint32_t events);
    bool always_ready; /* the loop's: a regular file, which epoll refuses and which never blocks */
    struct loop_source *next_always_ready;
};

/* Work that another thread hands over. Owned by the caller. Posting a task that is still waiting to
 * run changes nothing, so a task also works as a wake-up that coalesces. */
struct loop_task {
    void (*run)(struct loop_task *task);
    _Atomic bool posted;
    struct loop_task *next;
};

int loop_create(struct loop **out, const char *name, struct nido_error *err);
void loop_destroy(struct loop *loop); /* takes NULL; stops the thread first */

int loop_start(struct loop *loop, struct nido_error *err);
/* Ends the thread, or makes loop_run() return, after the handler at hand. Posted tasks that have
 * not run are run first. Any thread; loop_stop() waits for the thread and breaks its blocking
 * system calls. */
void loop_stop(struct loop *loop);

void loop_run(struct loop *loop);
void loop_quit(struct loop *loop);

/* On the loop's thread, or before it starts, or after it has stopped. */
int loop_add(struct loop *loop, struct loop_source *source, struct nido_error *err);
void loop_modify(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_remove(struct loop *loop, struct loop_source *source); /* a source never added is fine */

/* Any thread. Takes no lock that a handler holds. */
void loop_post(struct loop *loop, struct loop_task *task);
/* Posts and waits until it has run; not from the loop's own thread, never from a vCPU. */
void loop_call(struct loop *loop, struct loop_task *task);

#endif
