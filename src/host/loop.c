/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Posted tasks are a lock-free stack that the loop takes whole and turns round, so they run in the
 * order they were posted. An eventfd wakes epoll. A stop is a flag plus the same eventfd, plus a
 * kick for handlers that sit in a blocking system call.
 */
#include "host/loop.h"

#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_PER_TURN 16

struct loop {
    char name[16];
    int epoll_fd;
    int wake_fd;
    pthread_t thread;
    bool has_thread;
    _Atomic bool quit;
    _Atomic(struct loop_task *) posted; /* newest first */
    struct loop_source *always_ready;   /* loop thread, as the next */
    struct loop_source *next_ready;     /* where run_always_ready() goes on */
    /* Events of the turn at hand: loop_remove() blanks those of the source that goes. Loop
     * thread. */
    struct epoll_event batch[EVENTS_PER_TURN];
    int batch_count;
};

int loop_create(struct loop **out, const char *name, struct nido_error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return error_set(err, ENOMEM, "loop %s: out of memory", name);
    strncpy(loop->name, name, sizeof(loop->name) - 1);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &wake) < 0) {
        int code = errno;
        loop_destroy(loop);
        return error_errno(err, code, "loop %s: cannot set up epoll", name);
    }
    *out = loop;
    return 0;
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    loop_stop(loop);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop);
}

static void wake(struct loop *loop)
{
    const uint64_t one = 1;
    ssize_t ignored = write(loop->wake_fd, &one, sizeof(one));
    (void)ignored; /* EAGAIN: it is awake enough */
}

static void drain_wake(struct loop *loop)
{
    uint64_t count;
    ssize_t ignored = read(loop->wake_fd, &count, sizeof(count));
    (void)ignored;
}

static struct loop_task *take_posted(struct loop *loop)
{
    struct loop_task *newest = atomic_exchange(&loop->posted, NULL);
    struct loop_task *oldest = NULL;
    while (newest) {
        struct loop_task *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static void run_posted(struct loop *loop)
{
    struct loop_task *task = take_posted(loop);
    while (task) {
        struct loop_task *next = task->next;
        /* From here on it may be posted again, also from its own run. */
        atomic_store(&task->posted, false);
        task->run(task);
        task = next;
    }
}

static void run_always_ready(struct loop *loop)
{
    /* A handler may remove any source, itself too. */
    loop->next_ready = loop->always_ready;
    while (loop->next_ready) {
        struct loop_source *source = loop->next_ready;
        loop->next_ready = source->next_always_ready;
        if (source->events)
            source->ready(source, source->events);
    }
}

static int wait_timeout_ms(const struct loop *loop)
{
    for (const struct loop_source *source = loop->always_ready; source;
         source = source->next_always_ready)
        if (source->events)
            return 0;
    return -1;
}

static void turn(struct loop *loop)
{
    loop->batch_count =
        epoll_wait(loop->epoll_fd, loop->batch, EVENTS_PER_TURN, wait_timeout_ms(loop));
    for (int i = 0; i < loop->batch_count; i++) {
        struct epoll_event *event = &loop->batch[i];
        if (!event->data.ptr) {
            if (event->events)
                drain_wake(loop);
            continue;
        }
        struct loop_source *source = event->data.ptr;
        source->ready(source, event->events);
    }
    loop->batch_count = 0;
    run_posted(loop);
    run_always_ready(loop);
}

void loop_run(struct loop *loop)
{
    while (!atomic_load(&loop->quit))
        turn(loop);
    run_posted(loop);
    atomic_store(&loop->quit, false); /* it may run again */
}

static void *run_thread(void *self)
{
    loop_run(self);
    return NULL;
}

int loop_start(struct loop *loop, struct nido_error *err)
{
    atomic_store(&loop->quit, false);
    int ret = thread_start(&loop->thread, loop->name, run_thread, loop, err);
    loop->has_thread = ret == 0;
    return ret;
}

void loop_quit(struct loop *loop)
{
    atomic_store(&loop->quit, true);
    wake(loop);
}

void loop_stop(struct loop *loop)
{
    if (!loop->has_thread)
        return;
    loop_quit(loop);
    /* A kick between a handler's check and its system call would be lost, so kick until it is
     * gone. */
    struct timespec until;
    do {
        thread_kick(loop->thread);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 10000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
    } while (pthread_timedjoin_np(loop->thread, NULL, &until) == ETIMEDOUT);
    loop->has_thread = false;
}

int loop_add(struct loop *loop, struct loop_source *source, struct nido_error *err)
{
    source->always_ready = false;
    struct epoll_event event = {.events = source->events, .data.ptr = source};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) == 0)
        return 0;
    if (errno != EPERM)
        return error_errno(err, errno, "loop %s: cannot watch descriptor %d", loop->name,
                           source->fd);
    source->always_ready = true;
    source->next_always_ready = loop->always_ready;
    loop->always_ready = source;
    return 0;
}

void loop_modify(struct loop *loop, struct loop_source *source, uint32_t events)
{
    if (source->events == events)
        return;
    source->events = events;
    if (source->always_ready)
        return;
    struct epoll_event event = {.events = events, .data.ptr = source};
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

static void remove_always_ready(struct loop *loop, struct loop_source *source)
{
    struct loop_source **at = &loop->always_ready;
    while (*at && *at != source)
        at = &(*at)->next_always_ready;
    if (*at)
        *at = source->next_always_ready;
    if (loop->next_ready == source)
        loop->next_ready = source->next_always_ready;
    source->always_ready = false;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    if (source->always_ready) {
        remove_always_ready(loop, source);
        return;
    }
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    for (int i = 0; i < loop->batch_count; i++)
        if (loop->batch[i].data.ptr == source)
            loop->batch[i] = (struct epoll_event){0};
}

void loop_post(struct loop *loop, struct loop_task *task)
{
    if (atomic_exchange(&task->posted, true))
        return;
    struct loop_task *newest = atomic_load(&loop->posted);
    do
        task->next = newest;
    while (!atomic_compare_exchange_weak(&loop->posted, &newest, task));
    if (!newest)
        wake(loop);
}

struct call {
    struct loop_task task;
    struct loop_task *inner;
    sem_t done;
};

static void run_call(struct loop_task *task)
{
    struct call *call = (struct call *)(void *)task;
    call->inner->run(call->inner);
    sem_post(&call->done);
}

void loop_call(struct loop *loop, struct loop_task *task)
{
    if (!loop->has_thread) {
        task->run(task);
        return;
    }
    struct call call = {.task.run = run_call, .inner = task};
    sem_init(&call.done, 0, 0);
    loop_post(loop, &call.task);
    while (sem_wait(&call.done) < 0 && errno == EINTR)
        ;
    sem_destroy(&call.done);
}
