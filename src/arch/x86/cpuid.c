/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86/cpuid.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define LEAF1_ECX_VMX          (1u << 5)
#define LEAF1_ECX_X2APIC       (1u << 21)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR   (1u << 31)
#define LEAF1_EDX_HTT          (1u << 28)
#define EXT1_ECX_CMP_LEGACY    (1u << 1)
#define EXT1_ECX_SVM           (1u << 2)

#define TOPOLOGY_LEVEL_SMT  1u
#define TOPOLOGY_LEVEL_CORE 2u

int cpuid_supported(int kvm_fd, struct cpuid_table *table, struct nido_error *err)
{
    memset(table, 0, sizeof(*table));
    table->head.nent = CPUID_ENTRIES_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &table->head) < 0)
        return error_errno(err, errno, "cannot ask KVM which CPU features it supports");
    return 0;
}

/* How many bits number `count` things. */
static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while ((1u << bits) < count)
        bits++;
    return bits;
}

static void set_features(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned cpus,
                         bool tsc_deadline)
{
    entry->ebx = (entry->ebx & 0xffff) | (cpus << 16) | (index << 24);
    if (cpus > 1)
        entry->edx |= LEAF1_EDX_HTT;
    else
        entry->edx &= ~LEAF1_EDX_HTT;
    entry->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
    if (tsc_deadline)
        entry->ecx |= LEAF1_ECX_TSC_DEADLINE;
    /* A guest inside the guest would put the host's nested-virtualization code within its reach. */
    entry->ecx &= ~LEAF1_ECX_VMX;
}

/* Leaf 4 and its AMD twin 0x8000001d: levels 1 and 2 belong to a core, level 3 to the package. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *entry, unsigned cpus)
{
    unsigned type = entry->eax & 0x1f, level = (entry->eax >> 5) & 7;
    if (type == 0)
        return;
    unsigned sharing = level >= 3 ? (1u << bits_for(cpus)) - 1 : 0;
    entry->eax = (entry->eax & ~(0xfffu << 14)) | sharing << 14;
    if (entry->function == 4)
        entry->eax = (entry->eax & ~(0x3fu << 26)) | ((1u << bits_for(cpus)) - 1) << 26;
}

/* Leaves 0xb and 0x1f, one subleaf for each level. */
static void set_topology_level(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned cpus)
{
    entry->eax = entry->ebx = 0;
    entry->ecx = entry->index & 0xff;
    entry->edx = index;
    if (entry->index == 0) {
        entry->ebx = 1;
        entry->ecx |= TOPOLOGY_LEVEL_SMT << 8;
    } else if (entry->index == 1) {
        entry->eax = bits_for(cpus);
        entry->ebx = cpus;
        entry->ecx |= TOPOLOGY_LEVEL_CORE << 8;
    }
}

static void specialise_entry(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned cpus,
                             bool tsc_deadline)
{
    switch (entry->function) {
    case 0x1:
        set_features(entry, index, cpus, tsc_deadline);
        break;
    case 0x4:
    case 0x8000001d:
        set_cache_sharing(entry, cpus);
        break;
    case 0xb:
    case 0x1f:
        set_topology_level(entry, index, cpus);
        break;
    case 0x80000001:
        entry->ecx &= ~EXT1_ECX_SVM;
        if (cpus > 1)
            entry->ecx |= EXT1_ECX_CMP_LEGACY;
        break;
    case 0x80000008: /* how many cores, and how many APIC id bits number them */
        entry->ecx = (entry->ecx & ~0xf0ffu) | bits_for(cpus) << 12 | (cpus - 1);
        break;
    case 0x8000001e: /* extended APIC id, one thread a core, node 0 of 1 */
        entry->eax = index;
        entry->ebx = index & 0xff;
        entry->ecx = 0;
        break;
    default:
        break;
    }
}

/* KVM lists subleaf 0 of the topology leaves only; the core level must be there as well. */
static void ensure_core_level(struct cpuid_table *table, uint32_t function)
{
    bool has_leaf = false;
    for (unsigned i = 0; i < table->head.nent; i++) {
        if (table->entries[i].function != function)
            continue;
        has_leaf = true;
        if (table->entries[i].index == 1)
            return;
    }
    if (!has_leaf || table->head.nent == CPUID_ENTRIES_MAX)
        return;
    table->entries[table->head.nent++] = (struct kvm_cpuid_entry2){
        .function = function, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
}

void cpuid_specialise(struct cpuid_table *table, unsigned index, unsigned cpus, bool tsc_deadline)
{
    ensure_core_level(table, 0xb);
    ensure_core_level(table, 0x1f);
    for (unsigned i = 0; i < table->head.nent; i++)
        specialise_entry(&table->entries[i], index, cpus, tsc_deadline);
}
