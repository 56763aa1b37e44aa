/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_STREAMS_H
#define NIDO_CLI_STREAMS_H

/* A command's streams on this process's standard descriptors, or others. */

#include "host/loop.h"
#include "host/relay.h"

#define STREAMS_RELAYS 3u

struct streams {
    struct loop *loop;
    struct stream_keys *keys; /* of the terminal, or NULL */
    struct relay *relays[STREAMS_RELAYS];
    int fds[STREAMS_RELAYS]; /* ours; not owned */
    unsigned expected;       /* output that has not ended yet, as bits of descriptors */
    void (*ended)(void *self);
    void *self;
    struct loop_source patience; /* with the last bytes; fd -1: it does not matter yet */
};

/* `ended` is called once all output has come out. */
void streams_init(struct streams *streams, struct loop *loop, struct stream_keys *keys, bool tty,
                  void (*ended)(void *self), void *self);
/* Before any is connected: `fd`, which stays the caller's, in place of the standard descriptors. */
void streams_divert(struct streams *streams, int fd);
/* Takes in `fd`, the guest's end of stream 0 to 3 (a terminal). */
void streams_connect(struct streams *streams, unsigned stream, int fd);
/* The command has ended: output that has not been connected by now is given up at once, and what has is given ten
 * seconds to end, and more while it waits for a reader of ours. */
void streams_finish_soon(struct streams *streams);
/* relay_finish() for the output. */
void streams_drain(struct streams *streams, int stop_fd);
void streams_close(struct streams *streams);

#endif
