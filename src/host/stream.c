/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors are watched only while something is to be done with them, and are taken out of the
 * loop otherwise: epoll reports a hang-up even to those who asked for no events.
 *
 * Output: a wake-up from the device writes at once, after a poll() that says the descriptor takes
 * something. Pieces are at most PIPE_BUF bytes, which a pipe that polls writable takes without
 * blocking. What the host will not take now is watched for.
 *
 * Input passes through `held`. Without keys, no more is read than the device has room for: what the
 * guest does not want stays with the shell that started us. With keys, up to HELD_BYTES are read
 * ahead, so that Ctrl-A x is found also when the guest has stopped reading.
 */
#include "host/stream.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define HELD_BYTES 4096u
/* How much is written before input gets its turn. */
#define PIECES_PER_TURN 16u
#define RETRY_S         1

struct watch {
    struct loop_source source;
    bool on;
};

struct stream {
    struct loop *loop;
    struct stream_guest *guest;
    struct stream_config config;
    int own_out_fd; /* a duplicate where input and output came as one descriptor; else -1 */
    int retry_fd;   /* a timer, for a terminal that is not ours at the moment */
    int drained_fd; /* an eventfd, written when `draining` and nothing is pending */
    struct loop_task wake_task, drain_task;
    _Atomic uint64_t sent_bytes; /* written on the loop's thread */

    /* Loop thread. */
    struct watch in, out, retry;
    bool in_ended, out_closed, draining;
    size_t held_start, held_count;
    uint8_t held[HELD_BYTES];
};

/* False where the descriptor cannot be watched, which is told. */
static bool set_watched(struct stream *stream, struct watch *watch, bool on)
{
    if (watch->on == on)
        return true;
    watch->on = on;
    if (!on) {
        loop_remove(stream->loop, &watch->source);
        return true;
    }
    struct nido_error err;
    if (loop_add(stream->loop, &watch->source, &err) == 0)
        return true;
    watch->on = false;
    log_warn("%s: %s", stream->config.name, err.text);
    return false;
}

/* Output */

static void close_output(struct stream *stream)
{
    stream->out_closed = true;
    if (stream->config.output_closed)
        stream->config.output_closed(stream->config.self);
}

/* How many bytes went out; 0: none now. */
static size_t write_piece(struct stream *stream, const uint8_t *bytes, size_t count)
{
    int fd = stream->out.source.fd;
    struct pollfd taker = {.fd = fd, .events = POLLOUT};
    if (stream->out_closed)
        return count;
    if (poll(&taker, 1, 0) != 1)
        return 0;
    ssize_t written = write(fd, bytes, MIN(count, (size_t)PIPE_BUF));
    if (written >= 0)
        return (size_t)written;
    if (errno != EINTR && errno != EAGAIN) {
        log_warn("%s: cannot write its output: %s; what follows is lost", stream->config.name,
                 strerror(errno));
        close_output(stream);
    }
    return 0;
}

static void tell_drained(struct stream *stream)
{
    const uint64_t one = 1;
    if (!stream->draining)
        return;
    stream->draining = false;
    ssize_t ignored = write(stream->drained_fd, &one, sizeof(one));
    (void)ignored;
}

static void send_pending(struct stream *stream)
{
    struct stream_guest *guest = stream->guest;
    for (unsigned piece = 0; piece < PIECES_PER_TURN; piece++) {
        const uint8_t *bytes;
        size_t count = guest->ops->pending(guest, &bytes);
        if (count == 0) {
            set_watched(stream, &stream->out, false);
            tell_drained(stream);
            return;
        }
        size_t written = write_piece(stream, bytes, count);
        if (written == 0 && !stream->out_closed) {
            if (set_watched(stream, &stream->out, true))
                return;
            close_output(stream);
        }
        guest->ops->consumed(guest, written);
        atomic_fetch_add(&stream->sent_bytes, written);
    }
    loop_post(stream->loop, &stream->wake_task);
}

static void on_out_ready(struct loop_source *source, uint32_t events)
{
    struct stream *stream = container_of(source, struct stream, out.source);
    if (stream->out.on)
        send_pending(stream);
}

/* Input */

static void deliver_held(struct stream *stream)
{
    struct stream_guest *guest = stream->guest;
    if (stream->held_count == 0)
        return;
    size_t taken =
        guest->ops->receive(guest, stream->held + stream->held_start, stream->held_count);
    stream->held_count -= taken;
    stream->held_start = stream->held_count ? stream->held_start + taken : 0;
}

/* How many bytes may be read now. */
static size_t readable(struct stream *stream)
{
    if (stream->in_ended)
        return 0;
    if (stream->config.keys)
        return HELD_BYTES - stream->held_count;
    if (stream->held_count)
        return 0;
    return MIN(stream->guest->ops->room(stream->guest), (size_t)HELD_BYTES);
}

static void end_input(struct stream *stream)
{
    stream->in_ended = true;
    if (stream->config.input_ended)
        stream->config.input_ended(stream->config.self);
}

/* Watches the input while there is a place for it. */
static void await_input(struct stream *stream)
{
    struct stream_keys *keys = stream->config.keys;
    bool wanted = readable(stream) > 0;
    if (wanted && keys && !keys->ready(keys)) {
        const struct itimerspec soon = {.it_value.tv_sec = RETRY_S};
        wanted = false;
        timerfd_settime(stream->retry_fd, 0, &soon, NULL);
        set_watched(stream, &stream->retry, true);
    }
    if (!set_watched(stream, &stream->in, wanted))
        end_input(stream);
}

