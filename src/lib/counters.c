/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/counters.h"

#include <stdio.h>

static const char *const exit_names[VCPU_EXIT_REASONS] = {
    [0] = "other",
    [KVM_EXIT_IO] = "io",
    [KVM_EXIT_HYPERCALL] = "hypercall",
    [KVM_EXIT_DEBUG] = "debug",
    [KVM_EXIT_HLT] = "hlt",
    [KVM_EXIT_MMIO] = "mmio",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window",
    [KVM_EXIT_SHUTDOWN] = "shutdown",
    [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
    [KVM_EXIT_INTR] = "intr",
    [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
    [KVM_EXIT_SYSTEM_EVENT] = "system_event",
    [KVM_EXIT_X86_RDMSR] = "rdmsr",
    [KVM_EXIT_X86_WRMSR] = "wrmsr",
};

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

unsigned counters_fill(const struct machine *machine, struct virtio_device *const *devices,
                       unsigned device_count, struct nido_counter *counters, unsigned max)
{
    struct filling filling = {.counters = counters, .max = max};
    for (unsigned reason = 0; reason < VCPU_EXIT_REASONS; reason++)
        if (exit_names[reason])
            put(&filling, "exits", exit_names[reason], exits_for(machine, reason));
    for (unsigned i = 0; i < device_count; i++) {
        put(&filling, devices[i]->name, "kicks", atomic_load(&devices[i]->kicks));
        put(&filling, devices[i]->name, "completions", atomic_load(&devices[i]->completions));
        put(&filling, devices[i]->name, "interrupts", atomic_load(&devices[i]->interrupts));
    }
    return filling.count;
}
