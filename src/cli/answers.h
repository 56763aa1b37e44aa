/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_ANSWERS_H
#define NIDO_CLI_ANSWERS_H

/* What a running machine says on its control socket. Everything on the main loop's thread. */

#include "cli/console_hub.h"
#include "cli/control.h"

#include <nido/machine.h>

#define ANSWERS_WAITERS_MAX 32u

struct answers {
    const char *name;
    struct nido_machine *machine; /* the one of now */
    struct console_hub *hub;      /* of a detached machine; NULL: its console is a terminal's */
    void (*stop)(struct answers *answers); /* its power button */
    void (*kill)(struct answers *answers); /* its plug */
    unsigned waiter_count;                 /* clients that wait for the end */
    int waiters[ANSWERS_WAITERS_MAX];
};

/* self is a struct answers. */
extern const struct control_ops answers_control_ops;

/* Those who wait see their connections closed. */
void answers_finish(struct answers *answers);

#endif
