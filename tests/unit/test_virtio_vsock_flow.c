/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a vsock's connections: all of them arrive, in order, and never more than the other
 * side has room for, however many connections there are and however slow some are. */
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/vsock_bench.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUF         262144u /* what Linux gives a socket */
#define BULK_BYTES  (64u << 20)
#define CONNS       200u
#define CONN_BYTES  20000u
#define FIRST_PORT  1000u
#define LISTEN_PORT 5000u

/* ---- one connection, much data ---- */

/* What a thread ends with when something was wrong. */
static void *complain(const char *words)
{
    return (void *)(uintptr_t)words;
}

struct stream {
    pthread_t thread;
    int fd;
    uint64_t length;
    unsigned seed;
    bool half_close; /* after writing */
};

static void *write_stream(void *self)
{
    const struct stream *stream = self;
    static __thread uint8_t bytes[10000];
    for (uint64_t done = 0; done < stream->length;) {
        size_t piece = MIN(sizeof(bytes), stream->length - done);
        make_bytes(bytes, piece, done, stream->seed);
        ssize_t sent = send(stream->fd, bytes, piece, MSG_NOSIGNAL);
        if (sent <= 0)
            return complain("the host could not write");
        done += (uint64_t)sent;
    }
    if (stream->half_close && shutdown(stream->fd, SHUT_WR) < 0)
        return complain("no half close");
    return NULL;
}

static void *read_stream(void *self)
{
    const struct stream *stream = self;
    static __thread uint8_t bytes[10000], expected[10000];
    uint64_t done = 0;
    ssize_t got;
    while ((got = recv(stream->fd, bytes, sizeof(bytes), 0)) > 0) {
        make_bytes(expected, (size_t)got, done, stream->seed);
        if (memcmp(bytes, expected, (size_t)got) != 0)
            return complain("the host read something else");
        done += (uint64_t)got;
    }
    if (got < 0 || done != stream->length)
        return complain("the host read too much or too little");
    return NULL;
}

static void start(struct stream *stream, void *(*run)(void *))
{
    assert_int_equal(pthread_create(&stream->thread, NULL, run, stream), 0);
}

static void finish(struct stream *stream)
{
    void *complaint;
    pthread_join(stream->thread, &complaint);
    if (complaint)
        fail_msg("%s", (const char *)complaint);
}

/* Sends all, as the host gives room. */
static void send_stream(struct peer *peer, uint64_t length, unsigned seed)
{
    static uint8_t bytes[TX_DATA_BYTES];
    struct vsock_packet packet;
    for (uint64_t done = 0; done < length;) {
        while (try_receive(&packet, NULL))
            note_credit(peer, &packet);
        while (!peer_room(peer))
            receive_on(peer, NULL);
        size_t piece = MIN(sizeof(bytes), length - done);
        piece = MIN(piece, peer_room(peer));
        make_bytes(bytes, piece, done, seed);
        send_data(peer, bytes, piece);
        done += piece;
    }
}

static void bulk_from_guest(uint64_t features)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(features);
    struct stream stream = {.fd = connect_to_guest(&peer, 9), .length = BULK_BYTES, .seed = 1};
    start(&stream, read_stream);
    send_stream(&peer, BULK_BYTES, 1);
    send_shutdown(&peer, 3);
    finish(&stream);
    close(stream.fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void vsock_brings_64_mib_from_the_guest(void **state)
{
    bulk_from_guest(0);
}

static void vsock_brings_64_mib_from_the_guest_with_event_idx(void **state)
{
    bulk_from_guest(GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX));
}

/* Receives all, and gives back room in large pieces, as Linux does. */
static void receive_stream(struct peer *peer, uint64_t length, unsigned seed)
{
    static uint8_t data[RX_DATA_BYTES];
    for (uint64_t done = 0; done < length;) {
        struct vsock_packet packet = receive_on(peer, data);
        if (packet.op != VIRTIO_VSOCK_OP_RW)
            continue;
        check_bytes(data, packet.len, done, seed);
        done += packet.len;
        assert_true(peer->received - peer->fwd_cnt <= peer->buf_alloc);
        if (peer->received - peer->fwd_cnt > peer->buf_alloc / 2) {
            peer->fwd_cnt = peer->received;
            send_op(peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        }
    }
}

static void bulk_to_guest(uint64_t features)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(features);
    struct stream stream = {
        .fd = connect_to_guest(&peer, 9), .length = BULK_BYTES, .seed = 2, .half_close = true};
    start(&stream, write_stream);
    receive_stream(&peer, BULK_BYTES, 2);
    expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN);
    finish(&stream);
    close(stream.fd);
}

