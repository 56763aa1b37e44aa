/* SPDX-License-Identifier: Apache-2.0 */
/* Direct boot on x86-64: which kind of kernel a file is, and what each kind finds in RAM. */
#include "firmware/boot.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/bootfile.h"
#include "firmware/cmdline.h"
#include "firmware/elf.h"
#include "firmware/foreign.h"
#include "firmware/initrd.h"
#include "firmware/x86/bzimage.h"
#include "firmware/x86/gdt.h"
#include "firmware/x86/layout.h"
#include "firmware/x86/pagetables.h"
#include "firmware/x86/pvh.h"
#include "firmware/x86/zeropage.h"

#include <elf.h>
#include <errno.h>

#define WANTED "a bzImage or an x86-64 ELF vmlinux"

/* A kernel without a header of its own: Linux's COMMAND_LINE_SIZE on x86, and no limit on where the
 * initrd lies but what the zero page's 32-bit fields and the MMIO hole allow. */
#define ELF_CMDLINE_BYTES  2047u
#define ELF_INITRD_END_GPA (3 * GIB)

/* What loading the kernel gave, and what it wants from the rest. */
struct kernel {
    struct setup_header header;
    enum boot_protocol protocol;
    uint64_t entry_gpa, end_gpa;
    uint64_t initrd_end_gpa;
    uint32_t cmdline_bytes;
};

static int load_bzimage(struct kernel *kernel, const struct bootfile *file, const char *cache_path,
                        struct mem *mem, struct nido_error *err)
{
    struct bzimage image;
    struct bzimage_place place;
    int r = bzimage_parse(&image, file, err);
    if (r == 0)
        r = bzimage_load(&image, file, cache_path, mem, &place, err);
    if (r < 0)
        return r;
    *kernel = (struct kernel){
        .header = image.header,
        .protocol = BOOT_LINUX64,
        .entry_gpa = place.entry_gpa,
        .end_gpa = place.end_gpa,
        /* boot.rst: initrd_addr_max is the last byte that the initrd may have. */
        .initrd_end_gpa = (uint64_t)image.header.initrd_addr_max + 1,
        .cmdline_bytes = MIN(image.header.cmdline_size, LOW_CMDLINE_BYTES - 1),
    };
    return 0;
}

static int load_elf(struct kernel *kernel, const struct bootfile *file, struct mem *mem,
                    struct nido_error *err)
{
    struct elf_image image = {.file = file, .size_bytes = file->size_bytes};
    struct elf_plan plan;
    int r = elf_plan(&plan, &image, mem, EM_X86_64, HIGH_RAM_GPA, err);
    if (r == 0)
        r = elf_load(&plan, &image, mem, err);
    if (r < 0)
        return r;
    *kernel = (struct kernel){
        .protocol = plan.pvh_gpa ? BOOT_PVH : BOOT_LINUX64,
        .entry_gpa = plan.pvh_gpa ? plan.pvh_gpa : plan.entry_gpa,
        .end_gpa = plan.end_gpa,
        .initrd_end_gpa = ELF_INITRD_END_GPA,
        .cmdline_bytes = ELF_CMDLINE_BYTES,
    };
    zeropage_default_header(&kernel->header);
    return 0;
}

static int load_kernel(struct kernel *kernel, const struct boot_request *request, struct mem *mem,
                       struct nido_error *err)
{
    uint8_t head[FOREIGN_HEAD_BYTES];
    own_bootfile struct bootfile file = {.fd = -1};
    size_t length = sizeof(head);
    int r = bootfile_open_head(&file, request->kernel_path, head, &length, err);
    if (r < 0)
        return r;
    if (bzimage_recognise(head, length))
        return load_bzimage(kernel, &file, request->cache_path, mem, err);
    if (length >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0)
        return load_elf(kernel, &file, mem, err);
    return foreign_error(head, length, &file, WANTED, err);
}

int boot_check(const char *kernel_path, struct nido_error *err)
{
    uint8_t head[FOREIGN_HEAD_BYTES];
    struct bzimage image;
    own_bootfile struct bootfile file = {.fd = -1};
    size_t length = sizeof(head);
    int r = bootfile_open_head(&file, kernel_path, head, &length, err);
    if (r < 0)
        return r;
    if (bzimage_recognise(head, length))
        return bzimage_parse(&image, &file, err);
    if (length >= sizeof(Elf64_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0 &&
        get_le16(head + offsetof(Elf64_Ehdr, e_machine)) == EM_X86_64)
        return 0;
    return foreign_error(head, length, &file, WANTED, err);
}

static int write_tables(const struct kernel *kernel, const struct initrd *initrd, uint64_t rsdp_gpa,
                        struct mem *mem, struct boot_entry *entry, struct nido_error *err)
{
    bool pvh = kernel->protocol == BOOT_PVH;
    int r = pvh ? pvh_write(initrd, rsdp_gpa, mem, err)
                : zeropage_write(&kernel->header, initrd, rsdp_gpa, mem, err);
    if (r == 0 && !pvh && (r = pagetables_write(mem)) < 0)
        r = error_set(err, -r, "no RAM for the first page tables");
    if (r == 0 && (r = gdt_write(mem)) < 0)
        r = error_set(err, -r, "no RAM for the first segment descriptors");
    *entry = (struct boot_entry){
        .protocol = kernel->protocol,
        .entry_gpa = kernel->entry_gpa,
        .info_gpa = pvh ? LOW_START_INFO_GPA : LOW_ZERO_PAGE_GPA,
        .gdt_gpa = LOW_GDT_GPA,
        .page_tables_gpa = pvh ? 0 : LOW_PAGE_TABLES_GPA,
    };
    return r;
}

int boot_load(const struct boot_request *request, struct mem *mem, struct boot_entry *entry,
              struct nido_error *err)
{
    struct nido_error why = {0};
    struct mem_range low = mem_region(mem, 0);
    struct kernel kernel;
    struct initrd initrd;

    if (request->dump_path)
        return error_set(err, ENOTSUP,
                         "--dump-dtb: this machine has ACPI tables and no device tree; use "
                         "--dump-acpi");
    if (low.gpa != 0 || low.length_bytes < 2 * MIB)
        return error_set(err, EINVAL,
                         "guest memory: %llu bytes at 0x%llx hold no kernel; say more "
                         "with --mem",
                         (unsigned long long)low.length_bytes, (unsigned long long)low.gpa);
    int r = load_kernel(&kernel, request, mem, &why);
    if (r == 0)
        r = cmdline_place(request->cmdline, mem, LOW_CMDLINE_GPA, kernel.cmdline_bytes, &why);
    if (r < 0)
        return error_set(err, why.code, "kernel %s: %s", request->kernel_path, why.text);
    r = initrd_load(&initrd, request->initrd_path, EM_X86_64, mem, kernel.end_gpa,
                    kernel.initrd_end_gpa, err);
    if (r < 0)
        return r;
    return write_tables(&kernel, &initrd, request->tables_gpa, mem, entry, err);
}
