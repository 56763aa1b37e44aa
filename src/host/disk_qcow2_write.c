/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes: in place where the cluster is nobody else's, else to new clusters.
 *
 * Whole new clusters are written straight from the caller's vectors, as many at once as lie side by
 * side. A cluster that is covered in part is filled up, piece by piece, from what was there before:
 * through a lane, of which there are few. Where nothing was there, and nothing was ever written to
 * the new cluster, the rest of it reads as zero as it is.
 *
 * The mapping changes when the data have been written: only then does the old cluster lose its
 * reference, and the new one gain its. Until then a failure changes nothing.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <string.h>

/* ---- locks ---- */

struct qcow2_op *qcow2_lock_holder(struct qcow2 *image, uint64_t first, uint64_t count)
{
    struct qcow2_op *op = image->locks;
    while (op && !checked_overlap(op->first, op->clusters, first, count))
        op = op->next_lock;
    return op;
}

static void lock(struct qcow2_op *op)
{
    op->next_lock = op->image->locks;
    op->image->locks = op;
}

static void unlock(struct qcow2_op *op)
{
    struct qcow2_op **at = &op->image->locks;
    while (*at != op)
        at = &(*at)->next_lock;
    *at = op->next_lock;
    op->clusters = 0;
    qcow2_wake(op->image, &op->blocked);
}

void qcow2_park(struct qcow2_op *op, struct qcow2_op_list *waiting)
{
    op->result = 0;
    qcow2_list_push(waiting, op);
}

/* ---- room for a change ---- */

int qcow2_may_change(struct qcow2_op *op, const struct qcow2_slice *slice)
{
    struct qcow2 *image = op->image;
    const bool full = (!slice->dirty && image->dirty_slices >= QCOW2_DIRTY_MAX) ||
                      image->log.count >= QCOW2_LOG_FULL;
    if (image->writes_lost)
        return -EIO;
    if (!full)
        return 0;
    image->commit.wanted = true; /* after a failure too: perhaps there is room again */
    if (image->commit.failed < 0)
        return image->commit.failed;
    qcow2_park(op, &image->thaw_waiting);
    return QCOW2_PARKED;
}

/* ---- in place ---- */

static void grown_to(struct qcow2 *image, uint64_t end)
{
    image->file_bytes = MAX(image->file_bytes, end);
}

static void on_written_in_place(struct qcow2_op *op)
{
    qcow2_leave_epoch(op->image, op->epoch);
    if (op->result < 0) {
        qcow2_fail(op, op->result);
        return;
    }
    grown_to(op->image, op->aio.offset_bytes + op->aio.length_bytes);
    qcow2_advance(op);
}

static unsigned cluster_index(const struct qcow2_op *op)
{
    return qcow2_slice_index(op->image, op->offset_bytes >> op->image->cluster_bits);
}

static uint64_t in_cluster(const struct qcow2_op *op)
{
    return op->offset_bytes & (op->image->cluster_bytes - 1);
}

/* How many entries from the op's on look like `first` and lie side by side in the file. */
static unsigned run_like(const struct qcow2_op *op, const struct qcow2_slice *slice,
                         const struct qcow2_mapping *first, uint64_t want)
{
    const struct qcow2 *image = op->image;
    const unsigned index = cluster_index(op);
    const uint64_t most = MIN(want, (1ull << image->slice_bits) - index);
    unsigned count = 1;
    for (; count < most; count++) {
        struct qcow2_mapping next = qcow2_mapping_at(slice, index + count);
        if (next.kind != first->kind || next.copied != first->copied ||
            next.host != first->host + ((uint64_t)count << image->cluster_bits))
            break;
    }
    return count;
}

static uint64_t clusters_wanted(const struct qcow2_op *op)
{
    const uint64_t end = in_cluster(op) + op->length_bytes;
    return (end + op->image->cluster_bytes - 1) >> op->image->cluster_bits;
}