static void vsock_brings_64_mib_to_the_guest(void **state)
{
    bulk_to_guest(0);
}

static void vsock_brings_64_mib_to_the_guest_with_event_idx(void **state)
{
    bulk_to_guest(GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX));
}

/* ---- many connections ---- */

/* Both sides send CONN_BYTES, end their direction, and read the other's. */
struct talk {
    struct stream host;
    struct peer guest;
    uint64_t guest_done, guest_got;
    bool open, shut, ended;
};

static struct talk talks[CONNS];

static void *talk_on_host(void *self)
{
    struct stream *stream = self;
    void *complaint = write_stream(stream);
    struct stream other = *stream;
    other.seed += CONNS;
    if (!complaint)
        complaint = read_stream(&other);
    close(stream->fd);
    return complaint;
}

static void *connect_and_talk(void *self)
{
    struct talk *talk = self;
    char line[64];
    size_t at = 0;
    int length =
        snprintf(line, sizeof(line), "CONNECT %u\n", FIRST_PORT + (unsigned)(talk - talks));
    talk->host.fd = host_connect();
    host_send(talk->host.fd, line, (size_t)length);
    while (at < sizeof(line) - 1 && recv(talk->host.fd, line + at, 1, 0) == 1 && line[at] != '\n')
        at++;
    if (strncmp(line, "OK ", 3) != 0)
        return complain("the guest was not reached");
    return talk_on_host(&talk->host);
}

/* What the guest can do on its side now, one packet at a time. */
static void talk_as_guest(struct talk *talk, unsigned index)
{
    uint8_t bytes[2000];
    struct peer *peer = &talk->guest;
    size_t piece = MIN(CONN_BYTES - talk->guest_done, peer_room(peer));
    piece = MIN(piece, sizeof(bytes));
    if (!talk->open || talk->shut)
        return;
    if (piece) {
        make_bytes(bytes, piece, talk->guest_done, index + CONNS);
        send_data(peer, bytes, piece);
        talk->guest_done += piece;
    }
    if (talk->guest_done == CONN_BYTES) {
        send_shutdown(peer, VIRTIO_VSOCK_SHUTDOWN_SEND);
        talk->shut = true;
    }
}

