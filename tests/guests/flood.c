/* SPDX-License-Identifier: Apache-2.0 */
/* Never stops talking. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    for (;;)
        print("water, water everywhere\n");
}
