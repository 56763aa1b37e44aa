/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_PVH_H
#define NIDO_FIRMWARE_X86_PVH_H

/*
 * What a kernel that is entered by the PVH boot ABI finds at EBX: struct hvm_start_info version 1
 * with a module list and a memory map (xen/include/public/arch-x86/hvm/start_info.h).
 */

#include "base/error.h"
#include "firmware/initrd.h"
#include "vm/mem.h"

#include <stdint.h>

/* Writes it to LOW_START_INFO_GPA. The command line is at LOW_CMDLINE_GPA already. */
int pvh_write(const struct initrd *initrd, uint64_t rsdp_gpa, struct mem *mem,
              struct nido_error *err);

#endif
