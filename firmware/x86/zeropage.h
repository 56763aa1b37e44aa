/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_ZEROPAGE_H
#define NIDO_FIRMWARE_X86_ZEROPAGE_H

/*
 * The "zero page": struct boot_params, which tells a Linux kernel what its boot loader knows
 * (Documentation/arch/x86/boot.rst and zero-page.rst).
 */

#include "base/error.h"
#include "firmware/initrd.h"
#include "vm/mem.h"

#include <asm/bootparam.h>
#include <stdint.h>

/* A setup header for a kernel that comes without: what its own would say at the least. */
void zeropage_default_header(struct setup_header *header);

/* Writes it, and the random seed that it points to. `header` is the kernel's own; the fields that a
 * loader fills in are overwritten. The command line is at LOW_CMDLINE_GPA already. */
int zeropage_write(const struct setup_header *header, const struct initrd *initrd,
                   uint64_t rsdp_gpa, struct mem *mem, struct nido_error *err);

#endif
