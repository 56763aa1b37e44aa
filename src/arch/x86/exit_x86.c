/* SPDX-License-Identifier: Apache-2.0 */
/* Exits that only x86 has: port I/O, triple faults, instructions that KVM could not emulate. */
#include "vm/exit.h"

#include "base/checked.h"
#include "vm/arch.h"
#include "vm/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define INSTRUCTION_BYTES 15u

/* One exit may carry many accesses to one port (rep outsb). */
static bool handle_pio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct bus *bus = &vcpu->machine->pio;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size_bytes = run->io.size;
    for (uint32_t i = 0; i < run->io.count; i++, data += size_bytes) {
        uint64_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size_bytes);
            if (!exit_write(vcpu, bus, run->io.port, size_bytes, value))
                return false;
        } else {
            if (!exit_read(vcpu, bus, run->io.port, size_bytes, &value))
                return false;
            memcpy(data, &value, size_bytes);
        }
    }
    return true;
}

static bool handle_triple_fault(struct vcpu *vcpu)
{
    return exit_crash(vcpu, "triple fault (KVM_EXIT_SHUTDOWN)",
                      "a kernel that failed before it could print, a kernel for another CPU, or a "
                      "reboot by triple fault (the kernel parameter reboot=t)");
}

static bool handle_internal_error(struct vcpu *vcpu)
{
    static const char *const suberrors[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "an instruction that it cannot emulate",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "two exceptions at once",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "a fault while an event was delivered",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit reason that it does not know",
    };
    uint32_t suberror = vcpu->run->internal.suberror;
    const char *words = suberror < ARRAY_SIZE(suberrors) && suberrors[suberror]
                            ? suberrors[suberror]
                            : "an unknown internal error";
    char what[160];
    snprintf(what, sizeof(what), "KVM stopped at %s (KVM_EXIT_INTERNAL_ERROR, suberror %u)", words,
             suberror);
    return exit_crash(vcpu, what,
                      kvm_is_software()
                          ? "this host's KVM is a software one (kvm_pvm) that cannot run Linux; "
                            "'nido doctor' says more"
                          : "the guest ran wild, executed from device memory, or uses an "
                            "instruction that this host's KVM does not know");
}

bool arch_exit(struct vcpu *vcpu)
{
    char what[64];
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        return handle_pio(vcpu);
    case KVM_EXIT_SHUTDOWN:
        return handle_triple_fault(vcpu);
    case KVM_EXIT_INTERNAL_ERROR:
        return handle_internal_error(vcpu);
    default:
        snprintf(what, sizeof(what), "an exit that nido does not know (reason %u)",
                 vcpu->run->exit_reason);
        return exit_crash(vcpu, what, "a KVM newer than this nido");
    }
}

static void describe_segment(FILE *to, const char *name, const struct kvm_segment *segment)
{
    fprintf(to, "%s %04x base %016" PRIx64 " limit %08x\n", name, segment->selector,
            (uint64_t)segment->base, segment->limit);
}

static void describe_regs(FILE *to, const struct kvm_regs *r)
{
    fprintf(to, "rip %016llx rsp %016llx rflags %08llx\n", r->rip, r->rsp, r->rflags);
    fprintf(to, "rax %016llx rbx %016llx rcx %016llx rdx %016llx\n", r->rax, r->rbx, r->rcx,
            r->rdx);
    fprintf(to, "rsi %016llx rdi %016llx rbp %016llx r8  %016llx\n", r->rsi, r->rdi, r->rbp, r->r8);
    fprintf(to, "r9  %016llx r10 %016llx r11 %016llx r12 %016llx\n", r->r9, r->r10, r->r11, r->r12);
    fprintf(to, "r13 %016llx r14 %016llx r15 %016llx\n", r->r13, r->r14, r->r15);
}

/* Byte by byte through the guest's own page tables: the instruction may cross into a page that is
 * not there. */
static void describe_instruction(struct vcpu *vcpu, FILE *to, uint64_t address)
{
    fprintf(to, "instruction:");
    for (unsigned i = 0; i < INSTRUCTION_BYTES; i++) {
        struct kvm_translation page = {.linear_address = address + i};
        uint8_t byte;
        if (ioctl(vcpu->fd, KVM_TRANSLATE, &page) < 0 || !page.valid ||
            mem_read(vcpu->machine->mem, page.physical_address, &byte, 1) < 0) {
            fprintf(to, i ? " ..." : " not in guest memory");
            break;
        }
        fprintf(to, " %02x", byte);
    }
    fputc('\n', to);
}

void arch_describe(struct vcpu *vcpu, FILE *to)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0) {
        fprintf(to, "(its registers cannot be read)\n");
        return;
    }
    describe_regs(to, &regs);
    fprintf(to, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx\n", sregs.cr0, sregs.cr2,
            sregs.cr3, sregs.cr4, sregs.efer);
    describe_segment(to, "cs ", &sregs.cs);
    describe_segment(to, "ss ", &sregs.ss);
    fprintf(to, "gdt %016llx limit %04x  idt %016llx limit %04x\n", sregs.gdt.base, sregs.gdt.limit,
            sregs.idt.base, sregs.idt.limit);
    describe_instruction(vcpu, to, sregs.cs.base + regs.rip);
}
