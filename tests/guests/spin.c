/* SPDX-License-Identifier: Apache-2.0 */
/* Says it is there, then never leaves the guest again. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    print("spinning\n");
    for (;;)
        __asm__ volatile("pause");
}
