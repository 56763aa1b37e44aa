/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_ARM64_LAYOUT_H
#define NIDO_ARCH_ARM64_LAYOUT_H

/*
 * The arm64 machine's address map: devices in the first GiB, RAM from there on in one piece.
 * firmware/arm64/layout.h has what lies at the start of RAM. Each device has 64 KiB for itself, a
 * page of the largest size that a guest may use; those of virtio, of which there are many, 4 KiB each.
 */

#define GIC_DISTRIBUTOR_GPA 0x08000000ull
#define GIC_V2_CPU_GPA      0x08010000ull
#define GIC_V3_REDIST_GPA   0x080a0000ull /* 128 KiB for each vCPU */

#define UART_GPA    0x09000000ull
#define RTC_GPA     0x09010000ull
#define PVPANIC_GPA 0x09020000ull

#define VIRTIO_MMIO_BASE_GPA 0x0a000000ull /* one page for each device */

/* Shared peripheral interrupts, which is what KVM counts as GSIs here. */
#define UART_SPI         1u
#define VIRTIO_FIRST_SPI 16u
#define GIC_INTERRUPTS   96u /* 32 private ones, then SPIs 0 to 63 */

#endif
