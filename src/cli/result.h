/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_RESULT_H
#define NIDO_CLI_RESULT_H

/* --result: a JSON record of how a machine ended, so that nobody has to guess from the exit status. */

#include "base/error.h"
#include "cli/job.h"

#include <jansson.h>
#include <nido/machine.h>
#include <stdbool.h>
#include <stdint.h>

struct result {
    const char *reason;          /* a word: nido-run(1) lists them */
    int code;                    /* the exit status */
    int signal;                  /* that asked for the end; 0: none */
    bool oom;                    /* processes of the guest were killed for want of memory */
    unsigned restarts;           /* after the first start */
    uint64_t start_ns;           /* when nido started, and when the guest did; 0: it did not */
    uint64_t guest_start_ns;     /* the last time */
    const struct job *job;       /* of the machine that was there for one; or NULL */
    struct nido_traffic traffic; /* of all starts together */
    const char *report;          /* lines for a person, or NULL */
};

/* The word for a time limit that came. */
#define RESULT_TIMEOUT "timeout"

/* How a machine ended, in a word and as an exit status. `plug` is why its plug was pulled, or NULL; `stopped_by` the
 * signal that asked for the end, or 0. */
const char *result_reason(enum nido_end end, const char *plug);
int result_code(enum nido_end end, const char *plug, int stopped_by);

/* In each, `machine` is whose guest may have put links on the way to a path below a share; none of them is followed. */

/* Whether the record can be written, before it is worth something. What is there and no file would be replaced: refused. */
int result_check(const struct nido_config *machine, const char *path, struct nido_error *err);

/* Written beside the file and moved in its place, so that a reader sees a whole one or none. */
int result_write(const struct nido_config *machine, const char *path, const struct result *result,
                 struct nido_error *err);
/* The same for another record; takes over `json`, which may be NULL: out of memory. */
int result_write_json(const struct nido_config *machine, const char *path, json_t *json,
                      struct nido_error *err);

#endif
