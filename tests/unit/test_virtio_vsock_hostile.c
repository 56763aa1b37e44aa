/* SPDX-License-Identifier: Apache-2.0 */
/* A vsock with guests that lie and peers that do not behave: what they do costs their connection,
 * or the device, and nobody else anything. */
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/vsock_bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BUF         65536u
#define TABLE       1024u /* connections that a device holds */
#define ANSWERS     128u  /* RST that it holds */
#define PATIENCE_MS 5000u

/* ---- chains ---- */

static void vsock_breaks_on_half_a_header(void **state)
{
    uint8_t header[VSOCK_HEADER_BYTES] = {0};
    vsock_bring_up(0);
    call_witness();
    int silent = host_connect();
    guest_sync(&vguest);
    send_raw(header, sizeof(header) - 1);
    assert_true(vsock_needs_reset());
    expect_closed(witness_fd);
    expect_closed(silent);

    guest_reset(&vguest);
    vsock_bring_up(0);
    call_witness();
    expect_witness();
}

static void vsock_breaks_on_a_packet_it_could_write_to(void **state)
{
    vsock_bring_up(0);
    uint64_t gpa = guest_alloc(&vguest, 200, 8);
    const struct guest_buffer buffers[] = {GUEST_OUT(gpa, 100), GUEST_IN(gpa + 100, 100)};
    guest_add(&vguest.rings[TX], buffers, 2);
    guest_kick(&vguest, TX);
    assert_true(vsock_needs_reset());
}

static void vsock_breaks_on_a_buffer_without_room(void **state)
{
    vsock_bring_up_starved();
    uint64_t gpa = guest_alloc(&vguest, 200, 8);
    guest_add(&vguest.rings[RX], &GUEST_IN(gpa, VSOCK_HEADER_BYTES), 1);
    guest_kick(&vguest, RX);
    assert_true(is_healthy()); /* nobody looks before it is needed */
    struct peer peer = {.host_port = 1, .guest_port = 2};
    send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
    assert_true(vsock_needs_reset());
}

static void vsock_breaks_on_a_buffer_it_could_read(void **state)
{
    vsock_bring_up_starved();
    uint64_t gpa = guest_alloc(&vguest, 200, 8);
    const struct guest_buffer buffers[] = {GUEST_OUT(gpa, 100), GUEST_IN(gpa + 100, 100)};
    guest_add(&vguest.rings[RX], buffers, 2);
    guest_kick(&vguest, RX);
    struct peer peer = {.host_port = 1, .guest_port = 2};
    send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
    assert_true(vsock_needs_reset());
}

/* 2.7.4: a device must not care where descriptors begin and end. */
static void vsock_takes_a_packet_in_crumbs(void **state)
{
    vsock_bring_up(0);
    call_witness();
    struct guest_buffer buffers[VSOCK_HEADER_BYTES + 10];
    uint64_t gpa = guest_alloc(&vguest, ARRAY_SIZE(buffers), 1);
    struct vsock_packet packet = peer_packet(&witness, VIRTIO_VSOCK_OP_RW);
    packet.len = 10;
    witness.sent = 10;
    vsock_packet_format(&packet, guest_at(&vguest, gpa, VSOCK_HEADER_BYTES));
    memcpy(guest_at(&vguest, gpa + VSOCK_HEADER_BYTES, 10), "0123456789", 10);
    for (unsigned i = 0; i < ARRAY_SIZE(buffers); i++)
        buffers[i] = GUEST_OUT(gpa + i, 1);
    guest_add(&vguest.rings[TX], buffers, ARRAY_SIZE(buffers));
    guest_kick(&vguest, TX);
    guest_wait_used(&vguest, TX);
    expect_bytes(witness_fd, "0123456789", 10);
    expect_witness();
}

