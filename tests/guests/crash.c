/* SPDX-License-Identifier: Apache-2.0 */
/* Takes an exception with no descriptor table to take it by. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    static const struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) nothing;
    __asm__ volatile("lidt %0; ud2" : : "m"(nothing));
}
