/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_NET_STREAM_H
#define NIDO_HOST_NET_STREAM_H

/* Ethernet frames over a stream socket, as QEMU's `-netdev stream` and passt speak it: in front of
 * each frame stands its length, 32 bits, big-endian; there is no virtio-net header. A part of a
 * backend, whose ops call these functions. */

#include "host/loop.h"
#include "host/net.h"

#define NET_STREAM_PREFIX_BYTES 4u
#define NET_STREAM_IOVS         64u /* of one frame; one that lies in more pieces is put together */

struct net_stream {
    struct net net; /* the fd is owned; ops and name are the backend's */
    struct loop *loop;
    bool broken; /* the far end is gone, or talks nonsense */

    /* Receive: of the frame that comes next. */
    uint8_t prefix[NET_STREAM_PREFIX_BYTES];
    unsigned prefix_bytes;
    size_t held; /* so much of the frame has come, and is in `hold` */

    /* Send: the rest of a frame that the socket took a part of. */
    struct loop_source unsent; /* a duplicate of the fd: the device owns the other's events */
    size_t unsent_at, unsent_bytes;

    struct iovec vectors[NET_STREAM_IOVS];
    /* Touched only when a frame comes or goes in pieces, so they cost no memory until then. */
    uint8_t hold[NET_FRAME_MAX_BYTES];
    uint8_t unsent_frame[NET_STREAM_PREFIX_BYTES + NET_FRAME_MAX_BYTES];
};

/* `fd` is the stream's after success, and becomes non-blocking. Zeroed before. */
int net_stream_init(struct net_stream *self, int fd, struct loop *loop, struct nido_error *err);
/* The far end sees the end of the stream. As all below on the loop's thread, or without it. */
void net_stream_finish(struct net_stream *self);

/* As in struct net_ops. */
ssize_t net_stream_receive(struct net *net, struct iovec *iov, unsigned count);
ssize_t net_stream_send(struct net *net, const struct iovec *iov, unsigned count);
int net_stream_set_offload(struct net *net, const struct net_offload *offload);

#endif
