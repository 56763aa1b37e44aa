/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/initrd.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/bootfile.h"
#include "firmware/initrd_machine.h"
#include "firmware/room.h"

#include <errno.h>
#include <stdbool.h>

/* The "HdrS" of a bzImage is at 0x202, the magic of an arm64 Image at 0x38. */
#define HEAD_BYTES 0x206u

static bool is_kernel(const uint8_t *head, size_t length)
{
    if (length >= 4 && memcmp(head, "\177ELF", 4) == 0)
        return true;
    if (length >= 0x3c && memcmp(head + 0x38, "ARM\x64", 4) == 0)
        return true;
    return length >= HEAD_BYTES && memcmp(head + 0x202, "HdrS", 4) == 0;
}

static int check_content(const struct bootfile *file, uint16_t machine, struct nido_error *err)
{
    uint8_t head[HEAD_BYTES];
    size_t length = MIN(file->size_bytes, (uint64_t)sizeof(head));
    int r = bootfile_read(file, 0, head, length, err);
    if (r == 0 && is_kernel(head, length))
        r = error_set(err, EINVAL, "this is a kernel; did you swap --kernel and --initrd?");
    return r < 0 ? r : initrd_machine_check(file, machine, err);
}

static int place(struct initrd *initrd, uint64_t length, const struct mem *mem, uint64_t lowest_gpa,
                 uint64_t limit_gpa, struct nido_error *err)
{
    uint64_t end = align_down(MIN(limit_gpa, room_end(mem)), MEM_PAGE_BYTES);
    uint64_t lowest = align_up(lowest_gpa, MEM_PAGE_BYTES);
    uint64_t needed = align_up(MIN(length, UINT64_MAX / 2), MEM_PAGE_BYTES);

    if (end >= lowest && needed <= end - lowest) {
        initrd->gpa = end - needed;
        initrd->length_bytes = length;
        return 0;
    }
    if (lowest + needed > limit_gpa)
        return error_set(err, EFBIG,
                         "its %llu MiB do not fit between the kernel and %llu MiB, "
                         "where this kernel wants it to end; use a smaller one",
                         (unsigned long long)(needed / MIB), (unsigned long long)(limit_gpa / MIB));
    return room_error(mem, "with this kernel it", lowest + needed, err);
}

int initrd_load(struct initrd *initrd, const char *path, uint16_t machine, struct mem *mem,
                uint64_t lowest_gpa, uint64_t limit_gpa, struct nido_error *err)
{
    *initrd = (struct initrd){0};
    if (!path)
        return 0;

    struct nido_error why = {0};
    own_bootfile struct bootfile file = {.fd = -1};
    int r = bootfile_open(&file, path, &why);
    if (r == 0)
        r = check_content(&file, machine, &why);
    if (r == 0)
        r = place(initrd, file.size_bytes, mem, lowest_gpa, limit_gpa, &why);
    if (r == 0)
        r = bootfile_read(&file, 0, mem_for_write(mem, initrd->gpa, initrd->length_bytes),
                          initrd->length_bytes, &why);
    return r < 0 ? error_set(err, why.code, "initrd %s: %s", path, why.text) : 0;
}
