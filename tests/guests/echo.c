/* SPDX-License-Identifier: Apache-2.0 */
/* Sends back what comes in on the serial port, until a dot. Listens as drivers do: with the
 * receive interrupt on (though none is taken). */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    outb(COM1 + 1, 1);
    for (;;) {
        if (!(inb(COM1 + 5) & 1))
            continue;
        uint8_t byte = inb(COM1);
        if (byte == '.')
            return;
        outb(COM1, byte);
    }
}
