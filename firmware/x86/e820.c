/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/e820.h"

#include "firmware/x86/layout.h"

static void add(struct e820_map *map, uint64_t gpa, uint64_t end, enum e820_type type)
{
    if (gpa < end)
        map->entries[map->count++] = (struct e820_entry){gpa, end - gpa, type};
}

void e820_make(struct e820_map *map, const struct mem *mem)
{
    struct mem_range low = mem_region(mem, 0);

    map->count = 0;
    add(map, low.gpa, LOW_RAM_END_GPA, E820_TYPE_RAM);
    add(map, ACPI_TABLES_GPA, HIGH_RAM_GPA, E820_TYPE_RESERVED);
    add(map, HIGH_RAM_GPA, low.gpa + low.length_bytes, E820_TYPE_RAM);
    for (unsigned i = 1; i < mem_region_count(mem); i++) {
        struct mem_range range = mem_region(mem, i);
        add(map, range.gpa, range.gpa + range.length_bytes, E820_TYPE_RAM);
    }
}
