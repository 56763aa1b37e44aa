/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_VIRTQ_H
#define NIDO_DEVICES_VIRTIO_VIRTQ_H

/*
 * The split virtqueue (virtio 1.2, 2.7) from the device's side. Devices see descriptor chains,
 * never rings; everything the guest can lie about is checked here and memory barriers live here
 * alone.
 *
 * A queue is owned by one loop thread. The guest may write any byte of the rings at any moment:
 * each descriptor is copied out once, checked, and never looked at again.
 *
 * The usual turn of a device:
 *
 *     do {
 *         virtq_quiet(queue);                          no kicks wanted while we are at it
 *         while ((got = virtq_pop(queue, &chain)) == 1)
 *             ... serve, virtq_push(queue, chain.head, bytes_written);       now or later
 *         if (got < 0) virtio_broken(...)              the guest's ring is nonsense
 *         if (virtq_flush(queue)) irq                  publish; true: the guest wants an interrupt
 *     } while (virtq_listen(queue));                   ask for kicks; true: more came meanwhile
 */

#include "vm/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 256u

/* What the driver wrote into the transport's registers. */
struct virtq_setup {
    uint16_t size; /* 1 to the queue's maximum, a power of two */
    uint64_t desc_gpa, avail_gpa, used_gpa;
};

/* One request of the driver: device-readable bytes first, then device-writable ones. */
struct virtq_chain {
    uint16_t head;
    uint16_t out_count; /* iov[0 .. out_count): the device reads */
    uint16_t in_count;  /* iov[out_count .. out_count + in_count): the device writes */
    uint64_t out_bytes;
    uint64_t in_bytes;
    struct iovec iov[VIRTQ_SIZE_MAX];
};

struct virtq {
    const struct mem *mem;
    uint16_t size; /* 0: not live */
    bool event_idx;
    bool indirect;
    const uint8_t *desc; /* the guest's rings, checked to lie inside RAM */
    const uint8_t *avail;
    uint8_t *used;
    uint16_t next_avail;     /* the first entry of the available ring not yet popped */
    uint16_t next_used;      /* where the next completed chain goes */
    uint16_t published_used; /* what the guest has been told */
    uint16_t in_flight;      /* popped, not yet pushed or put back; never more than size */
    /* Which heads are in flight, and the head that was popped from each entry of the available
     * ring: the guest may have changed the entry since. */
    uint64_t busy[VIRTQ_SIZE_MAX / 64];
    uint16_t popped[VIRTQ_SIZE_MAX];
};

/* Makes a queue live. -EINVAL: the setup is nonsense (size, alignment, not in RAM, overlapping).
 *
 * Every function below may be called on a queue that is not live (never enabled, disabled by a
 * reset, or broken) and then does nothing: no chain, no interrupt, nothing more to look at. So I/O
 * that ends late needs no care. */
int virtq_enable(struct virtq *queue, const struct mem *mem, const struct virtq_setup *setup,
                 bool event_idx, bool indirect);
void virtq_disable(struct virtq *queue);
static inline bool virtq_live(const struct virtq *queue)
{
    return queue->size != 0;
}

/* 1: a chain; 0: none waits; -EINVAL: the ring is nonsense (index too far ahead, head out of range
 * or still in flight, a loop, more descriptors than the queue has, an address outside RAM, a
 * readable descriptor behind a writable one, a bad indirect table, 4 GiB or more in all): the
 * device is to be marked as needing a reset. The queue is disabled then, so this is told once.
 *
 * Without a flush in between, at most `size` chains can be popped in a row. Two chains in flight
 * never have the same head, so a head may index the device's requests. */
int virtq_pop(struct virtq *queue, struct virtq_chain *chain);

/* Gives back the last `count` chains popped, which must still all be unpushed and were the last
 * ones popped: the next pop returns the first of them again. */
void virtq_unpop(struct virtq *queue, unsigned count);

/* Completes a chain; `written_bytes` counts device-written bytes. Not seen by the guest before
 * flush. */
void virtq_push(struct virtq *queue, uint16_t head, uint32_t written_bytes);

/* Publishes what was pushed. True: the driver wants an interrupt for it. */
bool virtq_flush(struct virtq *queue);

/* Tells the driver not to kick / to kick again. listen returns true where chains arrived before the
 * driver could have seen it: look again. */
void virtq_quiet(struct virtq *queue);
bool virtq_listen(struct virtq *queue);

/* Copies `length` bytes at `offset` of the readable / writable part. 0, or -EINVAL where the part
 * is shorter. Each byte of guest memory should be read once only. */
int virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t length);
int virtq_chain_write(const struct virtq_chain *chain, uint64_t offset, const void *from,
                      size_t length);

#endif
