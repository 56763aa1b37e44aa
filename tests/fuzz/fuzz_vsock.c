/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest made of bytes on one side of a vsock's connections, and programs of the host made of
 * bytes on the other. The rings are left to fuzz_virtq.c. The input is a list of steps, each a byte
 * for the kind and what belongs to it (struct step_*). The loop is turned by hand, so an input
 * always does the same.
 *
 * Passes when no sanitizer objects, the books stay right, and the guest is never sent more than it
 * has room for.
 */
#include "base/checked.h"
#include "devices/virtio/vsock_hub.h"

#include "fuzz.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CID      3u
#define CLIENTS  6u
#define PORTS    4u /* of the guest; the host's listeners are at 0 and 1 */
#define PROMISED (3 * MIB)

static struct vsock_hub hub;
static struct loop *loop;
static int clients[CLIENTS]; /* the host's ends; -1: none */
static int listeners[2];
static uint8_t bytes[70000];
static char path[64];

static void take(struct input *input, void *to, size_t length)
{
    size_t there = MIN(length, input->left);
    memset(to, 0, length);
    memcpy(to, input->at, there);
    input->at += there;
    input->left -= there;
}

/* ---- what must always be so ---- */

static void check_books(void)
{
    unsigned in_use = 0;
    uint64_t promised = 0;
    for (unsigned i = 0; i < hub.high_water; i++) {
        const struct vsock_conn *conn = &hub.conns[i];
        if (conn->state == VSOCK_FREE)
            continue;
        in_use++;
        promised += vsock_credit_promise(conn);
        PROMISE(conn->buffered == 0 || conn->received - conn->forwarded == conn->buffered);
        PROMISE(conn->buffered <= vsock_credit_promise(conn));
        PROMISE(!conn->hashed || vsock_find(&hub, conn->host_port, conn->guest_port) == conn);
        PROMISE(conn->source.fd >= 0 || !conn->watched);
        PROMISE(conn->state != VSOCK_DEAD || conn->in_ready);
    }
    PROMISE(in_use == hub.in_use && promised == hub.promised && promised < PROMISED);
}

static void has_work(struct vsock_hub *self)
{
}

/* ---- steps: the guest ---- */

struct step_packet {
    uint8_t op;
    uint8_t ports;   /* 0-3: the guest's, 4-7: which connection's, or listener's */
    uint8_t flags;   /* and 0x80: data is more or less than it says */
    uint16_t length; /* of the data */
    int16_t fwd;     /* from what it should be */
    uint32_t alloc;
} __attribute__((packed));

/* Half of the packets belong to a connection that there is. */
static const struct vsock_conn *pick(uint8_t which)
{
    return hub.high_water && (which & 8) ? &hub.conns[which % hub.high_water] : NULL;
}

static void step_packet(struct input *input)
{
    struct step_packet step;
    take(input, &step, sizeof(step));
    const struct vsock_conn *conn = pick(step.ports >> 4);
    const struct vsock_packet packet = {
        .src_cid = CID,
        .dst_cid = VSOCK_HOST_CID,
        .src_port = conn ? conn->guest_port : step.ports & (PORTS - 1),
        .dst_port = conn ? conn->host_port : step.ports >> 4 & 7,
        .len = step.length + (step.flags & 0x80 ? 1u : 0u),
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = step.op % 10,
        .flags = step.flags & 7,
        .buf_alloc = step.alloc,
        .fwd_cnt = (conn ? conn->guest_fwd : 0) + (uint32_t)step.fwd,
    };
    const struct iovec iov[] = {{bytes, step.length / 3}, {bytes, step.length - step.length / 3}};
    vsock_hub_take(&hub, &packet, iov, ARRAY_SIZE(iov), step.length);
}

struct step_next {
    uint16_t room;
    uint8_t count;
} __attribute__((packed));

static void step_next(struct input *input)
{
    struct step_next step;
    take(input, &step, sizeof(step));
    const size_t room = step.room + 1u;
    struct iovec iov[] = {{bytes, room / 2}, {bytes + room / 2, room - room / 2}};
    for (unsigned i = 0; i <= step.count; i++) {
        struct vsock_packet packet;
        bool there = vsock_hub_has_packet(&hub);
        if (!vsock_hub_next(&hub, iov, ARRAY_SIZE(iov), &packet))
            break;
        PROMISE(there && packet.len <= room && packet.dst_cid == CID);
        PROMISE(iov[0].iov_len == room / 2 && iov[1].iov_len == room - room / 2);
        const struct vsock_conn *conn = vsock_find(&hub, packet.src_port, packet.dst_port);
        PROMISE(!packet.len || (conn && conn->sent - conn->guest_fwd <= conn->guest_alloc));
        check_books();
    }
}