static void take_as_guest(const struct vsock_packet *packet, const uint8_t *data)
{
    unsigned index = packet->dst_port - FIRST_PORT;
    assert_true(index < CONNS);
    struct talk *talk = &talks[index];
    struct peer *peer = &talk->guest;
    if (packet->op == VIRTIO_VSOCK_OP_REQUEST)
        *peer = (struct peer){
            .host_port = packet->src_port, .guest_port = packet->dst_port, .buf_alloc = 5000};
    note_credit(peer, packet);
    talk->open |= packet->op == VIRTIO_VSOCK_OP_REQUEST || packet->op == VIRTIO_VSOCK_OP_RESPONSE;
    if (packet->op == VIRTIO_VSOCK_OP_REQUEST)
        send_op(peer, VIRTIO_VSOCK_OP_RESPONSE);
    if (packet->op == VIRTIO_VSOCK_OP_RW) {
        check_bytes(data, packet->len, talk->guest_got, index);
        talk->guest_got += packet->len;
        peer->received += packet->len;
        assert_true(peer->received - peer->fwd_cnt <= peer->buf_alloc);
        peer->fwd_cnt = peer->received;
        send_op(peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    }
    if (packet->op == VIRTIO_VSOCK_OP_SHUTDOWN && packet->flags == 3) {
        send_op(peer, VIRTIO_VSOCK_OP_RST);
        talk->ended = true;
    }
    assert_int_not_equal(packet->op, VIRTIO_VSOCK_OP_RST);
}

static bool all_ended(void)
{
    for (unsigned i = 0; i < CONNS; i++)
        if (!talks[i].ended)
            return false;
    return true;
}

static void run_talks(void)
{
    const uint64_t give_up_ns = clock_now_ns() + 60000000000ull;
    static uint8_t data[RX_DATA_BYTES];
    struct vsock_packet packet;
    while (!all_ended()) {
        bool idle = true;
        for (unsigned i = 0; i < 64 && try_receive(&packet, data); i++, idle = false)
            take_as_guest(&packet, data);
        for (unsigned i = 0; i < CONNS; i++)
            talk_as_guest(&talks[i], i);
        if (idle)
            guest_wait_interrupt(&vguest, 10);
        assert_true(clock_now_ns() < give_up_ns);
    }
    for (unsigned i = 0; i < CONNS; i++) {
        assert_int_equal(talks[i].guest_got, CONN_BYTES);
        finish(&talks[i].host);
    }
}

static void prepare_talk(struct talk *talk, unsigned index)
{
    *talk = (struct talk){.host = {.length = CONN_BYTES, .seed = index, .half_close = true}};
}

static void vsock_holds_200_clients_of_the_host_at_once(void **state)
{
    vsock_bring_up(GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    for (unsigned i = 0; i < CONNS; i++)
        prepare_talk(&talks[i], i);
    for (unsigned i = 0; i < CONNS; i++)
        start(&talks[i].host, connect_and_talk); /* the stream is the talk's first member */
    run_talks();
}

/* They are accepted in the order in which the guest has called. */
static void *accept_talks(void *self)
{
    int listener = *(int *)self;
    for (unsigned i = 0; i < CONNS; i++) {
        talks[i].host.fd = host_accept(listener);
        start(&talks[i].host, talk_on_host);
    }
    return NULL;
}

static void vsock_holds_200_calls_of_the_guest_at_once(void **state)
{
    pthread_t acceptor;
    int listener = host_listen(LISTEN_PORT, 1000);
    vsock_bring_up(0);
    for (unsigned i = 0; i < CONNS; i++) {
        prepare_talk(&talks[i], i);
        talks[i].guest = (struct peer){
            .host_port = LISTEN_PORT, .guest_port = FIRST_PORT + i, .buf_alloc = 5000};
        send_op(&talks[i].guest, VIRTIO_VSOCK_OP_REQUEST);
    }
    assert_int_equal(pthread_create(&acceptor, NULL, accept_talks, &listener), 0);
    run_talks();
    pthread_join(acceptor, NULL);
    close(listener);
}

/* ---- never more than there is room for ---- */

/* All that comes until nothing comes any more; the bytes of it. */
static uint32_t receive_all(struct peer *peer, unsigned *credit_requests)
{
    struct vsock_packet packet;
    uint32_t bytes = 0;
    for (int quiet = 0; quiet < 20; quiet++) {
        guest_sync(&vguest);
        for (; try_receive(&packet, NULL); quiet = 0) {
            assert_int_not_equal(packet.op, VIRTIO_VSOCK_OP_RST);
            note_credit(peer, &packet);
            bytes += packet.len;
            *credit_requests += packet.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
        }
        usleep(1000);
    }
    return bytes;
}

static void vsock_sends_no_more_than_the_guest_has_room_for(void **state)
{
    struct peer peer = {.buf_alloc = 1000};
    static uint8_t bytes[100000];
    unsigned asked = 0;
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    host_send(fd, bytes, sizeof(bytes));
    assert_int_equal(receive_all(&peer, &asked), 1000);
    assert_int_equal(asked, 1);

    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE); /* still none: not asked again */
    assert_int_equal(receive_all(&peer, &asked), 0);
    assert_int_equal(asked, 1);
    peer.fwd_cnt = 300;
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(receive_all(&peer, &asked), 300);
    peer.buf_alloc = 500; /* smaller than what is under way */
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(receive_all(&peer, &asked), 0);
    peer.fwd_cnt = 1300;
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(receive_all(&peer, &asked), 500);
    peer.fwd_cnt = 1100; /* late, not wrong */
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(receive_all(&peer, &asked), 0);
    close(fd);
}

static void vsock_answers_who_asks_for_credit(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    assert_int_equal(receive_on(&peer, NULL).op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    expect_silence();
    close(fd);
}

static void vsock_brings_the_last_words_as_there_is_room(void **state)
{
    struct peer peer = {.buf_alloc = 10};
    uint8_t data[RX_DATA_BYTES], bytes[95];
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    make_bytes(bytes, sizeof(bytes), 0, 3);
    host_send(fd, bytes, sizeof(bytes));
    close(fd);
    struct vsock_packet packet;
    do {
        packet = receive_on(&peer, data);
        check_bytes(data, packet.len, peer.fwd_cnt, 3);
        peer.fwd_cnt = peer.received;
        if (packet.len)
            send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    } while (packet.flags != 3);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    assert_int_equal(peer.received, sizeof(bytes));
}

/* ---- slow readers ---- */

/* Sends until the host gives no more room, and says how much it was. */
static uint64_t fill(struct peer *peer, unsigned seed)
{
    static uint8_t bytes[TX_DATA_BYTES];
    struct vsock_packet packet;
    uint64_t done = 0;
    for (int quiet = 0; quiet < 5; quiet++) {
        for (; peer_room(peer); quiet = 0) {
            size_t piece = MIN(sizeof(bytes), peer_room(peer));
            make_bytes(bytes, piece, done, seed);
            send_data(peer, bytes, piece);
            done += piece;
        }
        guest_sync(&vguest);
        while (try_receive(&packet, NULL))
            note_credit(peer, &packet);
    }
    return done;
}

static void vsock_keeps_what_a_slow_reader_has_not_taken(void **state)
{
    struct peer peer = {.buf_alloc = BUF}, other = {.buf_alloc = BUF};
    vsock_bring_up(0);
    struct stream stream = {.fd = connect_to_guest(&peer, 9), .seed = 4};
    stream.length = fill(&peer, 4);
    assert_true(stream.length < 2 * MIB);

    /* Nobody else suffers. */
    int fd = connect_to_guest(&other, 10);
    send_data(&other, "hello", 5);
    expect_bytes(fd, "hello", 5);
    close(fd);
    while (expect_op(&other, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    send_op(&other, VIRTIO_VSOCK_OP_RST);

    start(&stream, read_stream);
    receive_on(&peer, NULL); /* room */
    send_shutdown(&peer, 3);
    finish(&stream);
    close(stream.fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

/* The guest has closed and forgotten; its ports may be used again. */
static void vsock_delivers_what_a_guest_that_left_has_sent(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    int listener = host_listen(80, 5);
    vsock_bring_up(0);
    struct stream stream = {.seed = 4};
    stream.fd = connect_to_host(&peer, listener, 80, 9);
    stream.length = fill(&peer, 4);
    send_shutdown(&peer, 3);
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    int fd = connect_to_host(&peer, listener, 80, 9);
    start(&stream, read_stream);
    finish(&stream);
    close(stream.fd);
    send_data(&peer, "hello", 5);
    expect_bytes(fd, "hello", 5);
    close(fd);
    close(listener);
}

/* What we promise to hold is little, however many do not read. */
static void vsock_bounds_what_all_slow_readers_leave(void **state)
{
    enum { SLOW = 100 };
    static struct peer peers[SLOW];
    static int fds[SLOW];
    vsock_bring_up(0);
    const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (unsigned i = 0; i < SLOW; i++) {
        peers[i] = (struct peer){.buf_alloc = BUF};
        fds[i] = connect_to_guest(&peers[i], 100 + i);
        fill(&peers[i], i);
    }
    const size_t held = mallinfo2().uordblks + mallinfo2().hblkhd - before;
    assert_in_range(held, 0, 2 * MIB + 64 * KIB);
    for (unsigned i = 0; i < SLOW; i++)
        close(fds[i]);
}

/* ---- taking turns ---- */

static void vsock_lets_nobody_starve(void **state)
{
    struct peer loud = {.buf_alloc = UINT32_MAX}, quiet = loud;
    vsock_bring_up(0);
    struct stream stream = {.fd = connect_to_guest(&loud, 9), .length = 256 * MIB, .seed = 1};
    int fd = connect_to_guest(&quiet, 10);
    start(&stream, write_stream);
    for (unsigned round = 0; round < 100; round++) {
        unsigned before = 0;
        host_send(fd, "x", 1);
        while (receive(NULL).dst_port != quiet.guest_port)
            before++;
        /* What is in the ring already, and some turns: each reason to have one brings its own. */
        assert_true(before <= 8 * QUEUE_SIZE);
    }
    send_op(&loud, VIRTIO_VSOCK_OP_RST); /* the writer sees a broken pipe */
    pthread_join(stream.thread, NULL);
    close(stream.fd);
    close(fd);
}

/* ---- waiting without work ---- */

static void vsock_rests_while_the_guest_gives_no_buffers(void **state)
{
    struct vsock_packet packet;
    vsock_bring_up_starved();
    int fds[20];
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = host_connect();
        host_send(fds[i], "CONNECT 9\n", 10);
    }
    expect_rest();
    vsock_post_rx(ARRAY_SIZE(fds));
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        packet = receive(NULL);
        struct peer peer = {.host_port = packet.src_port, .guest_port = 9, .buf_alloc = BUF};
        send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE);
        host_send(fds[i], "hello", 5);
    }
    expect_rest(); /* all sockets are readable */
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i += 2)
        close(fds[i]);
    expect_rest(); /* and half of them gone */
    vsock_post_rx(ARRAY_SIZE(fds));
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
        receive(NULL);
    for (unsigned i = 1; i < ARRAY_SIZE(fds); i += 2)
        close(fds[i]);
}

static void vsock_rests_while_nobody_has_room(void **state)
{
    struct peer slow = {.buf_alloc = BUF}, full = {.buf_alloc = 0}, half = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int slow_fd = connect_to_guest(&slow, 9);
    fill(&slow, 1);
    expect_rest();
    int full_fd = connect_to_guest(&full, 10);
    expect_op(&full, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    host_send(full_fd, "hello", 5);
    close(full_fd);
    expect_op(&full, VIRTIO_VSOCK_OP_SHUTDOWN);
    expect_rest();
    int half_fd = connect_to_guest(&half, 11);
    shutdown(half_fd, SHUT_WR);
    expect_op(&half, VIRTIO_VSOCK_OP_SHUTDOWN);
    expect_rest();
    int silent_fd = host_connect();
    host_send(silent_fd, "CONN", 4);
    expect_rest();
    close(slow_fd);
    close(half_fd);
    close(silent_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(vsock_brings_64_mib_from_the_guest),
        VSOCK_TEST(vsock_brings_64_mib_from_the_guest_with_event_idx),
        VSOCK_TEST(vsock_brings_64_mib_to_the_guest),
        VSOCK_TEST(vsock_brings_64_mib_to_the_guest_with_event_idx),
        VSOCK_TEST(vsock_holds_200_clients_of_the_host_at_once),
        VSOCK_TEST(vsock_holds_200_calls_of_the_guest_at_once),
        VSOCK_TEST(vsock_sends_no_more_than_the_guest_has_room_for),
        VSOCK_TEST(vsock_answers_who_asks_for_credit),
        VSOCK_TEST(vsock_brings_the_last_words_as_there_is_room),
        VSOCK_TEST(vsock_keeps_what_a_slow_reader_has_not_taken),
        VSOCK_TEST(vsock_delivers_what_a_guest_that_left_has_sent),
        VSOCK_TEST(vsock_bounds_what_all_slow_readers_leave),
        VSOCK_TEST(vsock_lets_nobody_starve),
        VSOCK_TEST(vsock_rests_while_the_guest_gives_no_buffers),
        VSOCK_TEST(vsock_rests_while_nobody_has_room),
    };
    log_set_level(LOG_ERROR); /* the complaints are expected */
    return cmocka_run_group_tests_name("virtio_vsock_flow", tests, NULL, NULL);
}
