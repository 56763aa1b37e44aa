/* SPDX-License-Identifier: Apache-2.0 */
/* Reads: from the file, from the backing disk, out of a compressed cluster, or of nothing. */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <string.h>

bool qcow2_is_backed(const struct qcow2 *image, uint64_t guest_offset)
{
    return image->backing && guest_offset < image->backing_bytes;
}

static void read_zeroes(struct qcow2_op *op, uint64_t bytes)
{
    qcow2_cut(op, bytes);
    for (unsigned i = 0; i < op->segment_iov_count; i++)
        memset(op->segment_iov[i].iov_base, 0, op->segment_iov[i].iov_len);
    qcow2_advance(op);
}

/* ---- from the backing disk ---- */

static void on_backing_read(struct qcow2_op *op)
{
    if (op->result < 0)
        qcow2_fail(op, op->result);
    else
        qcow2_advance(op);
}

static void on_child_done(struct disk_request *request, int result)
{
    struct qcow2_op *op = container_of(request, struct qcow2_op, child);
    op->result = result;
    op->step = on_backing_read;
    qcow2_ready(op);
}

static void read_backing(struct qcow2_op *op, uint64_t bytes)
{
    struct qcow2 *image = op->image;
    if (!qcow2_is_backed(image, op->offset_bytes)) {
        read_zeroes(op, bytes);
        return;
    }
    qcow2_cut(op, MIN(bytes, image->backing_bytes - op->offset_bytes));
    op->child = (struct disk_request){
        .op = DISK_READ,
        .offset_bytes = op->offset_bytes,
        .length_bytes = op->segment_bytes,
        .iov = op->segment_iov,
        .iov_count = op->segment_iov_count,
        .done = on_child_done,
    };
    disk_submit(image->backing, &op->child);
}

/* ---- from the file ---- */

static void on_data_read(struct qcow2_op *op)
{
    qcow2_leave_epoch(op->image, op->epoch);
    if (op->result < 0)
        qcow2_fail(op, op->result);
    else
        qcow2_advance(op);
}

/* The last cluster of a file need not be there to its end. */
static void read_data(struct qcow2_op *op, uint64_t host, uint64_t bytes)
{
    struct qcow2 *image = op->image;
    const uint64_t in_cluster = op->offset_bytes & (image->cluster_bytes - 1);
    const uint64_t from = host + in_cluster;
    if (from >= image->file_bytes) {
        read_zeroes(op, MIN(bytes, image->cluster_bytes - in_cluster));
        return;
    }
    qcow2_cut(op, MIN(bytes, image->file_bytes - from));
    qcow2_enter_epoch(image, &op->epoch);
    qcow2_transfer(op, AIO_READ, from, on_data_read);
}

/* ---- the segment ---- */

static bool continues(const struct qcow2_mapping *first, const struct qcow2_mapping *next,
                      uint64_t distance)
{
    return next->kind == first->kind &&
           (first->kind != QCOW2_KIND_DATA || next->host == first->host + distance);
}

/* How many clusters from `index` on are of one kind, as far as `want` goes. */
static uint64_t run_clusters(const struct qcow2_slice *slice, unsigned index,
                             const struct qcow2_mapping *first, uint64_t want)
{
    const struct qcow2 *image = slice->image;
    const uint64_t most = MIN(want, (1ull << image->slice_bits) - index);
    uint64_t count = 1;
    for (; count < most; count++) {
        struct qcow2_mapping next = qcow2_mapping_at(slice, index + (unsigned)count);
        if (!continues(first, &next, count << image->cluster_bits))
            break;
    }
    return count;
}

static void read_mapped(struct qcow2_op *op, const struct qcow2_mapping *mapping, uint64_t entry,
                        uint64_t bytes)
{
    switch (mapping->kind) {
    case QCOW2_KIND_ABSENT:
        read_backing(op, bytes);
        break;
    case QCOW2_KIND_ZERO:
    case QCOW2_KIND_ZERO_STORED:
        read_zeroes(op, bytes);
        break;
    case QCOW2_KIND_DATA:
        read_data(op, mapping->host, bytes);
        break;
    case QCOW2_KIND_PACKED:
        qcow2_packed_read(op, entry);
        break;
    case QCOW2_KIND_BROKEN:
        qcow2_fail(op, qcow2_corrupt(op->image, "an L2 entry is nonsense", op->offset_bytes));
        break;
    }
}

void qcow2_read_step(struct qcow2_op *op)
{
    const struct qcow2 *image = op->image;
    const uint64_t in_cluster = op->offset_bytes & (image->cluster_bytes - 1);
    const unsigned index = qcow2_slice_index(image, op->offset_bytes >> image->cluster_bits);
    struct qcow2_mapping mapping = {.kind = QCOW2_KIND_ABSENT};
    struct qcow2_slice *slice;
    uint64_t entry = 0, clusters = (1ull << image->slice_bits) - index;

    int ret = qcow2_slice_get(op, false, &slice);
    if (ret == QCOW2_PARKED)
        return;
    if (ret < 0) {
        qcow2_fail(op, ret);
        return;
    }
    if (slice) {
        const uint64_t want =
            (in_cluster + op->length_bytes + image->cluster_bytes - 1) >> image->cluster_bits;
        mapping = qcow2_mapping_at(slice, index);
        entry = get_be64(&slice->entries[index]);
        clusters = run_clusters(slice, index, &mapping, want);
        qcow2_slice_put(slice);
    }
    read_mapped(op, &mapping, entry,
                MIN(op->length_bytes, (clusters << image->cluster_bits) - in_cluster));
}
