/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/exit.h"

#include "base/log.h"
#include "vm/arch.h"
#include "vm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A stalled access is tried again after 20 us at first (a reset that is about to finish), then
 * after twice as long each time up to 1 ms (a console whose reader sleeps). */
#define STALL_FIRST_NS 20000L
#define STALL_MAX_NS   1000000L

static bool wait_stalled(struct vcpu *vcpu, long *pause_ns)
{
    vcpu_park_if_asked(vcpu);
    if (atomic_load(&vcpu->stop))
        return false;
    struct timespec pause = {.tv_nsec = *pause_ns};
    nanosleep(&pause, NULL);
    *pause_ns = *pause_ns * 2 > STALL_MAX_NS ? STALL_MAX_NS : *pause_ns * 2;
    return true;
}

bool exit_read(struct vcpu *vcpu, struct bus *bus, uint64_t address, unsigned size_bytes,
               uint64_t *value)
{
    long pause_ns = STALL_FIRST_NS;
    while (bus_read(bus, address, size_bytes, value) == DEVICE_STALL)
        if (!wait_stalled(vcpu, &pause_ns))
            return false;
    return true;
}

bool exit_write(struct vcpu *vcpu, struct bus *bus, uint64_t address, unsigned size_bytes,
                uint64_t value)
{
    long pause_ns = STALL_FIRST_NS;
    while (bus_write(bus, address, size_bytes, value) == DEVICE_STALL)
        if (!wait_stalled(vcpu, &pause_ns))
            return false;
    return true;
}

/* KVM gives the bytes in guest order, which is little-endian on every architecture here. */
static bool handle_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct bus *bus = &vcpu->machine->mmio;
    uint64_t value = 0;
    if (run->mmio.is_write) {
        memcpy(&value, run->mmio.data, run->mmio.len);
        return exit_write(vcpu, bus, run->mmio.phys_addr, run->mmio.len, value);
    }
    if (!exit_read(vcpu, bus, run->mmio.phys_addr, run->mmio.len, &value))
        return false;
    memcpy(run->mmio.data, &value, run->mmio.len);
    return true;
}

bool exit_crash(struct vcpu *vcpu, const char *what, const char *meaning)
{
    char *text = NULL;
    size_t length = 0;
    FILE *report = open_memstream(&text, &length);
    if (report) {
        fprintf(report, "vCPU %u: %s\n", vcpu->index, what);
        arch_describe(vcpu, report);
        fprintf(report, "This usually means: %s", meaning);
        fclose(report);
    }
    machine_end(vcpu->machine, NIDO_CRASHED, text);
    free(text);
    return false;
}

static bool handle_fail_entry(struct vcpu *vcpu)
{
    char what[128];
    snprintf(what, sizeof(what), "the CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY, 0x%llx)",
             (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason);
    return exit_crash(vcpu, what,
                      "guest state that this processor or KVM version does not accept; "
                      "the host's dmesg may say more");
}

static bool handle_system_event(struct vcpu *vcpu)
{
    switch (vcpu->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        machine_end(vcpu->machine, NIDO_POWERED_OFF, NULL);
        return false;
    case KVM_SYSTEM_EVENT_RESET:
        machine_end(vcpu->machine, NIDO_RESET, NULL);
        return false;
    case KVM_SYSTEM_EVENT_CRASH:
        return exit_crash(vcpu, "the guest reported a crash (KVM_SYSTEM_EVENT_CRASH)",
                          "a kernel panic; its console has the message");
    default:
        log_debug("vCPU %u: system event %u is ignored", vcpu->index, vcpu->run->system_event.type);
        return true;
    }
}

const char *exit_name(uint32_t reason)
{
    static const char *const names[VCPU_EXIT_REASONS] = {
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
    return reason < VCPU_EXIT_REASONS && names[reason] ? names[reason] : names[0];
}

bool exit_handle(struct vcpu *vcpu)
{
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_MMIO:
        return handle_mmio(vcpu);
    case KVM_EXIT_INTR:
        return true;
    case KVM_EXIT_SYSTEM_EVENT:
        return handle_system_event(vcpu);
    case KVM_EXIT_FAIL_ENTRY:
        return handle_fail_entry(vcpu);
    default:
        return arch_exit(vcpu);
    }
}
