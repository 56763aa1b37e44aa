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
    unsigned long long mib = end_gpa / MIB + (end_gpa % MIB != 0);

    /* A second region means that the first is as large as the machine lets it be. */
    if (mem_region_count(mem) > 1 || end_gpa > 4 * GIB)
        return error_set(err, EFBIG,
                         "%s needs RAM up to %llu MiB, where this machine has none; "
                         "use a smaller one",
                         what, mib);
    return error_set(err, ENOMEM,
                     "%s needs %llu MiB of RAM and the machine has %llu; say --mem "
                     "%lluM or more",
                     what, mib, (unsigned long long)(mem_total_bytes(mem) / MIB), mib);
}
