/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_EXIT_H
#define NIDO_VM_EXIT_H

/* What a vCPU does about each reason that KVM_RUN returns for. On the vCPU's thread. */

#include "vm/bus.h"
#include "vm/vcpu.h"

/* Serves vcpu->run. False: this vCPU runs no more (the machine was told why it ends). */
bool exit_handle(struct vcpu *vcpu);

/* "mmio" for KVM_EXIT_MMIO; "other" for those without a name. A constant. */
const char *exit_name(uint32_t reason);

/* One access, made again while the device stalls it. False: the machine stops; give up. */
bool exit_read(struct vcpu *vcpu, struct bus *bus, uint64_t address, unsigned size_bytes,
               uint64_t *value);
bool exit_write(struct vcpu *vcpu, struct bus *bus, uint64_t address, unsigned size_bytes,
                uint64_t value);

/* Ends the machine as crashed, with a report: `what` happened, registers, instruction bytes, and
 * `meaning`, what it usually comes from. Returns false, for `return exit_crash(...)`. */
bool exit_crash(struct vcpu *vcpu, const char *what, const char *meaning);

#endif