static void input_failed(struct stream *stream, int code)
{
    struct stream_keys *keys = stream->config.keys;
    /* A terminal gives EIO to a job that lost the foreground just now. */
    if (code == EIO && keys && !keys->ready(keys))
        return;
    log_warn("%s: cannot read its input: %s; the guest gets no more", stream->config.name,
             strerror(code));
    end_input(stream);
}

static void read_input(struct stream *stream, size_t limit)
{
    struct stream_keys *keys = stream->config.keys;
    memmove(stream->held, stream->held + stream->held_start, stream->held_count);
    stream->held_start = 0;
    uint8_t *at = stream->held + stream->held_count;
    ssize_t count = read(stream->in.source.fd, at, limit);
    if (count > 0)
        stream->held_count += keys ? keys->filter(keys, at, (size_t)count) : (size_t)count;
    else if (count == 0)
        end_input(stream);
    else if (errno != EINTR && errno != EAGAIN)
        input_failed(stream, errno);
}

static void on_in_ready(struct loop_source *source, uint32_t events)
{
    struct stream *stream = container_of(source, struct stream, in.source);
    struct stream_keys *keys = stream->config.keys;
    size_t limit = readable(stream);
    if (stream->in.on && limit && (!keys || keys->ready(keys)))
        read_input(stream, limit);
    deliver_held(stream);
    await_input(stream);
}

static void on_retry(struct loop_source *source, uint32_t events)
{
    struct stream *stream = container_of(source, struct stream, retry.source);
    set_watched(stream, &stream->retry, false);
    await_input(stream);
}

/* Wake-ups */

static void run_wake(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, wake_task);
    if (!stream->out.on)
        send_pending(stream);
    deliver_held(stream);
    await_input(stream);
}

static void wake_stream(struct stream_guest *guest)
{
    struct stream *stream = guest->stream;
    loop_post(stream->loop, &stream->wake_task);
}

static void run_drain(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, drain_task);
    stream->draining = true;
    send_pending(stream);
}

int stream_drain(struct stream *stream, int stop_fd)
{
    struct pollfd waits[] = {
        {.fd = stream->drained_fd, .events = POLLIN},
        {.fd = stop_fd, .events = POLLIN},
    };
    uint64_t count;
    ssize_t ignored = read(stream->drained_fd, &count, sizeof(count)); /* of one given up before */
    (void)ignored;
    loop_post(stream->loop, &stream->drain_task);
    while (poll(waits, ARRAY_SIZE(waits), -1) < 0 && errno == EINTR)
        ;
    return read(stream->drained_fd, &count, sizeof(count)) == sizeof(count) ? 0 : -EINTR;
}

/* Two watches on one descriptor do not go into one epoll. */
static int open_descriptors(struct stream *stream, int in_fd, int out_fd)
{
    stream->in_ended = in_fd < 0;
    stream->out_closed = out_fd < 0;
    if (in_fd >= 0 && in_fd == out_fd) {
        out_fd = stream->own_out_fd = fcntl(in_fd, F_DUPFD_CLOEXEC, 0);
        if (out_fd < 0) {
            stream->in_ended = stream->out_closed = true;
            return -errno;
        }
    }
    stream->in.source = (struct loop_source){.fd = in_fd, .events = EPOLLIN, .ready = on_in_ready};
    stream->out.source =
        (struct loop_source){.fd = out_fd, .events = EPOLLOUT, .ready = on_out_ready};
    return 0;
}

static int open_helpers(struct stream *stream)
{
    stream->drained_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    stream->retry_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    stream->retry.source =
        (struct loop_source){.fd = stream->retry_fd, .events = EPOLLIN, .ready = on_retry};
    return stream->drained_fd < 0 || stream->retry_fd < 0 ? -errno : 0;
}

static void unwatch_all(struct stream *stream)
{
    set_watched(stream, &stream->in, false);
    set_watched(stream, &stream->out, false);
    set_watched(stream, &stream->retry, false);
}

int stream_connect(struct stream *stream, int in_fd, int out_fd)
{
    unwatch_all(stream);
    own_close_fd(&stream->own_out_fd);
    stream->own_out_fd = -1;
    stream->held_start = stream->held_count = 0;
    int ret = open_descriptors(stream, in_fd, out_fd);
    stream_wake(stream->guest);
    return ret;
}

uint64_t stream_sent_bytes(const struct stream *stream)
{
    return atomic_load(&stream->sent_bytes);
}

bool stream_holds_input(const struct stream *stream)
{
    return stream->held_count > 0;
}

int stream_create(struct stream **out, struct loop *loop, struct stream_guest *guest,
                  const struct stream_config *config, struct nido_error *err)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return error_set(err, ENOMEM, "%s: out of memory", config->name);
    stream->loop = loop;
    stream->guest = guest;
    stream->config = *config;
    stream->own_out_fd = stream->drained_fd = stream->retry_fd = -1;
    stream->wake_task.run = run_wake;
    stream->drain_task.run = run_drain;
    int ret = open_helpers(stream);
    if (ret == 0)
        ret = open_descriptors(stream, config->in_fd, config->out_fd);
    if (ret < 0) {
        stream_destroy(stream);
        return error_errno(err, -ret, "%s: cannot set up its descriptors", config->name);
    }
    guest->stream = stream;
    guest->wake = wake_stream;
    stream_wake(guest); /* the first turn, on the loop's thread */
    *out = stream;
    return 0;
}

void stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    if (stream->guest->stream == stream) {
        stream->guest->wake = NULL;
        stream->guest->stream = NULL;
    }
    unwatch_all(stream);
    own_close_fd(&stream->own_out_fd);
    own_close_fd(&stream->drained_fd);
    own_close_fd(&stream->retry_fd);
    free(stream);
}
