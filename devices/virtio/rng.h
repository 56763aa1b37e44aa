/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_RNG_H
#define NIDO_DEVICES_VIRTIO_RNG_H

/* The entropy device (virtio 1.2, 5.4). */

#include "devices/virtio/virtio.h"

/* Destroyed through its ops, or by the transport that takes it over. */
int virtio_rng_create(struct virtio_device **out, const struct mem *mem, struct loop *loop,
                      const struct irq *irq, struct nido_error *err);

#endif
