/* SPDX-License-Identifier: Apache-2.0 */
/* Asks for 32 random bytes and shows them. */
#include "virtio.h"

static volatile uint32_t bytes[8];

void guest_main(uint32_t start_info)
{
    struct queue queue;
    uint32_t base = virtio_find(4);
    if (!base || !virtio_start(&queue, base)) {
        print("no entropy device\n");
        return;
    }
    virtio_set(&queue, 0, bytes, sizeof(bytes), DESC_WRITE);
    if (virtio_do(&queue, 1) != sizeof(bytes))
        print("short ");
    for (int i = 0; i < 8; i++)
        print_hex(bytes[i]);
    print("\n");
}
