/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_TERM_H
#define NIDO_HOST_TERM_H

/*
 * The terminal in raw mode, and the keys that are for nido: Ctrl-A x ends the machine, Ctrl-A c
 * asks for its status, Ctrl-A h helps, Ctrl-A Ctrl-A (or Ctrl-A a) is a Ctrl-A for the guest.
 *
 * The terminal is put back on every way out: term_destroy(), exit(), a signal that ends the process
 * and a stop (Ctrl-Z's signal; raw again after `fg`). For that, signal handlers are installed: for
 * crashes, in front of those that are there; for other deadly signals and SIGTSTP only where the
 * default action was in force. Main may well take SIGTERM and its like through a signalfd, but
 * leaves SIGTSTP and SIGCONT unblocked.
 *
 * There is one at a time in a process. While the process is not in the terminal's foreground group
 * (`nido run ... &`), the terminal is left alone and no input is read; both begin after `fg`.
 */

#include "base/error.h"
#include "host/stream.h"

#include <stdbool.h>

/* Called on the thread that reads the terminal. */
struct term_actions {
    void (*quit)(struct term_actions *actions);
    void (*status)(struct term_actions *actions); /* prints */
};

/* The escape keys, apart from any terminal. */
enum term_key { TERM_KEY_QUIT = 1, TERM_KEY_STATUS = 2, TERM_KEY_HELP = 4 };

struct term_escape {
    bool seen; /* the last byte was the escape key; lasts from one read to the next */
};

/* Takes escape sequences out of `bytes`, in place; returns how many remain. *keys is the set of
 * enum term_key that were pressed. */
size_t term_escape_filter(struct term_escape *escape, uint8_t *bytes, size_t count, unsigned *keys);

struct term;

/* `fd` is a terminal, the caller's, and stays open longer. -EBUSY: there is one already. */
int term_create(struct term **out, int fd, struct term_actions *actions, struct nido_error *err);
void term_destroy(struct term *term); /* restores; takes NULL; after the stream is gone */

/* For struct stream_config. */
struct stream_keys *term_keys(struct term *term);

#endif
