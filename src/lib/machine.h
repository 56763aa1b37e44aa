/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_MACHINE_H
#define NIDO_LIB_MACHINE_H

/* What the command line needs of a machine beyond the public API. */

#include "host/stream.h"

#include <nido/machine.h>

/* The console as a terminal user sees it. All may be NULL. */
struct machine_console {
    struct stream_keys *keys;          /* takes escape keys out of the input */
    void (*output_closed)(void *self); /* nobody reads any more; on the console's thread */
    void *self;
};

int machine_build(struct nido_machine **out, const struct nido_config *config,
                  const struct machine_console *console, struct nido_error *err);

/* Any thread: the terminal's size, for a guest whose console is hvc0. */
void machine_resize_console(struct nido_machine *machine, uint16_t columns, uint16_t rows);

/* After the guest has ended: waits until all of the console's output is written, or until `stop_fd`
 * is readable. */
void machine_drain_console(struct nido_machine *machine, int stop_fd);

#endif
