/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_CONSOLE_HUB_H
#define NIDO_CLI_CONSOLE_HUB_H

/*
 * The console of a detached machine, and of one for a command: keeps the end of what the guest wrote, and connects one viewer at a time
 * (`nido console NAME`). A viewer that reads too slowly misses lines; the guest never waits for it.
 * Everything runs on the main loop.
 */

#include "base/error.h"
#include "host/loop.h"

#include <stdbool.h>
#include <stdio.h>

#define CONSOLE_HUB_BYTES 65536u

struct console_hub;

/* *guest_fd is the end for the machine's console stream, the caller's. */
int console_hub_create(struct console_hub **out, struct loop *loop, int *guest_fd,
                       struct nido_error *err);
/* Takes what the guest has written: for when the loop does not run any more. Takes NULL. */
void console_hub_catch_up(struct console_hub *hub);
/* For a person: the last lines that the guest's kernel wrote, nothing where there are none. Once the machine has
 * stopped. */
void console_hub_print_end(struct console_hub *hub, FILE *to);
/* Whether the kernel wrote there that it panics, among the last CONSOLE_HUB_BYTES. Once the machine has stopped. */
bool console_hub_tells_panic(struct console_hub *hub);
void console_hub_destroy(struct console_hub *hub); /* takes NULL */

/* Owns `fd`, a stream socket. Whoever was connected before is sent away. */
void console_hub_attach(struct console_hub *hub, int fd);

#endif