static void write_in_place(struct qcow2_op *op, const struct qcow2_slice *slice,
                           const struct qcow2_mapping *mapping)
{
    struct qcow2 *image = op->image;
    const unsigned count = run_like(op, slice, mapping, clusters_wanted(op));
    uint64_t bytes = ((uint64_t)count << image->cluster_bits) - in_cluster(op);
    if (!qcow2_is_data(image, mapping->host, count)) {
        qcow2_fail(op, qcow2_corrupt(image, "an L2 entry refers to metadata or to a free cluster",
                                     mapping->host));
        return;
    }
    bytes = MIN(bytes, op->length_bytes);
    qcow2_cut(op, op->iov ? bytes : MIN(bytes, QCOW2_PIECE_BYTES));
    qcow2_enter_epoch(image, &op->epoch);
    qcow2_transfer(op, AIO_WRITE, mapping->host + in_cluster(op), on_written_in_place);
}

/* ---- to new clusters: the end ---- */

static void leave(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    qcow2_leave_epoch(image, op->epoch);
    qcow2_slice_put(op->slice);
    unlock(op);
}

static void give_up(struct qcow2_op *op, int result)
{
    if (!op->reuse)
        qcow2_give_back(op->image, op->host >> op->image->cluster_bits, op->clusters);
    leave(op);
    qcow2_fail(op, result);
}

static void link_clusters(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    const unsigned index = qcow2_slice_index(image, op->first);
    for (unsigned i = 0; i < op->clusters; i++) {
        const struct qcow2_mapping old = qcow2_mapping_at(op->slice, index + i);
        const uint64_t host = op->host + ((uint64_t)i << image->cluster_bits);
        if (!op->reuse)
            qcow2_drop(image, &old);
        put_be64(&op->slice->entries[index + i], host | QCOW2_COPIED);
    }
    if (!op->reuse)
        qcow2_log_add(&image->log, op->host >> image->cluster_bits, op->clusters, 1, true);
    qcow2_slice_dirty(op->slice);
}

/* The data are in their place. */
static void finish_new(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    if (image->commit.frozen) {
        op->step = finish_new;
        qcow2_park(op, &image->thaw_waiting);
        return;
    }
    if (image->writes_lost) {
        give_up(op, -EIO);
        return;
    }
    link_clusters(op);
    leave(op);
    qcow2_advance(op);
}

static void on_new_written(struct qcow2_op *op)
{
    if (op->result < 0) {
        give_up(op, op->result);
        return;
    }
    grown_to(op->image, op->aio.offset_bytes + op->aio.length_bytes);
    finish_new(op);
}

/* ---- to new clusters: one that is covered in part ---- */

static void fill_up(struct qcow2_op *op);

static size_t piece_bytes(const struct qcow2 *image)
{
    return MIN(QCOW2_PIECE_BYTES, image->cluster_bytes);
}

static void leave_lane(struct qcow2_op *op)
{
    op->lane->owner = NULL;
    op->lane = NULL;
    qcow2_wake(op->image, &op->image->lanes_waiting);
}

static void on_piece_written(struct qcow2_op *op)
{
    struct qcow2_lane *lane = op->lane;
    if (op->result == 0)
        grown_to(op->image, op->host + lane->at + piece_bytes(op->image));
    lane->at += (uint32_t)piece_bytes(op->image);
    if (op->result == 0 && lane->at < op->image->cluster_bytes) {
        fill_up(op);
        return;
    }
    leave_lane(op);
    if (op->result < 0)
        give_up(op, op->result);
    else
        finish_new(op);
}

/* The part of the lane's piece that the request covers. */
static void covered_part(const struct qcow2_op *op, uint64_t *from, uint64_t *to)
{
    const uint64_t start = in_cluster(op), piece = op->lane->at;
    *from = MAX(start, piece) - piece;
    *to = MIN(start + op->segment_bytes, piece + piece_bytes(op->image));
    *to = *to > piece ? *to - piece : 0;
}

