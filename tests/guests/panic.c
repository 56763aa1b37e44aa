/* SPDX-License-Identifier: Apache-2.0 */
/* Says so, panics as a kernel with a pvpanic driver does, and goes on. */
#include "guest.h"

#define PVPANIC_PORT 0x505
#define PANICKED     1

void guest_main(uint32_t start_info)
{
    print("panic\n");
    outb(PVPANIC_PORT, PANICKED);
    print("and on\n");
}
