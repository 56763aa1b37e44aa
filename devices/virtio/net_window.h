/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_NET_WINDOW_H
#define NIDO_DEVICES_VIRTIO_NET_WINDOW_H

/* The receive buffers that the network card holds: popped and not yet used, oldest first, their
 * vectors laid end to end. Owned by the card's loop thread; all zero is an empty window. */

#include "devices/virtio/virtq.h"

#define NET_WINDOW_IOVS 1024u /* UIO_MAXIOV, one of them the caller's, behind the window's own */

struct net_buffer {
    uint16_t head;
    uint16_t iovs;
    uint64_t bytes;
};

struct net_window {
    unsigned buffer_count, iov_count;
    uint64_t bytes;
    struct net_buffer buffers[VIRTQ_SIZE_MAX];
    struct iovec iov[NET_WINDOW_IOVS];
};

/* Whether any chain of `ring` can be appended, and the ring can have one more to pop. */
bool net_window_has_room(const struct net_window *window, const struct virtq *ring);

/* The writable part of the chain goes behind the rest. There is room. */
void net_window_append(struct net_window *window, const struct virtq_chain *chain);

/* Copies into the buffers at `offset`. The window holds at least offset + length bytes. */
void net_window_write(struct net_window *window, size_t offset, const void *from, size_t length);

/* How many buffers the first `length` bytes touch. The window holds as many. */
unsigned net_window_span(const struct net_window *window, size_t length);

/* Completes the buffers that hold the first `length` bytes; the next frame starts at the buffer
 * after them. */
void net_window_push(struct net_window *window, struct virtq *ring, size_t length);

/* Forgets all; the chains are not given back (the ring is being reset). */
void net_window_clear(struct net_window *window);

#endif