static void vsock_fills_a_buffer_in_crumbs(void **state)
{
    vsock_bring_up_starved();
    struct guest_buffer buffers[VSOCK_HEADER_BYTES + 10];
    uint64_t gpa = guest_alloc(&vguest, ARRAY_SIZE(buffers), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(buffers); i++)
        buffers[i] = GUEST_IN(gpa + i, 1);
    int fd = host_connect();
    host_send(fd, "CONNECT 9\n", 10);
    guest_add(&vguest.rings[RX], buffers, ARRAY_SIZE(buffers));
    guest_kick(&vguest, RX);
    assert_int_equal(guest_wait_used(&vguest, RX).written, VSOCK_HEADER_BYTES);
    const uint8_t *bytes = guest_at(&vguest, gpa, ARRAY_SIZE(buffers));
    struct vsock_packet packet = vsock_packet_parse(bytes);
    struct peer peer = {.host_port = packet.src_port, .guest_port = 9, .buf_alloc = BUF};

    send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE);
    host_send(fd, "0123456789abc", 13); /* more than fits */
    guest_add(&vguest.rings[RX], buffers, ARRAY_SIZE(buffers));
    guest_kick(&vguest, RX);
    assert_int_equal(guest_wait_used(&vguest, RX).written, ARRAY_SIZE(buffers));
    packet = vsock_packet_parse(bytes);
    assert_int_equal(packet.len, 10);
    assert_memory_equal(bytes + VSOCK_HEADER_BYTES, "0123456789", 10);
    close(fd);
}

static void vsock_breaks_on_an_event_buffer_too_small(void **state)
{
    vsock_bring_up(0);
    guest_add(&vguest.rings[EVENT], &GUEST_IN(guest_alloc(&vguest, 4, 4), 3), 1);
    guest_kick(&vguest, EVENT);
    guest_sync(&vguest);
    loop_stop(vguest.loop);
    virtio_vsock_transport_reset(vguest.device);
    assert_int_equal(loop_start(vguest.loop, NULL), 0);
    assert_true(vsock_needs_reset());
}

/* ---- packets ---- */

/* A connection that is open, and what the packet `change` makes of a good one does to it. */
static void expect_rst_for(void (*change)(struct vsock_packet *packet), size_t data_bytes)
{
    static uint8_t data[TX_DATA_BYTES];
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    call_witness();
    int fd = connect_to_guest(&peer, 9);
    struct vsock_packet packet = peer_packet(&peer, VIRTIO_VSOCK_OP_RW);
    packet.len = (uint32_t)data_bytes;
    change(&packet);
    vsock_send(&packet, data, data_bytes);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_closed(fd);
    expect_witness();
}

static void says_more(struct vsock_packet *packet)
{
    packet->len++;
}

static void says_everything(struct vsock_packet *packet)
{
    packet->len = UINT32_MAX;
}

static void was_taken(struct vsock_packet *packet)
{
    packet->fwd_cnt = 1;
}

static void is_unknown(struct vsock_packet *packet)
{
    packet->op = 99;
}

static void is_none(struct vsock_packet *packet)
{
    packet->op = VIRTIO_VSOCK_OP_INVALID;
}

static void asks_again(struct vsock_packet *packet)
{
    packet->op = VIRTIO_VSOCK_OP_REQUEST;
}

static void agrees_again(struct vsock_packet *packet)
{
    packet->op = VIRTIO_VSOCK_OP_RESPONSE;
}

static void is_good(struct vsock_packet *packet)
{
}

static void vsock_resets_who_lies_about_a_length(void **state)
{
    expect_rst_for(says_more, 100);
}

static void vsock_resets_who_sends_four_gigabytes(void **state)
{
    expect_rst_for(says_everything, 100);
}

static void vsock_resets_who_took_what_was_never_sent(void **state)
{
    expect_rst_for(was_taken, 10);
}

static void vsock_resets_who_says_an_unknown_word(void **state)
{
    expect_rst_for(is_unknown, 0);
}

static void vsock_resets_who_says_nothing(void **state)
{
    expect_rst_for(is_none, 0);
}

static void vsock_resets_who_asks_twice(void **state)
{
    expect_rst_for(asks_again, 0);
}

static void vsock_resets_who_agrees_twice(void **state)
{
    expect_rst_for(agrees_again, 0);
}

/* The first promise is smaller than this. */
static void vsock_resets_who_sends_more_than_it_may(void **state)
{
    expect_rst_for(is_good, TX_DATA_BYTES);
}

static void vsock_ignores_what_lies_behind_the_data(void **state)
{
    vsock_bring_up(0);
    call_witness();
    struct vsock_packet packet = peer_packet(&witness, VIRTIO_VSOCK_OP_RW);
    packet.len = 3;
    witness.sent = 3;
    vsock_send(&packet, "abcdef", 6);
    expect_bytes(witness_fd, "abc", 3);
    packet.len = 0;
    vsock_send(&packet, "abcdef", 6);
    vsock_send(&packet, NULL, 0);
    expect_witness();
}

