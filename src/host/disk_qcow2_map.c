/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mapping of guest clusters ("Cluster mapping" in the specification): what an L2 entry says, and
 * a cache of L2 tables in slices of up to 4 KiB.
 *
 * A dirty slice is what only memory knows. It stays until a commit has written it; so at most half
 * of the cache may be dirty, and whoever wants more waits for a commit. A slice without a table in
 * the file is made here and gets one with the commit. The clock algorithm chooses what goes.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- entries ---- */

static struct qcow2_mapping decode_packed(const struct qcow2 *image, uint64_t entry)
{
    const unsigned shift = 62 - (image->cluster_bits - 8);
    const uint64_t host = entry & ((1ull << shift) - 1);
    const uint64_t sectors = ((entry & (QCOW2_PACKED - 1)) >> shift) + 1;
    return (struct qcow2_mapping){
        .kind = host && host < image->file_bytes ? QCOW2_KIND_PACKED : QCOW2_KIND_BROKEN,
        .host = host,
        .packed_bytes = sectors * DISK_SECTOR_BYTES - host % DISK_SECTOR_BYTES,
    };
}

struct qcow2_mapping qcow2_decode(const struct qcow2 *image, uint64_t entry)
{
    if (entry & QCOW2_PACKED)
        return decode_packed(image, entry);
    struct qcow2_mapping mapping = {
        .copied = entry & QCOW2_COPIED,
        .host = entry & QCOW2_OFFSET_MASK,
    };
    if (!is_aligned(mapping.host, image->cluster_bytes) ||
        (mapping.host && mapping.host >= image->file_bytes) ||
        (entry & QCOW2_ZERO && image->version < 3))
        mapping.kind = QCOW2_KIND_BROKEN;
    else if (entry & QCOW2_ZERO)
        mapping.kind = mapping.host ? QCOW2_KIND_ZERO_STORED : QCOW2_KIND_ZERO;
    else
        mapping.kind = mapping.host ? QCOW2_KIND_DATA : QCOW2_KIND_ABSENT;
    return mapping;
}

struct qcow2_mapping qcow2_mapping_at(const struct qcow2_slice *slice, unsigned index)
{
    return qcow2_decode(slice->image, get_be64(&slice->entries[index]));
}

unsigned qcow2_slice_index(const struct qcow2 *image, uint64_t guest_cluster)
{
    return (unsigned)(guest_cluster & ((1ull << image->slice_bits) - 1));
}

/* ---- finding ---- */

static struct qcow2_slice **bucket_of(struct qcow2 *image, uint64_t number)
{
    return &image->buckets[number % QCOW2_SLICES];
}

struct qcow2_slice *qcow2_slice_find(struct qcow2 *image, uint64_t number)
{
    struct qcow2_slice *slice = *bucket_of(image, number);
    while (slice && slice->number != number)
        slice = slice->next_in_bucket;
    return slice;
}

static void enter(struct qcow2_slice *slice, uint64_t number)
{
    struct qcow2_slice **bucket = bucket_of(slice->image, number);
    slice->number = number;
    slice->next_in_bucket = *bucket;
    *bucket = slice;
}

static void forget(struct qcow2_slice *slice)
{
    struct qcow2_slice **at = bucket_of(slice->image, slice->number);
    while (*at != slice)
        at = &(*at)->next_in_bucket;
    *at = slice->next_in_bucket;
    slice->state = QCOW2_SLICE_FREE;
}

/* Twice round at most: the first time takes `used` away. */
static struct qcow2_slice *choose(struct qcow2 *image)
{
    for (unsigned i = 0; i < 2 * QCOW2_SLICES; i++) {
        struct qcow2_slice *slice = &image->slices[image->hand++ % QCOW2_SLICES];
        if (slice->state == QCOW2_SLICE_FREE)
            return slice;
        if (slice->state == QCOW2_SLICE_LOADING || slice->pins || slice->dirty)
            continue;
        if (!slice->used) {
            forget(slice);
            return slice;
        }
        slice->used = false;
    }
    return NULL;
}

/* ---- loading ---- */

static size_t slice_bytes(const struct qcow2 *image)
{
    return sizeof(uint64_t) << image->slice_bits;
}

static void on_loaded(struct aio_request *aio, int result)
{
    struct qcow2_slice *slice = container_of(aio, struct qcow2_slice, aio);
    struct qcow2 *image = slice->image;
    struct qcow2_op *op;
    qcow2_leave_epoch(image, slice->epoch);
    slice->state = QCOW2_SLICE_READY;
    if (result < 0)
        forget(slice);
    while ((op = qcow2_list_pop(&slice->waiting))) {
        op->result = result;
        qcow2_ready(op);
    }
    qcow2_wake(image, &image->cache_waiting);
}

