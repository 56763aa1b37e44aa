/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/arm64/regs.h"

#include <errno.h>
#include <sys/ioctl.h>

int regs_get(int vcpu_fd, uint64_t number, uint64_t *value)
{
    struct kvm_one_reg reg = {.id = number, .addr = (uintptr_t)value};
    return ioctl(vcpu_fd, KVM_GET_ONE_REG, &reg) < 0 ? -errno : 0;
}

int regs_set(int vcpu_fd, uint64_t number, uint64_t value)
{
    struct kvm_one_reg reg = {.id = number, .addr = (uintptr_t)&value};
    return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg) < 0 ? -errno : 0;
}

int regs_set_entry(int vcpu_fd, const struct boot_entry *entry, struct nido_error *err)
{
    int ret = regs_set(vcpu_fd, REG_CORE(regs.pc), entry->entry_gpa);
    if (ret == 0)
        ret = regs_set(vcpu_fd, REG_X(0), entry->info_gpa);
    return ret < 0 ? error_errno(err, -ret, "vCPU 0: KVM refuses the entry state") : 0;
}
