/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread engine: a queue of work, a list of what was done, and up to THREADS_MAX threads that
 * are started when work finds none of them idle. They do a request whole, then put it in the list;
 * an eventfd tells the loop when that list gets its first entry.
 *
 * Where not even one thread can be started, the loop's thread does the work itself: slow, but no
 * request is lost.
 */
#include "host/aio.h"

#include "base/checked.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define THREADS_MAX 4u

struct aio_threads {
    struct aio aio;
    struct loop_source source; /* the eventfd */
    unsigned under_way;        /* loop thread */
    pthread_t threads[THREADS_MAX];
    unsigned thread_count; /* loop thread */

    pthread_mutex_t lock;
    pthread_cond_t work_there; /* for the threads */
    pthread_cond_t some_done;  /* for wait() */
    /* Under lock. */
    struct aio_list work;
    struct aio_list done;
    unsigned waiting; /* requests in `work` */
    unsigned idle;    /* threads that wait for work */
    bool quit;
};

static struct aio_threads *threads_of(struct aio *aio)
{
    return container_of(aio, struct aio_threads, aio);
}

static int64_t discard(const struct aio_request *r)
{
    uint64_t range[2] = {r->offset_bytes, r->length_bytes};
    return ioctl(r->fd, BLKDISCARD, range);
}

static int64_t call(const struct aio_request *r)
{
    const off_t offset = (off_t)r->offset_bytes;
    switch (r->op) {
    case AIO_READ:
        return preadv(r->fd, r->iov, (int)r->iov_count, offset);
    case AIO_WRITE:
        return pwritev(r->fd, r->iov, (int)r->iov_count, offset);
    case AIO_WRITE_THROUGH:
        return pwritev2(r->fd, r->iov, (int)r->iov_count, offset, RWF_DSYNC);
    case AIO_SYNC:
        return fdatasync(r->fd);
    case AIO_ALLOCATE:
        return fallocate(r->fd, r->mode, offset, (off_t)r->length_bytes);
    case AIO_DISCARD:
        return discard(r);
    case AIO_NOTHING:
        break;
    }
    return 0;
}

static void do_whole(struct aio_request *request)
{
    int64_t got;
    do {
        got = call(request);
        if (got < 0)
            got = -errno;
    } while (!aio_settle(request, got));
}

static void tell_loop(const struct aio_threads *self)
{
    const uint64_t one = 1;
    ssize_t ignored = write(self->source.fd, &one, sizeof(one));
    (void)ignored; /* EAGAIN: it has been told */
}

/* Called and returns with the lock held. */
static void work_on(struct aio_threads *self, struct aio_request *request)
{
    pthread_mutex_unlock(&self->lock);
    do_whole(request);
    pthread_mutex_lock(&self->lock);
    bool first = !self->done.first;
    aio_list_push(&self->done, request);
    if (first) {
        tell_loop(self);
        pthread_cond_signal(&self->some_done);
    }
}

static void *run_worker(void *arg)
{
    struct aio_threads *self = arg;
    pthread_mutex_lock(&self->lock);
    while (!self->quit) {
        struct aio_request *request = aio_list_pop(&self->work);
        if (request) {
            self->waiting--;
            work_on(self, request);
            continue;
        }
        self->idle++;
        pthread_cond_wait(&self->work_there, &self->lock);
        self->idle--;
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* One more thread for each request that would find none idle. */
static void start_threads(struct aio_threads *self, unsigned coming)
{
    pthread_mutex_lock(&self->lock);
    unsigned work = self->waiting + coming, idle = self->idle;
    pthread_mutex_unlock(&self->lock);
    for (; work > idle && self->thread_count < THREADS_MAX; work--) {
        pthread_t *thread = &self->threads[self->thread_count];
        if (thread_start(thread, "aio", run_worker, self, NULL) < 0)
            return;
        self->thread_count++;
    }
}

static void do_here(struct aio_threads *self)
{
    struct aio_request *request;
    while ((request = aio_list_pop(&self->aio.submitted))) {
        do_whole(request);
        aio_list_push(&self->aio.ended, request);
    }
}

static void threads_start(struct aio *aio)
{
    struct aio_threads *self = threads_of(aio);
    unsigned coming = 0;
    for (struct aio_request *r = aio->submitted.first; r; r = r->next)
        coming++;
    if (!coming)
        return;
    start_threads(self, coming);
    if (!self->thread_count) {
        do_here(self);
        return;
    }
    pthread_mutex_lock(&self->lock);
    struct aio_request *request;
    while ((request = aio_list_pop(&aio->submitted))) {
        aio_list_push(&self->work, request);
        pthread_cond_signal(&self->work_there);
    }
    self->waiting += coming;
    pthread_mutex_unlock(&self->lock);
    self->under_way += coming;
}

static bool threads_collect(struct aio *aio)
{
    struct aio_threads *self = threads_of(aio);
    pthread_mutex_lock(&self->lock);
    struct aio_list done = self->done;
    self->done = (struct aio_list){0};
    pthread_mutex_unlock(&self->lock);
    if (!done.first)
        return false;

    struct aio_request *request;
    while ((request = aio_list_pop(&done))) {
        aio_list_push(&aio->ended, request);
        self->under_way--;
    }
    return true;
}

static bool threads_wait(struct aio *aio)
{
    struct aio_threads *self = threads_of(aio);
    if (!self->under_way)
        return false;
    pthread_mutex_lock(&self->lock);
    while (!self->done.first)
        pthread_cond_wait(&self->some_done, &self->lock);
    pthread_mutex_unlock(&self->lock);
    return true;
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct aio_threads *self = container_of(source, struct aio_threads, source);
    uint64_t count;
    ssize_t ignored = read(source->fd, &count, sizeof(count));
    (void)ignored;
    aio_turn(&self->aio);
}

static void threads_destroy(struct aio *aio)
{
    struct aio_threads *self = threads_of(aio);
    pthread_mutex_lock(&self->lock);
    self->quit = true;
    pthread_cond_broadcast(&self->work_there);
    pthread_mutex_unlock(&self->lock);
    for (unsigned i = 0; i < self->thread_count; i++)
        pthread_join(self->threads[i], NULL);
    loop_remove(aio->loop, &self->source);
    close(self->source.fd);
    pthread_cond_destroy(&self->some_done);
    pthread_cond_destroy(&self->work_there);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static const struct aio_ops threads_ops = {
    .start = threads_start,
    .collect = threads_collect,
    .wait = threads_wait,
    .destroy = threads_destroy,
};

int aio_threads_create(struct aio **out, struct loop *loop, struct nido_error *err)
{
    struct aio_threads *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "out of memory");
    self->aio.ops = &threads_ops;
    self->aio.loop = loop;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->work_there, NULL);
    pthread_cond_init(&self->some_done, NULL);
    self->source = (struct loop_source){
        .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        .events = EPOLLIN,
        .ready = on_ready,
    };
    int ret = self->source.fd < 0 ? error_errno(err, errno, "cannot make an eventfd for disk I/O")
                                  : loop_add(loop, &self->source, err);
    if (ret < 0) {
        if (self->source.fd >= 0)
            close(self->source.fd);
        free(self);
        return ret;
    }
    *out = &self->aio;
    return 0;
}
