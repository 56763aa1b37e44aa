/* SPDX-License-Identifier: Apache-2.0 */
/* Says hello and resets. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    print("hello\n");
}
