/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_NET_H
#define NIDO_HOST_NET_H

/*
 * A network backend: whole Ethernet frames, each with a 12-byte virtio-net header in front
 * (virtio 1.2, 5.1.6). devices/virtio/net.c sees only this; net_tap.c is the first kind.
 *
 * A backend belongs to one loop: all calls but open and close are made on the loop's thread. `fd`
 * is non-blocking and the device registers it with the loop; EPOLLERR or EPOLLHUP on it mean that
 * the backend is gone for good, as does -ENODEV from any call.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NET_HEADER_BYTES 12u

/* The largest frame without its virtio-net header: drivers post receive buffers of 65562 bytes when
 * they take segmented packets (virtio 1.2, 5.1.6.3.1), 12 of them for that header. */
#define NET_FRAME_MAX_BYTES 65550u

/* What the backend can do or is asked to do, in words of virtio-net features. Everything but csum
 * needs csum. */
struct net_offload {
    bool csum; /* partial checksums */
    bool tso4, tso6, ecn;
    bool uso; /* UDP segmentation (USO4 and USO6) */
};

struct net;

struct net_ops {
    /* One frame into the vectors, header first. Its length with the header; 0: none waits;
     * -ENODEV: the backend is gone; any other error: that frame is lost. A frame that is longer
     * than the vectors may be cut to their length, without a word: whoever must know gives room for
     * more than NET_FRAME_MAX_BYTES. The last two bytes of the header (num_buffers) may be left as
     * they were. */
    ssize_t (*receive)(struct net *net, struct iovec *iov, unsigned count);
    /* One frame out of the vectors, header first, each byte of which is read once. The length;
     * -EAGAIN: not now, `fd` will be writable; -ENODEV: the backend is gone; any other error: that
     * frame is lost. */
    ssize_t (*send)(struct net *net, const struct iovec *iov, unsigned count);
    /* What the guest is ready to receive from now on; nothing before the first call. What waits
     * already may have been made for an older setting. 0 or a negative errno. */
    int (*set_offload)(struct net *net, const struct net_offload *offload);
    void (*close)(struct net *net);
};

struct net {
    const struct net_ops *ops;
    int fd; /* readable when a frame waits, writable when one can be sent */
    struct net_offload can;
    uint16_t mtu;  /* 0: unknown */
    char name[32]; /* "tap0", "fd 7 (tap0)", for messages */
};

/* Attaches to the TAP interface `name` (made when it does not exist and this process may). */
int net_open_tap(struct net **out, const char *name, struct nido_error *err);
/* Takes over an inherited descriptor of a TAP that was made with IFF_NO_PI and IFF_VNET_HDR; sets
 * it to non-blocking and close-on-exec. Refuses any other kind, saying what it is; `fd` is then
 * still the caller's. The MTU stays unknown: the interface may live in another network namespace,
 * where its name means nothing to us. */
int net_open_tap_fd(struct net **out, int fd, struct nido_error *err);

static inline void net_close(struct net *net) /* takes NULL */
{
    if (net)
        net->ops->close(net);
}

#endif
