/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_GUESTS_GUEST_H
#define NIDO_TESTS_GUESTS_GUEST_H

/*
 * The whole operating system of a test guest. Guests run in 32-bit protected mode without paging or
 * interrupts, so that they also run on a KVM that emulates kernel mode.
 */

#include <stdint.h>

#define COM1         0x3f8
#define ACPI_PM      0x600
#define VIRTIO_BASE  0xd0000000u
#define VIRTIO_BYTES 0x1000u

/* Each guest's own. Returning resets the machine. */
void guest_main(uint32_t start_info);

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t mmio_read(uint32_t address)
{
    return *(volatile uint32_t *)address;
}

static inline void mmio_write(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)address = value;
}

void guest_reset(void);
void guest_power_off(void);
void print(const char *text);
void print_hex(uint32_t value);

#endif
