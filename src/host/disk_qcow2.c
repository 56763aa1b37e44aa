/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A qcow2 image ("Qcow2 Image File Format" in QEMU's documentation), versions 2 and 3.
 *
 * The file is made of clusters. The disk's clusters are found by two levels of tables (L1, L2), and
 * for each cluster of the file a two-level table (refcount table, refcount blocks) says how often
 * it is referred to.
 *
 * Requests and ops. A request becomes an op, which does one segment after the other: a run of
 * clusters that are of one kind and lie side by side in the file. What a segment waits for (an L2
 * slice, its I/O, somebody else's lock, the thaw after a commit) puts the op on the list of who is
 * ready when it is there; qcow2_process() runs them. So no op runs inside of another one's
 * callback, and each step is a plain function.
 *
 * One consistent image after the other. L2 tables and refcounts must agree, but lie in different
 * places, and there is no way to write two places at once. So nothing that the header refers to is
 * ever overwritten, but for guest data that is in its final place. New data go to free clusters and
 * the mapping to them into memory (the slice cache); changes of refcounts go to a log in memory. A
 * commit writes what changed of L2 tables and refcount blocks, the L1 table and the refcount table
 * to free clusters:
 *
 *     freeze       no mapping changes; decide where the new tables go (disk_qcow2_plan.c)
 *     tables       write them
 *     thaw         mappings may change again, for the next commit
 *     sync         data and tables are durable
 *     switch       20 bytes of the header refer to the new tables: one write, inside a sector
 *     sync         and that is durable: flushes are answered
 *     release      what only the old image used is free, and holes are punched
 *
 * So the file is, at every moment and after every crash, exactly the image of the last commit: not
 * even a cluster leaks, and nothing has to be repaired. A kill between two system calls finds it so
 * as does a power failure. Guests pay with two syncs and some 256 KiB written for a flush after
 * new clusters were allocated; once they are, writes go in place and a flush is one sync.
 *
 * A commit is due with each flush that has something to commit, when the cache or the log has too
 * much of it, some seconds after a change that no flush followed, and at the end.
 *
 * When a cluster may be reused. Not before the commit that frees it has ended, or a crash would
 * bring back an image that refers to it. And not before the I/O has ended that began when it was
 * still in use: I/O counts itself into the epoch of its beginning, a thaw begins a new epoch, and
 * the release waits until the old one is empty.
 *
 * Locks. Ops that change the mapping of a guest cluster hold its lock from the moment they look at
 * the old content until the new is linked; others that want to change it wait. Reads and writes in
 * place need none: a guest that has two requests for one sector under way gets either.
 *
 * Damage. Offsets from the file are checked where they are used. What contradicts itself fails the
 * request with -EIO and leaves a line in the log. Nothing is written to a cluster that the header,
 * a table or the allocator claims.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <string.h>

/* ---- lists ---- */

void qcow2_list_push(struct qcow2_op_list *list, struct qcow2_op *op)
{
    op->next = NULL;
    if (list->first)
        list->last->next = op;
    else
        list->first = op;
    list->last = op;
}

struct qcow2_op *qcow2_list_pop(struct qcow2_op_list *list)
{
    struct qcow2_op *op = list->first;
    if (op)
        list->first = op->next;
    return op;
}

void qcow2_ready(struct qcow2_op *op)
{
    qcow2_list_push(&op->image->ready, op);
}

void qcow2_wake(struct qcow2 *image, struct qcow2_op_list *waiting)
{
    struct qcow2_op *op;
    while ((op = qcow2_list_pop(waiting)))
        qcow2_ready(op);
}

static void push_request(struct disk_request **first, struct disk_request **last,
                         struct disk_request *request)
{
    request->next = NULL;
    if (*first)
        (*last)->next = request;
    else
        *first = request;
    *last = request;
}

/* ---- ends ---- */

int qcow2_corrupt(struct qcow2 *image, const char *what, uint64_t where)
{
    log_warn_limited(&image->complaints,
                     "disk %s: the image is damaged: %s (byte %llu); see qemu-img check",
                     image->disk.path, what, (unsigned long long)where);
    return -EIO;
}

void qcow2_lose_writes(struct qcow2 *image, int code)
{
    if (image->writes_lost)
        return;
    image->writes_lost = true;
    log_error("disk %s: writes did not reach the storage (%s) and may be lost, so no more are "
              "taken; check the storage, then start the machine anew",
              image->disk.path, strerror(code));
}

void qcow2_end_request(struct qcow2 *image, struct disk_request *request, int result)
{
    image->under_way--;
    image->tell_batch = true;
    request->done(request, result);
}

static void on_op_done(struct qcow2_op *op, int result)
{
    struct qcow2 *image = op->image;
    struct disk_request *request = op->request;
    qcow2_list_push(&image->free_ops, op);
    if (result == 0 && request->op == DISK_WRITE_THROUGH)
        push_request(&image->flushes, &image->flushes_last, request);
    else
        qcow2_end_request(image, request, result);
}

void qcow2_fail(struct qcow2_op *op, int result)
{
    op->done(op, result);
}

/* ---- epochs ---- */

void qcow2_enter_epoch(struct qcow2 *image, unsigned *epoch)
{
    *epoch = image->epoch;
    image->in_epoch[*epoch]++;
}

void qcow2_leave_epoch(struct qcow2 *image, unsigned epoch)
{
    image->in_epoch[epoch]--;
}

/* ---- vectors ---- */

/* Where zeroes are written from. */
static uint8_t zeroes[QCOW2_PIECE_BYTES];

void qcow2_cut(struct qcow2_op *op, uint64_t bytes)
{
    op->segment_bytes = bytes;
    op->cut = op->iov != NULL;
    if (!op->cut) {
        op->rest = (struct iovec){zeroes, bytes};
        op->segment_iov = &op->rest;
        op->segment_iov_count = 1;
        return;
    }
    struct iovec *last = op->iov;
    for (; bytes > last->iov_len; last++)
        bytes -= last->iov_len;
    op->rest = (struct iovec){(uint8_t *)last->iov_base + bytes, last->iov_len - bytes};
    last->iov_len = bytes;
    op->segment_iov = op->iov;
    op->segment_iov_count = (unsigned)(last - op->iov) + 1;
}

void qcow2_copy(struct iovec *iov, uint64_t skip, uint8_t *buffer, size_t length, bool to_buffer)
{
    for (; length; iov++) {
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t piece = MIN(iov->iov_len - (size_t)skip, length);
        uint8_t *theirs = (uint8_t *)iov->iov_base + skip;
        if (to_buffer)
            memcpy(buffer, theirs, piece);
        else
            memcpy(theirs, buffer, piece);
        buffer += piece;
        length -= piece;
        skip = 0;
    }
}

void qcow2_advance(struct qcow2_op *op)
{
    op->offset_bytes += op->segment_bytes;
    op->length_bytes -= op->segment_bytes;
    if (op->cut) {
        unsigned used = op->segment_iov_count - 1;
        op->iov += used;
        op->iov_count -= used;
        *op->iov = op->rest;
    }
    op->cut = false;
    if (!op->length_bytes) {
        op->done(op, 0);
        return;
    }
    op->result = 0;
    op->step = op->op == DISK_READ            ? qcow2_read_step
               : op->op <= DISK_WRITE_THROUGH ? qcow2_write_step
                                              : qcow2_zero_step;
    qcow2_ready(op);
}

/* ---- I/O ---- */

void qcow2_on_transferred(struct aio_request *aio, int result)
{
    struct qcow2_op *op = container_of(aio, struct qcow2_op, aio);
    op->result = result;
    qcow2_ready(op);
}

void qcow2_transfer(struct qcow2_op *op, enum aio_op code, uint64_t file_offset,
                    void (*step)(struct qcow2_op *op))
{
    op->step = step;
    op->aio = (struct aio_request){
        .op = code,
        .fd = op->image->file.fd,
        .offset_bytes = file_offset,
        .length_bytes = op->segment_bytes,
        .iov = op->segment_iov,
        .iov_count = op->segment_iov_count,
        .done = qcow2_on_transferred,
    };
    aio_submit(op->image->aio, &op->aio);
}

/* ---- requests ---- */

static int refusal(const struct qcow2 *image, const struct disk_request *request)
{
    if (request->op != DISK_READ && image->writes_lost)
        return -EIO;
    if (request->op == DISK_FLUSH)
        return 0;
    if (request->op != DISK_READ && image->disk.read_only)
        return -EROFS;
    if (!request->length_bytes ||
        !checked_inside(request->offset_bytes, request->length_bytes, image->disk.size_bytes) ||
        !is_aligned(request->offset_bytes | request->length_bytes, image->disk.block_bytes))
        return -EINVAL;
    return 0;
}

static void start_op(struct qcow2 *image, struct disk_request *request)
{
    struct qcow2_op *op = qcow2_list_pop(&image->free_ops);
    bool data = request->op <= DISK_WRITE_THROUGH;
    *op = (struct qcow2_op){
        .image = image,
        .request = request,
        .done = on_op_done,
        .op = request->op,
        .offset_bytes = request->offset_bytes,
        .length_bytes = request->length_bytes,
        .iov = data ? request->iov : NULL,
        .iov_count = data ? request->iov_count : 0,
    };
    qcow2_advance(op); /* by nothing */
}

static void start_request(struct qcow2 *image, struct disk_request *request)
{
    int refused = refusal(image, request);
    if (refused < 0)
        qcow2_end_request(image, request, refused);
    else if (request->op == DISK_FLUSH)
        push_request(&image->flushes, &image->flushes_last, request);
    else
        start_op(image, request);
}

static void run_all(struct qcow2 *image)
{
    struct qcow2_op *op;
    while (image->ready.first || (image->incoming && image->free_ops.first)) {
        while ((op = qcow2_list_pop(&image->ready)))
            op->step(op);
        struct disk_request *request = image->incoming;
        if (!request || !image->free_ops.first)
            continue;
        image->incoming = request->next;
        start_request(image, request);
    }
}

/* What `done` and batch_done() submit is seen to by the round that is under way. */
void qcow2_process(struct qcow2 *image)
{
    if (image->processing)
        return;
    image->processing = true;
    do {
        run_all(image);
        qcow2_commit_poll(image);
        if (image->tell_batch) {
            image->tell_batch = false;
            if (image->disk.batch_done)
                image->disk.batch_done(image->disk.user);
        }
    } while (image->ready.first || image->tell_batch || (image->incoming && image->free_ops.first));
    image->processing = false;
}

static void qcow2_disk_submit(struct disk *disk, struct disk_request *request)
{
    struct qcow2 *image = qcow2_of(disk);
    request->disk = disk;
    image->under_way++;
    push_request(&image->incoming, &image->incoming_last, request);
}

static void qcow2_disk_commit(struct disk *disk)
{
    struct qcow2 *image = qcow2_of(disk);
    qcow2_process(image);
    if (image->backing)
        disk_commit(image->backing);
    aio_commit(image->aio);
}

static void qcow2_disk_drain(struct disk *disk)
{
    struct qcow2 *image = qcow2_of(disk);
    do {
        qcow2_disk_commit(disk);
        aio_drain(image->aio);
        if (image->backing)
            disk_drain(image->backing);
    } while (image->under_way || image->commit.phase != QCOW2_IDLE);
}

const struct disk_ops qcow2_disk_ops = {
    .submit = qcow2_disk_submit,
    .commit = qcow2_disk_commit,
    .drain = qcow2_disk_drain,
    .close = qcow2_disk_close,
};
