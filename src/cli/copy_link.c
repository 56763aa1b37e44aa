/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/copy_link.h"

#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT, OUTPUT, WORDS };

/* How long the guest's end may still be heard after it has ended. */
#define LAST_WORDS_MS 10000

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int copy_link_open(struct copy_link *link, const char *name, json_t *request,
                   struct nido_error *err)
{
    json_t *reply = NULL;
    *link = (struct copy_link){.name = name, .machine = -1, .streams = {-1, -1, -1}};
    int ret = control_send(name, request, &reply, &link->machine, err);
    if (ret == 0)
        json_decref(reply);
    return ret;
}

void copy_link_close(struct copy_link *link)
{
    close_fd(&link->machine);
    for (unsigned i = 0; i < ARRAY_SIZE(link->streams); i++)
        close_fd(&link->streams[i]);
}

/* ---- what comes ---- */

static void say_line(struct copy_link *link)
{
    link->line[link->length] = '\0';
    if (link->length)
        log_error("%s: %s", link->name, link->line);
    link->length = 0;
}

/* The guest's words, made harmless for a terminal. */
static void take_words(struct copy_link *link)
{
    char bytes[1024];
    ssize_t n = read(link->streams[WORDS], bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == '\n' || link->length + 1 == sizeof(link->line))
            say_line(link);
        if (bytes[i] != '\n')
            link->line[link->length++] = bytes[i] >= ' ' && bytes[i] <= '~' ? bytes[i] : '?';
    }
    if (n <= 0) {
        say_line(link);
        close_fd(&link->streams[WORDS]);
    }
}

static void take_record(struct copy_link *link)
{
    struct exec_record record;
    int fd, got = exec_receive(link->machine, &record, &fd);
    if (got == 0)
        return;
    if (got > 0 && record.kind == EXEC_STREAM && record.small <= WORDS && fd >= 0 &&
        !link->has[record.small]) {
        link->streams[record.small] = fd;
        link->has[record.small] = true;
        return;
    }
    if (got > 0 && fd >= 0)
        close(fd);
    if (got > 0 && record.kind == EXEC_ENDED) {
        link->told = true;
        link->outcome = record.small;
        link->value = record.value;
    }
    close_fd(&link->machine);
}

/* One wait for anything; what `fd` is ready for, or 0. */
static short turn(struct copy_link *link, int fd, short events)
{
    struct pollfd fds[] = {{.fd = link->machine, .events = POLLIN},
                           {.fd = link->streams[WORDS], .events = POLLIN},
                           {.fd = fd, .events = events}};
    if (poll(fds, ARRAY_SIZE(fds), -1) <= 0)
        return 0;
    if (fds[0].revents)
        take_record(link);
    if (fds[1].revents)
        take_words(link);
    return fds[2].revents;
}

bool copy_link_wait(struct copy_link *link, int fd, short events)
{
    while (link->machine >= 0)
        if (turn(link, fd, events))
            return true;
    return false;
}

/* ---- the streams ---- */

/* False: it never came. */
static bool wait_for_stream(struct copy_link *link, unsigned stream)
{
    while (!link->has[stream] && link->machine >= 0)
        turn(link, -1, 0);
    return link->streams[stream] >= 0;
}

/* What is on its way comes still when the guest's end is over. */
ssize_t copy_link_read(void *self, void *bytes, size_t count)
{
    struct copy_link *link = self;
    if (!wait_for_stream(link, OUTPUT))
        return 0;
    for (;;) {
        ssize_t n = read(link->streams[OUTPUT], bytes, count);
        if (n >= 0)
            return n;
        if (errno == EAGAIN)
            turn(link, link->streams[OUTPUT], POLLIN);
        else if (errno != EINTR)
            return -errno;
    }
}

int copy_link_write(void *self, const void *bytes, size_t count)
{
    struct copy_link *link = self;
    if (!wait_for_stream(link, INPUT))
        return -EPIPE;
    while (count) {
        ssize_t n = send(link->streams[INPUT], bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            turn(link, link->streams[INPUT], POLLOUT);
        else if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            bytes = (const char *)bytes + n;
            count -= (size_t)n;
        }
    }
    return 0;
}

/* ---- the end ---- */

static int status_of(const struct copy_link *link)
{
    if (!link->told) {
        log_error("machine '%s' has ended", link->name);
        return EXIT_GUEST_CRASHED;
    }
    if (link->outcome == AGENT_EXITED)
        return link->value ? 1 : 0;
    if (link->outcome == AGENT_KILLED)
        log_error("%s: what copies there was killed by signal %u", link->name, link->value);
    else
        log_error("%s: cannot copy: %s", link->name, exec_trouble(link->value));
    return link->outcome == AGENT_KILLED ? 1 : EXIT_NIDO_FAILED;
}

int copy_link_finish(struct copy_link *link)
{
    if (link->streams[INPUT] >= 0)
        shutdown(link->streams[INPUT], SHUT_WR);
    close_fd(&link->streams[OUTPUT]);
    while (link->machine >= 0)
        turn(link, -1, 0);
    /* A guest that lies may keep silent here for ever. */
    struct pollfd words = {.fd = link->streams[WORDS], .events = POLLIN};
    while (link->streams[WORDS] >= 0 && poll(&words, 1, LAST_WORDS_MS) > 0)
        take_words(link);
    say_line(link);
    return status_of(link);
}
