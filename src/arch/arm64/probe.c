/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe guest: at the start of one page of RAM, with the exception vectors 2 KiB behind,
 *
 *     VBAR_EL1 = the vectors
 *     svc #0              -> handler: eret
 *     str w0, [PASSED]    -> here the probe has passed
 */
#include "arch/probe.h"

#include "arch/arm64/gic.h"
#include "arch/arm64/regs.h"
#include "base/own.h"
#include "host/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE_GPA   0x40000000ull
#define VECTORS_AT 0x800u
#define SYNC_AT    (VECTORS_AT + 0x200u) /* a synchronous exception from where we are */
#define PASSED_GPA 0x10000000ull
#define EXITS_MAX  4u

static const uint32_t code[] = {
    0x10004000, /* adr  x0, VECTORS_AT */
    0xd518c000, /* msr  vbar_el1, x0 */
    0xd5033fdf, /* isb */
    0xd4000001, /* svc  #0 */
    0xd2a20001, /* mov  x1, #PASSED_GPA */
    0xb9000020, /* str  w0, [x1] */
    0x14000000, /* b    . */
};
static const uint32_t handler[] = {0xd69f03e0}; /* eret */

static int run(int vcpu_fd, const struct kvm_run *area, struct nido_error *err)
{
    for (unsigned i = 0; i < EXITS_MAX; i++) {
        if (ioctl(vcpu_fd, KVM_RUN, 0) < 0 && errno != EINTR)
            return error_errno(err, errno, "KVM cannot run a vCPU");
        if (area->exit_reason == KVM_EXIT_MMIO && area->mmio.phys_addr == PASSED_GPA)
            return 0;
        if (area->exit_reason != KVM_EXIT_INTR)
            break;
    }
    return error_set(err, ENOTSUP,
                     "this host's KVM cannot take an exception in a guest's kernel mode (exit "
                     "reason %u), so no Linux guest can boot",
                     area->exit_reason);
}

static int start_vcpu(int vm_fd, int vcpu_fd, struct nido_error *err)
{
    struct kvm_vcpu_init init = {0};
    if (ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init) < 0 ||
        ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init) < 0)
        return error_errno(err, errno, "KVM does not know this CPU");
    int ret = regs_set(vcpu_fd, REG_CORE(regs.pc), CODE_GPA);
    return ret < 0 ? error_errno(err, -ret, "KVM takes no registers") : 0;
}

/* `page` and `area` are the caller's to unmap. */
static int probe(int vm_fd, int *vcpu_fd, uint8_t *page, size_t page_bytes, struct kvm_run **area,
                 size_t area_bytes, struct nido_error *err)
{
    const struct kvm_userspace_memory_region slot = {
        .guest_phys_addr = CODE_GPA, .memory_size = page_bytes, .userspace_addr = (uintptr_t)page};
    if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return error_errno(err, errno, "KVM takes no memory");
    *vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
    if (*vcpu_fd < 0)
        return error_errno(err, errno, "KVM cannot create a vCPU");
    void *mapping = mmap(NULL, area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu_fd, 0);
    if (mapping == MAP_FAILED)
        return error_errno(err, errno, "KVM gives no run area");
    *area = mapping;
    memcpy(page, code, sizeof(code));
    memcpy(page + SYNC_AT, handler, sizeof(handler));
    __builtin___clear_cache((char *)page, (char *)page + page_bytes);
    int ret = start_vcpu(vm_fd, *vcpu_fd, err);
    return ret < 0 ? ret : run(*vcpu_fd, *area, err);
}

static int probe_gic(int vm_fd, struct nido_error *err)
{
    struct gic gic = {.fd = -1};
    int ret = gic_create(&gic, vm_fd, 1, err);
    gic_finish(&gic);
    return ret;
}

int arch_probe_kernel_mode(struct nido_error *err)
{
    own_fd int kvm_fd = -1;
    own_fd int vm_fd = -1;
    own_fd int gic_vm_fd = -1;
    own_fd int vcpu_fd = -1;
    int ret = kvm_open(&kvm_fd, err);
    if (ret == 0)
        ret = kvm_create_vm(kvm_fd, KVM_VM_TYPE_ARM_IPA_SIZE(32), &gic_vm_fd, err);
    if (ret == 0)
        ret = probe_gic(gic_vm_fd, err);
    if (ret == 0)
        ret = kvm_create_vm(kvm_fd, KVM_VM_TYPE_ARM_IPA_SIZE(32), &vm_fd, err);
    if (ret < 0)
        return ret;
    size_t area_bytes = (size_t)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return error_errno(err, errno, "cannot map a page");
    struct kvm_run *area = NULL;
    ret = probe(vm_fd, &vcpu_fd, page, page_bytes, &area, area_bytes, err);
    if (area)
        munmap(area, area_bytes);
    munmap(page, page_bytes);
    return ret;
}
