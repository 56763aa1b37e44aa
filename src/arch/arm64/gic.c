/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/arm64/gic.h"

#include "arch/arm64/layout.h"
#include "base/checked.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* KVM's header says them with a macro that it does not have outside of the kernel. */
#define V3_DISTRIBUTOR_BYTES   (64 * KIB)
#define V3_REDISTRIBUTOR_BYTES (2 * 64 * KIB)

static int create_device(struct gic *gic, int vm_fd, uint32_t type, unsigned version)
{
    struct kvm_create_device device = {.type = type};
    if (ioctl(vm_fd, KVM_CREATE_DEVICE, &device) < 0)
        return -errno;
    gic->fd = (int)device.fd;
    gic->version = version;
    return 0;
}

int gic_create(struct gic *gic, int vm_fd, unsigned cpus, struct nido_error *err)
{
    int ret = create_device(gic, vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3, 3);
    if (ret == -ENODEV)
        ret = create_device(gic, vm_fd, KVM_DEV_TYPE_ARM_VGIC_V2, 2);
    if (ret == -ENODEV)
        return error_set(err, ENODEV,
                         "/dev/kvm: this host's KVM has no interrupt controller for guests, "
                         "neither GICv3 nor GICv2; another host is needed");
    if (ret < 0)
        return error_errno(err, -ret, "cannot create the interrupt controller");
    if (gic->version == 2 && cpus > GIC_V2_CPUS_MAX)
        return error_set(err, EINVAL,
                         "--cpus %u: this host's interrupt controller is a GICv2, which serves %u",
                         cpus, GIC_V2_CPUS_MAX);
    return 0;
}

static int set_attribute(const struct gic *gic, uint32_t group, uint64_t attribute,
                         const void *value, const char *what, struct nido_error *err)
{
    const struct kvm_device_attr attr = {
        .group = group, .attr = attribute, .addr = (uintptr_t)value};
    if (ioctl(gic->fd, KVM_SET_DEVICE_ATTR, &attr) < 0)
        return error_errno(err, errno, "the interrupt controller: KVM refuses %s", what);
    return 0;
}

static int place_cpu_registers(struct gic *gic, unsigned cpus, struct nido_error *err)
{
    if (gic->version == 3) {
        gic->cpu_gpa = GIC_V3_REDIST_GPA;
        gic->cpu_bytes = (uint64_t)cpus * V3_REDISTRIBUTOR_BYTES;
        return set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST,
                             &gic->cpu_gpa, "its redistributors' place", err);
    }
    gic->cpu_gpa = GIC_V2_CPU_GPA;
    gic->cpu_bytes = KVM_VGIC_V2_CPU_SIZE;
    return set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU, &gic->cpu_gpa,
                         "its CPU interfaces' place", err);
}

int gic_init(struct gic *gic, unsigned cpus, struct nido_error *err)
{
    const uint32_t interrupts = GIC_INTERRUPTS;
    bool is_v3 = gic->version == 3;
    gic->distributor_gpa = GIC_DISTRIBUTOR_GPA;
    gic->distributor_bytes = is_v3 ? V3_DISTRIBUTOR_BYTES : KVM_VGIC_V2_DIST_SIZE;
    int ret = set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_ADDR,
                            is_v3 ? KVM_VGIC_V3_ADDR_TYPE_DIST : KVM_VGIC_V2_ADDR_TYPE_DIST,
                            &gic->distributor_gpa, "its distributor's place", err);
    if (ret == 0)
        ret = place_cpu_registers(gic, cpus, err);
    if (ret == 0)
        ret = set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &interrupts,
                            "its number of interrupts", err);
    if (ret == 0)
        ret = set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL,
                            "to start it", err);
    return ret;
}

void gic_finish(struct gic *gic)
{
    if (gic->fd >= 0)
        close(gic->fd);
    gic->fd = -1;
}
