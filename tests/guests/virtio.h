/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_GUESTS_VIRTIO_H
#define NIDO_TESTS_GUESTS_VIRTIO_H

/* A polling driver for one virtqueue behind the MMIO transport. */

#include "guest.h"

#define QUEUE_SIZE 16
#define DESC_NEXT  1
#define DESC_WRITE 2

struct desc {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct avail {
    uint16_t flags, index, ring[QUEUE_SIZE];
};

struct used {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[QUEUE_SIZE];
};

struct queue {
    uint32_t base; /* of the device's registers */
    struct desc *desc;
    volatile struct avail *avail;
    volatile struct used *used;
};

/* The base of the first device with this id, or 0. */
uint32_t virtio_find(uint32_t device_id);
/* Brings the device up with queue 0 and no feature but VERSION_1. False: it refuses. */
int virtio_start(struct queue *queue, uint32_t base);
/* Hands over `count` descriptors, which the caller has filled from desc[0] on, and waits until they
 * come back. Returns the length that the device wrote. */
uint32_t virtio_do(struct queue *queue, unsigned count);
void virtio_set(struct queue *queue, unsigned index, const volatile void *buffer, uint32_t length,
                uint16_t flags);

#endif
