/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/parts.h"

#include "base/checked.h"
#include "devices/virtio/mmio.h"

#include <errno.h>

static void switch_off(struct power_switch *power)
{
    struct board_parts *parts = container_of(power, struct board_parts, power);
    machine_end(parts->machine, NIDO_POWERED_OFF, NULL);
}

static void switch_reset(struct power_switch *power)
{
    struct board_parts *parts = container_of(power, struct board_parts, power);
    machine_end(parts->machine, NIDO_RESET, NULL);
}

static void on_panic(struct pvpanic_listener *listener, enum pvpanic_event event)
{
    struct board_parts *parts = container_of(listener, struct board_parts, panic);
    if (event == PVPANIC_PANICKED && parts->on_panic == NIDO_ON_PANIC_EXIT)
        machine_end(parts->machine, NIDO_PANICKED,
                    "the guest's kernel panicked; its console has the message");
    else
        log_warn_limited(&parts->panics, "the guest's kernel panicked%s; the machine goes on",
                         event == PVPANIC_CRASH_LOADED ? " and goes to its crash kernel" : "");
}

void parts_init(struct board_parts *parts, struct machine *machine)
{
    parts->machine = machine;
    parts->power = (struct power_switch){.off = switch_off, .reset = switch_reset};
    parts->panic.happened = on_panic;
}

void parts_finish(struct board_parts *parts)
{
    for (unsigned i = 0; i < parts->virtio_irq_count; i++)
        irq_finish(&parts->virtio_irqs[i]);
}

int parts_place(struct board_parts *parts, struct device *device, struct bus *bus, uint64_t base,
                uint32_t length_bytes, struct nido_error *err)
{
    int ret = machine_add_device(parts->machine, device, err);
    return ret < 0 ? ret : bus_add(bus, base, length_bytes, device, err);
}

int parts_connect_irq(struct board_parts *parts, struct irq *irq, unsigned gsi,
                      struct nido_error *err)
{
    int ret = irq_init(irq, gsi, err);
    if (ret == 0 && (ret = machine_connect_irq(parts->machine, irq, err)) < 0)
        irq_finish(irq);
    return ret;
}

int parts_next_irq(struct board_parts *parts, const struct irq **out, struct nido_error *err)
{
    unsigned index = parts->virtio_count;
    if (index == parts->virtio_places)
        return error_set(err, ENOSPC, "this machine has room for %u virtio devices",
                         parts->virtio_places);
    struct irq *irq = &parts->virtio_irqs[index];
    if (index == parts->virtio_irq_count) {
        int ret = irq_init(irq, parts->virtio_gsis[index], err);
        if (ret < 0)
            return ret;
        parts->virtio_irq_count++;
    }
    *out = irq;
    return 0;
}

/* A kick of queue i is a write of i to one register; KVM turns each into a signal of its
 * eventfd. */
static int connect_doorbells(struct machine *machine, const struct virtio_device *device,
                             uint64_t base, struct nido_error *err)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        int ret = machine_connect_doorbell(machine, base + VIRTIO_MMIO_NOTIFY_OFFSET, i,
                                           device->queues[i].kick_fd, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int parts_attach_virtio(struct board_parts *parts, struct virtio_device *device,
                        const struct irq *irq, uint64_t *base_gpa, struct nido_error *err)
{
    uint64_t base = parts->virtio_base_gpa + (uint64_t)parts->virtio_count * VIRTIO_MMIO_BYTES;
    struct device *transport;
    int ret = virtio_mmio_create(&transport, device, err);
    if (ret < 0)
        return ret;
    ret = parts_place(parts, transport, &parts->machine->mmio, base, VIRTIO_MMIO_BYTES, err);
    if (ret == 0)
        ret = machine_connect_irq(parts->machine, irq, err);
    if (ret == 0)
        ret = connect_doorbells(parts->machine, device, base, err);
    if (ret == 0)
        parts->virtio_count++;
    *base_gpa = base;
    return ret;
}