static void write_piece(struct qcow2_op *op)
{
    struct qcow2_lane *lane = op->lane;
    uint64_t from, to;
    covered_part(op, &from, &to);
    if (from < to && op->iov)
        qcow2_copy(op->segment_iov, lane->at + from - in_cluster(op), lane->buffer + from,
                   to - from, true);
    else if (from < to)
        memset(lane->buffer + from, 0, to - from);
    op->step = on_piece_written;
    lane->iov = (struct iovec){lane->buffer, piece_bytes(op->image)};
    op->aio = (struct aio_request){
        .op = AIO_WRITE,
        .fd = op->image->file.fd,
        .offset_bytes = op->host + lane->at,
        .length_bytes = piece_bytes(op->image),
        .iov = &lane->iov,
        .iov_count = 1,
        .done = qcow2_on_transferred,
    };
    aio_submit(op->image->aio, &op->aio);
}

static void on_old_read(struct qcow2_op *read, int result)
{
    struct qcow2_lane *lane = container_of(read, struct qcow2_lane, read);
    struct qcow2_op *op = lane->owner;
    if (result == 0) {
        write_piece(op);
        return;
    }
    leave_lane(op);
    give_up(op, result);
}

static void read_old(struct qcow2_op *op, uint64_t guest_offset, uint64_t bytes)
{
    struct qcow2_lane *lane = op->lane;
    lane->iov = (struct iovec){lane->buffer, bytes};
    lane->read = (struct qcow2_op){
        .image = op->image,
        .done = on_old_read,
        .step = qcow2_read_step,
        .op = DISK_READ,
        .offset_bytes = guest_offset,
        .length_bytes = bytes,
        .iov = &lane->iov,
        .iov_count = 1,
    };
    qcow2_ready(&lane->read);
}

/* The lane's next piece. The disk may end inside of its last cluster. */
static void fill_up(struct qcow2_op *op)
{
    const struct qcow2 *image = op->image;
    struct qcow2_lane *lane = op->lane;
    const uint64_t guest_offset = (op->first << image->cluster_bits) + lane->at;
    const uint64_t size = image->disk.size_bytes;
    uint64_t from, to;
    covered_part(op, &from, &to);
    if (from == 0 && to == piece_bytes(image)) {
        write_piece(op);
        return;
    }
    memset(lane->buffer, 0, piece_bytes(image));
    if (op->old_zero || guest_offset >= size)
        write_piece(op);
    else
        read_old(op, guest_offset, MIN(piece_bytes(image), size - guest_offset));
}

static void take_lane(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    for (unsigned i = 0; i < QCOW2_LANES; i++) {
        struct qcow2_lane *lane = &image->lanes[i];
        if (lane->owner)
            continue;
        lane->owner = op;
        lane->at = 0;
        op->lane = lane;
        qcow2_cut(op, MIN(op->length_bytes, image->cluster_bytes - in_cluster(op)));
        fill_up(op);
        return;
    }
    op->step = take_lane;
    qcow2_park(op, &image->lanes_waiting);
}

/* ---- to new clusters: the beginning ---- */

static bool reads_as_zero(const struct qcow2_op *op, const struct qcow2_mapping *mapping)
{
    if (mapping->kind == QCOW2_KIND_ABSENT)
        return !qcow2_is_backed(op->image,
                                op->offset_bytes & ~(uint64_t)(op->image->cluster_bytes - 1));
    return mapping->kind == QCOW2_KIND_ZERO || mapping->kind == QCOW2_KIND_ZERO_STORED;
}

static bool has_its_place(const struct qcow2_mapping *mapping)
{
    return mapping->copied &&
           (mapping->kind == QCOW2_KIND_DATA || mapping->kind == QCOW2_KIND_ZERO_STORED);
}

