/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_MEM_H
#define NIDO_VM_MEM_H

/*
 * Guest RAM: the one door to it.
 *
 * RAM is one or more regions of guest-physical addresses (gpa), each mapped once into this process.
 * Every access names a gpa and a length, is checked for overflow, and must lie inside one region.
 * Only this module knows host addresses; a pointer it hands out is valid until mem_destroy() and
 * the guest may change the bytes behind it at any moment: copy what must not change between check
 * and use.
 *
 * Regions are fixed before vCPUs run, so look-ups take no lock. Any thread may use any function
 * that takes a `const struct mem *`.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEM_REGIONS_MAX 4
#define MEM_PAGE_BYTES  4096u

struct mem;

struct mem_range {
    uint64_t gpa;
    uint64_t length_bytes; /* a multiple of MEM_PAGE_BYTES, not 0 */
};

enum mem_backing {
    MEM_ANONYMOUS, /* zero pages on first touch; transparent huge pages where the host has them */
    MEM_MERGEABLE, /* the same, and the host's KSM may merge what is alike; fails without KSM */
    MEM_HUGETLB,   /* the host's reserved 2 MiB pages; fails at once when there are too few */
};

/* Maps `count` ascending, disjoint ranges. On failure *out is untouched. */
int mem_create(struct mem **out, const struct mem_range *ranges, unsigned count,
               enum mem_backing backing, struct nido_error *err);
void mem_destroy(struct mem *mem); /* takes NULL */

/* The bytes [gpa, gpa + length), or NULL where they do not all lie in one region. A length of 0
 * gives NULL. The writing door is the one that will mark pages dirty. */
const void *mem_for_read(const struct mem *mem, uint64_t gpa, size_t length);
void *mem_for_write(const struct mem *mem, uint64_t gpa, size_t length);

/* Copies; 0, or -EFAULT with nothing copied. A length of 0 succeeds. */
int mem_read(const struct mem *mem, uint64_t gpa, void *to, size_t length);
int mem_write(const struct mem *mem, uint64_t gpa, const void *from, size_t length);

/* The way back from a pointer of a door: 0, or -EFAULT where it points to no guest memory. */
int mem_gpa_of(const struct mem *mem, const void *at, uint64_t *gpa);

/* Gives the memory behind [gpa, gpa + length) back to the host; the guest finds zeroes there when
 * it comes again. Whole pages of the host's, all in one region: -EINVAL or -EFAULT else, and
 * -EOPNOTSUPP where the backing cannot (mem_can_discard). Any thread. */
int mem_discard(const struct mem *mem, uint64_t gpa, uint64_t length);
bool mem_can_discard(const struct mem *mem);

unsigned mem_region_count(const struct mem *mem);
struct mem_range mem_region(const struct mem *mem, unsigned index);
uint64_t mem_total_bytes(const struct mem *mem);

#endif
