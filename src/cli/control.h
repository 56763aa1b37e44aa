/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_CONTROL_H
#define NIDO_CLI_CONTROL_H

/*
 * The control socket of a running machine: one request a connection, a line of JSON each way.
 *
 *     {"do": "status"}        ->  {"ok": true, "state": "running", ...}
 *     {"do": "nonsense"}      ->  {"ok": false, "error": "..."}
 *
 * The serving side lives on the main loop and never waits for a client: one that says nothing, or too much,
 * costs a descriptor until it leaves, and there are CONTROL_CLIENTS_MAX of those. One more, and the one that has
 * kept silent for the longest time has to leave.
 */

#include "base/error.h"
#include "host/loop.h"

#include <jansson.h>

#define CONTROL_CLIENTS_MAX 8
#define CONTROL_LINE_BYTES  4096

struct control;

/* Answers a request. The reply is the callee's to make and the caller's to free; NULL: {"ok": true}. A failure
 * is a negative errno with *err. An answer that takes the connection over sets *fd to -1, having kept a copy of
 * it, and the reply is sent before anything else goes through it. */
struct control_ops {
    int (*answer)(void *self, const char *what, json_t *request, json_t **reply, int *fd,
                  struct nido_error *err);
};

/* -EADDRINUSE: a running machine has this name. */
int control_start(struct control **out, struct loop *loop, const char *name,
                  const struct control_ops *ops, void *self, struct nido_error *err);
void control_stop(struct control *control); /* takes NULL */

/* Sends `request`, which it frees, to the machine `name`. 0 and *reply, a JSON object of the caller's; else its error, -ESRCH where no such
 * machine runs, or -ECONNRESET from one that ends just now. With `keep_fd` not NULL the connection stays open there, blocking, with nothing read beyond the
 * reply. */
int control_send(const char *name, json_t *request, json_t **reply, int *keep_fd,
                 struct nido_error *err);

/* The same for a request of one word: {"do": what}. */
int control_ask(const char *name, const char *what, json_t **reply, int *keep_fd,
                struct nido_error *err);

/* Reads one more object from the connection that was kept, and waits for it; NULL: there is none. */
json_t *control_read(int fd);

#endif
