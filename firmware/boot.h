/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_BOOT_H
#define NIDO_FIRMWARE_BOOT_H

/*
 * Puts a kernel, its initrd, its command line and what describes the machine into guest RAM, and
 * says where the first vCPU starts. Each architecture has its own boot_load() in firmware/<arch>/.
 *
 * RAM must be as mem_create() gave it: bytes that no one has written are taken to be zero, so that
 * a kernel's .bss is not touched page by page for nothing.
 */

#include "base/error.h"
#include "vm/mem.h"

#include <stddef.h>
#include <stdint.h>

struct boot_request {
    const char *kernel_path;
    const char *initrd_path; /* NULL: none */
    const char *cmdline;     /* never NULL */
    const char *cache_path;  /* a directory for unpacked kernels; NULL: unpack each time */
    /* What the board wrote for the guest to find: the RSDP, or the FDT's room. */
    uint64_t tables_gpa;
    const char *dump_path; /* a file that the FDT, completed, is written to as well; NULL: none */
};

enum boot_protocol {
    BOOT_LINUX64, /* x86-64: long mode, paging on, RSI = zero page (boot protocol, "64-bit boot") */
    BOOT_PVH,     /* x86: 32-bit protected mode, paging off, EBX = start_info */
    BOOT_ARM64,   /* EL1, MMU off, x0 = device tree */
};

struct boot_entry {
    enum boot_protocol protocol;
    uint64_t entry_gpa;
    uint64_t info_gpa;        /* zero page, start_info or device tree */
    uint64_t gdt_gpa;         /* x86: selectors are in firmware/x86/gdt.h; 0 for others */
    uint64_t page_tables_gpa; /* BOOT_LINUX64: what goes into CR3 */
};

/* A broken, truncated, foreign or oversized image gets one sentence in *err; RAM is then
 * undefined. */
int boot_load(const struct boot_request *request, struct mem *mem, struct boot_entry *entry,
              struct nido_error *err);

/* Whether this architecture boots such a file, by its header. The sentence leaves the path to the
 * caller's prefix. */
int boot_check(const char *kernel_path, struct nido_error *err);

#endif
