/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vsock_bench.h"

#include "base/checked.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WITNESS_BUF 65536u

#define TX_SLOTS (QUEUE_SIZE / 2)

struct guest vguest;
char vsock_path[64];

static char directory[32];
static uint64_t rx_gpa[QUEUE_SIZE], tx_gpa[TX_SLOTS]; /* rx: by the head of the chain */
static unsigned tx_next, tx_in_flight;
static bool keep_full;

/* ---- the bench ---- */

int vsock_bench_set_up(void **state)
{
    struct virtio_device *device;
    struct nido_error err;
    strcpy(directory, "/tmp/nido-vsock.XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(vsock_path, sizeof(vsock_path), "%s/v", directory);
    const struct virtio_vsock_options options = {
        .cid = GUEST_CID, .path = vsock_path, .guarded_port = GUARDED_PORT};
    guest_init(&vguest);
    assert_int_equal(
        virtio_vsock_create(&device, &options, vguest.mem, vguest.loop, &vguest.irq, &err), 0);
    guest_attach(&vguest, device);
    return 0;
}

int vsock_bench_tear_down(void **state)
{
    char command[64];
    guest_finish(&vguest);
    assert_int_equal(access(vsock_path, F_OK), -1); /* it cleans up */
    snprintf(command, sizeof(command), "rm -r %s", directory);
    assert_int_equal(system(command), 0);
    return 0;
}

static uint64_t fresh_rx(void)
{
    return guest_alloc(&vguest, VSOCK_HEADER_BYTES + RX_DATA_BYTES, 8);
}

static void post_one(uint64_t gpa)
{
    const struct guest_buffer buffer = GUEST_IN(gpa, VSOCK_HEADER_BYTES + RX_DATA_BYTES);
    rx_gpa[guest_add(&vguest.rings[RX], &buffer, 1)] = gpa;
}

void vsock_post_rx(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        post_one(fresh_rx());
    guest_kick(&vguest, RX);
}

void vsock_bring_up_starved(void)
{
    guest_bring_up(&vguest, 0, 3, QUEUE_SIZE);
    keep_full = false;
    tx_next = tx_in_flight = 0;
    for (unsigned i = 0; i < TX_SLOTS; i++)
        tx_gpa[i] = guest_alloc(&vguest, VSOCK_HEADER_BYTES + TX_DATA_BYTES, 8);
}

void vsock_bring_up(uint64_t features)
{
    for (unsigned i = 0; i < 3; i++)
        vguest.rings[i].event_idx = features & GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX);
    guest_bring_up(&vguest, features, 3, QUEUE_SIZE);
    keep_full = true;
    tx_next = tx_in_flight = 0;
    for (unsigned i = 0; i < TX_SLOTS; i++)
        tx_gpa[i] = guest_alloc(&vguest, VSOCK_HEADER_BYTES + TX_DATA_BYTES, 8);
    vsock_post_rx(QUEUE_SIZE);
}