static void vsock_ignores_who_is_not_the_guest(void **state)
{
    vsock_bring_up(0);
    call_witness();
    struct vsock_packet packet = peer_packet(&witness, VIRTIO_VSOCK_OP_RST);
    packet.src_cid = GUEST_CID + 1;
    vsock_send(&packet, NULL, 0);
    packet.src_cid |= 1ull << 40;
    vsock_send(&packet, NULL, 0);
    expect_silence();
    expect_witness();
}

/* 5.10.6.2, 5.10.6.4 */
static void vsock_answers_for_those_it_does_not_know(void **state)
{
    static const uint64_t strangers[] = {0, 1, 3, GUEST_CID, 1ull << 32 | VSOCK_HOST_CID};
    struct peer peer = {.host_port = 5, .guest_port = 6};
    struct vsock_packet packet = peer_packet(&peer, VIRTIO_VSOCK_OP_REQUEST);
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < ARRAY_SIZE(strangers); i++) {
        packet.dst_cid = strangers[i];
        vsock_send(&packet, NULL, 0);
        struct vsock_packet got = receive(NULL);
        assert_true(got.src_cid == strangers[i]);
        assert_int_equal(got.op, VIRTIO_VSOCK_OP_RST);
        assert_int_equal(got.src_port, 5);
        assert_int_equal(got.dst_port, 6);
    }
    packet.dst_cid = VSOCK_HOST_CID;
    for (packet.type = 0; packet.type < 5; packet.type++) {
        vsock_send(&packet, NULL, 0);
        struct vsock_packet got = receive(NULL);
        assert_int_equal(got.op, VIRTIO_VSOCK_OP_RST);
        assert_int_equal(got.type, packet.type);
    }
    packet.type = 3;
    packet.op = VIRTIO_VSOCK_OP_RST; /* which nobody answers */
    vsock_send(&packet, NULL, 0);
    expect_silence();
    expect_witness();
}

static void vsock_answers_for_connections_there_are_not(void **state)
{
    struct peer peer = {.host_port = 5, .guest_port = 6};
    vsock_bring_up(0);
    call_witness();
    for (uint16_t op = 0; op < 10; op++) {
        send_op(&peer, op);
        if (op == VIRTIO_VSOCK_OP_RST)
            expect_silence();
        else
            assert_int_equal(receive_on(&peer, NULL).op, VIRTIO_VSOCK_OP_RST);
    }
    expect_witness();
}

static void vsock_resets_who_talks_before_agreeing(void **state)
{
    static const uint16_t ops[] = {VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_SHUTDOWN,
                                   VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_REQUEST};
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        int fd = host_connect();
        host_send(fd, "CONNECT 9\n", 10);
        struct peer peer = {.guest_port = 9, .host_port = receive(NULL).src_port};
        send_op(&peer, ops[i]);
        assert_int_equal(receive_on(&peer, NULL).op, VIRTIO_VSOCK_OP_RST);
        expect_closed(fd);
    }
    expect_witness();
}

/* It knows what the port will be, but not that it was asked. */
static void vsock_wants_no_answer_before_its_question(void **state)
{
    vsock_bring_up_starved();
    int fd = host_connect();
    host_send(fd, "CONNECT 9\n", 10);
    guest_sync(&vguest);
    usleep(20000);
    struct peer peer = {.guest_port = 9, .host_port = (1u << 30) + 1};
    send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE);
    expect_closed(fd);
    vsock_post_rx(1);
    assert_int_equal(receive(NULL).op, VIRTIO_VSOCK_OP_RST);
}

/* ---- floods ---- */

static void vsock_stops_for_a_guest_that_takes_no_answers(void **state)
{
    struct peer peer = {.host_port = 77};
    unsigned sent = 0;
    vsock_bring_up_starved();
    /* More than fit: until the queue is full and nothing of it is taken any more. */
    for (; sent < ANSWERS + 10; sent++) {
        peer.guest_port = sent;
        send_op(&peer, VIRTIO_VSOCK_OP_RW);
        guest_sync(&vguest);
    }
    assert_int_equal(vguest.rings[TX].used->idx, ANSWERS);
    for (unsigned got = 0; got < sent;) {
        unsigned room = MIN(sent - got, QUEUE_SIZE);
        vsock_post_rx(room);
        for (unsigned i = 0; i < room; i++, got++) {
            struct vsock_packet packet = receive(NULL);
            assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RST);
            assert_int_equal(packet.dst_port, got);
        }
    }
    assert_true(is_healthy());
}

