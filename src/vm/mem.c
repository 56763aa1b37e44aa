/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/mem.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Aligning the host address like the guest's lets both page tables use 2 MiB pages. */
#define HUGE_PAGE_BYTES (2 * MIB)

struct region {
    struct mem_range range;
    uint8_t *host;
    void *mapping; /* what mmap() gave, with the slack for alignment */
    size_t mapping_bytes;
};

struct mem {
    enum mem_backing backing;
    unsigned count;
    struct region regions[MEM_REGIONS_MAX];
};

static int map_anonymous(struct region *region)
{
    size_t slack = HUGE_PAGE_BYTES;
    region->mapping_bytes = region->range.length_bytes + slack;
    region->mapping = mmap(NULL, region->mapping_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region->mapping == MAP_FAILED)
        return -errno;
    uint64_t wanted = region->range.gpa % HUGE_PAGE_BYTES;
    uint64_t at = (uintptr_t)region->mapping;
    region->host =
        (uint8_t *)region->mapping + (align_up(at - wanted, HUGE_PAGE_BYTES) + wanted - at);
    /* Without huge pages in the host's kernel this fails, and nothing is lost. */
    madvise(region->host, region->range.length_bytes, MADV_HUGEPAGE);
    return 0;
}

static int map_hugetlb(struct region *region)
{
    region->mapping_bytes = align_up(region->range.length_bytes, HUGE_PAGE_BYTES);
    /* MAP_POPULATE would hide a shortage; without NORESERVE the pages are reserved here, or it
     * fails. */
    region->mapping = mmap(NULL, region->mapping_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (region->mapping == MAP_FAILED)
        return -errno;
    region->host = region->mapping;
    return 0;
}

static int map_region(struct region *region, enum mem_backing backing, struct nido_error *err)
{
    uint64_t mib = region->range.length_bytes / MIB;
    if (backing == MEM_HUGETLB) {
        int ret = map_hugetlb(region);
        if (ret < 0)
            return error_errno(
                err, -ret,
                "guest memory: no %llu MiB of 2 MiB pages are free; reserve them with "
                "sysctl vm.nr_hugepages, or leave out hugepages",
                (unsigned long long)mib);
        return 0;
    }
    int ret = map_anonymous(region);
    if (ret < 0)
        return error_errno(err, -ret, "guest memory: cannot map %llu MiB; ask for less with --mem",
                           (unsigned long long)mib);
    if (backing == MEM_MERGEABLE &&
        madvise(region->host, region->range.length_bytes, MADV_MERGEABLE) < 0)
        ret = error_errno(err, errno,
                          "guest memory: this host's kernel merges no pages (it has no KSM); leave "
                          "out mem-merge");
    if (ret < 0)
        munmap(region->mapping, region->mapping_bytes);
    return ret;
}

int mem_create(struct mem **out, const struct mem_range *ranges, unsigned count,
               enum mem_backing backing, struct nido_error *err)
{
    struct mem *mem = calloc(1, sizeof(*mem));
    if (!mem || count > MEM_REGIONS_MAX) {
        free(mem);
        return error_set(err, ENOMEM, "guest memory: out of memory");
    }
    mem->backing = backing;
    for (unsigned i = 0; i < count; i++) {
        mem->regions[i].range = ranges[i];
        int ret = map_region(&mem->regions[i], backing, err);
        if (ret < 0) {
            mem_destroy(mem);
            return ret;
        }
        mem->count++;
    }
    *out = mem;
    return 0;
}

void mem_destroy(struct mem *mem)
{
    if (!mem)
        return;
    for (unsigned i = 0; i < mem->count; i++)
        munmap(mem->regions[i].mapping, mem->regions[i].mapping_bytes);
    free(mem);
}

static uint8_t *find(const struct mem *mem, uint64_t gpa, size_t length)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct region *region = &mem->regions[i];
        if (gpa < region->range.gpa)
            continue;
        uint64_t offset = gpa - region->range.gpa;
        if (length && checked_inside(offset, length, region->range.length_bytes))
            return region->host + offset;
    }
    return NULL;
}

const void *mem_for_read(const struct mem *mem, uint64_t gpa, size_t length)
{
    return find(mem, gpa, length);
}

void *mem_for_write(const struct mem *mem, uint64_t gpa, size_t length)
{
    return find(mem, gpa, length);
}

int mem_read(const struct mem *mem, uint64_t gpa, void *to, size_t length)
{
    if (!length)
        return 0;
    const void *from = mem_for_read(mem, gpa, length);
    if (!from)
        return -EFAULT;
    memcpy(to, from, length);
    return 0;
}

int mem_write(const struct mem *mem, uint64_t gpa, const void *from, size_t length)
{
    if (!length)
        return 0;
    void *to = mem_for_write(mem, gpa, length);
    if (!to)
        return -EFAULT;
    memcpy(to, from, length);
    return 0;
}

int mem_gpa_of(const struct mem *mem, const void *at, uint64_t *gpa)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct region *region = &mem->regions[i];
        uintptr_t offset = (uintptr_t)at - (uintptr_t)region->host;
        if ((uintptr_t)at >= (uintptr_t)region->host && offset < region->range.length_bytes) {
            *gpa = region->range.gpa + offset;
            return 0;
        }
    }
    return -EFAULT;
}

/* Reserved pages of 2 MiB stay reserved for this process, so nobody would gain. */
bool mem_can_discard(const struct mem *mem)
{
    return mem->backing != MEM_HUGETLB;
}

/* MADV_DONTNEED, because what MADV_FREE gives back is counted as ours until the host runs short.
 * madvise() would round the length up to a host page, and with it take what nobody offered. */
int mem_discard(const struct mem *mem, uint64_t gpa, uint64_t length)
{
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!length || !is_aligned(gpa | length, page_bytes))
        return -EINVAL;
    void *at = find(mem, gpa, length);
    if (!at)
        return -EFAULT;
    if (!mem_can_discard(mem))
        return -EOPNOTSUPP;
    return madvise(at, length, MADV_DONTNEED) == 0 ? 0 : -errno;
}

unsigned mem_region_count(const struct mem *mem)
{
    return mem->count;
}

struct mem_range mem_region(const struct mem *mem, unsigned index)
{
    return mem->regions[index].range;
}

uint64_t mem_total_bytes(const struct mem *mem)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < mem->count; i++)
        total += mem->regions[i].range.length_bytes;
    return total;
}
