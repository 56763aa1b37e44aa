/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_PARTS_H
#define NIDO_ARCH_PARTS_H

/*
 * What the boards of all architectures have alike: the switches that end a machine, what a panic of
 * the guest leads to, and a row of virtio devices behind virtio-mmio. A board embeds one and adds
 * its own devices and the description that the guest gets of them.
 */

#include "base/error.h"
#include "base/log.h"
#include "devices/power.h"
#include "devices/pvpanic.h"
#include "devices/virtio/virtio.h"
#include "vm/machine.h"

#include <nido/config.h>

#define PARTS_VIRTIO_MAX 32u

struct board_parts {
    struct machine *machine;
    struct power_switch power;     /* for devices that switch the machine off */
    struct pvpanic_listener panic; /* for the device that hears of panics */
    enum nido_on_panic on_panic;
    struct log_limit panics;
    uint64_t virtio_base_gpa;   /* of the first; the others follow, VIRTIO_MMIO_BYTES each */
    const uint8_t *virtio_gsis; /* one for each place */
    unsigned virtio_places;     /* at most PARTS_VIRTIO_MAX */
    unsigned virtio_count;      /* attached */
    unsigned virtio_irq_count;  /* handed out; as many, or one more */
    struct irq virtio_irqs[PARTS_VIRTIO_MAX];
};

/* `parts` is zeroed but for the virtio_ fields that say what there is room for. */
void parts_init(struct board_parts *parts, struct machine *machine);
void parts_finish(struct board_parts *parts); /* after the machine's devices are gone */

/* Gives the device to the machine, which owns it from here on also on failure, and its registers a
 * place. */
int parts_place(struct board_parts *parts, struct device *device, struct bus *bus, uint64_t base,
                uint32_t length_bytes, struct nido_error *err);

/* An interrupt line of the machine's; the caller's to finish. -1 in irq->fd on failure. */
int parts_connect_irq(struct board_parts *parts, struct irq *irq, unsigned gsi,
                      struct nido_error *err);

/* As board_next_irq(). */
int parts_next_irq(struct board_parts *parts, const struct irq **out, struct nido_error *err);

/* As board_attach_virtio(); the device's registers are at *base_gpa, on success. */
int parts_attach_virtio(struct board_parts *parts, struct virtio_device *device,
                        const struct irq *irq, uint64_t *base_gpa, struct nido_error *err);

#endif
