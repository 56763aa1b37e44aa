/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_NET_H
#define NIDO_DEVICES_VIRTIO_NET_H

/* The network card (virtio 1.2, 5.1): one receive and one transmit queue in front of a backend. */

#include "devices/virtio/virtio.h"
#include "host/net.h"

/* Not virtio_net_config: linux/virtio_net.h has that name for what the guest reads. */
struct virtio_net_options {
    const char *name; /* for messages: "net0"; copied */
    uint8_t mac[6];   /* of one station: not multicast, not zero */
};

/* `net` belongs to the device after success. */
int virtio_net_create(struct virtio_device **out, struct net *net,
                      const struct virtio_net_options *options, const struct mem *mem,
                      struct loop *loop, const struct irq *irq, struct nido_error *err);

/* Frames and their bytes (without the virtio-net header) since the device was made, as the guest
 * sees directions. Dropped: did not fit, was not one, or the backend refused it. */
struct virtio_net_counters {
    uint64_t rx_frames, rx_bytes, rx_dropped;
    uint64_t tx_frames, tx_bytes, tx_dropped;
};

/* On the loop's thread, or after it has stopped. */
struct virtio_net_counters virtio_net_counters(struct virtio_device *device);

#endif
