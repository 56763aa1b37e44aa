/* SPDX-License-Identifier: Apache-2.0 */
#include "host/relay.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define RELAY_BYTES 65536u
#define PATIENCE_MS 1000 /* with a reader, at the end */
#define NAP_MS      100  /* until a terminal is asked for again */

/* How a descriptor is written to. */
enum target_kind {
    TARGET_FILE,   /* never waits, and epoll does not take it */
    TARGET_OWN,    /* an open file of our own, in non-blocking mode */
    TARGET_SOCKET, /* each send says that it does not wait */
    TARGET_PIPE,   /* in blocking mode: one that is ready takes PIPE_BUF bytes */
    TARGET_TTY,    /* in blocking mode: one that is ready takes a byte, be it two for it */
};

struct relay {
    struct loop *loop;
    struct loop_source from, to;
    bool from_added, to_added;
    bool ended;     /* of the source */
    bool finishing; /* relay_finish() */
    enum target_kind kind;
    enum relay_way way;
    struct stream_keys *keys;
    void (*on_end)(void *self);
    void *self;
    size_t start, count;
    uint8_t bytes[RELAY_BYTES];
};

static void set_watch(struct relay *relay, struct loop_source *source, bool *added, bool wanted)
{
    if (wanted && !*added)
        *added = loop_add(relay->loop, source, NULL) == 0;
    else if (!wanted && *added) {
        loop_remove(relay->loop, source);
        *added = false;
    }
}

static void close_both(struct relay *relay)
{
    set_watch(relay, &relay->from, &relay->from_added, false);
    set_watch(relay, &relay->to, &relay->to_added, false);
    if (relay->from.fd >= 0)
        close(relay->from.fd);
    if (relay->to.fd >= 0)
        close(relay->to.fd);
    relay->from.fd = relay->to.fd = -1;
}

static void end(struct relay *relay, bool broken)
{
    /* Even where the other way still uses the same socket. */
    if (relay->way == RELAY_TO_GUEST)
        shutdown(relay->to.fd, SHUT_WR);
    else if (broken)
        shutdown(relay->from.fd, SHUT_RDWR);
    close_both(relay);
    relay->on_end(relay->self);
}

/* Nothing is watched that is not wanted: a peer that is gone would be reported for ever. */
static void watch(struct relay *relay)
{
    set_watch(relay, &relay->from, &relay->from_added, !relay->count && !relay->ended);
    if (relay->kind == TARGET_FILE)
        return;
    set_watch(relay, &relay->to, &relay->to_added, true);
    loop_modify(relay->loop, &relay->to, relay->count ? EPOLLOUT : 0);
}

static bool is_passing(int code)
{
    return code == EAGAIN || code == EINTR;
}

static void fill(struct relay *relay)
{
    if (relay->keys && !relay->keys->ready(relay->keys)) {
        poll(NULL, 0, NAP_MS); /* it is another program's now; epoll would say it all the time */
        return;
    }
    ssize_t n = read(relay->from.fd, relay->bytes, RELAY_BYTES);
    if (n < 0 && is_passing(errno)) {
        relay->ended |= relay->finishing;
        return;
    }
    relay->start = 0;
    relay->count = n > 0 ? (size_t)n : 0;
    relay->ended = n <= 0;
    if (relay->keys)
        relay->count = relay->keys->filter(relay->keys, relay->bytes, relay->count);
}

static bool takes_more(const struct relay *relay)
{
    struct pollfd to = {.fd = relay->to.fd, .events = POLLOUT};
    bool is_blocking = relay->kind == TARGET_PIPE || relay->kind == TARGET_TTY;
    return !is_blocking || poll(&to, 1, 0) == 1;
}

static ssize_t put(struct relay *relay)
{
    const uint8_t *at = relay->bytes + relay->start;
    if (relay->kind == TARGET_SOCKET)
        return send(relay->to.fd, at, relay->count, MSG_DONTWAIT | MSG_NOSIGNAL);
    size_t most = relay->kind == TARGET_TTY    ? 1
                  : relay->kind == TARGET_PIPE ? PIPE_BUF
                                               : RELAY_BYTES;
    return write(relay->to.fd, at, MIN(relay->count, most));
}

