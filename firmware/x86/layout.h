/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_LAYOUT_H
#define NIDO_FIRMWARE_X86_LAYOUT_H

/*
 * Where things lie in the first megabyte of guest RAM before the guest's first instruction. The
 * guest owns all of it from then on, but for the ACPI tables, which the memory map reserves.
 */

#define LOW_GDT_GPA         0x500u
#define LOW_ZERO_PAGE_GPA   0x7000u /* struct boot_params, one page */
#define LOW_START_INFO_GPA  0x6000u /* PVH: hvm_start_info, modules, memory map */
#define LOW_SETUP_DATA_GPA  0x8000u /* one page: the random seed */
#define LOW_PAGE_TABLES_GPA 0x9000u /* PML4, PDPT, four PDs: six pages, up to 0xf000 */
#define LOW_CMDLINE_GPA     0x20000u
#define LOW_CMDLINE_BYTES   0x10000u
#define LOW_RAM_END_GPA     0x9fc00u /* conventional memory ends where a BIOS would keep its EBDA */

/* RSDP first: where a kernel that is told nothing looks for it. */
#define ACPI_TABLES_GPA   0xe0000u
#define ACPI_TABLES_BYTES 0x1fff0u
#define RESET_VECTOR_GPA  0xffff0u /* real mode ffff:0 */

#define HIGH_RAM_GPA 0x100000u

#endif
