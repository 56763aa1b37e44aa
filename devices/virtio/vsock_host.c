/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of a vsock in the making, and the patience with them.
 *
 * A client of the host says "CONNECT PORT\n"; the line is taken out of the socket to the byte, so
 * that what the client sends right behind it is for the guest. A call of the guest goes to
 * PATH_PORT; where that listener's queue is full, a blocking client would wait, so we ask again.
 *
 * One timer serves all: everybody who waits has the same patience from the moment the waiting
 * starts, so the list of those waiting is in the order of their deadlines.
 */
#include "devices/virtio/vsock_hub.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/own.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#define CLIENTS_PER_TURN 16u
#define PRIVILEGED_PORTS 1024u      /* of the guest: these are the first */
#define FIRST_PORT       (1u << 30) /* for clients of the host: up to 2^31 */

/* ---- patience ---- */

static void set_timer(struct vsock_hub *hub, uint64_t at_ns)
{
    if (hub->timer_at_ns && hub->timer_at_ns <= at_ns)
        return;
    const struct itimerspec when = {
        .it_value = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)}};
    timerfd_settime(hub->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
    hub->timer_at_ns = at_ns;
}

void vsock_conn_wait(struct vsock_conn *conn)
{
    vsock_conn_wait_no_more(conn);
    conn->deadline_ns = clock_now_ns() + VSOCK_PATIENCE_NS;
    TAILQ_INSERT_TAIL(&conn->hub->waiting, conn, waiting);
    conn->in_waiting = true;
    set_timer(conn->hub, conn->deadline_ns);
}

void vsock_conn_wait_no_more(struct vsock_conn *conn)
{
    if (conn->in_waiting)
        TAILQ_REMOVE(&conn->hub->waiting, conn, waiting);
    conn->in_waiting = false;
}

/* A connection whose client is gone, or that took too long. */
static void give_up(struct vsock_conn *conn)
{
    bool guest_knows = conn->state != VSOCK_GREETING && !(conn->todo & VSOCK_TODO_REQUEST);
    if (guest_knows)
        vsock_conn_reset(conn);
    else
        vsock_conn_free(conn);
}

/* ---- the guest calls ---- */

/* As unix_connect(); a path that is too long is nobody's. */
static int connect_to_port(const struct vsock_hub *hub, int fd, uint32_t port)
{
    char path[UNIX_PATH_BYTES + sizeof("_4294967295")];
    snprintf(path, sizeof(path), "%s_%u", hub->host.path, port);
    return unix_connect(fd, path);
}

static void try_call(struct vsock_conn *conn)
{
    int ret = connect_to_port(conn->hub, conn->source.fd, conn->host_port);
    if (ret == -EAGAIN) {
        if (!conn->in_waiting)
            vsock_conn_wait(conn);
        set_timer(conn->hub, clock_now_ns() + VSOCK_RETRY_NS);
    } else if (ret < 0) {
        vsock_conn_reset(conn);
    } else {
        vsock_conn_wait_no_more(conn);
        conn->todo |= VSOCK_TODO_RESPONSE;
        vsock_conn_open(conn);
    }
}

static bool may_call(const struct vsock_hub *hub, const struct vsock_packet *packet)
{
    return !hub->guarded_port || packet->dst_port != hub->guarded_port ||
           packet->src_port < PRIVILEGED_PORTS;
}

bool vsock_host_call(struct vsock_hub *hub, const struct vsock_packet *packet)
{
    if (!may_call(hub, packet))
        return false;
    struct vsock_conn *conn = vsock_conn_new(hub, VSOCK_CALLING);
    if (!conn)
        return false;
    conn->host_port = packet->dst_port;
    conn->guest_port = packet->src_port;
    vsock_conn_hash(conn);
    conn->source.fd = unix_socket();
    if (conn->source.fd >= 0 && vsock_credit_learn(conn, packet))
        try_call(conn);
    else
        vsock_conn_reset(conn);
    return true;
}

static void retry_calls(struct vsock_hub *hub)
{
    struct vsock_conn *conn = TAILQ_FIRST(&hub->waiting);
    while (conn) {
        struct vsock_conn *next = TAILQ_NEXT(conn, waiting);
        if (conn->state == VSOCK_CALLING)
            try_call(conn);
        conn = next;
    }
}

/* ---- a client of the host calls ---- */

static uint32_t fresh_port(struct vsock_hub *hub, uint32_t guest_port)
{
    do
        hub->next_port = FIRST_PORT | ((hub->next_port + 1) & (FIRST_PORT - 1));
    while (vsock_find(hub, hub->next_port, guest_port));
    return hub->next_port;
}

static bool parse_number(const char *text, uint32_t *number)
{
    uint64_t value = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits + strspn(text + digits, " \r")] != '\0')
        return false;
    for (size_t i = 0; i < digits; i++)
        value = value * 10 + (uint64_t)(text[i] - '0');
    *number = (uint32_t)value;
    return value <= UINT32_MAX;
}

/* The line is complete, its end is cut off. */
static bool parse_line(const struct vsock_conn *conn, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    const size_t length = sizeof(word) - 1;
    return strlen(conn->line) + 1 == conn->line_length &&
           strncasecmp(conn->line, word, length) == 0 && parse_number(conn->line + length, port);
}

static void ask_guest(struct vsock_conn *conn, uint32_t guest_port)
{
    conn->guest_port = guest_port;
    conn->host_port = fresh_port(conn->hub, guest_port);
    vsock_conn_hash(conn);
    conn->state = VSOCK_WANTED;
    conn->todo = VSOCK_TODO_REQUEST;
    vsock_conn_wait(conn);
    vsock_conn_watch(conn);
    vsock_conn_schedule(conn);
}

