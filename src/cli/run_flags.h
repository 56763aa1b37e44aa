/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_RUN_FLAGS_H
#define NIDO_CLI_RUN_FLAGS_H

/* The flags of nido run: the schema's, which describe the machine, and these, which steer its life.
 * A configuration file may hold both. */

#include "base/error.h"
#include "cli/job.h"
#include "cli/rundir.h"
#include "config/config.h"

#define RUN_SECONDS_MAX (365l * 86400l)

struct run_flags {
    struct config config;
    bool help, help_all;
    unsigned long grace_s;
    unsigned long timeout_s; /* 0: none */
    bool restart_on_reboot, restart_on_panic;
    bool detach;
    char name[RUNDIR_NAME_BYTES]; /* empty: none was given */
    bool timeline;
    struct job_flags job;
    const char *pidfile, *result, *trace; /* NULL: none */
};

extern const struct config_key run_keys[];
extern const unsigned run_key_count;

/* Starts from the defaults. */
int run_flags_parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err);
void run_flags_finish(struct run_flags *flags);

#endif
