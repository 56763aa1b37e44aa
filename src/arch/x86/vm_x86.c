/* SPDX-License-Identifier: Apache-2.0 */
/* What src/vm asks of x86-64 while a machine is made: RAM layout, interrupt chips, CPUID, MSRs. */
#include "arch/x86/cpuid.h"
#include "arch/x86/layout.h"
#include "base/checked.h"
#include "base/log.h"
#include "vm/arch.h"

#include <errno.h>
#include <sys/ioctl.h>

const struct kvm_need arch_needs[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest RAM"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "interrupt controllers in the kernel"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "real mode on Intel"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "CPU features"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts by eventfd"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "device kicks by eventfd"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "stopping a vCPU"},
};
const unsigned arch_needs_count = ARRAY_SIZE(arch_needs);

#define MSR_IA32_MISC_ENABLE    0x1a0u
#define MISC_ENABLE_FAST_STRING (1u << 0)
#define MSR_MTRR_DEF_TYPE       0x2ffu
#define MTRR_ENABLE             (1u << 11)
#define MTRR_TYPE_WRITE_BACK    6u

unsigned arch_ram_ranges(uint64_t mem_bytes, struct mem_range *ranges)
{
    ranges[0] = (struct mem_range){0, MIN(mem_bytes, RAM_HOLE_START_GPA)};
    if (mem_bytes <= RAM_HOLE_START_GPA)
        return 1;
    ranges[1] = (struct mem_range){RAM_HOLE_END_GPA, mem_bytes - RAM_HOLE_START_GPA};
    return 2;
}

int arch_vm_type(int kvm_fd, uint64_t mem_bytes, unsigned long *type, struct nido_error *err)
{
    *type = 0;
    return 0;
}

int arch_vm_init(struct machine *machine, struct nido_error *err)
{
    uint64_t identity_map = IDENTITY_MAP_GPA;
    if (ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
        return error_errno(err, errno, "cannot place the identity map");
    if (ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA) < 0)
        return error_errno(err, errno, "cannot place the TSS");
    if (ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return error_errno(err, errno, "cannot create the interrupt controllers");
    return 0;
}

int arch_vm_finish_init(struct machine *machine, struct nido_error *err)
{
    return 0;
}

void arch_vm_finish(struct machine *machine)
{
}

void arch_vm_paused(struct machine *machine)
{
}

void arch_vm_resuming(struct machine *machine)
{
}

static int set_cpuid(struct vcpu *vcpu, struct nido_error *err)
{
    struct machine *machine = vcpu->machine;
    struct cpuid_table table;
    int ret = cpuid_supported(machine->kvm_fd, &table, err);
    if (ret < 0)
        return ret;
    bool tsc_deadline = kvm_capability(machine->kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    cpuid_specialise(&table, vcpu->index, machine->cpus, tsc_deadline);
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, &table.head) < 0)
        return error_errno(err, errno, "vCPU %u: KVM refuses its CPU features", vcpu->index);
    return 0;
}

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

/* Firmware would leave these so. A host that refuses one costs speed or a line in dmesg, no
 * boot. */
static void set_msr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
    struct one_msr msr = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
    if (ioctl(vcpu->fd, KVM_SET_MSRS, &msr.head) != 1)
        log_info("vCPU %u: this host's KVM refuses MSR 0x%x", vcpu->index, index);
}

int arch_vcpu_init(struct vcpu *vcpu, struct nido_error *err)
{
    int ret = set_cpuid(vcpu, err);
    if (ret < 0)
        return ret;
    set_msr(vcpu, MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
    set_msr(vcpu, MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_TYPE_WRITE_BACK);
    return 0;
}

void arch_vcpu_resumed(struct vcpu *vcpu)
{
    ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0); /* -EINVAL: a guest without kvmclock */
}
