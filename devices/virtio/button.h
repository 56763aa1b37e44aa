/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_BUTTON_H
#define NIDO_DEVICES_VIRTIO_BUTTON_H

/* A keyboard with one key, KEY_POWER: for machines whose firmware brings no power button. */

#include "devices/virtio/virtio.h"

int virtio_button_create(struct virtio_device **out, const struct mem *mem, struct loop *loop,
                         const struct irq *irq, struct nido_error *err);

/* Any thread. Goes unnoticed where no driver listens. */
void virtio_button_press(struct virtio_device *device);

#endif
