/* SPDX-License-Identifier: Apache-2.0 */
/* Direct boot on arm64: an Image in one of its wrappings, an initrd, and the device tree completed. */
#include "firmware/boot.h"

#include "base/checked.h"
#include "firmware/arm64/devicetree.h"
#include "firmware/arm64/image.h"
#include "firmware/arm64/layout.h"
#include "firmware/bootfile.h"
#include "firmware/foreign.h"
#include "firmware/initrd.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define WANTED "an arm64 Image"

static int load_kernel(struct image_place *place, const struct boot_request *request,
                       struct mem *mem, struct nido_error *err)
{
    uint8_t head[FOREIGN_HEAD_BYTES];
    own_bootfile struct bootfile file = {.fd = -1};
    size_t length = sizeof(head);
    int r = bootfile_open_head(&file, request->kernel_path, head, &length, err);
    if (r < 0)
        return r;
    if (image_recognise(head, length))
        return image_load(&file, request->cache_path, mem, place, err);
    return foreign_error(head, length, &file, WANTED, err);
}

int boot_check(const char *kernel_path, struct nido_error *err)
{
    uint8_t head[FOREIGN_HEAD_BYTES];
    own_bootfile struct bootfile file = {.fd = -1};
    size_t length = sizeof(head);
    int r = bootfile_open_head(&file, kernel_path, head, &length, err);
    if (r < 0)
        return r;
    return image_recognise(head, length) ? 0 : foreign_error(head, length, &file, WANTED, err);
}

static int check_cmdline(const char *cmdline, struct nido_error *err)
{
    size_t length = strlen(cmdline);
    if (length <= CMDLINE_BYTES)
        return 0;
    return error_set(err, E2BIG,
                     "the kernel command line has %zu bytes and this kernel takes %u; shorten "
                     "--cmdline",
                     length, CMDLINE_BYTES);
}

int boot_load(const struct boot_request *request, struct mem *mem, struct boot_entry *entry,
              struct nido_error *err)
{
    struct nido_error why = {0};
    struct mem_range ram = mem_region(mem, 0);
    struct image_place place;
    struct initrd initrd;

    if (ram.gpa != RAM_BASE_GPA || ram.length_bytes < 4 * MIB)
        return error_set(err, EINVAL,
                         "guest memory: %llu bytes at 0x%llx hold no kernel; say more "
                         "with --mem",
                         (unsigned long long)ram.length_bytes, (unsigned long long)ram.gpa);
    int r = load_kernel(&place, request, mem, &why);
    if (r == 0)
        r = check_cmdline(request->cmdline, &why);
    if (r < 0)
        return error_set(err, why.code, "kernel %s: %s", request->kernel_path, why.text);
    r = initrd_load(&initrd, request->initrd_path, EM_AARCH64, mem, place.end_gpa, INITRD_END_GPA,
                    err);
    if (r == 0)
        r = devicetree_add_boot(mem, request->tables_gpa, request->cmdline, &initrd, err);
    if (r == 0 && request->dump_path)
        r = devicetree_dump(mem, request->tables_gpa, request->dump_path, err);
    *entry = (struct boot_entry){
        .protocol = BOOT_ARM64, .entry_gpa = place.entry_gpa, .info_gpa = request->tables_gpa};
    return r;
}
