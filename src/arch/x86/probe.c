/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe guest: one page of RAM that holds a GDT, an IDT with a gate for int3, and
 *
 *     int3            -> handler: iret
 *     out 0xf4, al    -> here the probe has passed
 *     hlt
 */
#include "arch/probe.h"

#include "base/checked.h"
#include "base/own.h"
#include "host/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE_BYTES     4096u
#define GDT_AT         0x100u
#define IDT_AT         0x200u
#define CODE_AT        0x300u
#define HANDLER_AT     0x310u
#define STACK_AT       0xf00u
#define CODE_SELECTOR  0x08u
#define DATA_SELECTOR  0x10u
#define PASSED_PORT    0xf4u
#define EXITS_MAX      4u
#define INT3_VECTOR    3u
#define FLAT_CODE_DESC 0x00cf9b000000ffffull
#define FLAT_DATA_DESC 0x00cf93000000ffffull

static void fill_page(uint8_t *page)
{
    static const uint8_t code[] = {0xcc, 0xe6, PASSED_PORT, 0xf4};
    static const uint8_t handler[] = {0xcf};
    const uint64_t gdt[] = {0, FLAT_CODE_DESC, FLAT_DATA_DESC};
    /* A present 32-bit interrupt gate: offset, selector, type 0xe. */
    const uint64_t gate = HANDLER_AT | (uint64_t)CODE_SELECTOR << 16 | 0x8e0000000000ull;
    memcpy(page + CODE_AT, code, sizeof(code));
    memcpy(page + HANDLER_AT, handler, sizeof(handler));
    memcpy(page + GDT_AT, gdt, sizeof(gdt));
    memcpy(page + IDT_AT + INT3_VECTOR * sizeof(gate), &gate, sizeof(gate));
}

static void set_flat(struct kvm_segment *segment, uint16_t selector, uint8_t type)
{
    *segment = (struct kvm_segment){.limit = UINT32_MAX,
                                    .selector = selector,
                                    .type = type,
                                    .present = 1,
                                    .db = 1,
                                    .s = 1,
                                    .g = 1};
}

static int set_registers(int vcpu_fd)
{
    struct kvm_sregs sregs;
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return -errno;
    set_flat(&sregs.cs, CODE_SELECTOR, 0xb);
    set_flat(&sregs.ds, DATA_SELECTOR, 0x3);
    sregs.es = sregs.ss = sregs.fs = sregs.gs = sregs.ds;
    sregs.gdt.base = GDT_AT;
    sregs.gdt.limit = 3 * 8 - 1;
    sregs.idt.base = IDT_AT;
    sregs.idt.limit = 8 * 8 - 1;
    sregs.cr0 |= 1;
    struct kvm_regs regs = {.rip = CODE_AT, .rsp = STACK_AT, .rflags = 2};
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return -errno;
    return 0;
}

static int run(int vcpu_fd, const struct kvm_run *area, struct nido_error *err)
{
    for (unsigned i = 0; i < EXITS_MAX; i++) {
        if (ioctl(vcpu_fd, KVM_RUN, 0) < 0 && errno != EINTR)
            return error_errno(err, errno, "KVM cannot run a vCPU");
        if (area->exit_reason == KVM_EXIT_IO && area->io.port == PASSED_PORT)
            return 0;
        if (area->exit_reason != KVM_EXIT_INTR)
            break;
    }
    return error_set(err, ENOTSUP,
                     "this host's KVM emulates kernel mode and cannot take an exception there "
                     "(exit reason %u%s), so no Linux guest can boot; use a host with hardware "
                     "virtualization",
                     area->exit_reason, kvm_is_software() ? ", module kvm_pvm" : "");
}

/* `page` and `area` are the caller's to unmap. */
static int probe(int kvm_fd, int vm_fd, int *vcpu_fd, void *page, struct kvm_run **area,
                 size_t area_bytes, struct nido_error *err)
{
    struct kvm_userspace_memory_region slot = {.memory_size = PAGE_BYTES,
                                               .userspace_addr = (uintptr_t)page};
    if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return error_errno(err, errno, "KVM takes no memory");
    *vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
    if (*vcpu_fd < 0)
        return error_errno(err, errno, "KVM cannot create a vCPU");
    void *mapping = mmap(NULL, area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu_fd, 0);
    if (mapping == MAP_FAILED)
        return error_errno(err, errno, "KVM gives no run area");
    *area = mapping;
    fill_page(page);
    int ret = set_registers(*vcpu_fd);
    if (ret < 0)
        return error_errno(err, -ret, "KVM takes no registers");
    return run(*vcpu_fd, *area, err);
}

int arch_probe_kernel_mode(struct nido_error *err)
{
    own_fd int kvm_fd = -1;
    own_fd int vm_fd = -1;
    own_fd int vcpu_fd = -1;
    int ret = kvm_open(&kvm_fd, err);
    if (ret == 0)
        ret = kvm_create_vm(kvm_fd, 0, &vm_fd, err);
    if (ret < 0)
        return ret;
    /* Intel hardware without unrestricted guests wants these even here. */
    ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    size_t area_bytes = (size_t)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return error_errno(err, errno, "cannot map a page");
    struct kvm_run *area = NULL;
    ret = probe(kvm_fd, vm_fd, &vcpu_fd, page, &area, area_bytes, err);
    if (area)
        munmap(area, area_bytes);
    munmap(page, PAGE_BYTES);
    return ret;
}
