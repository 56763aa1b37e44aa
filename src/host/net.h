/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_NET_H
#define NIDO_HOST_NET_H

/*
 * A network backend: whole Ethernet frames, each with a 12-byte virtio-net header in front
 * (virtio 1.2, 5.1.6). devices/virtio/net.c sees only this; net_tap.c is the first kind.
 *
 * All calls but open are made on the loop's thread; `fd` is non-blocking and registered with the
 * loop by the device.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NET_HEADER_BYTES 12u
#define NET_FRAME_MAX_BYTES                                                                        \
    65550u /* a 64 KiB segment with its Ethernet header, less the virtio one */

/* What the backend can do or is asked to do, in words of virtio-net features. */
struct net_offload {
    bool csum; /* partial checksums */
    bool tso4, tso6, ecn;
    bool uso; /* UDP segmentation (USO4 and USO6) */
};

struct net;

struct net_ops {
    /* A frame into / out of the vectors: its length with the header, 0 where there was none
     * (receive would block), -EAGAIN (send would block), -EIO and others: the frame is lost. */
    ssize_t (*receive)(struct net *net, struct iovec *iov, unsigned count);
    ssize_t (*send)(struct net *net, const struct iovec *iov, unsigned count);
    /* What the guest is ready to receive. 0 or a negative errno. */
    int (*set_offload)(struct net *net, const struct net_offload *offload);
    void (*close)(struct net *net);
};

struct net {
    const struct net_ops *ops;
    int fd; /* readable when a frame waits, writable when one can be sent */
    struct net_offload can;
    uint16_t mtu;  /* 0: unknown */
    char name[32]; /* "tap0", "fd 7", for messages */
};

/* Attaches to the TAP interface `name` (made when it does not exist and this process may). */
int net_open_tap(struct net **out, const char *name, struct nido_error *err);
/* Takes over an inherited descriptor of a TAP. Refuses any other kind, by name. */
int net_open_tap_fd(struct net **out, int fd, struct nido_error *err);

static inline void net_close(struct net *net) /* takes NULL */
{
    if (net)
        net->ops->close(net);
}

#endif
