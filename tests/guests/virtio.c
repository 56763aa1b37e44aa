/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio.h"

#define DEVICES_MAX 16

static struct desc descs[QUEUE_SIZE] __attribute__((aligned(4096)));
static struct avail avail __attribute__((aligned(4096)));
static struct used used __attribute__((aligned(4096)));

uint32_t virtio_find(uint32_t device_id)
{
    for (uint32_t i = 0; i < DEVICES_MAX; i++) {
        uint32_t base = VIRTIO_BASE + i * VIRTIO_BYTES;
        if (mmio_read(base) == 0x74726976 && mmio_read(base + 8) == device_id)
            return base;
    }
    return 0;
}

static void set_address(uint32_t reg, const volatile void *address)
{
    mmio_write(reg, (uint32_t)address);
    mmio_write(reg + 4, 0);
}

int virtio_start(struct queue *queue, uint32_t base)
{
    *queue = (struct queue){base, descs, &avail, &used};
    mmio_write(base + 0x70, 0);
    mmio_write(base + 0x70, 1);
    mmio_write(base + 0x70, 3);
    mmio_write(base + 0x24, 1); /* feature word 1: VERSION_1 */
    mmio_write(base + 0x20, 1);
    mmio_write(base + 0x24, 0);
    mmio_write(base + 0x20, 0);
    mmio_write(base + 0x70, 11);
    if (!(mmio_read(base + 0x70) & 8))
        return 0;
    mmio_write(base + 0x30, 0);
    mmio_write(base + 0x38, QUEUE_SIZE);
    set_address(base + 0x80, descs);
    set_address(base + 0x90, &avail);
    set_address(base + 0xa0, &used);
    mmio_write(base + 0x44, 1);
    mmio_write(base + 0x70, 15);
    return 1;
}

void virtio_set(struct queue *queue, unsigned index, const volatile void *buffer, uint32_t length,
                uint16_t flags)
{
    queue->desc[index] = (struct desc){(uint32_t)buffer, length, flags, (uint16_t)(index + 1)};
}

uint32_t virtio_do(struct queue *queue, unsigned count)
{
    uint16_t at = queue->avail->index;
    for (unsigned i = 0; i + 1 < count; i++)
        queue->desc[i].flags |= DESC_NEXT;
    queue->avail->ring[at % QUEUE_SIZE] = 0;
    __asm__ volatile("" : : : "memory");
    queue->avail->index = (uint16_t)(at + 1);
    __asm__ volatile("lock; addl $0, (%%esp)" : : : "memory");
    mmio_write(queue->base + 0x50, 0);
    while (queue->used->index == at)
        __asm__ volatile("pause" : : : "memory");
    return queue->used->ring[at % QUEUE_SIZE].length;
}
