/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_X86_CPUID_H
#define NIDO_ARCH_X86_CPUID_H

/* What the guest's CPUID instruction says (Intel SDM volume 2, AMD APM volume 3). */

#include "base/error.h"

#include <linux/kvm.h>
#include <stdbool.h>

#define CPUID_ENTRIES_MAX 256

struct cpuid_table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
};

/* All that this host's KVM supports. */
int cpuid_supported(int kvm_fd, struct cpuid_table *table, struct nido_error *err);

/* Makes the table that of CPU `index` out of `cpus`: one package, one thread a core, APIC id =
 * index. */
void cpuid_specialise(struct cpuid_table *table, unsigned index, unsigned cpus, bool tsc_deadline);

#endif