static bool says_needs_reset(void)
{
    return guest_read32(&vguest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

bool vsock_needs_reset(void)
{
    for (int i = 0; i < GUEST_TIMEOUT_MS && !says_needs_reset(); i++)
        usleep(1000);
    return says_needs_reset();
}

bool is_healthy(void)
{
    guest_sync(&vguest);
    return !says_needs_reset();
}

/* ---- the guest's half ---- */

uint32_t peer_room(const struct peer *peer)
{
    return peer->host_alloc - (peer->sent - peer->host_fwd);
}

struct vsock_packet peer_packet(const struct peer *peer, uint16_t op)
{
    return (struct vsock_packet){
        .src_cid = GUEST_CID,
        .dst_cid = VSOCK_HOST_CID,
        .src_port = peer->guest_port,
        .dst_port = peer->host_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = op,
        .buf_alloc = peer->buf_alloc,
        .fwd_cnt = peer->fwd_cnt,
    };
}

/* Slots are used in turn, and completed in turn. */
static uint64_t take_slot(void)
{
    struct guest_used used;
    while (guest_take_used(&vguest.rings[TX], &used))
        tx_in_flight--;
    if (tx_in_flight == TX_SLOTS) {
        guest_wait_used(&vguest, TX);
        tx_in_flight--;
    }
    tx_in_flight++;
    return tx_gpa[tx_next++ % TX_SLOTS];
}

void send_raw(const void *bytes, size_t length)
{
    uint64_t gpa = take_slot();
    if (length)
        memcpy(guest_at(&vguest, gpa, length), bytes, length);
    guest_add(&vguest.rings[TX], &GUEST_OUT(gpa, length), 1);
    guest_kick_if_wanted(&vguest, TX);
}

void vsock_send(const struct vsock_packet *packet, const void *data, size_t length)
{
    static uint8_t bytes[VSOCK_HEADER_BYTES + TX_DATA_BYTES];
    assert_true(length <= TX_DATA_BYTES);
    vsock_packet_format(packet, bytes);
    if (length)
        memcpy(bytes + VSOCK_HEADER_BYTES, data, length);
    send_raw(bytes, VSOCK_HEADER_BYTES + length);
}

void send_op(struct peer *peer, uint16_t op)
{
    const struct vsock_packet packet = peer_packet(peer, op);
    vsock_send(&packet, NULL, 0);
}

void send_shutdown(struct peer *peer, uint32_t flags)
{
    struct vsock_packet packet = peer_packet(peer, VIRTIO_VSOCK_OP_SHUTDOWN);
    packet.flags = flags;
    peer->ended |= flags & VIRTIO_VSOCK_SHUTDOWN_SEND;
    vsock_send(&packet, NULL, 0);
}

void send_data(struct peer *peer, const void *data, size_t length)
{
    struct vsock_packet packet = peer_packet(peer, VIRTIO_VSOCK_OP_RW);
    packet.len = (uint32_t)length;
    peer->sent += packet.len;
    vsock_send(&packet, data, length);
}

bool try_receive(struct vsock_packet *packet, uint8_t *data)
{
    struct guest_used used;
    if (!guest_take_used(&vguest.rings[RX], &used))
        return false;
    uint64_t gpa = rx_gpa[used.head];
    assert_in_range(used.written, VSOCK_HEADER_BYTES, VSOCK_HEADER_BYTES + RX_DATA_BYTES);
    const uint8_t *bytes = guest_at(&vguest, gpa, used.written);
    *packet = vsock_packet_parse(bytes);
    assert_int_equal(used.written, VSOCK_HEADER_BYTES + packet->len);
    assert_true(packet->dst_cid == GUEST_CID);
    if (data)
        memcpy(data, bytes + VSOCK_HEADER_BYTES, packet->len);
    if (keep_full) {
        post_one(gpa);
        guest_kick_if_wanted(&vguest, RX);
    }
    return true;
}

struct vsock_packet receive(uint8_t *data)
{
    const uint64_t give_up_ns = clock_now_ns() + GUEST_TIMEOUT_MS * 1000000ull;
    struct vsock_packet packet;
    while (!try_receive(&packet, data)) {
        assert_true(clock_now_ns() < give_up_ns);
        guest_wait_interrupt(&vguest, 10);
    }
    return packet;
}

void note_credit(struct peer *peer, const struct vsock_packet *packet)
{
    /* A promise is never taken back. */
    int32_t moved =
        (int32_t)(packet->fwd_cnt + packet->buf_alloc - peer->host_fwd - peer->host_alloc);
    assert_true(packet->op == VIRTIO_VSOCK_OP_RST || peer->ended || moved >= 0);
    peer->host_fwd = packet->fwd_cnt;
    peer->host_alloc = packet->buf_alloc;
}

struct vsock_packet receive_on(struct peer *peer, uint8_t *data)
{
    struct vsock_packet packet = receive(data);
    assert_true(packet.src_cid == VSOCK_HOST_CID);
    assert_int_equal(packet.dst_port, peer->guest_port);
    assert_int_equal(packet.src_port, peer->host_port);
    assert_int_equal(packet.type, VIRTIO_VSOCK_TYPE_STREAM);
    note_credit(peer, &packet);
    peer->received += packet.len;
    return packet;
}

struct vsock_packet expect_op(struct peer *peer, uint16_t op)
{
    struct vsock_packet packet;
    do
        packet = receive_on(peer, NULL);
    while (packet.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE && op != packet.op);
    assert_int_equal(packet.op, op);
    return packet;
}

void expect_silence(void)
{
    struct vsock_packet packet;
    guest_sync(&vguest);
    usleep(20000);
    assert_false(try_receive(&packet, NULL));
}

/* ---- the host's half ---- */

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    return address;
}

static int host_socket(void)
{
    const struct timeval patience = {.tv_sec = GUEST_TIMEOUT_MS / 1000};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    return fd;
}

int host_connect(void)
{
    const struct sockaddr_un address = address_of(vsock_path);
    int fd = host_socket();
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

int host_listen(uint32_t port, int backlog)
{
    char path[80];
    snprintf(path, sizeof(path), "%s_%u", vsock_path, port);
    const struct sockaddr_un address = address_of(path);
    int fd = host_socket();
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

int host_accept(int listener)
{
    const struct timeval patience = {.tv_sec = GUEST_TIMEOUT_MS / 1000};
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

void host_send(int fd, const void *bytes, size_t length)
{
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), length);
}

void expect_bytes(int fd, const void *bytes, size_t length)
{
    uint8_t *got = malloc(length);
    assert_non_null(got);
    assert_int_equal(recv(fd, got, length, MSG_WAITALL), length);
    assert_memory_equal(got, bytes, length);
    free(got);
}

void expect_closed(int fd)
{
    uint8_t byte;
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
    close(fd);
}

bool is_open(int fd)
{
    uint8_t byte;
    guest_sync(&vguest);
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* ---- both ---- */

int connect_to_guest(struct peer *peer, uint32_t guest_port)
{
    char line[32], answer[32];
    int fd = host_connect();
    host_send(fd, line, (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", guest_port));
    struct vsock_packet packet = receive(NULL);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(packet.dst_port, guest_port);
    peer->guest_port = guest_port;
    peer->host_port = packet.src_port;
    peer->sent = peer->fwd_cnt = peer->received = 0;
    peer->host_alloc = packet.buf_alloc;
    peer->host_fwd = packet.fwd_cnt;
    send_op(peer, VIRTIO_VSOCK_OP_RESPONSE);
    expect_bytes(fd, answer, (size_t)snprintf(answer, sizeof(answer), "OK %u\n", peer->host_port));
    return fd;
}

int connect_to_host(struct peer *peer, int listener, uint32_t host_port, uint32_t guest_port)
{
    *peer = (struct peer){
        .host_port = host_port, .guest_port = guest_port, .buf_alloc = peer->buf_alloc};
    send_op(peer, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(peer, VIRTIO_VSOCK_OP_RESPONSE);
    return host_accept(listener);
}

static uint8_t byte_at(uint64_t offset, unsigned seed)
{
    return (uint8_t)(offset * 31 + (offset >> 8) * 17 + (offset >> 16) * 7 + seed * 101);
}

void make_bytes(uint8_t *bytes, size_t length, uint64_t offset, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = byte_at(offset + i, seed);
}

void check_bytes(const uint8_t *bytes, size_t length, uint64_t offset, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != byte_at(offset + i, seed))
            fail_msg("byte %llu of stream %u is wrong", (unsigned long long)(offset + i), seed);
}

/* ---- what must not change ---- */

struct peer witness;
int witness_fd;

void call_witness(void)
{
    witness = (struct peer){.buf_alloc = WITNESS_BUF};
    witness_fd = connect_to_guest(&witness, 4242);
}

void expect_witness(void)
{
    uint8_t data[RX_DATA_BYTES];
    send_data(&witness, "still", 5);
    expect_bytes(witness_fd, "still", 5);
    host_send(witness_fd, "here", 4);
    while (receive_on(&witness, data).op != VIRTIO_VSOCK_OP_RW)
        ;
    assert_memory_equal(data, "here", 4);
    assert_true(is_healthy());
    close(witness_fd);
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void expect_rest(void)
{
    guest_sync(&vguest);
    uint64_t before = cpu_ns();
    usleep(200000);
    assert_true(cpu_ns() - before < 20000000);
}
