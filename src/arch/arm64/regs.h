/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_ARM64_REGS_H
#define NIDO_ARCH_ARM64_REGS_H

/* Registers of a vCPU by KVM's numbers (api.rst, KVM_SET_ONE_REG, "arm64 registers"). */

#include "base/error.h"
#include "firmware/boot.h"

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

/* A 64-bit register of struct kvm_regs: REG_CORE(regs.pc). */
#define REG_CORE(field)                                                                            \
    (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |                                         \
     offsetof(struct kvm_regs, field) / sizeof(uint32_t))
#define REG_X(number) (REG_CORE(regs.regs[0]) + 2 * (uint64_t)(number))

#define REG_MPIDR ARM64_SYS_REG(3, 0, 0, 0, 5)
#define REG_SCTLR ARM64_SYS_REG(3, 0, 1, 0, 0)
#define REG_TTBR0 ARM64_SYS_REG(3, 0, 2, 0, 0)
#define REG_TTBR1 ARM64_SYS_REG(3, 0, 2, 0, 1)
#define REG_TCR   ARM64_SYS_REG(3, 0, 2, 0, 2)
#define REG_ESR   ARM64_SYS_REG(3, 0, 5, 2, 0)
#define REG_FAR   ARM64_SYS_REG(3, 0, 6, 0, 0)
#define REG_VBAR  ARM64_SYS_REG(3, 0, 12, 0, 0)

/* 0 or a negative errno. */
int regs_get(int vcpu_fd, uint64_t number, uint64_t *value);
int regs_set(int vcpu_fd, uint64_t number, uint64_t value);

/* The first vCPU at a kernel's entry (Documentation/arch/arm64/booting.rst, "Call the kernel
 * image"): KVM's reset state but for the program counter and x0. */
int regs_set_entry(int vcpu_fd, const struct boot_entry *entry, struct nido_error *err);

#endif
