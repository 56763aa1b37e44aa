/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes where nobody is, and every register of every device at every width. Then hello:
 * the machine must not have minded. */
#include "guest.h"

static void touch(uint32_t address)
{
    *(volatile uint8_t *)address = *(volatile uint8_t *)(address + 1);
    *(volatile uint16_t *)address = *(volatile uint16_t *)(address + 2);
    mmio_write(address, mmio_read(address + 4));
}

void guest_main(uint32_t start_info)
{
    if (mmio_read(0xe0000000u) != 0xffffffffu || inb(0x1234) != 0xff)
        print("somebody is there\n");
    for (uint32_t offset = 0; offset < 0x140; offset += 3)
        touch(VIRTIO_BASE + offset);
    for (uint32_t offset = 0xf00; offset < 0x1010; offset += 7)
        touch(VIRTIO_BASE + offset);
    print("still here\n");
}
