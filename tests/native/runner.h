/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_NATIVE_RUNNER_H
#define NIDO_TESTS_NATIVE_RUNNER_H

/* Runs the nido that was built, as a user would: a process with arguments, three streams, a
 * status. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RUNNER_ARGS_MAX  24
#define RUNNER_TEXT_MAX  65536
#define RUNNER_TIMEOUT_S 60 /* only so that a hang fails instead of hanging the suite */

struct runner {
    pid_t pid;
    int in, out, err; /* our ends; -1 once closed */
    char out_text[RUNNER_TEXT_MAX];
    char err_text[RUNNER_TEXT_MAX];
    size_t out_length, err_length;
    int status; /* as a shell's $? */
};

/* `guest`: the name of a test guest, or NULL for no --kernel. `arguments` ends with NULL. */
void runner_start(struct runner *runner, const char *guest, const char *const *arguments);
/* The same for another command: `arguments` begins with its name. */
void runner_start_command(struct runner *runner, const char *const *arguments);
void runner_send(struct runner *runner, const void *bytes, size_t count);
void runner_close_input(struct runner *runner);
/* Reads until the output holds `text`. False: it ended without. */
bool runner_wait_for(struct runner *runner, const char *text);
/* Takes in the rest and the status. */
void runner_finish(struct runner *runner);

/* All at once, with nothing on standard input. */
void runner_run(struct runner *runner, const char *guest, const char *const *arguments);
void runner_command(struct runner *runner, const char *const *arguments);

#endif
