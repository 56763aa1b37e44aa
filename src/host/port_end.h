/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_PORT_END_H
#define NIDO_HOST_PORT_END_H

/*
 * The host's end of a port of the guest: a stream (host/stream.h) and what it is put on.
 *
 *   descriptors   the caller's, such as standard input and output
 *   file          the guest's bytes go to it; nothing comes from it
 *   pipe          two FIFOs that are there: PATH.in to the guest, PATH.out from it. We hold both
 *                 ends open, so a reader or writer may come and go, and what is written waits
 *   socket        a unix socket that we listen on; one client at a time, the next one waits. A
 *                 client that is gone has left its last bytes to the guest
 */

#include "base/error.h"
#include "host/loop.h"
#include "host/stream.h"

enum port_end_kind { PORT_END_DESCRIPTORS, PORT_END_FILE, PORT_END_PIPE, PORT_END_SOCKET };

struct port_end_config {
    const char *name; /* for messages; outlives the end */
    enum port_end_kind kind;
    const char *path; /* PORT_END_PIPE, PORT_END_SOCKET */
    int in_fd,
        out_fd; /* PORT_END_DESCRIPTORS; PORT_END_FILE: out_fd, which is the end's from port_end_create() on */
    /* On the loop's thread, or within port_end_create(): somebody is there, or is not any more. */
    void (*connected)(void *self, bool connected);
    void *self;
};

struct port_end;

/* Before the loop starts. `guest` outlives the end. */
int port_end_create(struct port_end **out, struct loop *loop, struct stream_guest *guest,
                    const struct port_end_config *config, struct nido_error *err);
void port_end_destroy(struct port_end *end); /* after the loop has stopped; takes NULL */

/* As stream_drain() and stream_sent_bytes(). */
int port_end_drain(struct port_end *end, int stop_fd);
uint64_t port_end_sent_bytes(const struct port_end *end);

#endif
