/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The io_uring engine: one ring, watched by the loop through its own descriptor.
 *
 * A request's way: submitted -> (a free entry) -> offered -> (io_uring_submit) -> in the kernel ->
 * (completion) -> ended. `offered` mirrors the entries that the kernel has not taken yet, oldest
 * first. Never more are in the kernel than the completion ring holds, so it cannot overflow.
 *
 * The files are not registered with the ring: a registered file stays open until the kernel has
 * taken the ring apart, some time after close(), and its lock with it. The next machine on the same
 * disk would find it in use.
 *
 * When the kernel will not take entries although it has nothing of ours to finish (out of memory, a
 * filter that came later), the ring is given up and the threads take over, also for what was
 * offered. The same threads do what io_uring has no operation for.
 */
#include "host/aio.h"

#include "base/checked.h"
#include "base/log.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES 128u /* the kernel makes the completion ring twice as large */

struct aio_uring {
    struct aio aio;
    struct io_uring ring;
    struct loop_source source;
    struct aio_list offered;
    unsigned in_kernel;
    bool given_up;
    struct aio *threads; /* NULL until needed */
    bool threads_moved;  /* they called `done` since the last collect() */
};

static struct aio_uring *uring_of(struct aio *aio)
{
    return container_of(aio, struct aio_uring, aio);
}

static void tell_batch(void *owner)
{
    struct aio_uring *self = owner;
    if (self->aio.batch_done)
        self->aio.batch_done(self->aio.owner);
    /* `done` may have submitted. */
    self->threads_moved = true;
    aio_turn(&self->aio);
}

/* Without threads there is nobody left to do it. */
static void hand_to_threads(struct aio_uring *self, struct aio_request *request)
{
    if (!self->threads) {
        int ret = aio_threads_create(&self->threads, self->aio.loop, NULL);
        if (ret < 0) {
            request->result = ret;
            aio_list_push(&self->aio.ended, request);
            return;
        }
        self->threads->batch_done = tell_batch;
        self->threads->owner = self;
    }
    aio_submit(self->threads, request);
}

static void prepare(struct io_uring_sqe *sqe, struct aio_request *r)
{
    switch (r->op) {
    case AIO_READ:
        io_uring_prep_readv(sqe, r->fd, r->iov, r->iov_count, r->offset_bytes);
        break;
    case AIO_WRITE:
        io_uring_prep_writev(sqe, r->fd, r->iov, r->iov_count, r->offset_bytes);
        break;
    case AIO_WRITE_THROUGH:
        io_uring_prep_writev2(sqe, r->fd, r->iov, r->iov_count, r->offset_bytes, RWF_DSYNC);
        break;
    case AIO_SYNC:
        io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
        break;
    case AIO_ALLOCATE:
        io_uring_prep_fallocate(sqe, r->fd, r->mode, (off_t)r->offset_bytes,
                                (off_t)r->length_bytes);
        break;
    case AIO_DISCARD:
    case AIO_NOTHING:
        io_uring_prep_nop(sqe); /* never come here */
        break;
    }
    io_uring_sqe_set_data(sqe, r);
}

/* Fills entries as long as there are some and their completions will have room. */
static void offer(struct aio_uring *self)
{
    while (self->aio.submitted.first) {
        bool for_threads = self->given_up || self->aio.submitted.first->op == AIO_DISCARD;
        if (for_threads) {
            hand_to_threads(self, aio_list_pop(&self->aio.submitted));
            continue;
        }
        if (self->in_kernel + io_uring_sq_ready(&self->ring) >= self->ring.cq.ring_entries)
            return;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
        if (!sqe)
            return;
        struct aio_request *request = aio_list_pop(&self->aio.submitted);
        prepare(sqe, request);
        aio_list_push(&self->offered, request);
    }
}

static void give_up(struct aio_uring *self, int code)
{
    log_warn("io_uring stopped working (%s); disk I/O goes on with threads", strerror(code));
    self->given_up = true;
    struct aio_request *request;
    while ((request = aio_list_pop(&self->offered)))
        hand_to_threads(self, request);
}

/* True: the kernel took some, so there is room for more. */
static bool enter(struct aio_uring *self)
{
    if (self->given_up || !self->offered.first)
        return false;
    int taken = io_uring_submit(&self->ring);
    if (taken == -EINTR)
        return true;
    if (taken == 0)
        taken = -EAGAIN;
    if (taken < 0) {
        bool later = (taken == -EAGAIN || taken == -EBUSY) && self->in_kernel;
        if (!later)
            give_up(self, -taken);
        return !later;
    }
    self->in_kernel += (unsigned)taken;
    while (taken--)
        aio_list_pop(&self->offered);
    return true;
}

static void uring_start(struct aio *aio)
{
    struct aio_uring *self = uring_of(aio);
    do
        offer(self);
    while (enter(self));
    if (self->threads)
        aio_commit(self->threads);
}

static bool uring_collect(struct aio *aio)
{
    struct aio_uring *self = uring_of(aio);
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;

    io_uring_for_each_cqe(&self->ring, head, cqe)
    {
        struct aio_request *request = io_uring_cqe_get_data(cqe);
        bool ended = aio_settle(request, cqe->res);
        aio_list_push(ended ? &aio->ended : &aio->submitted, request);
        seen++;
    }
    io_uring_cq_advance(&self->ring, seen);
    self->in_kernel -= seen;
    bool moved = seen || self->threads_moved;
    self->threads_moved = false;
    return moved;
}

static bool uring_wait(struct aio *aio)
{
    struct aio_uring *self = uring_of(aio);
    struct io_uring_cqe *cqe;
    if (self->threads && self->threads->ops->wait(self->threads)) {
        aio_turn(self->threads);
        return true;
    }
    if (!self->in_kernel)
        return false;
    io_uring_wait_cqe(&self->ring, &cqe); /* EINTR: the caller comes back */
    return true;
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    aio_turn(&container_of(source, struct aio_uring, source)->aio);
}

static void uring_destroy(struct aio *aio)
{
    struct aio_uring *self = uring_of(aio);
    aio_destroy(self->threads);
    loop_remove(aio->loop, &self->source);
    io_uring_queue_exit(&self->ring);
    free(self);
}

static const struct aio_ops uring_ops = {
    .start = uring_start,
    .collect = uring_collect,
    .wait = uring_wait,
    .destroy = uring_destroy,
};

/* COOP_TASKRUN (Linux 5.19) saves an interrupt of the loop's thread for each completion. */
static int init_ring(struct io_uring *ring)
{
    struct io_uring_params params = {.flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL};
    int ret = io_uring_queue_init_params(ENTRIES, ring, &params);
    if (ret == -EINVAL)
        ret = io_uring_queue_init(ENTRIES, ring, 0);
    return ret;
}

int aio_uring_create(struct aio **out, struct loop *loop, struct nido_error *err)
{
    struct aio_uring *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "out of memory");
    int ret = init_ring(&self->ring);
    if (ret < 0) {
        free(self);
        return error_errno(err, -ret, "the kernel refuses an io_uring");
    }
    self->aio.ops = &uring_ops;
    self->aio.loop = loop;
    self->source = (struct loop_source){
        .fd = self->ring.ring_fd,
        .events = EPOLLIN,
        .ready = on_ready,
    };
    ret = loop_add(loop, &self->source, err);
    if (ret < 0) {
        io_uring_queue_exit(&self->ring);
        free(self);
        return ret;
    }
    *out = &self->aio;
    return 0;
}
