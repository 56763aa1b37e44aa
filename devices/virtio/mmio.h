/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_MMIO_H
#define NIDO_DEVICES_VIRTIO_MMIO_H

/* The MMIO transport, version 2 (virtio 1.2, 4.2): one 4 KiB page of registers in front of a virtio
 * device. The board wires queue kicks to KVM: an ioeventfd at base + VIRTIO_MMIO_NOTIFY_OFFSET, 4
 * bytes wide, matching the queue's index, for each queues[i].kick_fd. */

#include "devices/virtio/virtio.h"

#define VIRTIO_MMIO_BYTES         0x1000u
#define VIRTIO_MMIO_NOTIFY_OFFSET 0x50u

/* Owns `device` from here on, also on failure. Destroyed through its struct device. */
int virtio_mmio_create(struct device **out, struct virtio_device *device, struct nido_error *err);

#endif
