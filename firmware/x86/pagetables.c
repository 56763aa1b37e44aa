/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/pagetables.h"

#include "base/checked.h"
#include "firmware/x86/layout.h"

#include <endian.h>
#include <errno.h>

/* Intel SDM volume 3, 4.5. */
#define ENTRY_TABLE   0x03u /* present, writable */
#define ENTRY_2MIB    0xe3u /* present, writable, accessed, dirty, large page */
#define TABLE_ENTRIES 512u
#define DIRECTORIES   4u

int pagetables_write(struct mem *mem)
{
    /* In this order: PML4, PDPT, then the page directories, one for each GiB. */
    uint64_t *tables = mem_for_write(mem, LOW_PAGE_TABLES_GPA, (2 + DIRECTORIES) * MEM_PAGE_BYTES);
    if (!tables)
        return -EFAULT;

    uint64_t *pdpt = tables + TABLE_ENTRIES;
    uint64_t *directories = tables + 2 * TABLE_ENTRIES;
    tables[0] = htole64((LOW_PAGE_TABLES_GPA + MEM_PAGE_BYTES) | ENTRY_TABLE);
    for (unsigned i = 0; i < DIRECTORIES; i++)
        pdpt[i] = htole64((LOW_PAGE_TABLES_GPA + (2 + i) * MEM_PAGE_BYTES) | ENTRY_TABLE);
    for (uint64_t i = 0; i < DIRECTORIES * TABLE_ENTRIES; i++)
        directories[i] = htole64(i * 2 * MIB | ENTRY_2MIB);
    return 0;
}
