/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_RELAY_H
#define NIDO_HOST_RELAY_H

/*
 * Bytes from one descriptor to another, on a loop that it never keeps waiting: what was inherited
 * and is in blocking mode is opened anew where Linux lets us, and else written to in pieces that a
 * pipe or terminal with any room takes.
 *
 * Its end: the source has ended and all is written, or nobody reads any more. One of the two
 * descriptors leads to the guest and is told of that; the other may be shared with strangers and is
 * only let go.
 */

#include "base/error.h"
#include "host/loop.h"
#include "host/stream.h"

#include <stdbool.h>

struct relay;

enum relay_way { RELAY_TO_GUEST, RELAY_FROM_GUEST };

/* Dups both descriptors; the caller's stay as they are. `keys`, unless NULL, takes out what is not
 * for the other end. `ended` is called once, on the loop's thread. */
int relay_create(struct relay **out, struct loop *loop, enum relay_way way, int from, int to,
                 struct stream_keys *keys, void (*ended)(void *self), void *self,
                 struct nido_error *err);
void relay_destroy(struct relay *relay); /* takes NULL */

bool relay_is_open(const struct relay *relay); /* takes NULL */
/* Whether bytes wait for whoever reads the target; takes NULL. */
bool relay_waits_for_reader(const struct relay *relay);

/* What is on its way now is all there is. Waits until it is written, while its reader takes some
 * every second, and until `stop_fd` (-1: none) is readable. */
void relay_finish(struct relay *relay, int stop_fd);

#endif
