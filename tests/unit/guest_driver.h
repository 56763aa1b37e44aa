/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_GUEST_DRIVER_H
#define NIDO_TESTS_UNIT_GUEST_DRIVER_H

/*
 * Plays the guest: RAM, split rings in it, and a driver that brings a virtio device up through its
 * MMIO registers. No KVM, no vCPU. It is a well-behaved driver unless told otherwise: `ring->desc`,
 * `ring->avail` and `ring->used` point straight at the rings, so that a test can write any nonsense
 * there. A mistake of the test itself (no RAM left, no free descriptor) aborts.
 *
 *     struct guest guest;
 *     guest_init(&guest);
 *     virtio_rng_create(&device, guest.mem, guest.loop, &guest.irq, NULL);
 *     guest_attach(&guest, device);                         MMIO transport; the loop starts
 *     guest_bring_up(&guest, features, 1, 16);              one queue of 16, up to DRIVER_OK
 *     uint64_t gpa = guest_alloc(&guest, 64, 1);
 *     guest_add(&guest.rings[0], (struct guest_buffer[]){GUEST_IN(gpa, 64)}, 1);
 *     guest_kick(&guest, 0);                                publishes, then writes QueueNotify
 *     struct guest_used used = guest_wait_used(&guest, 0);  ten seconds at most
 *     guest_finish(&guest);                                 stops the loop, destroys the device
 */

#include "devices/virtio/virtio.h"
#include "vm/mem.h"

#include <linux/virtio_ring.h>

/* Two regions with a hole between them. */
#define GUEST_LOW_BYTES  (4u << 20) /* [0, 4 MiB) */
#define GUEST_HIGH_GPA   (4ull << 30)
#define GUEST_HIGH_BYTES (1u << 20)

#define GUEST_FEATURE(bit) (1ull << (bit))

struct guest_buffer {
    uint64_t gpa;
    uint32_t length;
    bool in; /* the device writes it */
};

#define GUEST_OUT(gpa_, length_)                                                                   \
    ((struct guest_buffer){.gpa = (gpa_), .length = (uint32_t)(length_), .in = false})
#define GUEST_IN(gpa_, length_)                                                                    \
    ((struct guest_buffer){.gpa = (gpa_), .length = (uint32_t)(length_), .in = true})

struct guest;

struct guest_ring {
    struct guest *guest;
    uint16_t size;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    bool event_idx;
    uint16_t next_avail;                /* where the next chain goes; seen by the device once
                                           published */
    uint16_t published_avail;           /* what the device was told */
    uint16_t kicked_avail;              /* next_avail at the last guest_kick_if_wanted() */
    uint16_t next_used;                 /* the next completion to look at */
    uint16_t next_of[VIRTQ_SIZE_MAX];   /* the driver's own copy of the chains' links */
    uint16_t length_of[VIRTQ_SIZE_MAX]; /* descriptors of the chain that starts here; 0: none */
    bool taken[VIRTQ_SIZE_MAX];
};

struct guest {
    struct mem *mem;
    struct loop *loop;
    struct irq irq;
    uint64_t free_gpa;
    struct virtio_device *device; /* owned by `transport` */
    struct device *transport;
    struct guest_ring rings[VIRTIO_QUEUES_MAX];
};

struct guest_used {
    uint32_t head;
    uint32_t written;
};

void guest_init(struct guest *guest);
/* Stops the loop, then destroys the device and everything else. */
void guest_finish(struct guest *guest);

/* RAM that nobody uses yet, zeroed, in the low region. Never given back. */
uint64_t guest_alloc(struct guest *guest, uint64_t bytes, uint64_t alignment);
/* Where the test itself sees guest bytes. */
void *guest_at(const struct guest *guest, uint64_t gpa, size_t length);

/* ---- rings, with or without a device behind them ---- */

/* Lays out an empty ring of `size` entries in fresh RAM. */
void guest_ring_init(struct guest_ring *ring, struct guest *guest, uint16_t size);
/* The same ring for virtq_enable(). */
struct virtq_setup guest_ring_setup(const struct guest_ring *ring);
/* Where EVENT_IDX has its fields. */
uint16_t *guest_used_event(const struct guest_ring *ring);
uint16_t *guest_avail_event(const struct guest_ring *ring);

/* Writes a chain into free descriptors and into the available ring. Returns its head. Not seen by
 * the device before guest_publish(). `indirect`: the chain is a table in fresh RAM behind one
 * descriptor. */
uint16_t guest_add(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count);
uint16_t guest_add_indirect(struct guest_ring *ring, const struct guest_buffer *buffers,
                            unsigned count);
/* Puts any number into the next entry of the available ring. */
void guest_add_head(struct guest_ring *ring, uint16_t head);
void guest_publish(struct guest_ring *ring);

/* Takes the next completion, frees its descriptors, and with EVENT_IDX asks for an interrupt at the
 * one after. False: there is none. */
bool guest_take_used(struct guest_ring *ring, struct guest_used *used);

/* ---- the MMIO driver ---- */

/* Puts the transport in front of `device`, which now belongs to the guest, and starts the loop. */
void guest_attach(struct guest *guest, struct virtio_device *device);

/* One register access as a vCPU makes it: a stalled one is made again, ten seconds at most. What
 * the device does not handle reads as all ones and aborts nothing. */
uint32_t guest_read32(struct guest *guest, uint64_t offset);
void guest_write32(struct guest *guest, uint64_t offset, uint32_t value);
/* Bytes of the config space, one access each. */
void guest_read_config(struct guest *guest, unsigned offset, void *to, unsigned length);
uint64_t guest_device_features(struct guest *guest);

/* The steps of virtio 1.2, 3.1.1. guest_negotiate: reset, ACKNOWLEDGE, DRIVER, features,
 * FEATURES_OK; false where the device refuses. VERSION_1 is always asked for. */
bool guest_negotiate(struct guest *guest, uint64_t features);
/* Makes guest->rings[index] and tells the device. A ring that is laid out already (size set) is
 * told as it is. */
void guest_setup_queue(struct guest *guest, unsigned index, uint16_t size);
void guest_driver_ok(struct guest *guest);
/* All of them, for queues 0 to count - 1; returns once the device is active. Aborts where the
 * device refuses. */
void guest_bring_up(struct guest *guest, uint64_t features, unsigned count, uint16_t size);
/* Writes 0 to the status until the device has reset, and forgets the rings. */
void guest_reset(struct guest *guest);

/* Publishes and kicks: always / only where the device has not asked for quiet. */
void guest_kick(struct guest *guest, unsigned queue);
bool guest_kick_if_wanted(struct guest *guest, unsigned queue);

/* Waits for an interrupt and acknowledges it. Returns the InterruptStatus bits; 0 after
 * `timeout_ms` without one. guest_wait_used() takes interrupts too: use one or the other. */
#define GUEST_TIMEOUT_MS 60000
uint32_t guest_wait_interrupt(struct guest *guest, int timeout_ms);
/* Waits for the next completion, by interrupt and by looking. Aborts after GUEST_TIMEOUT_MS. */
struct guest_used guest_wait_used(struct guest *guest, unsigned queue);

/* Returns after the loop has handled every post, reset and kick made so far. */
void guest_sync(struct guest *guest);

#endif
