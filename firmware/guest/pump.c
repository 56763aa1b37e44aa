/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

bool pump_open(struct pump *pump, int from, int to)
{
    *pump = (struct pump){.from = from, .to = to, .bytes = malloc(PUMP_BYTES)};
    if (!pump->bytes) {
        pump_close(pump);
        return false;
    }
    set_nonblocking(from);
    set_nonblocking(to);
    return true;
}

static void close_from(struct pump *pump)
{
    if (pump->from >= 0)
        close(pump->from);
    pump->from = -1;
}

void pump_close(struct pump *pump)
{
    close_from(pump);
    if (pump->to >= 0)
        close(pump->to);
    pump->to = -1;
    free(pump->bytes);
    pump->bytes = NULL;
}

/* `to` is watched even with nothing to write: poll() tells when its reader is gone. */
void pump_wants(const struct pump *pump, struct pollfd fds[2])
{
    fds[0] = (struct pollfd){.fd = pump->count ? -1 : pump->from, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = pump->to, .events = pump->count ? POLLOUT : 0};
}

static void fill(struct pump *pump)
{
    ssize_t n = read(pump->from, pump->bytes, PUMP_BYTES);
    if (n < 0 && errno == EINTR)
        return;
    /* Linux says so of a terminal only when all that was written to it has been read. */
    if (n < 0 && errno == EAGAIN) {
        if (pump->last)
            close_from(pump);
        return;
    }
    /* EIO: of a terminal that nobody has open any more. */
    if (n <= 0) {
        close_from(pump);
        return;
    }
    pump->start = 0;
    pump->count = (size_t)n;
}

static void drain(struct pump *pump)
{
    ssize_t n = write(pump->to, pump->bytes + pump->start, pump->count);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        pump_close(pump);
        return;
    }
    pump->start += (size_t)n;
    pump->count -= (size_t)n;
}

void pump_work(struct pump *pump, const struct pollfd fds[2])
{
    if (!pump_is_open(pump))
        return;
    if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) {
        pump_close(pump);
        return;
    }
    if (pump->count == 0 && pump->from >= 0 && (fds[0].revents || pump->last))
        fill(pump);
    if (pump->count)
        drain(pump);
    if (pump_is_open(pump) && pump->from < 0 && pump->count == 0)
        pump_close(pump);
}
