/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_THREAD_H
#define NIDO_BASE_THREAD_H

/*
 * Threads, their names and the one signal that wakes them.
 *
 * Every thread but main runs with all signals blocked except THREAD_KICK_SIGNAL, which has an empty
 * handler installed without SA_RESTART: thread_kick() makes a blocking system call (KVM_RUN, write,
 * epoll_wait) return EINTR. Process-directed signals thus reach main alone, through its signalfd.
 */

#include "base/error.h"

#include <pthread.h>
#include <signal.h>

#define THREAD_KICK_SIGNAL SIGRTMIN

/* Starts `run(self)` in a thread named `name` (15 characters at most count). */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *self,
                 struct nido_error *err);

/* Makes the thread's current or next blocking system call return EINTR once. Any thread. */
void thread_kick(pthread_t thread);

#endif
