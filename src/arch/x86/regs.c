/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86/regs.h"

#include "firmware/x86/gdt.h"

#include <errno.h>
#include <sys/ioctl.h>

#define CR0_PE     (1u << 0)
#define CR0_ET     (1u << 4)
#define CR0_PG     (1u << 31)
#define CR4_PAE    (1u << 5)
#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)
#define RFLAGS_ONE 2u

#define TYPE_CODE 0xb /* execute, read, accessed */
#define TYPE_DATA 0x3 /* read, write, accessed */
#define TYPE_TSS  0xb /* 32-bit or 64-bit, busy */

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1};
}

static struct kvm_segment code_segment(enum boot_protocol protocol)
{
    bool wide = protocol == BOOT_LINUX64;
    struct kvm_segment segment = flat_segment(wide ? GDT_CODE64 : GDT_CODE32, TYPE_CODE);
    segment.l = wide;
    segment.db = !wide;
    return segment;
}

static struct kvm_segment data_segment(void)
{
    struct kvm_segment segment = flat_segment(GDT_DATA, TYPE_DATA);
    segment.db = 1;
    return segment;
}

static struct kvm_segment task_segment(void)
{
    return (struct kvm_segment){.limit = 0x67, .selector = GDT_TSS, .type = TYPE_TSS, .present = 1};
}

static void set_modes(struct kvm_sregs *sregs, const struct boot_entry *entry)
{
    sregs->cr0 = CR0_PE | CR0_ET;
    if (entry->protocol != BOOT_LINUX64)
        return;
    sregs->cr0 |= CR0_PG;
    sregs->cr3 = entry->page_tables_gpa;
    sregs->cr4 |= CR4_PAE;
    sregs->efer |= EFER_LME | EFER_LMA;
}

int regs_set_entry(struct vcpu *vcpu, const struct boot_entry *entry, struct nido_error *err)
{
    struct kvm_sregs sregs;
    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return error_errno(err, errno, "vCPU %u: cannot read its registers", vcpu->index);
    sregs.cs = code_segment(entry->protocol);
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data_segment();
    sregs.tr = task_segment();
    sregs.gdt = (struct kvm_dtable){.base = entry->gdt_gpa, .limit = GDT_BYTES - 1};
    sregs.idt = (struct kvm_dtable){0};
    set_modes(&sregs, entry);

    struct kvm_regs regs = {.rip = entry->entry_gpa, .rflags = RFLAGS_ONE};
    if (entry->protocol == BOOT_LINUX64)
        regs.rsi = entry->info_gpa;
    else
        regs.rbx = entry->info_gpa;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
        return error_errno(err, errno, "vCPU %u: KVM refuses the entry state", vcpu->index);
    return 0;
}
