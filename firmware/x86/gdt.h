/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_GDT_H
#define NIDO_FIRMWARE_X86_GDT_H

/*
 * One descriptor table for both ways in. Whoever sets the first vCPU's segment registers loads
 * these selectors, with base 0 and limit 0xffffffff for all but the TSS (base 0, limit 0x67).
 *
 *   BOOT_LINUX64  CS = GDT_CODE64, DS ES SS = GDT_DATA   (boot protocol: __BOOT_CS, __BOOT_DS)
 *   BOOT_PVH      CS = GDT_CODE32, DS ES SS = GDT_DATA   (both flat, 4 GiB)
 *   either        TR = GDT_TSS, type 11 (busy), not present in memory beyond its descriptor
 */

#include "vm/mem.h"

#define GDT_CODE64 0x10u
#define GDT_DATA   0x18u
#define GDT_CODE32 0x20u
#define GDT_TSS    0x28u /* 16 bytes, as long mode wants it */
#define GDT_BYTES  0x38u

/* Writes it to LOW_GDT_GPA. */
int gdt_write(struct mem *mem);

#endif
