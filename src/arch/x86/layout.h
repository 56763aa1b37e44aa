/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_X86_LAYOUT_H
#define NIDO_ARCH_X86_LAYOUT_H

/*
 * The x86-64 machine's address map. RAM fills [0, 3 GiB), then goes on at 4 GiB; between them is
 * the MMIO hole. firmware/x86/layout.h has what lies in the first megabyte of RAM.
 */

#define RAM_HOLE_START_GPA 0xc0000000ull /* 3 GiB */
#define RAM_HOLE_END_GPA   0x100000000ull

#define VIRTIO_MMIO_BASE_GPA 0xd0000000ull /* one page for each device */

#define IOAPIC_GPA 0xfec00000ull
#define LAPIC_GPA  0xfee00000ull

/* Four pages that Intel hardware needs for real-mode guests, out of everybody's way (api.rst,
 * KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR). */
#define IDENTITY_MAP_GPA 0xfffbc000ull
#define TSS_GPA          0xfffbd000ull

#define COM1_PORT    0x3f8u
#define PVPANIC_PORT 0x505u
#define ACPI_PM_PORT 0x600u

#define COM1_GSI         4u
#define POWER_BUTTON_GSI 9u

#endif
