/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_AGENT_H
#define NIDO_LIB_AGENT_H

/*
 * The host's end of nido's program in the guest (docs/guest-protocol.md). The guest calls; nothing it
 * says is trusted: a frame that does not fit what was asked for, words that come too late, a
 * connection that ends too soon, all break the agent, once, with a sentence that tells what happened.
 * Connections of other programs of the guest are closed and do no harm.
 *
 * All of it lives on one loop.
 */

#include "base/error.h"
#include "host/loop.h"

#include <stdbool.h>
#include <stdint.h>

/* How long the guest may take for what nido waits for: to say hello, to have its root in place, to
 * start a command. */
#define AGENT_PATIENCE_S 180u

struct agent;

struct agent_setup {
    uint32_t flags; /* enum setup_flags of firmware/guest/protocol.h */
    const char *source, *fstype, *scratch, *hostname;
    const char *resolver; /* the name server where DHCP tells of none; "": there is none */
    char *const *shares;  /* of each tag, place, and the file's name or ""; NULL ends the list */
};

struct agent_command {
    uint32_t flags; /* enum command_flags */
    uint32_t rows, columns;
    char *const *argv, *const *env;
    const char *directory, *user;
};

enum agent_outcome { AGENT_EXITED, AGENT_KILLED, AGENT_NOT_FOUND, AGENT_NOT_STARTED };

struct agent_exit {
    enum agent_outcome outcome;
    uint32_t value;     /* exit status, signal or errno */
    uint32_t oom_kills; /* in the whole machine, so far */
};

struct agent_ops {
    void (*called)(void *self); /* the guest has said hello */
    void (*ready)(void *self);  /* commands can be run */
    /* `hung_up`: the machine's own end, if that comes now, says more. */
    void (*broken)(void *self, const char *why, bool hung_up);
};

struct agent_job_ops {
    /* Owns `fd`, a non-blocking socket. */
    void (*stream)(void *self, unsigned stream, int fd);
    void (*started)(void *self); /* NULL: not of interest; one that cannot start only ends */
    /* What has not come of its streams by now never does. */
    void (*ended)(void *self, const struct agent_exit *how);
};

/* Listens for the guest's call beside `vsock_path`. What `setup` points to is needed until
 * then. */
int agent_create(struct agent **out, struct loop *loop, const char *vsock_path,
                 const struct agent_setup *setup, const struct agent_ops *ops, void *self,
                 struct nido_error *err);
void agent_destroy(struct agent *agent); /* takes NULL */

/* *job is its number. -EAGAIN: the guest is not ready; -EBUSY: it runs as many as it can; -E2BIG:
 * arguments and environment are too long. */
int agent_run(struct agent *agent, const struct agent_command *command,
              const struct agent_job_ops *ops, void *self, unsigned *job, struct nido_error *err);
/* A job that has ended takes no notice. */
void agent_signal(struct agent *agent, unsigned job, int number);
void agent_resize(struct agent *agent, unsigned job, unsigned rows, unsigned columns);
/* The machine stands still, or goes on: a guest that is paused keeps nobody waiting. */
void agent_set_paused(struct agent *agent, bool paused);
/* Nobody wants to hear of that job any more; it gets SIGKILL. */
void agent_abandon(struct agent *agent, unsigned job);

#endif
