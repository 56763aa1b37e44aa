/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clusters of the file: which are free, and the log of what has to change in the refcounts.
 *
 * A bit says that a cluster is not to be had: its refcount is not 0, or it is promised to a write
 * that is under way, or it was freed and its commit has not ended. The log says what the refcounts
 * of the next commit are to be; an entry is made in the same moment as the mapping changes, so that
 * both are in the same commit.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define WORD_BITS    64u
#define LIMIT_FIRST  (1ull << 20) /* clusters; the room is mapped, not touched */
#define HOST_OFFSETS (1ull << 56)

/* ---- bits ---- */

bool qcow2_bit(const struct qcow2_bits *bits, uint64_t n)
{
    return n < bits->limit && bits->words[n / WORD_BITS] >> n % WORD_BITS & 1;
}

void qcow2_bits_set(struct qcow2_bits *bits, uint64_t first, uint64_t count, bool value)
{
    for (uint64_t n = first; n < first + count && n < bits->limit; n++) {
        const uint64_t bit = 1ull << n % WORD_BITS;
        if (value)
            bits->words[n / WORD_BITS] |= bit;
        else
            bits->words[n / WORD_BITS] &= ~bit;
    }
}

static bool grow(struct qcow2_bits *bits, uint64_t limit)
{
    void *words;
    if (bits->words)
        words = mremap(bits->words, bits->limit / 8, limit / 8, MREMAP_MAYMOVE);
    else
        words = mmap(NULL, limit / 8, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (words == MAP_FAILED)
        return false;
    bits->words = words;
    bits->limit = limit;
    return true;
}

bool qcow2_bits_reach(struct qcow2 *image, uint64_t cluster)
{
    uint64_t limit = MAX(image->used.limit, LIMIT_FIRST);
    while (limit <= cluster)
        limit *= 2;
    return (limit == image->used.limit || grow(&image->used, limit)) &&
           (limit == image->meta.limit || grow(&image->meta, limit));
}

/* The first free one from `from` on. */
static uint64_t next_free(const struct qcow2_bits *bits, uint64_t from)
{
    while (from < bits->limit) {
        const uint64_t taken = bits->words[from / WORD_BITS] >> from % WORD_BITS;
        if (~taken & (UINT64_MAX >> from % WORD_BITS))
            return from + (uint64_t)__builtin_ctzll(~taken);
        from = (from / WORD_BITS + 1) * WORD_BITS;
    }
    return from;
}

static unsigned free_run(const struct qcow2_bits *bits, uint64_t first, unsigned most)
{
    unsigned count = 0;
    while (count < most && !qcow2_bit(bits, first + count))
        count++;
    return count;
}

/* ---- allocation ---- */

static bool take(struct qcow2 *image, uint64_t first, unsigned count, bool meta)
{
    if (!checked_inside(first, count, image->clusters_max) ||
        !qcow2_bits_reach(image, first + count))
        return false;
    qcow2_bits_set(&image->used, first, count, true);
    qcow2_bits_set(&image->meta, first, count, meta);
    image->touched_bytes = MAX(image->touched_bytes, (first + count) << image->cluster_bits);
    return true;
}

/* Behind the latest data if possible, so that what is written one after the other lies so. */
uint64_t qcow2_alloc_data(struct qcow2 *image, unsigned *count)
{
    uint64_t first = image->data_cursor;
    image->free_hint = next_free(&image->used, image->free_hint);
    if (first < image->free_hint || qcow2_bit(&image->used, first))
        first = image->free_hint;
    if (first >= image->clusters_max)
        first = image->free_hint;
    if (first >= image->clusters_max)
        return 0;
    *count = (unsigned)MIN(*count, image->clusters_max - first);
    *count = free_run(&image->used, first, *count);
    if (!take(image, first, *count, false))
        return 0;
    image->data_cursor = first + *count;
    return first << image->cluster_bits;
}

uint64_t qcow2_alloc_meta(struct qcow2 *image, unsigned count)
{
    image->free_hint = next_free(&image->used, image->free_hint);
    uint64_t first = image->free_hint;
    unsigned found;
    while ((found = free_run(&image->used, first, count)) < count)
        first = next_free(&image->used, first + found);
    return take(image, first, count, true) ? first << image->cluster_bits : 0;
}

void qcow2_give_back(struct qcow2 *image, uint64_t first, uint64_t count)
{
    qcow2_bits_set(&image->used, first, count, false);
    qcow2_bits_set(&image->meta, first, count, false);
    image->free_hint = MIN(image->free_hint, first);
}

bool qcow2_is_data(const struct qcow2 *image, uint64_t host, uint64_t count)
{
    const uint64_t first = host >> image->cluster_bits;
    for (uint64_t i = 0; i < count; i++)
        if (!qcow2_bit(&image->used, first + i) || qcow2_bit(&image->meta, first + i))
            return false;
    return true;
}

/* ---- the log ---- */

/* Beyond the end of the log clusters would leak; callers stop long before (qcow2_may_change()). */
void qcow2_log_add(struct qcow2_log *log, uint64_t first, uint32_t count, int delta, bool data)
{
    struct qcow2_run *last = log->count ? &log->runs[log->count - 1] : NULL;
    if (last && last->delta == delta && last->data == data && last->first + last->count == first &&
        last->count + count >= count) {
        last->count += count;
        return;
    }
    if (log->count < QCOW2_LOG_MAX)
        log->runs[log->count++] = (struct qcow2_run){first, count, (int8_t)delta, data};
}

void qcow2_drop(struct qcow2 *image, const struct qcow2_mapping *mapping)
{
    uint64_t length = image->cluster_bytes;
    if (mapping->kind == QCOW2_KIND_PACKED)
        length = mapping->packed_bytes;
    else if (mapping->kind != QCOW2_KIND_DATA && mapping->kind != QCOW2_KIND_ZERO_STORED)
        return;
    const uint64_t first = mapping->host >> image->cluster_bits;
    const uint64_t last = (mapping->host + length - 1) >> image->cluster_bits;
    if (qcow2_is_data(image, mapping->host, last - first + 1))
        qcow2_log_add(&image->log, first, (uint32_t)(last - first + 1), -1, true);
    else
        qcow2_corrupt(image, "a cluster in use counts as free or as metadata", mapping->host);
}

/* ---- life ---- */

int qcow2_alloc_create(struct qcow2 *image)
{
    struct qcow2_log *logs[] = {&image->log, &image->commit.freed};
    for (size_t i = 0; i < ARRAY_SIZE(logs); i++) {
        void *runs = mmap(NULL, QCOW2_LOG_MAX * sizeof(struct qcow2_run), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (runs == MAP_FAILED)
            return -ENOMEM;
        logs[i]->runs = runs;
    }
    image->clusters_max = HOST_OFFSETS >> image->cluster_bits;
    if (image->file.block_device)
        image->clusters_max = image->file.size_bytes >> image->cluster_bits;
    return qcow2_bits_reach(image, image->file_bytes >> image->cluster_bits) ? 0 : -ENOMEM;
}

void qcow2_alloc_destroy(struct qcow2 *image)
{
    struct qcow2_log *logs[] = {&image->log, &image->commit.freed};
    struct qcow2_bits *bits[] = {&image->used, &image->meta};
    for (size_t i = 0; i < ARRAY_SIZE(logs); i++)
        if (logs[i]->runs)
            munmap(logs[i]->runs, QCOW2_LOG_MAX * sizeof(struct qcow2_run));
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        if (bits[i]->words)
            munmap(bits[i]->words, bits[i]->limit / 8);
}
