/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_ARM64_GIC_H
#define NIDO_ARCH_ARM64_GIC_H

/*
 * The interrupt controller in KVM (Linux Documentation/virt/kvm/devices/arm-vgic.rst and
 * arm-vgic-v3.rst): version 3, or version 2 on a host whose hardware has nothing better.
 */

#include "base/error.h"

#include <stdint.h>

#define GIC_V2_CPUS_MAX 8u

struct gic {
    int fd; /* KVM's device; owned */
    unsigned version;
    uint64_t distributor_gpa, distributor_bytes;
    uint64_t cpu_gpa, cpu_bytes; /* version 2: CPU interfaces, 3: redistributors */
};

/* Before the vCPUs. */
int gic_create(struct gic *gic, int vm_fd, unsigned cpus, struct nido_error *err);
/* After them: places the registers; interrupts can be connected from here on. */
int gic_init(struct gic *gic, unsigned cpus, struct nido_error *err);
void gic_finish(struct gic *gic);

#endif
