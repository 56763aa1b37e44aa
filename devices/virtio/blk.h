/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_BLK_H
#define NIDO_DEVICES_VIRTIO_BLK_H

/* virtio-blk (virtio 1.2, 5.2) in front of a disk. */

#include "devices/virtio/virtio.h"
#include "host/disk.h"

/* Not virtio_blk_config: linux/virtio_blk.h has that name for what the guest reads. */
struct virtio_blk_options {
    const char *name;   /* for messages: "vda"; copied */
    const char *serial; /* what the guest reads with GET_ID, 20 bytes at most count; copied */
    unsigned queues;    /* 1 to VIRTIO_QUEUES_MAX */
};

/* Owns `disk` from a success on. The disk's loop must be `loop`. */
int virtio_blk_create(struct virtio_device **out, struct disk *disk,
                      const struct virtio_blk_options *options, const struct mem *mem,
                      struct loop *loop, const struct irq *irq, struct nido_error *err);

#endif