/* How many entries from the op's on need a new place. */
static unsigned run_placeless(const struct qcow2_op *op, const struct qcow2_slice *slice,
                              uint64_t want)
{
    const unsigned index = cluster_index(op);
    const uint64_t most = MIN(want, (1ull << op->image->slice_bits) - index);
    unsigned count = 1;
    for (; count < most; count++) {
        struct qcow2_mapping next = qcow2_mapping_at(slice, index + count);
        if (has_its_place(&next) || next.kind == QCOW2_KIND_BROKEN)
            break;
    }
    return count;
}

/* A place for `count` clusters or fewer. 0, or a negative errno. */
static int find_place(struct qcow2_op *op, const struct qcow2_mapping *mapping, unsigned count)
{
    struct qcow2 *image = op->image;
    op->reuse = has_its_place(mapping);
    op->host = mapping->host;
    if (op->reuse && !qcow2_is_data(image, op->host, count))
        return qcow2_corrupt(image, "an L2 entry refers to metadata or to a free cluster",
                             mapping->host);
    const uint64_t touched_bytes = image->touched_bytes;
    if (!op->reuse)
        op->host = qcow2_alloc_data(image, &count);
    op->pristine = !op->reuse && op->host >= touched_bytes;
    op->clusters = count;
    return op->host ? 0 : -ENOSPC;
}

static void start_new(struct qcow2_op *op, bool partial)
{
    struct qcow2 *image = op->image;
    const uint64_t room = (uint64_t)op->clusters << image->cluster_bits;
    qcow2_enter_epoch(image, &op->epoch);
    lock(op);
    if (partial && !(op->iov && op->old_zero && op->pristine)) {
        take_lane(op);
        return;
    }
    qcow2_cut(op, MIN(op->length_bytes, room - in_cluster(op)));
    qcow2_transfer(op, AIO_WRITE, op->host + in_cluster(op), on_new_written);
}

/* `slice` is pinned; whoever ends here must have given it back, or to the op. */
static void write_new(struct qcow2_op *op, struct qcow2_slice *slice,
                      const struct qcow2_mapping *mapping)
{
    struct qcow2 *image = op->image;
    const bool partial = in_cluster(op) || op->length_bytes < image->cluster_bytes || !op->iov;
    const uint64_t want = partial ? 1 : op->length_bytes >> image->cluster_bits;
    const uint64_t first = op->offset_bytes >> image->cluster_bits;
    unsigned count = has_its_place(mapping) ? run_like(op, slice, mapping, want)
                                            : run_placeless(op, slice, want);
    while (count > 1 && qcow2_lock_holder(image, first, count))
        count--;
    struct qcow2_op *holder = qcow2_lock_holder(image, first, count);
    int ret = holder ? QCOW2_PARKED : qcow2_may_change(op, slice);
    if (holder)
        qcow2_park(op, &holder->blocked);
    if (ret == 0)
        ret = find_place(op, mapping, count);
    if (ret != 0) {
        op->clusters = 0;
        qcow2_slice_put(slice);
        if (ret < 0)
            qcow2_fail(op, ret);
        return;
    }
    op->first = first;
    op->slice = slice;
    op->old_zero = reads_as_zero(op, mapping);
    start_new(op, partial);
}

void qcow2_write_step(struct qcow2_op *op)
{
    struct qcow2_slice *slice;
    int ret = qcow2_slice_get(op, true, &slice);
    if (ret == QCOW2_PARKED)
        return;
    if (ret < 0) {
        qcow2_fail(op, ret);
        return;
    }
    const struct qcow2_mapping mapping = qcow2_mapping_at(slice, cluster_index(op));
    if (mapping.kind == QCOW2_KIND_DATA && mapping.copied) {
        write_in_place(op, slice, &mapping);
        qcow2_slice_put(slice);
    } else if (mapping.kind == QCOW2_KIND_BROKEN) {
        qcow2_slice_put(slice);
        qcow2_fail(op, qcow2_corrupt(op->image, "an L2 entry is nonsense", op->offset_bytes));
    } else {
        write_new(op, slice, &mapping);
    }
}
