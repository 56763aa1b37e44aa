/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_X86_REGS_H
#define NIDO_ARCH_X86_REGS_H

#include "base/error.h"
#include "firmware/boot.h"
#include "vm/vcpu.h"

/* Registers of the boot CPU at a kernel's entry: 64-bit boot (Documentation/arch/x86/boot.rst,
 * "64-bit boot protocol") or PVH (Xen's docs/misc/pvh.pandoc, "x86/HVM direct boot ABI"). */
int regs_set_entry(struct vcpu *vcpu, const struct boot_entry *entry, struct nido_error *err);

#endif