/* A reader that has gone away is not told of, a disk that is full is: nobody else knows. */
static void complain(const struct relay *relay, int code)
{
    if (relay->way == RELAY_FROM_GUEST && code != EPIPE && code != ECONNRESET)
        log_error("output is lost: %s", strerror(code));
}

/* False: nobody takes it any more. */
static bool drain(struct relay *relay)
{
    while (relay->count && takes_more(relay)) {
        ssize_t n = put(relay);
        if (n < 0 && is_passing(errno))
            return true;
        if (n < 0) {
            complain(relay, errno);
            return false;
        }
        relay->start += (size_t)n;
        relay->count -= (size_t)n;
    }
    return true;
}

static void work(struct relay *relay)
{
    if (relay->count == 0 && !relay->ended)
        fill(relay);
    if (!drain(relay))
        end(relay, true);
    else if (relay->ended && relay->count == 0)
        end(relay, false);
    else
        watch(relay);
}

static void on_from(struct loop_source *source, uint32_t events)
{
    work(container_of(source, struct relay, from));
}

static void on_to(struct loop_source *source, uint32_t events)
{
    struct relay *relay = container_of(source, struct relay, to);
    if (events & (EPOLLERR | EPOLLHUP))
        end(relay, true);
    else if (relay->count)
        work(relay);
}

/* O_NONBLOCK belongs to the open file, which others share; so this makes one of our own. */
static int open_anew(int fd, int access)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int open_target(int fd, enum target_kind *kind)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    bool is_tty = S_ISCHR(st.st_mode) && isatty(fd);
    *kind = S_ISSOCK(st.st_mode)   ? TARGET_SOCKET
            : S_ISFIFO(st.st_mode) ? TARGET_PIPE
            : is_tty               ? TARGET_TTY
                                   : TARGET_FILE;
    if (*kind == TARGET_PIPE || is_tty) {
        int own = open_anew(fd, O_WRONLY);
        if (own >= 0) {
            *kind = TARGET_OWN;
            return own;
        }
    }
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Two that read one pipe are both told of a byte, and one would wait for another. A FIFO that has a name is not opened
 * again: where its writers have gone meanwhile, nothing would tell of the end. */
static int open_source(int fd)
{
    struct statfs kind;
    if (fstatfs(fd, &kind) == 0 && kind.f_type == PIPEFS_MAGIC) {
        int own = open_anew(fd, O_RDONLY);
        if (own >= 0)
            return own;
    }
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

int relay_create(struct relay **out, struct loop *loop, enum relay_way way, int from, int to,
                 struct stream_keys *keys, void (*ended)(void *self), void *self,
                 struct nido_error *err)
{
    struct relay *relay = calloc(1, sizeof(*relay));
    if (!relay)
        return error_set(err, ENOMEM, "out of memory");
    relay->loop = loop;
    relay->way = way;
    relay->keys = keys;
    relay->on_end = ended;
    relay->self = self;
    relay->from =
        (struct loop_source){.fd = open_source(from), .events = EPOLLIN, .ready = on_from};
    relay->to = (struct loop_source){.fd = open_target(to, &relay->kind), .ready = on_to};
    if (relay->from.fd < 0 || relay->to.fd < 0) {
        int code = errno;
        relay_destroy(relay);
        return error_errno(err, code, "cannot copy a descriptor");
    }
    watch(relay);
    *out = relay;
    return 0;
}

void relay_destroy(struct relay *relay)
{
    if (!relay)
        return;
    close_both(relay);
    free(relay);
}

bool relay_is_open(const struct relay *relay)
{
    return relay && relay->to.fd >= 0;
}

bool relay_waits_for_reader(const struct relay *relay)
{
    return relay_is_open(relay) && relay->count;
}

void relay_finish(struct relay *relay, int stop_fd)
{
    relay->finishing = true;
    while (relay_is_open(relay)) {
        struct pollfd fds[] = {{.fd = relay->to.fd, .events = POLLOUT},
                               {.fd = stop_fd, .events = POLLIN}};
        work(relay);
        if (relay_is_open(relay) && (poll(fds, 2, PATIENCE_MS) <= 0 || fds[1].revents))
            end(relay, true);
    }
}
