/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <stddef.h>

/* One that is blocked would come in spite of SIG_IGN, for its handler may change. */
void cli_add_hangup(sigset_t *set)
{
    struct sigaction action;
    if (sigaction(SIGHUP, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
        sigaddset(set, SIGHUP);
}
