/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_VIRTIO_H
#define NIDO_DEVICES_VIRTIO_VIRTIO_H

/*
 * What all virtio devices share and every transport needs (virtio 1.2, chapters 2 and 3): status,
 * feature negotiation, queues, reset, interrupts. mmio.c puts registers in front of it.
 *
 * Two sides meet here.
 *  - The transport's side runs on vCPU threads, several at once, under `lock`, which is never held
 *    across a system call other than posting to the loop.
 *  - The device's side (struct virtio_ops, the rings) runs on the device's loop thread alone.
 * DRIVER_OK posts `activate` to the loop, and a reset posts `deactivate`. The device answers a
 * reset with virtio_idle() once it touches guest memory no more, maybe later (I/O under way must
 * end first). Until then the write of 0 to the status stalls the vCPU that made it (DEVICE_STALL),
 * so a driver can trust that nothing is written after its reset. No thread ever waits on another.
 *
 * When `deactivate` or virtio_broken() is called, the rings are disabled: a late completion may
 * still push and flush, and nothing happens.
 */

#include "base/error.h"
#include "base/lock.h"
#include "base/log.h"
#include "devices/virtio/virtq.h"
#include "host/loop.h"
#include "vm/device.h"
#include "vm/irq.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>

#define VIRTIO_QUEUES_MAX 16u

#define VIRTIO_INTERRUPT_QUEUE  1u /* InterruptStatus bits, 4.2.2 */
#define VIRTIO_INTERRUPT_CONFIG 2u

struct virtio_device;

struct virtio_ops {
    /* On the loop thread. `activate`: queues that the driver made ready are live, device->features
     * is what was negotiated; each live queue is kicked once right after. `kick`: the queue is live
     * and may have chains. `deactivate`: stop, then virtio_idle(). `activate` and `deactivate` may
     * be NULL. `stopping`, if it is not, comes before `deactivate` with the rings still live: the
     * last chance to take what the driver believes to be on its way. It must not wait. */
    void (*activate)(struct virtio_device *device);
    void (*kick)(struct virtio_device *device, unsigned queue);
    void (*stopping)(struct virtio_device *device);
    void (*deactivate)(struct virtio_device *device);
    /* On vCPU threads, under the device's lock. The config space is `config_bytes` long; offset and
     * length lie inside it. NULL: writes are ignored. */
    void (*read_config)(struct virtio_device *device, unsigned offset, void *to, unsigned length);
    void (*write_config)(struct virtio_device *device, unsigned offset, const void *from,
                         unsigned length);
    /* After loops and vCPUs have stopped; frees the device itself. */
    void (*destroy)(struct virtio_device *device);
};

struct virtio_queue {
    struct virtq ring; /* loop thread */
    int kick_fd;       /* eventfd: written by KVM (ioeventfd) or the transport; owned */
    struct loop_source source;
    struct virtio_device *device;
    unsigned index;
    /* The driver's wishes, under device->lock. */
    struct virtq_setup setup;
    bool ready;
};

struct virtio_device {
    /* Filled by the device before virtio_init(). */
    const struct virtio_ops *ops;
    const char *name; /* for messages; owned by the device */
    uint32_t device_id;
    uint64_t
        offered_features; /* VERSION_1, EVENT_IDX and INDIRECT_DESC are added by virtio_init() */
    unsigned config_bytes;
    unsigned queue_count;
    uint16_t queue_size_max; /* a power of two, at most VIRTQ_SIZE_MAX */

    /* Wires, given to virtio_init(). */
    const struct mem *mem;
    struct loop *loop;
    const struct irq *irq;

    /* Loop thread. */
    uint64_t features; /* negotiated; valid from activate to virtio_idle() */
    bool broken;       /* needs a reset; the rings are not looked at until then */
    bool active;
    struct virtio_queue queues[VIRTIO_QUEUES_MAX];

    /* Written by the loop thread, for anybody to read. */
    _Atomic uint64_t kicks, completions, interrupts;
    _Atomic uint64_t in_bytes, out_bytes; /* of data to the guest and from it; virtio_moved() */

    /* Any thread. */
    _Atomic uint32_t interrupt_status;
    _Atomic uint32_t config_generation;
    _Atomic uint8_t status;

    /* vCPU threads, under lock. */
    struct lock lock;
    uint64_t driver_features;
    bool started;   /* DRIVER_OK was seen: the queue setups are frozen until reset */
    bool resetting; /* deactivate was posted; cleared by virtio_idle() */
    struct loop_task activate_task, deactivate_task;
    struct log_limit complaints;
};

/* `device` is zeroed but for the fields named above. On failure nothing is left to finish. */
int virtio_init(struct virtio_device *device, const struct mem *mem, struct loop *loop,
                const struct irq *irq, struct nido_error *err);
/* After the vCPUs and the loop have stopped, before the loop is destroyed. */
void virtio_finish(struct virtio_device *device);

/* For devices, on the loop thread. */
static inline bool virtio_has(const struct virtio_device *device, unsigned feature_bit)
{
    return (device->features >> feature_bit) & 1;
}
/* A kick's usual work: calls `serve` until it returns 0 (the queue is empty) or a negative errno (it is nonsense,
 * and the device needs a reset), at most `limit` times; then other devices have a turn. 1: there may be more. What
 * `serve` has pushed is published. */
void virtio_serve(struct virtio_device *device, unsigned queue, unsigned limit,
                  int (*serve)(struct virtio_device *device, unsigned queue));
/* Publishes the queue's pushed chains and interrupts the driver when it wants that. */
void virtio_flush(struct virtio_device *device, unsigned queue);
/* The guest broke the rules: sets DEVICE_NEEDS_RESET, tells the driver, logs one limited line, and
 * stops looking at the rings. */
void virtio_broken(struct virtio_device *device, const char *why);
/* For the statistics: so many bytes of data have reached the guest, or come from it. */
void virtio_moved(struct virtio_device *device, uint64_t in_bytes, uint64_t out_bytes);
/* Something in the config space changed. */
void virtio_config_changed(struct virtio_device *device);
/* The answer to deactivate. */
void virtio_idle(struct virtio_device *device);

/* For transports, on vCPU threads. */
void virtio_set_driver_features(struct virtio_device *device, unsigned word, uint32_t value);
uint32_t virtio_offered_features(const struct virtio_device *device, unsigned word);
uint8_t virtio_status(const struct virtio_device *device);
/* DEVICE_STALL while a reset is under way. Adds bits, never clears one but by a reset (2.1.2).
 * Refuses FEATURES_OK for features that were not offered, or without VERSION_1; DRIVER_OK without
 * FEATURES_OK makes the device need a reset. */
enum verdict virtio_set_status(struct virtio_device *device, uint8_t status);
/* The queue whose registers may still be written, or NULL (no such queue, or already started). */
struct virtio_queue *virtio_queue_for_setup(struct virtio_device *device, uint32_t index)
    REQUIRES(device->lock);
void virtio_set_queue_ready(struct virtio_device *device, uint32_t index, bool ready);
/* A kick that KVM did not catch. A device uses it too, from its loop, to let others have a turn and
 * come back. */
void virtio_notify(struct virtio_device *device, uint32_t queue);

#endif
