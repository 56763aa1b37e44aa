/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/streams.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "firmware/guest/protocol.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define OUT_BIT (1u << STDOUT_FILENO)
#define ERR_BIT (1u << STDERR_FILENO)

#define LAST_BYTES_S 10

void streams_init(struct streams *streams, struct loop *loop, struct stream_keys *keys, bool tty,
                  void (*ended)(void *self), void *self)
{
    *streams = (struct streams){.loop = loop,
                                .keys = keys,
                                .fds = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO},
                                .expected = tty ? OUT_BIT : OUT_BIT | ERR_BIT,
                                .ended = ended,
                                .self = self,
                                .patience.fd = -1};
}

void streams_divert(struct streams *streams, int fd)
{
    for (unsigned i = 0; i < STREAMS_RELAYS; i++)
        streams->fds[i] = fd;
}

static void output_ended(struct streams *streams, unsigned bit)
{
    if (!(streams->expected & bit))
        return;
    streams->expected &= ~bit;
    if (!streams->expected)
        streams->ended(streams->self);
}

static void stdin_ended(void *self)
{
}

static void stdout_ended(void *self)
{
    output_ended(self, OUT_BIT);
}

static void stderr_ended(void *self)
{
    output_ended(self, ERR_BIT);
}

static int connect_input(struct streams *streams, struct stream_keys *keys, int fd,
                         struct nido_error *err)
{
    return relay_create(&streams->relays[0], streams->loop, RELAY_TO_GUEST, streams->fds[0], fd,
                        keys, stdin_ended, streams, err);
}

static int connect_output(struct streams *streams, int number, int fd, struct nido_error *err)
{
    return relay_create(&streams->relays[number], streams->loop, RELAY_FROM_GUEST, fd,
                        streams->fds[number], NULL,
                        number == STDOUT_FILENO ? stdout_ended : stderr_ended, streams, err);
}

static int connect(struct streams *streams, unsigned stream, int fd, struct nido_error *err)
{
    unsigned slot = stream == STREAM_TTY ? 0 : stream;
    if (slot >= STREAMS_RELAYS || streams->relays[slot])
        return error_set(err, EEXIST, "it is there already");
    if (stream == STDIN_FILENO)
        return connect_input(streams, NULL, fd, err);
    if (stream != STREAM_TTY)
        return connect_output(streams, (int)stream, fd, err);
    int ret = connect_input(streams, streams->keys, fd, err);
    return ret < 0 ? ret : connect_output(streams, STDOUT_FILENO, fd, err);
}

void streams_connect(struct streams *streams, unsigned stream, int fd)
{
    struct nido_error err;
    own_fd int socket = fd;
    if (connect(streams, stream, socket, &err) == 0)
        return;
    log_error("the command's stream %u: %s", stream, err.text);
    if (stream != STDIN_FILENO)
        output_ended(streams, stream == STREAM_TTY ? OUT_BIT : 1u << stream);
}

static bool wait_for_reader(const struct streams *streams)
{
    return relay_waits_for_reader(streams->relays[STDOUT_FILENO]) ||
           relay_waits_for_reader(streams->relays[STDERR_FILENO]);
}

static void give_up(struct streams *streams, unsigned bits)
{
    if (streams->expected & bits)
        log_warn("the command has ended, but not its output; that is all there is");
    output_ended(streams, bits);
}

static void on_patience(struct loop_source *source, uint32_t events)
{
    struct streams *streams = container_of(source, struct streams, patience);
    uint64_t times;
    if (read(source->fd, &times, sizeof(times)) == (ssize_t)sizeof(times) &&
        !wait_for_reader(streams))
        give_up(streams, OUT_BIT | ERR_BIT);
}

void streams_finish_soon(struct streams *streams)
{
    const struct itimerspec in = {.it_value.tv_sec = LAST_BYTES_S,
                                  .it_interval.tv_sec = LAST_BYTES_S};
    unsigned missing = (streams->relays[STDOUT_FILENO] ? 0 : OUT_BIT) |
                       (streams->relays[STDERR_FILENO] ? 0 : ERR_BIT);
    give_up(streams, missing);
    if (!streams->expected)
        return;
    streams->patience = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
                                             .events = EPOLLIN,
                                             .ready = on_patience};
    timerfd_settime(streams->patience.fd, 0, &in, NULL);
    loop_add(streams->loop, &streams->patience, NULL);
}

void streams_drain(struct streams *streams, int stop_fd)
{
    for (unsigned i = 1; i < STREAMS_RELAYS; i++)
        if (relay_is_open(streams->relays[i]))
            relay_finish(streams->relays[i], stop_fd);
}

void streams_close(struct streams *streams)
{
    for (unsigned i = 0; i < STREAMS_RELAYS; i++)
        relay_destroy(streams->relays[i]);
    if (!streams->loop || streams->patience.fd < 0)
        return;
    loop_remove(streams->loop, &streams->patience);
    close(streams->patience.fd);
}
