/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_CHORES_H
#define NIDO_CLI_CHORES_H

/* Small steps of nido run that need nothing of its state. */

#include "base/error.h"

#include <nido/config.h>
#include <nido/machine.h>
#include <stdbool.h>
#include <stdint.h>

/* NULL: none is wanted. */
int chores_write_pidfile(const struct nido_config *machine, const char *path,
                         struct nido_error *err);
/* Whatever links a guest has put on the way meanwhile. */
void chores_remove_pidfile(const struct nido_config *machine, const char *path);
/* The machine owns the TAPs it gets; one that starts again needs them once more. */
int chores_lend_descriptors(struct nido_config *config, struct nido_error *err);
/* One line for a raw terminal. */
void chores_print_status(const char *name, struct nido_machine *machine);
/* A share keeps a descriptor for each file that the guest knows; the usual limit of 1024 is there for
 * programs that use select(). Where it cannot be raised, the guest is told when it is reached. */
void chores_allow_many_files(const struct nido_config *machine);
/* Whether it can be written, before there is something to trace; makes the file. */
int chores_check_trace(const struct nido_config *machine, const char *path, struct nido_error *err);
/* Where tracing is on, and threads have stopped: nobody adds to it any more. `path` may be NULL. */
void chores_show_trace(const struct nido_config *machine, const char *path, bool timeline,
                       uint64_t guest_start_ns);
/* Line by line: a raw terminal needs a carriage return with each. NULL: nothing. */
void chores_print_report(const char *report);

#endif
