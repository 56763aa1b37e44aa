/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_RUN_FLAGS_H
#define NIDO_CLI_RUN_FLAGS_H

/* The flags of nido run: the schema's, which describe the machine, and these, which steer its life. */

#include "base/error.h"
#include "cli/rundir.h"
#include "config/config.h"

#include <stdio.h>

enum on_reboot { ON_REBOOT_EXIT, ON_REBOOT_RESTART };

struct run_flags {
    struct config config;
    bool help;
    unsigned long grace_s;
    unsigned long timeout_s; /* 0: none */
    enum on_reboot on_reboot;
    bool detach;
    char name[RUNDIR_NAME_BYTES]; /* empty: none was given */
    const char *pidfile, *result; /* NULL: none */
};

/* Starts from the defaults. The flags point into argv. */
int run_flags_parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err);
void run_flags_finish(struct run_flags *flags);

/* The lines of --help for the flags that are not in the schema. */
void run_flags_help(FILE *to, int column);

#endif
