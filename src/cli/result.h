/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_RESULT_H
#define NIDO_CLI_RESULT_H

/* --result: a JSON record of how a machine ended, so that nobody has to guess from the exit status. */

#include "base/error.h"

#include <stdint.h>

struct result {
    const char
        *reason; /* "powered-off", "reset", "crashed", "failed", "stopped", "timeout" or "signal" */
    int code;    /* the exit status */
    int signal;  /* that asked for the end; 0: none */
    uint64_t wall_ns;
    const char *report; /* lines for a person, or NULL */
};

/* Written beside the file and moved in its place, so that a reader sees a whole one or none. */
int result_write(const char *path, const struct result *result, struct nido_error *err);

#endif
