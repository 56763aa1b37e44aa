/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_COPY_LINK_H
#define NIDO_CLI_COPY_LINK_H

/*
 * The host's end of a copy in a running machine: its streams, and how it goes there. Everything waits, and
 * meanwhile what the guest has to say is printed, so that neither end waits for the other.
 */

#include "base/error.h"
#include "lib/agent.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct copy_link {
    const char *name; /* of the machine */
    int machine;      /* the control socket; -1: nothing comes from it any more */
    int streams[3];   /* -1: not there yet, or no more */
    bool has[3];      /* whether it has been there */
    bool told;        /* `outcome` and `value` tell how the guest's end ended */
    enum agent_outcome outcome;
    unsigned value;
    char line[256]; /* of its words */
    size_t length;
};

/* Sends the request, {"do": "cp", ...}, which it frees. */
int copy_link_open(struct copy_link *link, const char *name, json_t *request,
                   struct nido_error *err);
void copy_link_close(struct copy_link *link); /* the guest's end ends with it */

/* Until `fd` is ready for `events`, or the guest's end is over: false. */
bool copy_link_wait(struct copy_link *link, int fd, short events);

/* The ends of a tar stream, as firmware/guest/tar.h and copy.h want them; `self` is the link. */
ssize_t copy_link_read(void *self, void *bytes, size_t count);
int copy_link_write(void *self, const void *bytes, size_t count);

/* Nothing more is written. Waits for the guest's end, prints what it has to say, and returns the exit status for
 * it. */
int copy_link_finish(struct copy_link *link);

#endif
