/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

void guest_reset(void)
{
    outb(0x64, 0xfe);
}

void guest_power_off(void)
{
    outb(ACPI_PM, 5 << 2 | 1 << 5);
}

void print(const char *text)
{
    for (; *text; text++)
        outb(COM1, (uint8_t)*text);
}

void print_hex(uint32_t value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        outb(COM1, (uint8_t) "0123456789abcdef"[value >> shift & 15]);
}

/* The compiler may ask for these. */
void *memset(void *to, int byte, unsigned count);
void *memcpy(void *to, const void *from, unsigned count);

void *memset(void *to, int byte, unsigned count)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, unsigned count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}
