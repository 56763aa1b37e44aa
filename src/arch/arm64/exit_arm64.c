/* SPDX-License-Identifier: Apache-2.0 */
/* Exits that only arm64 has, and what a crash report says there. */
#include "vm/exit.h"

#include "arch/arm64/regs.h"
#include "vm/arch.h"
#include "vm/machine.h"

#include <inttypes.h>
#include <stdio.h>

#define SCTLR_MMU 1u

static bool handle_undecoded(struct vcpu *vcpu)
{
    char what[160];
    snprintf(what, sizeof(what),
             "an access to 0x%llx, where no RAM is, by an instruction that the CPU does not decode "
             "for KVM (KVM_EXIT_ARM_NISV, syndrome 0x%llx)",
             (unsigned long long)vcpu->run->arm_nisv.fault_ipa,
             (unsigned long long)vcpu->run->arm_nisv.esr_iss);
    return exit_crash(vcpu, what,
                      "a guest that ran wild, or one that reads devices with vector or pair "
                      "instructions");
}

bool arch_exit(struct vcpu *vcpu)
{
    char what[64];
    if (vcpu->run->exit_reason == KVM_EXIT_ARM_NISV)
        return handle_undecoded(vcpu);
    snprintf(what, sizeof(what), "KVM stopped with exit reason %u", vcpu->run->exit_reason);
    return exit_crash(vcpu, what, "a KVM newer than this nido");
}

static void describe(struct vcpu *vcpu, FILE *to, const char *name, uint64_t number, char behind)
{
    uint64_t value;
    if (regs_get(vcpu->fd, number, &value) == 0)
        fprintf(to, "%-6s %016" PRIx64 "%c", name, value, behind);
    else
        fprintf(to, "%-6s %-16s%c", name, "?", behind);
}

/* The program counter is an address of RAM while the MMU is off. Else the guest's own tables would
 * have to be walked, which a guest that ran wild may have ruined. */
static void describe_instruction(struct vcpu *vcpu, FILE *to)
{
    uint64_t sctlr, pc;
    uint32_t instruction;
    if (regs_get(vcpu->fd, REG_SCTLR, &sctlr) == 0 && !(sctlr & SCTLR_MMU) &&
        regs_get(vcpu->fd, REG_CORE(regs.pc), &pc) == 0 &&
        mem_read(vcpu->machine->mem, pc, &instruction, sizeof(instruction)) == 0)
        fprintf(to, "instruction: %08x\n", instruction);
}

void arch_describe(struct vcpu *vcpu, FILE *to)
{
    describe(vcpu, to, "pc", REG_CORE(regs.pc), ' ');
    describe(vcpu, to, "sp_el1", REG_CORE(sp_el1), ' ');
    describe(vcpu, to, "pstate", REG_CORE(regs.pstate), '\n');
    for (unsigned i = 0; i < 31; i++) {
        char name[8];
        snprintf(name, sizeof(name), "x%u", i);
        describe(vcpu, to, name, REG_X(i), i % 4 == 3 || i == 30 ? '\n' : ' ');
    }
    describe(vcpu, to, "esr", REG_ESR, ' ');
    describe(vcpu, to, "far", REG_FAR, ' ');
    describe(vcpu, to, "elr", REG_CORE(elr_el1), ' ');
    describe(vcpu, to, "vbar", REG_VBAR, '\n');
    describe(vcpu, to, "sctlr", REG_SCTLR, ' ');
    describe(vcpu, to, "tcr", REG_TCR, ' ');
    describe(vcpu, to, "ttbr0", REG_TTBR0, ' ');
    describe(vcpu, to, "ttbr1", REG_TTBR1, '\n');
    describe_instruction(vcpu, to);
}
