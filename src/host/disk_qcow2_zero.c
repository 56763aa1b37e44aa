/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Discard and zeroes. Whole clusters change their mapping and nothing else; the parts of clusters at
 * the ends of a range are written as zeroes, or in the case of a discard left alone.
 *
 * What a cluster becomes:
 *
 *                         nothing behind it       a backing file behind it
 *     discard             absent                  zero (version 2: is left alone)
 *     zeroes, unmap       absent                  zero (version 2: is written)
 *     zeroes, keep        zero, with its place    zero, with its place if it has one of its own
 *                         (version 2: absent)     (version 2: is written)
 *
 * Version 2 has no way to say zero.
 */
#include "host/disk_qcow2.h"

#include <errno.h>

static uint64_t in_cluster(const struct qcow2_op *op)
{
    return op->offset_bytes & (op->image->cluster_bytes - 1);
}

static void skip(struct qcow2_op *op, uint64_t bytes)
{
    op->segment_bytes = bytes;
    qcow2_advance(op);
}

static bool already_zero(const struct qcow2_op *op, const struct qcow2_mapping *mapping,
                         uint64_t guest_offset)
{
    return mapping->kind == QCOW2_KIND_ZERO || mapping->kind == QCOW2_KIND_ZERO_STORED ||
           (mapping->kind == QCOW2_KIND_ABSENT && !qcow2_is_backed(op->image, guest_offset));
}

/* What the entry becomes. */
static uint64_t cleared(const struct qcow2_op *op, const struct qcow2_mapping *old, uint64_t entry,
                        uint64_t guest_offset)
{
    const struct qcow2 *image = op->image;
    const bool backed = qcow2_is_backed(image, guest_offset);
    if (op->op == DISK_DISCARD) {
        if (old->kind == QCOW2_KIND_ABSENT || (backed && image->version < 3))
            return entry;
        return backed ? QCOW2_ZERO : 0;
    }
    if (op->op == DISK_WRITE_ZEROES && image->version >= 3) {
        if (already_zero(op, old, guest_offset))
            return entry;
        if (old->kind == QCOW2_KIND_DATA && old->copied)
            return entry | QCOW2_ZERO;
    }
    return backed ? QCOW2_ZERO : 0;
}

static void clear_entry(struct qcow2_op *op, struct qcow2_slice *slice, unsigned index,
                        uint64_t guest_offset)
{
    const uint64_t entry = get_be64(&slice->entries[index]);
    const struct qcow2_mapping old = qcow2_decode(op->image, entry);
    const uint64_t new_entry = cleared(op, &old, entry, guest_offset);
    if (new_entry == entry)
        return;
    const bool keeps_place = new_entry == (entry | QCOW2_ZERO) && old.kind == QCOW2_KIND_DATA;
    if (!keeps_place)
        qcow2_drop(op->image, &old);
    put_be64(&slice->entries[index], new_entry);
    qcow2_slice_dirty(slice);
}

/* Whole clusters of one slice. */
static void clear_clusters(struct qcow2_op *op, struct qcow2_slice *slice, uint64_t count)
{
    struct qcow2 *image = op->image;
    const uint64_t first = op->offset_bytes >> image->cluster_bits;
    struct qcow2_op *holder = qcow2_lock_holder(image, first, count);
    if (holder || image->commit.frozen) {
        qcow2_park(op, holder ? &holder->blocked : &image->thaw_waiting);
        return;
    }
    int ret = qcow2_may_change(op, slice);
    if (ret < 0)
        qcow2_fail(op, ret);
    if (ret != 0)
        return;
    const unsigned index = qcow2_slice_index(image, first);
    for (unsigned i = 0; i < count; i++)
        clear_entry(op, slice, index + i, (first + i) << image->cluster_bits);
    skip(op, MIN(op->length_bytes, count << image->cluster_bits));
}

/* Clusters that the range covers, the disk's last one with what there is of it. */
static uint64_t whole_clusters(const struct qcow2_op *op)
{
    const struct qcow2 *image = op->image;
    const uint64_t end = op->offset_bytes + op->length_bytes;
    const bool to_the_end = end == image->disk.size_bytes;
    const uint64_t last = to_the_end ? end + image->cluster_bytes - 1 : end;
    const uint64_t first = op->offset_bytes >> image->cluster_bits;
    const uint64_t count = (last >> image->cluster_bits) - first;
    return MIN(count, (1ull << image->slice_bits) - qcow2_slice_index(image, first));
}

static void clear_segment(struct qcow2_op *op, struct qcow2_slice *slice)
{
    const struct qcow2 *image = op->image;
    const uint64_t rest_of_cluster = MIN(op->length_bytes, image->cluster_bytes - in_cluster(op));
    const uint64_t count = in_cluster(op) ? 0 : whole_clusters(op);
    const uint64_t cluster_start = op->offset_bytes - in_cluster(op);
    const struct qcow2_mapping mapping =
        qcow2_mapping_at(slice, qcow2_slice_index(image, cluster_start >> image->cluster_bits));
    const bool must_write = image->version < 3 && qcow2_is_backed(image, cluster_start);
    if (count && !(must_write && op->op != DISK_DISCARD))
        clear_clusters(op, slice, count);
    else if (op->op == DISK_DISCARD || already_zero(op, &mapping, cluster_start))
        skip(op, rest_of_cluster);
    else
        qcow2_write_step(op); /* of zeroes, as it has no vectors */
}

/* A table that is absent needs a slice only where there is something to hide. */
static void clear_absent(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    const unsigned slice_shift = image->cluster_bits + image->slice_bits;
    const uint64_t end_of_slice = ((op->offset_bytes >> slice_shift) + 1) << slice_shift;
    skip(op, MIN(op->length_bytes, end_of_slice - op->offset_bytes));
}

void qcow2_zero_step(struct qcow2_op *op)
{
    const bool hides = op->op != DISK_DISCARD && qcow2_is_backed(op->image, op->offset_bytes);
    struct qcow2_slice *slice;
    int ret = qcow2_slice_get(op, hides, &slice);
    if (ret == QCOW2_PARKED)
        return;
    if (ret < 0) {
        qcow2_fail(op, ret);
    } else if (!slice) {
        clear_absent(op);
    } else {
        clear_segment(op, slice);
        qcow2_slice_put(slice);
    }
}
