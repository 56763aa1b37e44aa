/* SPDX-License-Identifier: Apache-2.0 */
/* What both engines share: the lists, the turn, and what a system call's result means. */
#include "host/aio.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A kernel that says "again" for ever must not spin the loop for ever. */
#define RETRIES_MAX 1000u

static bool threads_forced(void)
{
    const char *engine = getenv("NIDO_AIO");
    return engine && strcmp(engine, "threads") == 0;
}

int aio_create(struct aio **out, struct loop *loop, struct nido_error *err)
{
    if (!threads_forced()) {
        struct nido_error why;
        if (aio_uring_create(out, loop, &why) == 0)
            return 0;
        log_info("disk I/O uses threads: %s", why.text);
    }
    return aio_threads_create(out, loop, err);
}

void aio_destroy(struct aio *aio)
{
    if (aio)
        aio->ops->destroy(aio);
}

void aio_list_push(struct aio_list *list, struct aio_request *request)
{
    request->next = NULL;
    if (list->first)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

struct aio_request *aio_list_pop(struct aio_list *list)
{
    struct aio_request *request = list->first;
    if (request)
        list->first = request->next;
    return request;
}

void aio_submit(struct aio *aio, struct aio_request *request)
{
    request->retries = 0;
    aio_list_push(request->op == AIO_NOTHING ? &aio->ended : &aio->submitted, request);
}

/* Only what has ended by now, so that the batch is told before more is collected. */
static bool deliver(struct aio *aio)
{
    struct aio_list batch = aio->ended;
    if (!batch.first)
        return false;
    aio->ended = (struct aio_list){0};
    struct aio_request *request;
    while ((request = aio_list_pop(&batch)))
        request->done(request, request->result);
    if (aio->batch_done)
        aio->batch_done(aio->owner);
    return true;
}

void aio_turn(struct aio *aio)
{
    bool moved;
    if (aio->turning)
        return; /* the turn under way starts what `done` has submitted */
    aio->turning = true;
    do {
        aio->ops->start(aio);
        moved = aio->ops->collect(aio);
        moved |= deliver(aio);
    } while (moved);
    aio->turning = false;
}

void aio_commit(struct aio *aio)
{
    aio_turn(aio);
}

void aio_drain(struct aio *aio)
{
    do
        aio_turn(aio);
    while (aio->ops->wait(aio));
}

static void advance(struct aio_request *request, uint64_t bytes)
{
    request->offset_bytes += bytes;
    request->length_bytes -= bytes;
    while (bytes && bytes >= request->iov->iov_len) {
        bytes -= request->iov->iov_len;
        request->iov++;
        request->iov_count--;
    }
    if (bytes) {
        request->iov->iov_base = (uint8_t *)request->iov->iov_base + bytes;
        request->iov->iov_len -= bytes;
    }
}

static bool ends(struct aio_request *request, int result)
{
    request->result = result;
    return true;
}

bool aio_settle(struct aio_request *request, int64_t got)
{
    if ((got == -EINTR || got == -EAGAIN) && request->retries++ < RETRIES_MAX)
        return false;
    if (got < 0)
        return ends(request, (int)got);
    if (request->op > AIO_WRITE_THROUGH)
        return ends(request, 0);
    if (got == 0)
        return ends(request, -EIO);
    if ((uint64_t)got >= request->length_bytes)
        return ends(request, 0);
    advance(request, (uint64_t)got);
    return false;
}
