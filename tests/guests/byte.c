/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest machine that shows it ran: one byte, then a reset. For start-up times. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    outb(COM1, '!');
}
