/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_DEVICE_H
#define NIDO_VM_DEVICE_H

/*
 * What the machine knows of a device: a name and a few operations. A device embeds a struct device
 * and gets its own type back with container_of().
 *
 * read and write run on whichever vCPU thread made the access, several at once: a device guards its
 * registers with a lock of its own (never held across a system call) or keeps them atomic. They
 * never block. destroy runs after all vCPUs and loops have stopped.
 */

#include <stdint.h>

enum verdict {
    DEVICE_HANDLED,
    DEVICE_UNHANDLED, /* no such register here: reads give all ones, writes go nowhere, the bus
                       * logs */
    DEVICE_STALL,     /* not now: the vCPU makes the same access again a little later */
};

struct device;

struct device_ops {
    /* `offset` is relative to the region; `size_bytes` is 1, 2, 4 or 8 and offset + size_bytes lies
     * inside the region. Either may be NULL: then nothing is there. */
    enum verdict (*read)(struct device *device, uint64_t offset, unsigned size_bytes,
                         uint64_t *value);
    enum verdict (*write)(struct device *device, uint64_t offset, unsigned size_bytes,
                          uint64_t value);
    void (*destroy)(struct device *device);
};

struct device {
    const struct device_ops *ops;
    const char *name; /* for people: "serial0", "blk vda"; owned by the device */
};

#endif