/* ---- steps: the host ---- */

static int *free_client(void)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        if (clients[i] < 0)
            return &clients[i];
    return NULL;
}

static void step_connect(struct input *input)
{
    int *client = free_client();
    if (!client)
        return;
    *client = unix_socket();
    if (unix_connect(*client, path) < 0) {
        close(*client);
        *client = -1;
    }
}

static void step_accept(struct input *input)
{
    uint8_t which;
    int *client = free_client();
    take(input, &which, sizeof(which));
    if (client)
        *client = accept4(listeners[which & 1], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

struct step_client {
    uint8_t which; /* 0-2: which, 3: a good line first */
    uint8_t what;
    uint16_t length;
} __attribute__((packed));

static void step_client(struct input *input)
{
    struct step_client step;
    take(input, &step, sizeof(step));
    int *client = &clients[step.which % CLIENTS];
    const char line[] = {'C', 'O', 'N', 'N', 'E', 'C', 'T', ' ', (char)('0' + step.what % PORTS),
                         '\n'};
    if (*client < 0)
        return;
    if (step.which & 8)
        send(*client, line, sizeof(line), MSG_NOSIGNAL);
    switch (step.what >> 4 & 3) {
    case 0:
        send(*client, input->at, MIN(input->left, step.length & 63u), MSG_NOSIGNAL);
        break;
    case 1:
        send(*client, bytes, step.length, MSG_NOSIGNAL);
        break;
    case 2:
        recv(*client, bytes, step.length, 0);
        break;
    default:
        shutdown(*client, step.length % 3);
    }
    if (step.what & 0x80) {
        close(*client);
        *client = -1;
    }
}

/* ---- steps: the loop ---- */

static void turn_source(struct loop_source *source)
{
    struct pollfd poll_fd = {.fd = source->fd, .events = (short)source->events};
    if (poll(&poll_fd, 1, 0) == 1)
        source->ready(source, (uint32_t)poll_fd.revents);
}

static void step_loop(struct input *input)
{
    turn_source(&hub.listener);
    for (unsigned i = 0; i < hub.high_water; i++)
        if (hub.conns[i].watched)
            turn_source(&hub.conns[i].source);
}

/* Time passes: the first who waits has waited long enough. */
static void step_timer(struct input *input)
{
    uint8_t enough;
    take(input, &enough, sizeof(enough));
    struct vsock_conn *first = TAILQ_FIRST(&hub.waiting);
    if (first && (enough & 1))
        first->deadline_ns = 0;
    hub.timer.ready(&hub.timer, EPOLLIN);
}

static void step_restart(struct input *input)
{
    uint8_t whole;
    take(input, &whole, sizeof(whole));
    if (whole & 1)
        vsock_hub_stop(&hub);
    else
        vsock_hub_drop_all(&hub);
    PROMISE(hub.in_use == 0 && hub.promised == 0);
    vsock_hub_start(&hub);
}

/* ---- a hub for each input ---- */

static int listen_at(unsigned port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", path, port);
    unlink(address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    PROMISE(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    PROMISE(listen(fd, (int)port) == 0);
    return fd;
}

static void make_host(void)
{
    snprintf(path, sizeof(path), "/tmp/fuzz-vsock.%d", (int)getpid());
    PROMISE(loop_create(&loop, "loop/fuzz", NULL) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(listeners); i++)
        listeners[i] = listen_at(i);
}

static void remove_host(void)
{
    char name[80];
    for (unsigned i = 0; i < ARRAY_SIZE(listeners); i++) {
        snprintf(name, sizeof(name), "%s_%u", path, i);
        unlink(name);
    }
}

static void tear_down(void)
{
    int fd;
    vsock_hub_finish(&hub);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (clients[i] >= 0)
            close(clients[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(listeners); i++)
        while ((fd = accept(listeners[i], NULL, NULL)) >= 0)
            close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const steps[])(struct input *) = {
        step_packet, step_packet, step_next,    step_loop,  step_connect,
        step_accept, step_client, step_restart, step_timer,
    };
    struct input input = {data, size};
    uint8_t kind;
    if (!loop) {
        make_host();
        atexit(remove_host);
    }
    PROMISE(vsock_hub_init(&hub, loop, CID, path, has_work, NULL) == 0);
    memset(clients, -1, sizeof(clients));
    vsock_hub_start(&hub);
    while (input.left) {
        take(&input, &kind, sizeof(kind));
        steps[kind % ARRAY_SIZE(steps)](&input);
        check_books();
    }
    tear_down();
    return 0;
}
