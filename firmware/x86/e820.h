/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_E820_H
#define NIDO_FIRMWARE_X86_E820_H

/* The memory map that a BIOS would give (ACPI 6.4, section 15), for the zero page and for PVH. */

#include "vm/mem.h"

#include <stdint.h>

#define E820_ENTRIES_MAX (MEM_REGIONS_MAX + 2u)

enum e820_type { E820_TYPE_RAM = 1, E820_TYPE_RESERVED = 2 };

struct e820_entry {
    uint64_t gpa, length_bytes;
    enum e820_type type;
};

struct e820_map {
    struct e820_entry entries[E820_ENTRIES_MAX]; /* ascending, disjoint */
    unsigned count;
};

/* RAM's regions, without the last 385 KiB of the first megabyte, where PCs keep their video memory
 * and firmware; the part of that with the ACPI tables is there as reserved. */
void e820_make(struct e820_map *map, const struct mem *mem);

#endif
