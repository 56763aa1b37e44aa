/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_JOB_H
#define NIDO_CLI_JOB_H

/*
 * nido run --root ROOT -- COMMAND: a machine that is there for one command. It starts with a kernel of
 * nido's store and nido's own program as its first process (lib/agent.h); what the command reads and
 * writes goes through this process's standard descriptors; its end is the machine's.
 *
 * All of it lives on the main loop.
 */

#include "base/error.h"
#include "host/loop.h"
#include "host/stream.h"

#include <jansson.h>
#include <limits.h>
#include <nido/machine.h>
#include <stdint.h>

#define JOB_ENV_MAX 64u

/* What an archive or image became: see roots.h. */
struct made_root {
    char path[PATH_MAX];
    json_t *config;  /* what the image says of its command; NULL: it is no image */
    char **argv;     /* of that command; the texts are the configuration's or the caller's */
    char *directory; /* where it starts; NULL: the image does not say */
};

struct job_flags {
    const char *root; /* NULL: no job */
    struct made_root made;
    char **command; /* NULL: none was given */
    const char *env[JOB_ENV_MAX];
    unsigned env_count;
    const char *directory, *user; /* NULL: the root's own */
    bool tty;
    bool write;             /* to the root itself */
    uint64_t scratch_bytes; /* 0: what is written goes to memory */
};

/* How a command ended. */
struct job_outcome {
    const char *reason; /* a word of --result */
    int code, signal;   /* the exit status; the signal that killed it, or 0 */
    bool oom;           /* the guest's kernel ran out of memory, and killed something for it */
    bool broken;        /* nido's program in the guest did not do its part */
};

struct job;

/* Makes the machine what the job needs: its kernel, its disks, its way to nido. `name` is the
 * machine's. What `machine` points to afterwards is the job's. */
int job_create(struct job **out, const struct job_flags *flags, const char *name,
               struct nido_config *machine, struct nido_error *err);
void job_destroy(struct job *job); /* takes NULL */

/* What its owner hears of it. */
struct job_ops {
    void (*started)(void *self); /* not where it cannot be */
    void (*over)(void *self);    /* all is said and done */
};

/* Before the machine starts. `keys` is of the terminal, or NULL. Of a `detached` command nobody reads the output, and
 * it has no input. */
int job_start(struct job *job, struct loop *loop, struct stream_keys *keys, bool detached,
              const struct job_ops *ops, void *self, struct nido_error *err);

/* False: there is no command yet, or no more. */
bool job_signal(struct job *job, int number);
void job_resize(struct job *job);
/* The machine is paused, or goes on. */
void job_set_paused(struct job *job, bool paused);

/* A request on the control socket: see exec.h. */
int job_exec(struct job *job, const json_t *request, int fd, struct nido_error *err);

/* By clock_now_ns(): when nido's program in the guest called, when the root was in place and the command was asked
 * for, and when it had ended. 0: not yet. */
struct job_times {
    uint64_t called_ns, ready_ns, ended_ns;
};
const struct job_times *job_times(const struct job *job);

/* The machine has ended, or was stopped: what is on its way comes out still, until `stop_fd` is
 * readable. */
void job_drain(struct job *job, int stop_fd);

/* False: the command did not come to an end, and the machine's own end, where it came by itself,
 * tells more. */
bool job_outcome(const struct job *job, bool machine_ended, struct job_outcome *outcome);

#endif