/* Takes what has come of the line, and nothing of what follows it. 1: it is complete; 0: not yet;
 * -1: the client is gone, or says something else. */
static int read_line(struct vsock_conn *conn)
{
    char *at = conn->line + conn->line_length;
    const size_t room = sizeof(conn->line) - conn->line_length;
    ssize_t got = recv(conn->source.fd, at, room, MSG_PEEK);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    char *end = memchr(at, '\n', (size_t)got);
    const size_t length = end ? (size_t)(end - at) + 1 : (size_t)got;
    if (got == 0 || recv(conn->source.fd, at, length, 0) != (ssize_t)length)
        return -1;
    conn->line_length += (uint8_t)length;
    if (end)
        *end = '\0';
    else if (length == room)
        return -1;
    return end != NULL;
}

static void greet(struct vsock_conn *conn)
{
    uint32_t port;
    int got = read_line(conn);
    if (got == 0)
        return;
    if (got < 0 || !parse_line(conn, &port))
        vsock_conn_free(conn);
    else
        ask_guest(conn, port);
}

void vsock_host_answered(struct vsock_conn *conn)
{
    char line[24];
    int length = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);
    /* The first bytes into an empty socket: they fit, or the client is gone. */
    if (send(conn->source.fd, line, (size_t)length, MSG_NOSIGNAL) != length) {
        vsock_conn_reset(conn);
        return;
    }
    vsock_conn_wait_no_more(conn);
    vsock_conn_open(conn);
}

static void let_in(struct vsock_hub *hub, int fd)
{
    struct vsock_conn *conn = vsock_conn_new(hub, VSOCK_GREETING);
    if (!conn) {
        close(fd);
        return;
    }
    conn->source.fd = fd;
    vsock_conn_wait(conn);
    vsock_conn_watch(conn);
    greet(conn);
}

/* Out of descriptors: the listener would be ready for ever. A silent client gives one back, or some
 * connection that ends, or time. */
static void pause_listening(struct vsock_hub *hub)
{
    hub->paused = true;
    loop_modify(hub->loop, &hub->listener, 0);
    set_timer(hub, clock_now_ns() + VSOCK_RETRY_NS);
}

static void on_client(struct loop_source *source, uint32_t events)
{
    struct vsock_hub *hub = container_of(source, struct vsock_hub, listener);
    for (unsigned i = 0; i < CLIENTS_PER_TURN; i++) {
        int fd = unix_listener_accept(&hub->host);
        if (fd >= 0)
            let_in(hub, fd);
        else if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
            if (!vsock_evict_greeting(hub))
                pause_listening(hub);
            break;
        } else if (fd == -EAGAIN)
            break;
    }
    hub->work(hub);
}

void vsock_host_watch(struct vsock_hub *hub)
{
    hub->paused = false;
    loop_modify(hub->loop, &hub->listener, hub->running ? EPOLLIN : 0);
}

/* ---- what the loop says ---- */

void vsock_conn_event(struct loop_source *source, uint32_t events)
{
    struct vsock_conn *conn = container_of(source, struct vsock_conn, source);
    struct vsock_hub *hub = conn->hub;
    if (conn->state == VSOCK_GREETING)
        greet(conn);
    else if (conn->state == VSOCK_WANTED && (events & (EPOLLHUP | EPOLLERR)))
        give_up(conn);
    else if (conn->state == VSOCK_OPEN || conn->state == VSOCK_DRAINING)
        vsock_conn_socket_ready(conn, events);
    hub->work(hub);
}

static bool is_calling(const struct vsock_hub *hub)
{
    const struct vsock_conn *conn;
    TAILQ_FOREACH(conn, &hub->waiting, waiting)
    {
        if (conn->state == VSOCK_CALLING)
            return true;
    }
    return false;
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct vsock_hub *hub = container_of(source, struct vsock_hub, timer);
    const uint64_t now_ns = clock_now_ns();
    struct vsock_conn *conn;
    uint64_t count;
    ssize_t ignored = read(source->fd, &count, sizeof(count));
    (void)ignored;
    hub->timer_at_ns = 0;
    while ((conn = TAILQ_FIRST(&hub->waiting)) && conn->deadline_ns <= now_ns)
        give_up(conn);
    if (hub->paused)
        vsock_host_watch(hub);
    retry_calls(hub);
    if ((conn = TAILQ_FIRST(&hub->waiting)))
        set_timer(hub, is_calling(hub) ? now_ns + VSOCK_RETRY_NS : conn->deadline_ns);
    hub->work(hub);
}

/* ---- start and end ---- */

static int add_sources(struct vsock_hub *hub, struct nido_error *err)
{
    hub->listener = (struct loop_source){.fd = hub->host.fd, .ready = on_client};
    int ret = loop_add(hub->loop, &hub->listener, err);
    if (ret < 0)
        return ret;
    hub->timer.events = EPOLLIN;
    hub->timer.ready = on_timer;
    ret = loop_add(hub->loop, &hub->timer, err);
    if (ret < 0)
        loop_remove(hub->loop, &hub->listener);
    return ret;
}

int vsock_host_init(struct vsock_hub *hub, const char *path, struct nido_error *err)
{
    own_fd int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer < 0)
        return error_errno(err, errno, "vsock: cannot make a timer");
    int ret = unix_listener_init(&hub->host, path, err);
    if (ret < 0)
        return error_prefix(err, "vsock");
    hub->timer.fd = timer;
    ret = add_sources(hub, err);
    if (ret < 0)
        unix_listener_finish(&hub->host);
    else
        own_take_fd(&timer);
    return ret;
}

void vsock_host_finish(struct vsock_hub *hub)
{
    loop_remove(hub->loop, &hub->listener);
    loop_remove(hub->loop, &hub->timer);
    close(hub->timer.fd);
    unix_listener_finish(&hub->host);
}
