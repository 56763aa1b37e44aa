/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/pvh.h"

#include "base/bytes.h"
#include "firmware/x86/e820.h"
#include "firmware/x86/layout.h"

#include <errno.h>

#define START_MAGIC   0x336ec578u /* "xEn3" with the top bit of the E set */
#define START_VERSION 1u

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules_gpa, cmdline_gpa, rsdp_gpa, map_gpa;
    uint32_t map_count, reserved;
};

struct module {
    uint64_t gpa, length_bytes, cmdline_gpa, reserved;
};

struct map_entry {
    uint64_t gpa, length_bytes;
    uint32_t type, reserved;
};

/* One page holds it all. x86 is little-endian, as are these structures. */
struct page {
    struct start_info info;
    struct module initrd;
    struct map_entry map[E820_ENTRIES_MAX];
};

_Static_assert(sizeof(struct start_info) == 56, "start_info.h");
_Static_assert(sizeof(struct page) <= MEM_PAGE_BYTES, "the page at LOW_START_INFO_GPA");

int pvh_write(const struct initrd *initrd, uint64_t rsdp_gpa, struct mem *mem,
              struct nido_error *err)
{
    struct e820_map map;
    e820_make(&map, mem);

    struct page page = {
        .info =
            {
                .magic = START_MAGIC,
                .version = START_VERSION,
                .cmdline_gpa = LOW_CMDLINE_GPA,
                .rsdp_gpa = rsdp_gpa,
                .map_gpa = LOW_START_INFO_GPA + offsetof(struct page, map),
                .map_count = map.count,
            },
        .initrd = {.gpa = initrd->gpa, .length_bytes = initrd->length_bytes},
    };
    if (initrd->length_bytes) {
        page.info.module_count = 1;
        page.info.modules_gpa = LOW_START_INFO_GPA + offsetof(struct page, initrd);
    }
    for (unsigned i = 0; i < map.count; i++) {
        page.map[i].gpa = map.entries[i].gpa;
        page.map[i].length_bytes = map.entries[i].length_bytes;
        page.map[i].type = map.entries[i].type;
    }
    if (mem_write(mem, LOW_START_INFO_GPA, &page, sizeof(page)) < 0)
        return error_set(err, EFAULT, "no RAM at 0x%x", LOW_START_INFO_GPA);
    return 0;
}
