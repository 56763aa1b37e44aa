/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/console_hub.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEYS_BYTES 256u
#define END_BYTES  4096u /* that console_hub_print_end() shows */

struct console_hub {
    struct loop *loop;
    struct loop_source guest, viewer; /* viewer.fd -1: nobody looks */
    uint64_t written, shown;          /* bytes since the start; the ring holds the last of them */
    size_t key_count;                 /* typed and not yet taken by the guest */
    char keys[KEYS_BYTES];
    char ring[CONSOLE_HUB_BYTES];
};

/* What each side is watched for follows from what waits for it. */
static void update_events(struct console_hub *hub)
{
    if (hub->guest.events)
        loop_modify(hub->loop, &hub->guest, EPOLLIN | (hub->key_count ? EPOLLOUT : 0));
    if (hub->viewer.fd < 0)
        return;
    uint32_t events = hub->key_count < KEYS_BYTES ? EPOLLIN : 0;
    if (hub->shown < hub->written)
        events |= EPOLLOUT;
    loop_modify(hub->loop, &hub->viewer, events);
}

static void drop_viewer(struct console_hub *hub)
{
    if (hub->viewer.fd < 0)
        return;
    loop_remove(hub->loop, &hub->viewer);
    close(hub->viewer.fd);
    hub->viewer.fd = -1;
}

static void show(struct console_hub *hub)
{
    if (hub->written - hub->shown > CONSOLE_HUB_BYTES)
        hub->shown = hub->written - CONSOLE_HUB_BYTES;
    while (hub->viewer.fd >= 0 && hub->shown < hub->written) {
        size_t at = hub->shown % CONSOLE_HUB_BYTES;
        size_t piece = MIN(hub->written - hub->shown, (uint64_t)(CONSOLE_HUB_BYTES - at));
        ssize_t n = send(hub->viewer.fd, hub->ring + at, piece, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            drop_viewer(hub);
        else
            hub->shown += (uint64_t)n;
    }
}

/* False: there was none. */
static bool take_output(struct console_hub *hub)
{
    size_t at = hub->written % CONSOLE_HUB_BYTES;
    ssize_t n = recv(hub->guest.fd, hub->ring + at, CONSOLE_HUB_BYTES - at, MSG_DONTWAIT);
    if (n == 0) { /* nobody has the other end any more */
        loop_remove(hub->loop, &hub->guest);
        hub->guest.events = 0;
    }
    if (n > 0)
        hub->written += (uint64_t)n;
    return n > 0;
}

static void give_keys(struct console_hub *hub)
{
    ssize_t n = send(hub->guest.fd, hub->keys, hub->key_count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0)
        return;
    hub->key_count -= (size_t)n;
    memmove(hub->keys, hub->keys + n, hub->key_count);
}

static void on_guest(struct loop_source *source, uint32_t events)
{
    struct console_hub *hub = container_of(source, struct console_hub, guest);
    if (events & EPOLLOUT)
        give_keys(hub);
    if (events & (EPOLLIN | EPOLLHUP))
        take_output(hub);
    show(hub);
    update_events(hub);
}

static void on_viewer(struct loop_source *source, uint32_t events)
{
    struct console_hub *hub = container_of(source, struct console_hub, viewer);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n =
            recv(source->fd, hub->keys + hub->key_count, KEYS_BYTES - hub->key_count, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            drop_viewer(hub);
            return;
        }
        if (n > 0)
            hub->key_count += (size_t)n;
    }
    show(hub);
    update_events(hub);
}

int console_hub_create(struct console_hub **out, struct loop *loop, int *guest_fd,
                       struct nido_error *err)
{
    int ends[2];
    struct console_hub *hub = calloc(1, sizeof(*hub));
    if (!hub)
        return error_set(err, ENOMEM, "console: out of memory");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        free(hub);
        return error_errno(err, errno, "console: cannot make a socket pair");
    }
    hub->loop = loop;
    hub->viewer.fd = -1;
    hub->guest = (struct loop_source){.fd = ends[0], .events = EPOLLIN, .ready = on_guest};
    int ret = loop_add(loop, &hub->guest, err);
    if (ret < 0) {
        close(ends[0]);
        close(ends[1]);
        free(hub);
        return ret;
    }
    *guest_fd = ends[1];
    *out = hub;
    return 0;
}

void console_hub_catch_up(struct console_hub *hub)
{
    while (hub && take_output(hub))
        continue;
}

/* Whole lines, and nothing in them that a terminal would act on. */
void console_hub_print_end(struct console_hub *hub, FILE *to)
{
    if (!hub)
        return;
    console_hub_catch_up(hub);
    uint64_t at = hub->written > END_BYTES ? hub->written - END_BYTES : 0;
    bool in_line = false, is_whole = at == 0;
    if (hub->written)
        fputs("nido: the end of the guest's console:\n", to);
    for (; at < hub->written; at++) {
        char byte = hub->ring[at % CONSOLE_HUB_BYTES];
        if (byte == '\n') {
            if (in_line)
                putc('\n', to);
            in_line = false;
            is_whole = true;
        } else if (byte != '\r' && is_whole) {
            fputs(in_line ? "" : "    ", to);
            putc(byte >= ' ' && byte <= '~' ? byte : '?', to);
            in_line = true;
        }
    }
    if (in_line)
        putc('\n', to);
}

bool console_hub_tells_panic(struct console_hub *hub)
{
    static const char words[] = "Kernel panic - not syncing";
    size_t matched = 0;
    console_hub_catch_up(hub);
    uint64_t at = hub->written > CONSOLE_HUB_BYTES ? hub->written - CONSOLE_HUB_BYTES : 0;
    for (; at < hub->written && words[matched]; at++) {
        char byte = hub->ring[at % CONSOLE_HUB_BYTES];
        /* Their first letter comes once, so a match that fails begins nowhere but here. */
        matched = byte == words[matched] ? matched + 1 : byte == words[0];
    }
    return !words[matched];
}

void console_hub_destroy(struct console_hub *hub)
{
    if (!hub)
        return;
    show(hub);
    drop_viewer(hub);
    loop_remove(hub->loop, &hub->guest);
    close(hub->guest.fd);
    free(hub);
}

void console_hub_attach(struct console_hub *hub, int fd)
{
    drop_viewer(hub);
    hub->shown = hub->written > CONSOLE_HUB_BYTES ? hub->written - CONSOLE_HUB_BYTES : 0;
    hub->viewer = (struct loop_source){.fd = fd, .events = EPOLLIN, .ready = on_viewer};
    if (loop_add(hub->loop, &hub->viewer, NULL) < 0) {
        close(fd);
        hub->viewer.fd = -1;
        return;
    }
    update_events(hub);
}