static void vsock_lives_through_a_flood_of_requests(void **state)
{
    struct peer peer = {.host_port = 77};
    struct vsock_packet packet;
    unsigned answered = 0;
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < 20000; i++) {
        peer.guest_port = i;
        send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
        while (try_receive(&packet, NULL))
            answered += packet.op == VIRTIO_VSOCK_OP_RST;
    }
    while (answered < 20000)
        answered += receive(NULL).op == VIRTIO_VSOCK_OP_RST;
    expect_witness();
}

/* Needs as many descriptors on both sides. */
static void want_descriptors(unsigned count)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < count) {
        print_message("only %u descriptors may be open here\n", (unsigned)limit.rlim_max);
        skip();
    }
    limit.rlim_cur = MAX(limit.rlim_cur, count);
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void vsock_holds_so_many_connections_and_no_more(void **state)
{
    struct peer peer = {.host_port = 80, .buf_alloc = BUF};
    unsigned open = 0, refused = 0;
    want_descriptors(2 * TABLE);
    int listener = host_listen(80, 2 * TABLE);
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < TABLE + 50; i++) {
        peer.guest_port = 10000 + i;
        send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
        uint16_t op = receive(NULL).op;
        open += op == VIRTIO_VSOCK_OP_RESPONSE;
        refused += op == VIRTIO_VSOCK_OP_RST;
    }
    assert_int_equal(open, TABLE - 1); /* and the witness */
    assert_int_equal(refused, 51);
    expect_closed(host_connect()); /* is refused too */
    peer.guest_port = 10000;
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    guest_sync(&vguest); /* before the client comes, there is room */
    struct peer next = {.buf_alloc = BUF};
    close(connect_to_guest(&next, 9));
    while (expect_op(&next, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    expect_witness();
    close(listener);
}

static void vsock_lets_a_client_in_through_a_crowd_of_silent_ones(void **state)
{
    static int crowd[TABLE + 100];
    want_descriptors(2 * ARRAY_SIZE(crowd) + 100);
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < ARRAY_SIZE(crowd); i++)
        crowd[i] = host_connect();
    struct peer peer = {.buf_alloc = BUF};
    close(connect_to_guest(&peer, 9));
    expect_closed(crowd[0]); /* the one that was silent longest */
    while (expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    for (unsigned i = 1; i < ARRAY_SIZE(crowd); i++)
        close(crowd[i]);
    guest_sync(&vguest);
    expect_witness();
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Without a descriptor for it a client waits outside, and nobody burns the CPU. */
static void vsock_survives_the_last_descriptor(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct rlimit old, tight;
    strcpy(address.sun_path, vsock_path);
    vsock_bring_up(0);
    call_witness();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* the lowest that was free */
    getrlimit(RLIMIT_NOFILE, &old);
    tight = old;
    tight.rlim_cur = (rlim_t)fd + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    host_send(fd, "CONNECT 9\n", 10);
    struct peer caller = {.host_port = 80, .guest_port = 9};
    send_op(&caller, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&caller, VIRTIO_VSOCK_OP_RST);
    uint64_t before = cpu_ns();
    usleep(200000);
    assert_true(cpu_ns() - before < 50000000);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    struct peer peer = {.guest_port = 9, .host_port = receive(NULL).src_port};
    close(fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_witness();
}

/* ---- clients ---- */

static void vsock_closes_on_who_says_something_else(void **state)
{
    static const char *const lines[] = {
        "GET / HTTP/1.1\r\n\r\n",
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT x\n",
        "CONNECT -1\n",
        "CONNECT 1x\n",
        "CONNECT 1 2\n",
        "CONNECT 4294967296\n",
        "CONNECT 99999999999\n",
        " CONNECT 1\n",
        "CONNECT 000000000000000000000000001\n",
        "CONNECT 1                              ",
        "CONNECT 11111111111111111111111111111111111111111111111111111111111111111111111",
    };
    vsock_bring_up(0);
    call_witness();
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        int fd = host_connect();
        host_send(fd, lines[i], strlen(lines[i]));
        expect_closed(fd);
    }
    int fd = host_connect();
    host_send(fd, "CONNECT 1\0000\n", 12);
    expect_closed(fd);
    expect_silence();
    expect_witness();
}

static void vsock_takes_a_line_byte_by_byte(void **state)
{
    static const char line[] = "CONNECT 4294967295\n";
    vsock_bring_up(0);
    int fd = host_connect();
    for (unsigned i = 0; i < sizeof(line) - 1; i++) {
        host_send(fd, line + i, 1);
        guest_sync(&vguest);
    }
    assert_int_equal(receive(NULL).dst_port, UINT32_MAX);
    close(fd);
}

/* With a client without a line, a guest without an answer, a guest without a RST, and a host that
 * does not take a call. */
static void vsock_loses_patience(void **state)
{
    struct peer unconfirmed = {.buf_alloc = BUF};
    struct peer taken = {.host_port = 80, .guest_port = 8, .buf_alloc = BUF}, untaken = taken;
    unsigned resets = 0;
    vsock_bring_up(0);
    call_witness();
    const uint64_t start_ns = clock_now_ns();
    int silent = host_connect();
    host_send(silent, "CONN", 4);
    int wants = host_connect();
    host_send(wants, "CONNECT 5\n", 10);
    assert_int_equal(receive(NULL).op, VIRTIO_VSOCK_OP_REQUEST);
    close(connect_to_guest(&unconfirmed, 6));
    while (expect_op(&unconfirmed, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    int listener = host_listen(80, 0); /* one may wait */
    send_op(&taken, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&taken, VIRTIO_VSOCK_OP_RESPONSE);
    untaken.guest_port = 9;
    send_op(&untaken, VIRTIO_VSOCK_OP_REQUEST);
    while (resets < 3)
        resets += receive(NULL).op == VIRTIO_VSOCK_OP_RST;
    assert_true(clock_now_ns() - start_ns >= PATIENCE_MS * 1000000ull);
    expect_closed(silent);
    expect_closed(wants);
    close(listener);
    while (expect_op(&taken, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    expect_witness();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(vsock_breaks_on_half_a_header),
        VSOCK_TEST(vsock_breaks_on_a_packet_it_could_write_to),
        VSOCK_TEST(vsock_breaks_on_a_buffer_without_room),
        VSOCK_TEST(vsock_breaks_on_a_buffer_it_could_read),
        VSOCK_TEST(vsock_takes_a_packet_in_crumbs),
        VSOCK_TEST(vsock_fills_a_buffer_in_crumbs),
        VSOCK_TEST(vsock_breaks_on_an_event_buffer_too_small),
        VSOCK_TEST(vsock_resets_who_lies_about_a_length),
        VSOCK_TEST(vsock_resets_who_sends_four_gigabytes),
        VSOCK_TEST(vsock_resets_who_took_what_was_never_sent),
        VSOCK_TEST(vsock_resets_who_says_an_unknown_word),
        VSOCK_TEST(vsock_resets_who_says_nothing),
        VSOCK_TEST(vsock_resets_who_asks_twice),
        VSOCK_TEST(vsock_resets_who_agrees_twice),
        VSOCK_TEST(vsock_resets_who_sends_more_than_it_may),
        VSOCK_TEST(vsock_ignores_what_lies_behind_the_data),
        VSOCK_TEST(vsock_ignores_who_is_not_the_guest),
        VSOCK_TEST(vsock_answers_for_those_it_does_not_know),
        VSOCK_TEST(vsock_answers_for_connections_there_are_not),
        VSOCK_TEST(vsock_resets_who_talks_before_agreeing),
        VSOCK_TEST(vsock_wants_no_answer_before_its_question),
        VSOCK_TEST(vsock_stops_for_a_guest_that_takes_no_answers),
        VSOCK_TEST(vsock_lives_through_a_flood_of_requests),
        VSOCK_TEST(vsock_holds_so_many_connections_and_no_more),
        VSOCK_TEST(vsock_lets_a_client_in_through_a_crowd_of_silent_ones),
        VSOCK_TEST(vsock_survives_the_last_descriptor),
        VSOCK_TEST(vsock_closes_on_who_says_something_else),
        VSOCK_TEST(vsock_takes_a_line_byte_by_byte),
        VSOCK_TEST(vsock_loses_patience),
    };
    log_set_level(LOG_ERROR); /* the complaints are expected */
    return cmocka_run_group_tests_name("virtio_vsock_hostile", tests, NULL, NULL);
}
