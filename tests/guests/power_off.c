/* SPDX-License-Identifier: Apache-2.0 */
/* Shows its command line (PVH start_info: magic, version, flags, modules, list, cmdline) and powers
 * off through the ACPI sleep register. */
#include "guest.h"

void guest_main(uint32_t start_info)
{
    const uint32_t *info = (const uint32_t *)start_info;
    if (info[0] == 0x336ec578)
        print((const char *)info[6]);
    print("\n");
    guest_power_off();
    for (;;)
        ;
}
