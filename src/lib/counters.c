/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/counters.h"

#include "vm/exit.h"

#include <stdio.h>

static uint64_t exits_for(const struct machine *machine, unsigned reason)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        sum += atomic_load_explicit(&machine->vcpus[i].exits[reason], memory_order_relaxed);
    return sum;
}

uint64_t counters_all_exits(const struct machine *machine)
{
    uint64_t sum = 0;
    for (unsigned reason = 0; reason < VCPU_EXIT_REASONS; reason++)
        sum += exits_for(machine, reason);
    return sum;
}

struct filling {
    struct nido_counter *counters;
    unsigned count, max;
};

static void put(struct filling *filling, const char *whose, const char *what, uint64_t value)
{
    if (filling->count == filling->max)
        return;
    struct nido_counter *counter = &filling->counters[filling->count++];
    snprintf(counter->name, sizeof(counter->name), "%s.%s", whose, what);
    counter->value = value;
}

static void put_bytes(struct filling *filling, const struct virtio_device *device)
{
    bool is_disk = device->device_id == VIRTIO_ID_BLOCK;
    if (!is_disk && device->device_id != VIRTIO_ID_NET)
        return;
    put(filling, device->name, is_disk ? "read_bytes" : "received_bytes",
        atomic_load(&device->in_bytes));
    put(filling, device->name, is_disk ? "written_bytes" : "sent_bytes",
        atomic_load(&device->out_bytes));
}

void counters_add_traffic(struct virtio_device *const *devices, unsigned device_count,
                          struct nido_traffic *traffic)
{
    for (unsigned i = 0; i < device_count; i++) {
        uint64_t in_bytes = atomic_load(&devices[i]->in_bytes);
        uint64_t out_bytes = atomic_load(&devices[i]->out_bytes);
        if (devices[i]->device_id == VIRTIO_ID_BLOCK) {
            traffic->disk_read_bytes += in_bytes;
            traffic->disk_written_bytes += out_bytes;
        } else if (devices[i]->device_id == VIRTIO_ID_NET) {
            traffic->net_received_bytes += in_bytes;
            traffic->net_sent_bytes += out_bytes;
        }
    }
}

unsigned counters_fill(const struct machine *machine, struct virtio_device *const *devices,
                       unsigned device_count, struct nido_counter *counters, unsigned max)
{
    struct filling filling = {.counters = counters, .max = max};
    for (unsigned reason = 0; reason < VCPU_EXIT_REASONS; reason++)
        if (reason == 0 || exit_name(reason) != exit_name(0))
            put(&filling, "exits", exit_name(reason), exits_for(machine, reason));
    for (unsigned i = 0; i < device_count; i++) {
        put(&filling, devices[i]->name, "kicks", atomic_load(&devices[i]->kicks));
        put(&filling, devices[i]->name, "completions", atomic_load(&devices[i]->completions));
        put(&filling, devices[i]->name, "interrupts", atomic_load(&devices[i]->interrupts));
        put_bytes(&filling, devices[i]);
    }
    return filling.count;
}
