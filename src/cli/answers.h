/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_ANSWERS_H
#define NIDO_CLI_ANSWERS_H

/* What a running machine says on its control socket. Everything on the main loop's thread. */

#include "cli/console_hub.h"
#include "cli/control.h"
#include "cli/job.h"

#include <nido/machine.h>

#define ANSWERS_WAITERS_MAX 32u

struct answers {
    const char *name;
    struct nido_machine *machine; /* the one of now */
    bool stopping;                /* it was asked to end */
    struct job *job;              /* NULL: it has no command */
    struct console_hub *hub;      /* of a detached machine; NULL: its console is a terminal's */
    /* Its power button, and its plug once the grace time is over; -1: the time that --grace says. */
    void (*stop)(struct answers *answers, long grace_s);
    void (*kill)(struct answers *answers); /* its plug */
    unsigned waiter_count;                 /* clients that wait for the end */
    int waiters[ANSWERS_WAITERS_MAX];
    const char *end_reason; /* a word of --result; NULL: nobody knows */
    int end_code;           /* the exit status */
};

/* self is a struct answers. */
extern const struct control_ops answers_control_ops;

/* Of the machine and of those who wait for something from it. */
void answers_set_paused(struct answers *answers, bool paused);

/* Those who wait are told the end, in a line like {"end": "powered-off", "code": 0}, and see their connections
 * closed. */
void answers_finish(struct answers *answers);

#endif
