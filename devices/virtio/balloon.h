/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_BALLOON_H
#define NIDO_DEVICES_VIRTIO_BALLOON_H

/* The traditional memory balloon, with statistics and free page reporting (virtio 1.2, 5.5). */

#include "devices/virtio/virtio.h"

#include <nido/machine.h>

struct virtio_balloon_options {
    uint64_t target_bytes;     /* how much to take away from the start; whole pages of 4 KiB */
    bool reporting;            /* let the guest say which of its pages are free */
    unsigned stats_interval_s; /* ask the guest for statistics so often; 0: on request */
};

/* Destroyed through its ops, or by the transport that takes it over. -EOPNOTSUPP where `mem` cannot
 * give anything back. */
int virtio_balloon_create(struct virtio_device **out, const struct virtio_balloon_options *options,
                          const struct mem *mem, struct loop *loop, const struct irq *irq,
                          struct nido_error *err);

/* Any thread. The guest is asked for that much, and follows as it can. */
void virtio_balloon_set_target(struct virtio_device *device, uint64_t target_bytes);

/* Any thread: what is known now. Asks the guest for newer statistics, which a later call gives. */
void virtio_balloon_stats(struct virtio_device *device, struct nido_balloon_stats *stats);

#endif
