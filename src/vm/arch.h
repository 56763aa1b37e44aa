/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_ARCH_H
#define NIDO_VM_ARCH_H

/*
 * The seam: what src/vm asks of an architecture. Each src/arch/<arch>/ defines all of these, and
 * the build picks one.
 */

#include "base/error.h"
#include "host/kvm.h"
#include "vm/machine.h"

#include <stdio.h>

/* Capabilities without which a machine of this architecture cannot be. */
extern const struct kvm_need arch_needs[];
extern const unsigned arch_needs_count;

/* Where RAM of this size lies. Writes at most MEM_REGIONS_MAX ranges and returns how many. */
unsigned arch_ram_ranges(uint64_t mem_bytes, struct mem_range *ranges);

/* What KVM_CREATE_VM is told, for a machine with that much RAM. Fails where this host's KVM cannot
 * have so much. */
int arch_vm_type(int kvm_fd, uint64_t mem_bytes, unsigned long *type, struct nido_error *err);

/* Interrupt controllers and what else must be there before the first vCPU / after the last one.
 * What has to be kept hangs on machine->arch; arch_vm_finish() frees it, whatever is there of it. */
int arch_vm_init(struct machine *machine, struct nido_error *err);
int arch_vm_finish_init(struct machine *machine, struct nido_error *err);
void arch_vm_finish(struct machine *machine);

/* With every vCPU parked: right after the last has, and before the first goes on. */
void arch_vm_paused(struct machine *machine);
void arch_vm_resuming(struct machine *machine);

/* CPU features and the registers that all vCPUs start with. */
int arch_vcpu_init(struct vcpu *vcpu, struct nido_error *err);

/* On the vCPU's thread, after a pause: tells the guest's clock, so that its watchdogs do not bark. */
void arch_vcpu_resumed(struct vcpu *vcpu);

/* Exits that only this architecture has. Returns as exit_handle(). */
bool arch_exit(struct vcpu *vcpu);

/* Registers and the bytes at the instruction pointer, for a person. On the vCPU's thread. */
void arch_describe(struct vcpu *vcpu, FILE *to);

#endif
