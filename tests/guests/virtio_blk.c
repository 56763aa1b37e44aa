/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a pattern to sectors 8 to 15, flushes, says so, and reads it back. */
#include "virtio.h"

#define SECTORS 8
#define WORDS   (SECTORS * 512 / 4)

static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static uint32_t data[WORDS];
static volatile uint8_t status;

static int request(struct queue *queue, uint32_t type, uint32_t length, uint16_t direction)
{
    unsigned count = 0;
    header.type = type;
    header.sector = 8;
    status = 0xff;
    virtio_set(queue, count++, &header, sizeof(header), 0);
    if (length)
        virtio_set(queue, count++, data, length, direction);
    virtio_set(queue, count++, &status, 1, DESC_WRITE);
    virtio_do(queue, count);
    return status;
}

void *memset(void *to, int byte, unsigned count);

static int matches(void)
{
    for (uint32_t i = 0; i < WORDS; i++)
        if (data[i] != i * 0x01000193)
            return 0;
    return 1;
}

void guest_main(uint32_t start_info)
{
    struct queue queue;
    uint32_t base = virtio_find(2);
    if (!base || !virtio_start(&queue, base)) {
        print("no disk\n");
        return;
    }
    for (uint32_t i = 0; i < WORDS; i++)
        data[i] = i * 0x01000193;
    print(request(&queue, 1, sizeof(data), 0) == 0 ? "written " : "write failed ");
    print(request(&queue, 4, 0, 0) == 0 ? "flushed " : "flush failed ");
    memset(data, 0, sizeof(data));
    print(request(&queue, 0, sizeof(data), DESC_WRITE) == 0 && matches() ? "read back\n"
                                                                         : "read failed\n");
}
