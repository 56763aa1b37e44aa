/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/cmdline.h"

#include <errno.h>
#include <string.h>

int cmdline_place(const char *cmdline, struct mem *mem, uint64_t gpa, uint32_t limit_bytes,
                  struct nido_error *err)
{
    size_t length = strlen(cmdline);
    if (length > limit_bytes)
        return error_set(err, E2BIG,
                         "the kernel command line has %zu bytes and this kernel takes %u; shorten "
                         "--cmdline",
                         length, limit_bytes);
    if (mem_write(mem, gpa, cmdline, length + 1) < 0)
        return error_set(err, EFAULT, "the kernel command line: no RAM at 0x%llx",
                         (unsigned long long)gpa);
    return 0;
}
