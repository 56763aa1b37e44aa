/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_BLK_DRIVER_H
#define NIDO_TESTS_UNIT_BLK_DRIVER_H

/* The block driver's half of a request, on top of guest_driver. */

#include "base/bytes.h"
#include "tests/unit/guest_driver.h"

#include <linux/virtio_blk.h>
#include <string.h>

#define BLK_HEADER_BYTES  16u
#define BLK_STATUS_UNSEEN 0xee /* what a status byte holds before the device writes it */

struct blk_request {
    uint64_t header_gpa, data_gpa, status_gpa;
    uint32_t length;
    uint16_t head;
    struct guest_used used;
};

struct blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};

/* Resets, and gives back what was allocated since guest->free_gpa was `keep`: zeroed, as fresh RAM
 * is, or a new ring would begin with an old index. */
static inline void blk_recycle(struct guest *guest, uint64_t keep)
{
    guest_reset(guest);
    if (guest->free_gpa > keep)
        memset(guest_at(guest, keep, guest->free_gpa - keep), 0, guest->free_gpa - keep);
    guest->free_gpa = keep;
}

static inline bool blk_reads(uint32_t type)
{
    return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

/* Fresh RAM for header, data and status. */
static inline struct blk_request blk_prepare(struct guest *guest, uint32_t type, uint64_t sector,
                                             uint32_t length)
{
    struct blk_request request = {
        .header_gpa = guest_alloc(guest, BLK_HEADER_BYTES, 8),
        .data_gpa = length ? guest_alloc(guest, length, 512) : 0,
        .status_gpa = guest_alloc(guest, 1, 1),
        .length = length,
    };
    uint8_t *header = guest_at(guest, request.header_gpa, BLK_HEADER_BYTES);
    put_le32(header, type);
    put_le32(header + 4, 0);
    put_le64(header + 8, sector);
    *(uint8_t *)guest_at(guest, request.status_gpa, 1) = BLK_STATUS_UNSEEN;
    return request;
}

static inline void *blk_data(struct guest *guest, const struct blk_request *request)
{
    return guest_at(guest, request->data_gpa, request->length);
}

static inline uint8_t blk_status(struct guest *guest, const struct blk_request *request)
{
    return *(uint8_t *)guest_at(guest, request->status_gpa, 1);
}

static inline void blk_add(struct guest *guest, unsigned queue, uint32_t type,
                           struct blk_request *request)
{
    struct guest_buffer buffers[3] = {GUEST_OUT(request->header_gpa, BLK_HEADER_BYTES)};
    unsigned count = 1;
    if (request->length)
        buffers[count++] = blk_reads(type) ? GUEST_IN(request->data_gpa, request->length)
                                           : GUEST_OUT(request->data_gpa, request->length);
    buffers[count++] = GUEST_IN(request->status_gpa, 1);
    request->head = guest_add(&guest->rings[queue], buffers, count);
}

/* Kicks, waits, and returns the status byte. */
static inline uint8_t blk_finish(struct guest *guest, unsigned queue, struct blk_request *request)
{
    guest_kick(guest, queue);
    request->used = guest_wait_used(guest, queue);
    return blk_status(guest, request);
}

/* One whole request. `data` (length bytes) goes out, or comes in, or is NULL. */
static inline uint8_t blk_do(struct guest *guest, uint32_t type, uint64_t sector, void *data,
                             uint32_t length)
{
    struct blk_request request = blk_prepare(guest, type, sector, length);
    if (data && length && !blk_reads(type))
        memcpy(blk_data(guest, &request), data, length);
    blk_add(guest, 0, type, &request);
    uint8_t status = blk_finish(guest, 0, &request);
    if (data && length && blk_reads(type))
        memcpy(data, blk_data(guest, &request), length);
    return status;
}

static inline uint8_t blk_do_ranges(struct guest *guest, uint32_t type,
                                    const struct blk_range *ranges, unsigned count)
{
    uint8_t raw[32 * 16];
    for (unsigned i = 0; i < count; i++) {
        put_le64(raw + 16 * i, ranges[i].sector);
        put_le32(raw + 16 * i + 8, ranges[i].sectors);
        put_le32(raw + 16 * i + 12, ranges[i].flags);
    }
    return blk_do(guest, type, 0, raw, 16 * count);
}

#endif
