/* SPDX-License-Identifier: Apache-2.0 */
/* What src/vm asks of arm64 while a machine is made: RAM layout, address size, the interrupt
 * controller, the vCPUs' features; and the guest's clock over a pause. */
#include "arch/arm64/vm_arm64.h"

#include "arch/arm64/regs.h"
#include "base/checked.h"
#include "base/log.h"
#include "firmware/arm64/layout.h"
#include "vm/arch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

const struct kvm_need arch_needs[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest RAM"},
    {KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL", "the interrupt controller in the kernel"},
    {KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG", "registers"},
    {KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2", "power-off, and more than one vCPU"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts by eventfd"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "device kicks by eventfd"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "stopping a vCPU"},
};
const unsigned arch_needs_count = ARRAY_SIZE(arch_needs);

/* What KVM_CREATE_VM's 0 stands for, on hosts that cannot say otherwise; and the least there is. */
#define ADDRESS_BITS_DEFAULT 40u
#define ADDRESS_BITS_LEAST   32u

unsigned arch_ram_ranges(uint64_t mem_bytes, struct mem_range *ranges)
{
    ranges[0] = (struct mem_range){RAM_BASE_GPA, mem_bytes};
    return 1;
}

/* As few address bits as RAM needs: fewer bits, fewer levels of the tables that a guest's every
 * access goes through. */
int arch_vm_type(int kvm_fd, uint64_t mem_bytes, unsigned long *type, struct nido_error *err)
{
    unsigned most = (unsigned)kvm_capability(kvm_fd, KVM_CAP_ARM_VM_IPA_SIZE);
    unsigned bits = ADDRESS_BITS_LEAST;
    while (bits < 63 && (1ull << bits) < RAM_BASE_GPA + mem_bytes)
        bits++;
    if (bits > (most ? most : ADDRESS_BITS_DEFAULT))
        return error_set(err, EINVAL,
                         "--mem: this host's KVM gives guests %u address bits, which is %llu MiB "
                         "of RAM",
                         most ? most : ADDRESS_BITS_DEFAULT,
                         ((1ull << (most ? most : ADDRESS_BITS_DEFAULT)) - RAM_BASE_GPA) / MIB);
    *type = most ? KVM_VM_TYPE_ARM_IPA_SIZE(bits) : 0;
    return 0;
}

int arch_vm_init(struct machine *machine, struct nido_error *err)
{
    struct arch_vm *arch = calloc(1, sizeof(*arch));
    if (!arch)
        return error_set(err, ENOMEM, "out of memory");
    arch->gic.fd = -1;
    machine->arch = arch;
    /* An access to a device by an instruction that says too little of itself is then an exit with a
     * report. Hosts without it fail KVM_RUN. */
    struct kvm_enable_cap undecoded = {.cap = KVM_CAP_ARM_NISV_TO_USER};
    ioctl(machine->vm_fd, KVM_ENABLE_CAP, &undecoded);
    return gic_create(&arch->gic, machine->vm_fd, machine->cpus, err);
}

int arch_vm_finish_init(struct machine *machine, struct nido_error *err)
{
    return gic_init(&machine->arch->gic, machine->cpus, err);
}

void arch_vm_finish(struct machine *machine)
{
    if (!machine->arch)
        return;
    gic_finish(&machine->arch->gic);
    free(machine->arch);
    machine->arch = NULL;
}

/*
 * The guest's clock is the virtual counter, and it stands still while the machine does: Linux has no
 * other way to be told, and its watchdogs would bark. KVM has one offset for all vCPUs.
 */
void arch_vm_paused(struct machine *machine)
{
    struct arch_vm *arch = machine->arch;
    if (!arch->clock_stopped)
        arch->clock_stopped =
            regs_get(machine->vcpus[0].fd, KVM_REG_ARM_TIMER_CNT, &arch->clock_ticks) == 0;
}

void arch_vm_resuming(struct machine *machine)
{
    struct arch_vm *arch = machine->arch;
    if (arch->clock_stopped)
        regs_set(machine->vcpus[0].fd, KVM_REG_ARM_TIMER_CNT, arch->clock_ticks);
    arch->clock_stopped = false;
}

void arch_vcpu_resumed(struct vcpu *vcpu)
{
}

static void add_feature(struct kvm_vcpu_init *init, unsigned feature)
{
    init->features[feature / 32] |= 1u << feature % 32;
}

static bool has_pointer_authentication(const struct machine *machine)
{
    return kvm_capability(machine->vm_fd, KVM_CAP_ARM_PTRAUTH_ADDRESS) > 0 &&
           kvm_capability(machine->vm_fd, KVM_CAP_ARM_PTRAUTH_GENERIC) > 0;
}

static int finalize(struct vcpu *vcpu, int feature, struct nido_error *err)
{
    if (ioctl(vcpu->fd, KVM_ARM_VCPU_FINALIZE, &feature) < 0)
        return error_errno(err, errno, "vCPU %u: KVM refuses its vector registers", vcpu->index);
    return 0;
}

int arch_vcpu_init(struct vcpu *vcpu, struct nido_error *err)
{
    const struct machine *machine = vcpu->machine;
    bool sve = kvm_capability(machine->vm_fd, KVM_CAP_ARM_SVE) > 0;
    struct kvm_vcpu_init init = {0};
    if (ioctl(machine->vm_fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
        return error_errno(err, errno, "vCPU %u: KVM does not know this CPU", vcpu->index);
    add_feature(&init, KVM_ARM_VCPU_PSCI_0_2);
    if (vcpu->index > 0)
        add_feature(&init, KVM_ARM_VCPU_POWER_OFF);
    if (has_pointer_authentication(machine)) {
        add_feature(&init, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
        add_feature(&init, KVM_ARM_VCPU_PTRAUTH_GENERIC);
    }
    if (sve)
        add_feature(&init, KVM_ARM_VCPU_SVE);
    if (ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init) < 0)
        return error_errno(err, errno, "vCPU %u: KVM refuses its CPU features", vcpu->index);
    return sve ? finalize(vcpu, KVM_ARM_VCPU_SVE, err) : 0;
}
