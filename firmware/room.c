/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/room.h"

#include "base/checked.h"

#include <errno.h>

uint64_t room_end(const struct mem *mem)
{
    struct mem_range range = mem_region(mem, 0);
    return range.gpa + range.length_bytes;
}

int room_error(const struct mem *mem, const char *what, uint64_t end_gpa, struct nido_error *err)
{
    uint64_t start_gpa = mem_region(mem, 0).gpa, needed = end_gpa - start_gpa;
    unsigned long long mib = needed / MIB + (needed % MIB != 0);

    /* A second region means that the first is as large as the machine lets it be. */
    if (mem_region_count(mem) > 1 || needed > 4 * GIB)
        return error_set(
            err, EFBIG,
            "%s needs the first %llu MiB of RAM in one piece, which this machine cannot have; "
            "use a smaller one",
            what, mib);
    return error_set(err, ENOMEM,
                     "%s needs %llu MiB of RAM and the machine has %llu; say --mem "
                     "%lluM or more",
                     what, mib, (unsigned long long)(mem_total_bytes(mem) / MIB), mib);
}