static void load(struct qcow2_slice *slice, uint64_t file_offset)
{
    struct qcow2 *image = slice->image;
    slice->state = QCOW2_SLICE_LOADING;
    slice->iov = (struct iovec){slice->entries, slice_bytes(image)};
    slice->aio = (struct aio_request){
        .op = AIO_READ,
        .fd = image->file.fd,
        .offset_bytes = file_offset,
        .length_bytes = slice_bytes(image),
        .iov = &slice->iov,
        .iov_count = 1,
        .done = on_loaded,
    };
    qcow2_enter_epoch(image, &slice->epoch);
    aio_submit(image->aio, &slice->aio);
}

/* Where in the file the slice lies; 0: its table is absent. */
static int locate(struct qcow2 *image, uint64_t number, uint64_t *file_offset)
{
    const unsigned table_bits = image->cluster_bits - 3 - image->slice_bits;
    const uint64_t index = number >> table_bits;
    const uint64_t table = index < image->l1_entries ? image->l1[index] & QCOW2_OFFSET_MASK : 0;
    const uint64_t in_table = (number & ((1ull << table_bits) - 1)) * slice_bytes(image);
    *file_offset = table ? table + in_table : 0;
    if (!table)
        return 0;
    if (!is_aligned(table, image->cluster_bytes) ||
        !checked_inside(*file_offset, slice_bytes(image), image->file_bytes))
        return qcow2_corrupt(image, "an L2 table lies nowhere", table);
    return 0;
}

/* Into the cache, as a load or as nothing but absent clusters. */
static struct qcow2_slice *bring(struct qcow2 *image, uint64_t number, uint64_t file_offset)
{
    struct qcow2_slice *slice = choose(image);
    if (!slice)
        return NULL;
    enter(slice, number);
    if (file_offset) {
        load(slice, file_offset);
    } else {
        slice->state = QCOW2_SLICE_READY;
        memset(slice->entries, 0, slice_bytes(image));
    }
    return slice;
}

int qcow2_slice_get(struct qcow2_op *op, bool make, struct qcow2_slice **out)
{
    struct qcow2 *image = op->image;
    const uint64_t number = op->offset_bytes >> (image->cluster_bits + image->slice_bits);
    struct qcow2_slice *slice = qcow2_slice_find(image, number);
    uint64_t file_offset = 0;
    *out = NULL;
    if (op->result < 0)
        return op->result; /* the load that it waited for has failed */
    int ret = slice ? 0 : locate(image, number, &file_offset);
    if (ret < 0 || (!slice && !file_offset && !make))
        return ret;
    if (!slice)
        slice = bring(image, number, file_offset);
    if (!slice || slice->state == QCOW2_SLICE_LOADING) {
        qcow2_list_push(slice ? &slice->waiting : &image->cache_waiting, op);
        return QCOW2_PARKED;
    }
    slice->used = true;
    slice->pins++;
    *out = slice;
    return 0;
}

void qcow2_slice_put(struct qcow2_slice *slice)
{
    if (--slice->pins == 0)
        qcow2_wake(slice->image, &slice->image->cache_waiting);
}

void qcow2_slice_dirty(struct qcow2_slice *slice)
{
    if (slice->dirty)
        return;
    slice->dirty = true;
    slice->image->dirty_slices++;
    qcow2_commit_later(slice->image);
}

/* ---- life ---- */

int qcow2_cache_create(struct qcow2 *image)
{
    image->slice_bits = MIN(image->cluster_bits, QCOW2_SLICE_BITS) - 3;
    const size_t bytes = slice_bytes(image);
    void *memory = mmap(NULL, bytes * QCOW2_SLICES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    image->slice_memory = memory == MAP_FAILED ? NULL : memory;
    image->slices = calloc(QCOW2_SLICES, sizeof(*image->slices));
    if (!image->slice_memory || !image->slices)
        return -ENOMEM;
    for (unsigned i = 0; i < QCOW2_SLICES; i++) {
        image->slices[i].image = image;
        image->slices[i].entries = (uint64_t *)(void *)(image->slice_memory + i * bytes);
    }
    return 0;
}

void qcow2_cache_destroy(struct qcow2 *image)
{
    if (image->slice_memory)
        munmap(image->slice_memory, slice_bytes(image) * QCOW2_SLICES);
    free(image->slices);
}
