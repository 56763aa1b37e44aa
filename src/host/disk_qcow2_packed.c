/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressed clusters ("Compressed Clusters Descriptor"): read only; a write replaces them by plain
 * ones. One is unpacked at a time, and the latest is kept, so that reading on does not unpack it
 * again. Unpacking runs on the loop: some 0.2 ms for 64 KiB.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

/* ---- unpacking ---- */

/* The input may go on behind the end of the stream: it is counted in sectors. */
static bool inflate_cluster(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
    z_stream stream = {
        .next_in = (Bytef *)(uintptr_t)in,
        .avail_in = (uInt)in_bytes,
        .next_out = out,
        .avail_out = (uInt)out_bytes,
    };
    if (inflateInit2(&stream, -12) != Z_OK) /* raw, with a window of 4 KiB */
        return false;
    int ret = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && stream.avail_out == 0;
}

/* Frame by frame, each straight to its place: no window for a hostile frame to ask for. */
static bool unzstd_cluster(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
    while (out_bytes) {
        size_t frame = ZSTD_findFrameCompressedSize(in, in_bytes);
        if (ZSTD_isError(frame) || !frame)
            return false;
        size_t got = ZSTD_decompress(out, out_bytes, in, frame);
        if (ZSTD_isError(got) || got > out_bytes)
            return false;
        in += frame;
        in_bytes -= frame;
        out += got;
        out_bytes -= got;
        if (!in_bytes)
            break;
    }
    return out_bytes == 0;
}

/* ---- buffers ---- */

static size_t input_room(const struct qcow2 *image)
{
    return 2 * (size_t)image->cluster_bytes; /* the most that the sector count can say */
}

static bool make_buffers(struct qcow2 *image)
{
    struct qcow2_packed *packed = &image->packed;
    if (packed->input)
        return true;
    void *room = mmap(NULL, input_room(image) + image->cluster_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return false;
    packed->input = room;
    packed->output = packed->input + input_room(image);
    return true;
}

void qcow2_packed_destroy(struct qcow2 *image)
{
    if (image->packed.input)
        munmap(image->packed.input, input_room(image) + image->cluster_bytes);
}

/* ---- reading ---- */

static void give(struct qcow2_op *op)
{
    const struct qcow2 *image = op->image;
    const uint64_t in_cluster = op->offset_bytes & (image->cluster_bytes - 1);
    qcow2_cut(op, MIN(op->length_bytes, image->cluster_bytes - in_cluster));
    qcow2_copy(op->segment_iov, 0, image->packed.output + in_cluster, op->segment_bytes, false);
    qcow2_advance(op);
}

static bool unpack(struct qcow2 *image, size_t in_bytes)
{
    struct qcow2_packed *packed = &image->packed;
    return (image->zstd ? unzstd_cluster : inflate_cluster)(packed->input, in_bytes, packed->output,
                                                            image->cluster_bytes);
}

/* The buffers are free again before anything else happens. */
static void on_input(struct qcow2_op *op)
{
    struct qcow2 *image = op->image;
    struct qcow2_packed *packed = &image->packed;
    const uint64_t key = packed->key;
    qcow2_leave_epoch(image, op->epoch);
    packed->owner = NULL;
    packed->key = 0;
    qcow2_wake(image, &packed->waiting);
    if (op->result < 0) {
        qcow2_fail(op, op->result);
    } else if (!unpack(image, op->segment_bytes)) {
        qcow2_fail(
            op, qcow2_corrupt(image, "a compressed cluster does not unpack", op->aio.offset_bytes));
    } else {
        packed->key = key;
        give(op);
    }
}

static void read_input(struct qcow2_op *op, uint64_t entry)
{
    struct qcow2 *image = op->image;
    struct qcow2_packed *packed = &image->packed;
    const struct qcow2_mapping mapping = qcow2_decode(image, entry);
    packed->owner = op;
    packed->key = entry;
    op->segment_bytes = MIN(mapping.packed_bytes, image->file_bytes - mapping.host);
    packed->iov = (struct iovec){packed->input, op->segment_bytes};
    op->segment_iov = &packed->iov;
    op->segment_iov_count = 1;
    qcow2_enter_epoch(image, &op->epoch);
    qcow2_transfer(op, AIO_READ, mapping.host, on_input);
}

void qcow2_packed_read(struct qcow2_op *op, uint64_t entry)
{
    struct qcow2 *image = op->image;
    struct qcow2_packed *packed = &image->packed;
    if (!packed->owner && packed->key == entry)
        give(op);
    else if (packed->owner)
        qcow2_park(op, &packed->waiting);
    else if (!make_buffers(image))
        qcow2_fail(op, -ENOMEM);
    else
        read_input(op, entry);
}
