/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_STREAM_H
#define NIDO_HOST_STREAM_H

/*
 * A byte stream between the host and a device: an input and an output descriptor (terminal, pipe,
 * socket, regular file, /dev/null), and a struct stream_guest on the device's side. No byte is
 * dropped on the way: output waits in the device until the host takes it, input waits in the host
 * until the device has room.
 *
 * The stream belongs to one loop. Its handlers may sit in a write() that the host is slow to take:
 * inherited descriptors stay in blocking mode, because O_NONBLOCK belongs to the open file, which
 * the shell that started us shares. So a stream on such descriptors wants a loop of its own;
 * loop_stop() breaks it out. (Threads of loop_start() have SIGPIPE blocked; who runs a loop on main
 * ignores it.)
 *
 * When the output breaks (EPIPE, EIO, ENOSPC...), one warning is logged, `output_closed` is called,
 * and the guest goes on while its bytes go nowhere: a console is a view of the machine, not its
 * purpose. An owner that sees it otherwise ends the machine from the callback.
 */

#include "base/error.h"
#include "host/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream_guest;

/* What a device does for its stream. All are called on the loop thread. */
struct stream_guest_ops {
    /* How many bytes the device would take now. After 0 it calls stream_wake() once there is
     * room. */
    size_t (*room)(struct stream_guest *guest);
    /* Takes up to `count` bytes and says how many; the rest is offered again after a wake-up. */
    size_t (*receive)(struct stream_guest *guest, const uint8_t *bytes, size_t count);
    /* The next bytes to send, which stay as they are until consumed. After 0 the device calls
     * stream_wake() once there are more. */
    size_t (*pending)(struct stream_guest *guest, const uint8_t **bytes);
    void (*consumed)(struct stream_guest *guest, size_t count);
};

/* Embedded in a device. */
struct stream_guest {
    const struct stream_guest_ops *ops;
    void (*wake)(struct stream_guest *guest); /* the stream's; NULL while there is none */
    void *stream;
};

/* Any thread. */
static inline void stream_wake(struct stream_guest *guest)
{
    if (guest->wake)
        guest->wake(guest);
}

/* A terminal in front of the input (host/term.h). Called on the loop thread. */
struct stream_keys {
    /* False: the terminal is another job's at the moment; asked again about once a second. */
    bool (*ready)(struct stream_keys *keys);
    /* Takes out, in place, what is meant for us; returns how many bytes remain for the guest. */
    size_t (*filter)(struct stream_keys *keys, uint8_t *bytes, size_t count);
};

struct stream_config {
    const char *name;         /* for messages; outlives the stream */
    int in_fd, out_fd;        /* -1: none. The caller's; may be the same descriptor */
    struct stream_keys *keys; /* NULL: bytes pass as they are, none is read before there is room */
    /* On the loop thread; either may be NULL. */
    void (*input_ended)(void *self);
    void (*output_closed)(void *self);
    void *self;
};

struct stream;

/* Before the loop starts, or on its thread. `guest` outlives the stream. */
int stream_create(struct stream **out, struct loop *loop, struct stream_guest *guest,
                  const struct stream_config *config, struct nido_error *err);
void stream_destroy(struct stream *stream); /* after the loop has stopped; takes NULL */

/* On the loop's thread, or before it starts, but not from a callback of the stream: puts other
 * descriptors in place of those that were (-1, -1: none). What the guest has not taken of the old
 * input is lost. On failure there are none. */
int stream_connect(struct stream *stream, int in_fd, int out_fd);

/* On the loop's thread: whether bytes were read that the device has not taken yet. */
bool stream_holds_input(const struct stream *stream);

/* Any thread: how many bytes have gone out so far, or nowhere. */
uint64_t stream_sent_bytes(const struct stream *stream);

/* Waits until all that the guest has sent is written out (or nobody is there to read it). For the
 * end of a machine: vCPUs have stopped, the loop's thread still runs, the caller is not it. Returns
 * 0, or -EINTR as soon as `stop_fd` (a signalfd, an eventfd; -1: none) is readable. */
int stream_drain(struct stream *stream, int stop_fd);

#endif
