/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of a vsock: its bytes, credits and end.
 *
 * Guest to host. Data goes from guest memory straight into the host's socket. What the socket does
 * not take waits in a buffer, which is made then and freed when it has run empty. Its size is what
 * the guest may still send (vsock_credit.c), so it is never too small.
 *
 * Host to guest. Data is read straight into the guest's receive buffer, as much as the guest has
 * room for. Without room the socket is not watched, and whoever writes to it will block in time.
 *
 * Epoll is level-triggered, so a socket is watched only for what could be done at once; and a peer
 * that is gone (EPOLLHUP, which cannot be masked) is not watched at all: what it has left behind is
 * read as the guest makes room.
 */
#include "devices/virtio/vsock_hub.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATA_MAX 65536u /* in one packet, for the sake of the others in line */

/* ---- in line, and in the loop ---- */

static bool can_read(const struct vsock_conn *conn)
{
    return conn->state == VSOCK_OPEN && !conn->host_eof &&
           !(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* Once each time that room runs out: a guest that answers "none" is not asked in a circle. */
static void ask_for_credit(struct vsock_conn *conn)
{
    if (!can_read(conn) || conn->asked || vsock_credit_room(conn))
        return;
    conn->asked = true;
    conn->todo |= VSOCK_TODO_CREDIT_REQUEST;
}

static bool has_data(const struct vsock_conn *conn)
{
    return conn->readable && can_read(conn) && vsock_credit_room(conn);
}

void vsock_conn_schedule(struct vsock_conn *conn)
{
    if (conn->in_ready || !(conn->state == VSOCK_DEAD || conn->todo || has_data(conn)))
        return;
    TAILQ_INSERT_TAIL(&conn->hub->ready, conn, ready);
    conn->in_ready = true;
}

static uint32_t wanted_events(const struct vsock_conn *conn)
{
    uint32_t events = 0;
    if (conn->state == VSOCK_GREETING)
        return EPOLLIN;
    if (can_read(conn) && !conn->silenced && vsock_credit_room(conn))
        events |= EPOLLIN;
    if (conn->buffered)
        events |= EPOLLOUT;
    return events;
}

void vsock_conn_watch(struct vsock_conn *conn)
{
    if (conn->source.fd < 0 || conn->hup)
        return;
    uint32_t events = wanted_events(conn);
    if (conn->watched) {
        loop_modify(conn->hub->loop, &conn->source, events);
        return;
    }
    conn->source.events = events;
    /* An unwatched socket would hang for ever: its peer is better told. */
    if (loop_add(conn->hub->loop, &conn->source, NULL) < 0)
        conn->hup = conn->readable = conn->deaf = true;
    else
        conn->watched = true;
}

static void unwatch(struct vsock_conn *conn)
{
    if (conn->watched)
        loop_remove(conn->hub->loop, &conn->source);
    conn->watched = false;
}

/* ---- the end ---- */

static void drop_buffer(struct vsock_conn *conn)
{
    free(conn->buffer);
    conn->buffer = NULL;
    conn->buffered = 0;
    vsock_credit_set(conn, conn->received, conn->edge);
}

static void close_host(struct vsock_conn *conn)
{
    unwatch(conn);
    if (conn->source.fd >= 0)
        close(conn->source.fd);
    conn->source.fd = -1;
    conn->readable = false;
    drop_buffer(conn);
}

void vsock_conn_reset(struct vsock_conn *conn)
{
    close_host(conn);
    vsock_conn_wait_no_more(conn);
    vsock_credit_set(conn, conn->received, conn->received);
    conn->state = VSOCK_DEAD;
    conn->todo = 0;
    vsock_conn_schedule(conn);
}

/* What the host will not do any more, the guest is told. */
static void tell_guest(struct vsock_conn *conn)
{
    unsigned flags = (conn->deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0u) |
                     (conn->host_eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0u);
    if (conn->state == VSOCK_OPEN && (flags & ~conn->told_shut))
        conn->todo |= VSOCK_TODO_SHUTDOWN;
}

/* Draws the conclusions after anything has happened to a connection that has its socket. */
static void settle(struct vsock_conn *conn)
{
    if (conn->state == VSOCK_DRAINING && !conn->buffered) {
        vsock_conn_free(conn);
        return;
    }
    if (conn->state == VSOCK_OPEN && !conn->buffered) {
        if (conn->guest_shut == VSOCK_SHUTDOWN_BOTH) {
            vsock_conn_reset(conn);
            return;
        }
        if ((conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && !conn->wr_shut) {
            shutdown(conn->source.fd, SHUT_WR);
            conn->wr_shut = true;
        }
    }
    tell_guest(conn);
    vsock_conn_watch(conn);
    vsock_conn_schedule(conn);
}

/* Nobody will read what the guest sends. */
static void host_is_deaf(struct vsock_conn *conn)
{
    conn->deaf = true;
    drop_buffer(conn);
}

void vsock_conn_open(struct vsock_conn *conn)
{
    conn->state = VSOCK_OPEN;
    ask_for_credit(conn);
    settle(conn);
}

/* A guest ends with RST what it has closed in good order (5.10.6.5), so what it sent before still
 * counts. */
void vsock_conn_hang_up(struct vsock_conn *conn)
{
    if (conn->state != VSOCK_OPEN || !conn->buffered) {
        vsock_conn_free(conn);
        return;
    }
    vsock_conn_unhash(conn);
    if (conn->in_ready)
        TAILQ_REMOVE(&conn->hub->ready, conn, ready);
    conn->in_ready = false;
    conn->todo = 0;
    conn->state = VSOCK_DRAINING;
    vsock_credit_set(conn, conn->forwarded, conn->received);
    shutdown(conn->source.fd, SHUT_RD);
    settle(conn);
}

/* ---- guest to host ---- */

static size_t bytes_of(const struct iovec *iov, unsigned count)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* How many bytes the socket took. */
static size_t send_some(struct vsock_conn *conn, const struct iovec *iov, unsigned count)
{
    const struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
    ssize_t sent = sendmsg(conn->source.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
        return (size_t)sent;
    if (errno != EAGAIN && errno != EINTR)
        host_is_deaf(conn);
    return 0;
}

static void put_byte_range(struct vsock_conn *conn, const uint8_t *from, uint32_t length)
{
    uint32_t at = (conn->buffer_start + conn->buffered) % conn->buffer_bytes;
    uint32_t first = MIN(length, conn->buffer_bytes - at);
    memcpy(conn->buffer + at, from, first);
    memcpy(conn->buffer, from + first, length - first);
    conn->buffered += length;
}

/* Keeps what lies behind the first `skip` bytes. The promise covers it, so there is room. False: no
 * memory. */
static bool keep(struct vsock_conn *conn, const struct iovec *iov, unsigned count, size_t skip)
{
    if (!conn->buffer) {
        conn->buffer_bytes = vsock_credit_promise(conn);
        conn->buffer_start = 0;
        conn->buffer = malloc(conn->buffer_bytes);
    }
    if (!conn->buffer ||
        !checked_inside(conn->buffered, bytes_of(iov, count) - skip, conn->buffer_bytes))
        return false;
    for (unsigned i = 0; i < count; i++) {
        size_t skipped = MIN(skip, iov[i].iov_len);
        put_byte_range(conn, (const uint8_t *)iov[i].iov_base + skipped,
                       (uint32_t)(iov[i].iov_len - skipped));
        skip -= skipped;
    }
    return true;
}

/* The vectors hold `length` bytes. False: no memory. */
static bool take_data(struct vsock_conn *conn, const struct iovec *iov, unsigned count,
                      uint32_t length)
{
    size_t sent = 0;
    conn->received += length;
    if (conn->state == VSOCK_OPEN && !conn->deaf && !conn->buffered)
        sent = send_some(conn, iov, count);
    if (conn->state != VSOCK_OPEN || conn->deaf) {
        vsock_credit_set(conn, conn->received, conn->edge);
        return true;
    }
    vsock_credit_set(conn, conn->forwarded + (uint32_t)sent, conn->edge);
    return sent == length || keep(conn, iov, count, sent);
}

static void credit_if_low(struct vsock_conn *conn)
{
    if (conn->state == VSOCK_OPEN && vsock_credit_is_low(conn))
        conn->todo |= VSOCK_TODO_CREDIT_UPDATE;
}

static void flush_buffer(struct vsock_conn *conn)
{
    uint32_t first = MIN(conn->buffered, conn->buffer_bytes - conn->buffer_start);
    const struct iovec iov[] = {
        {conn->buffer + conn->buffer_start, first},
        {conn->buffer, conn->buffered - first},
    };
    uint32_t sent = (uint32_t)send_some(conn, iov, ARRAY_SIZE(iov));
    if (!conn->buffered)
        return; /* it went deaf */
    conn->buffer_start = (conn->buffer_start + sent) % conn->buffer_bytes;
    conn->buffered -= sent;
    vsock_credit_set(conn, conn->forwarded + sent, conn->edge);
    if (!conn->buffered) {
        free(conn->buffer);
        conn->buffer = NULL;
    }
    credit_if_low(conn);
}

/* False: the guest broke the rules, or we have no memory; the connection cannot go on. */
static bool take_rw(struct vsock_conn *conn, const struct vsock_packet *packet,
                    const struct iovec *iov, unsigned count, uint64_t bytes)
{
    if (packet->len != bytes || packet->len > conn->edge - conn->received)
        return false;
    if (packet->len && !take_data(conn, iov, count, packet->len))
        return false;
    credit_if_low(conn);
    return true;
}

static void take_shutdown(struct vsock_conn *conn, uint32_t flags)
{
    conn->guest_shut |= (uint8_t)(flags & VSOCK_SHUTDOWN_BOTH);
    if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND)
        vsock_credit_set(conn, conn->forwarded, conn->received);
    /* With both, the close that follows says it. */
    if ((conn->guest_shut & VSOCK_SHUTDOWN_BOTH) == VIRTIO_VSOCK_SHUTDOWN_RCV)
        shutdown(conn->source.fd, SHUT_RD);
}

static bool take(struct vsock_conn *conn, const struct vsock_packet *packet,
                 const struct iovec *iov, unsigned count, uint64_t bytes)
{
    switch (packet->op) {
    case VIRTIO_VSOCK_OP_RW:
        return take_rw(conn, packet, iov, count, bytes);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        take_shutdown(conn, packet->flags);
        /* Both sides closed at the same time: nobody would send the RST. */
        return conn->state != VSOCK_CLOSING || conn->guest_shut != VSOCK_SHUTDOWN_BOTH;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return true;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        conn->todo |= VSOCK_TODO_CREDIT_UPDATE;
        return true;
    default:
        return false;
    }
}

void vsock_conn_take(struct vsock_conn *conn, const struct vsock_packet *packet,
                     const struct iovec *iov, unsigned count, uint64_t bytes)
{
    if (!take(conn, packet, iov, count, bytes)) {
        vsock_conn_reset(conn);
        return;
    }
    ask_for_credit(conn);
    settle(conn);
}

void vsock_conn_socket_ready(struct vsock_conn *conn, uint32_t events)
{
    if (events & (EPOLLHUP | EPOLLERR)) {
        conn->hup = conn->readable = true;
        unwatch(conn);
        host_is_deaf(conn);
    }
    if (events & EPOLLIN) {
        conn->silenced = conn->readable;
        conn->readable = true;
    }
    if ((events & EPOLLOUT) && conn->buffered)
        flush_buffer(conn);
    settle(conn);
}

/* ---- host to guest ---- */

/* Reads at most `most` bytes. `iov` is cut for that time. */
static ssize_t read_some(struct vsock_conn *conn, struct iovec *iov, unsigned count, size_t most)
{
    unsigned used = 0;
    size_t before = 0;
    while (used < count && before + iov[used].iov_len < most)
        before += iov[used++].iov_len;
    if (used == count)
        return readv(conn->source.fd, iov, (int)count);
    const size_t whole = iov[used].iov_len;
    iov[used].iov_len = most - before;
    ssize_t got = readv(conn->source.fd, iov, (int)used + 1);
    iov[used].iov_len = whole;
    return got;
}

/* False: no data after all, maybe an end. Less than asked for means that no more waits. */
static bool pick_data(struct vsock_conn *conn, struct iovec *iov, unsigned count,
                      struct vsock_packet *packet)
{
    const size_t room = MIN(vsock_credit_room(conn), DATA_MAX);
    const size_t most = MIN(bytes_of(iov, count), room);
    ssize_t got = read_some(conn, iov, count, most);
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && !conn->hup) {
        conn->readable = conn->silenced = false;
        return false;
    }
    if (got <= 0) {
        conn->host_eof = true;
        conn->deaf |= got < 0;
        conn->readable = conn->silenced = false;
        tell_guest(conn);
        return false;
    }
    conn->sent += (uint32_t)got;
    conn->readable = conn->hup || (size_t)got == most;
    conn->silenced &= conn->readable;
    packet->op = VIRTIO_VSOCK_OP_RW;
    packet->len = (uint32_t)got;
    ask_for_credit(conn);
    return true;
}

/* The guest knows that nothing comes and goes any more, and owes a RST. */
static void start_closing(struct vsock_conn *conn)
{
    close_host(conn);
    conn->state = VSOCK_CLOSING;
    conn->todo = 0;
    vsock_conn_wait(conn);
}

static bool pick_control(struct vsock_conn *conn, struct vsock_packet *packet)
{
    static const uint8_t ops[] = {
        VIRTIO_VSOCK_OP_REQUEST,       VIRTIO_VSOCK_OP_RESPONSE,       VIRTIO_VSOCK_OP_SHUTDOWN,
        VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    };
    if (!conn->todo)
        return false;
    unsigned bit = (unsigned)__builtin_ctz(conn->todo);
    conn->todo &= (uint8_t)(conn->todo - 1);
    packet->op = ops[bit];
    if (packet->op == VIRTIO_VSOCK_OP_SHUTDOWN) {
        conn->told_shut = (uint8_t)((conn->deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0) |
                                    (conn->host_eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0));
        packet->flags = conn->told_shut;
        if (conn->told_shut == VSOCK_SHUTDOWN_BOTH)
            start_closing(conn);
    }
    return true;
}

bool vsock_conn_packet(struct vsock_conn *conn, struct iovec *iov, unsigned count,
                       struct vsock_packet *packet)
{
    *packet = (struct vsock_packet){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = conn->hub->guest_cid,
        .src_port = conn->host_port,
        .dst_port = conn->guest_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = VIRTIO_VSOCK_OP_RST,
    };
    if (conn->state == VSOCK_DEAD) {
        vsock_conn_free(conn);
        return true;
    }
    bool picked = pick_control(conn, packet) ||
                  (has_data(conn) && pick_data(conn, iov, count, packet)) ||
                  pick_control(conn, packet); /* the end, found just now */
    if (picked)
        vsock_credit_tell(conn, packet);
    vsock_conn_watch(conn);
    return picked;
}
