/* SPDX-License-Identifier: Apache-2.0 */
/* Frames with their length in front, through a pair of sockets: whole, in pieces, and nonsense. */
#include "host/net_stream.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define LARGEST_BYTES (NET_HEADER_BYTES + NET_FRAME_MAX_BYTES)

static struct loop *loop; /* has a thread in turn_loop() only */
static struct net_stream *stream;
static int far; /* the other end; -1: closed */
static uint8_t packet[LARGEST_BYTES + 100], wire[NET_STREAM_PREFIX_BYTES + NET_FRAME_MAX_BYTES];

static int set_up(void **state)
{
    int pair[2];
    struct nido_error err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(loop_create(&loop, "test", &err), 0);
    stream = calloc(1, sizeof(*stream));
    assert_int_equal(net_stream_init(stream, pair[0], loop, &err), 0);
    far = pair[1];
    assert_int_equal(fcntl(far, F_SETFL, O_NONBLOCK), 0);
    return 0;
}

static int tear_down(void **state)
{
    net_stream_finish(stream);
    free(stream);
    loop_destroy(loop);
    if (far >= 0)
        close(far);
    return 0;
}

static void nothing(struct loop_task *task)
{
}

/* Runs the handlers of what is ready now. */
static void turn_loop(void)
{
    struct nido_error err;
    struct loop_task after_them = {.run = nothing};
    assert_int_equal(loop_start(loop, &err), 0);
    loop_call(loop, &after_them);
    loop_stop(loop);
}

static void hang_up(void)
{
    close(far);
    far = -1;
}

/* Bytes that tell where they belong; `seed` tells frames apart. */
static void fill(uint8_t *frame, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        frame[i] = (uint8_t)(i * 7 + i / 256 + seed);
}

static void expect_bytes(const uint8_t *got, size_t bytes, unsigned seed)
{
    static uint8_t frame[NET_FRAME_MAX_BYTES];
    fill(frame, bytes, seed);
    assert_memory_equal(got, frame, bytes);
}

/* A frame as the far end sends it, in `wire`. */
static size_t make_wire(size_t frame_bytes, unsigned seed)
{
    uint32_t length = htonl((uint32_t)frame_bytes);
    memcpy(wire, &length, sizeof(length));
    fill(wire + NET_STREAM_PREFIX_BYTES, frame_bytes, seed);
    return NET_STREAM_PREFIX_BYTES + frame_bytes;
}

static void far_writes(const void *bytes, size_t length)
{
    assert_int_equal(send(far, bytes, length, MSG_NOSIGNAL), length);
}

static void far_sends(size_t frame_bytes, unsigned seed)
{
    far_writes(wire, make_wire(frame_bytes, seed));
}

/* Into `packet`, by vectors of `piece` bytes. */
static ssize_t receive_by(size_t room, size_t piece)
{
    struct iovec iov[1024];
    unsigned count = 0;
    memset(packet, 0xee, sizeof(packet));
    for (size_t at = 0; at < room; at += piece)
        iov[count++] = (struct iovec){packet + at, MIN(piece, room - at)};
    return net_stream_receive(&stream->net, iov, count);
}

static ssize_t receive(void)
{
    return receive_by(LARGEST_BYTES, LARGEST_BYTES);
}

static void expect_packet(ssize_t got, size_t frame_bytes, unsigned seed)
{
    static const uint8_t header[NET_HEADER_BYTES];
    assert_int_equal(got, NET_HEADER_BYTES + frame_bytes);
    assert_memory_equal(packet, header, sizeof(header));
    expect_bytes(packet + NET_HEADER_BYTES, frame_bytes, seed);
    assert_int_equal(packet[got], 0xee);
}

static bool readable(void)
{
    struct pollfd wait = {.fd = stream->net.fd, .events = POLLIN};
    return poll(&wait, 1, 0) == 1;
}

/* ---- receive ---- */

static const size_t sizes[] = {14, 15, 60, 1514, 4096, 65534, NET_FRAME_MAX_BYTES};

static void frames_arrive_behind_a_header_of_zeros(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        far_sends(sizes[i], i);
        expect_packet(receive(), sizes[i], i);
        assert_int_equal(receive(), 0);
    }
}

static void frames_are_laid_into_buffers_of_any_size(void **state)
{
    static const size_t pieces[] = {1, 5, 12, 13, 64, 1526, 4096};
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        size_t room = MIN(1024 * pieces[i], (size_t)LARGEST_BYTES);
        size_t bytes = MIN(room - NET_HEADER_BYTES, (size_t)65534);
        far_sends(bytes, i);
        expect_packet(receive_by(room, pieces[i]), bytes, i);
    }
}

static void frames_that_come_together_are_taken_one_by_one(void **state)
{
    for (unsigned i = 0; i < 20; i++)
        far_sends(14 + i, i);
    for (unsigned i = 0; i < 20; i++) {
        assert_true(readable());
        expect_packet(receive(), 14 + i, i);
    }
    assert_false(readable());
    assert_int_equal(receive(), 0);
}

static void a_frame_cut_anywhere_arrives_whole(void **state)
{
    for (size_t cut = 1; cut < NET_STREAM_PREFIX_BYTES + 60; cut++) {
        size_t bytes = make_wire(60, (unsigned)cut);
        far_writes(wire, cut);
        assert_int_equal(receive(), 0);
        assert_false(readable()); /* else the loop would spin */
        far_writes(wire + cut, bytes - cut);
        expect_packet(receive(), 60, (unsigned)cut);
    }
}

static void a_frame_that_comes_byte_by_byte_arrives_whole(void **state)
{
    size_t bytes = make_wire(100, 1);
    for (size_t i = 0; i < bytes - 1; i++) {
        far_writes(wire + i, 1);
        assert_int_equal(receive_by(400, 7 + i % 5), 0); /* other buffers each time */
    }
    far_writes(wire + bytes - 1, 1);
    far_sends(33, 2);
    expect_packet(receive(), 100, 1);
    expect_packet(receive(), 33, 2);
}

static void a_frame_longer_than_the_buffers_is_cut(void **state)
{
    far_sends(1514, 1);
    far_sends(60, 2);
    assert_int_equal(receive_by(100, 30), 100);
    expect_bytes(packet + NET_HEADER_BYTES, 100 - NET_HEADER_BYTES, 1);
    assert_int_equal(packet[100], 0xee);
    expect_packet(receive(), 60, 2);
}

static void lengths_that_no_frame_has_end_the_backend(void **state)
{
    static const uint32_t lengths[] = {0, 1, 13, NET_FRAME_MAX_BYTES + 1, 0x7fffffff, 0xffffffff};
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        const uint32_t prefix = htonl(lengths[i]);
        far_sends(60, i);
        far_writes(&prefix, sizeof(prefix));
        far_sends(60, i);
        expect_packet(receive(), 60, i);
        assert_int_equal(receive(), -ENODEV);
        assert_int_equal(receive(), -ENODEV);
        const struct iovec iov = {packet, 100};
        assert_int_equal(net_stream_send(&stream->net, &iov, 1), -ENODEV);
        assert_int_equal(net_stream_set_offload(&stream->net, NULL), -ENODEV);
        tear_down(state);
        set_up(state);
    }
}

static void the_end_of_the_stream_ends_the_backend(void **state)
{
    far_sends(60, 1);
    hang_up();
    expect_packet(receive(), 60, 1);
    assert_int_equal(receive(), -ENODEV);
}

static void the_end_in_the_middle_of_a_frame_ends_the_backend(void **state)
{
    size_t bytes = make_wire(60, 1);
    far_writes(wire, bytes - 1);
    assert_int_equal(receive(), 0);
    hang_up();
    assert_int_equal(receive(), -ENODEV);
}

/* ---- send ---- */

static ssize_t send_by(size_t frame_bytes, unsigned seed, size_t piece)
{
    struct iovec iov[1024];
    unsigned count = 0;
    size_t bytes = NET_HEADER_BYTES + frame_bytes;
    memset(packet, 0xaa, NET_HEADER_BYTES); /* not for the wire */
    fill(packet + NET_HEADER_BYTES, frame_bytes, seed);
    for (size_t at = 0; at < bytes; at += piece)
        iov[count++] = (struct iovec){packet + at, MIN(piece, bytes - at)};
    return net_stream_send(&stream->net, iov, count);
}

static ssize_t send_frame(size_t frame_bytes, unsigned seed)
{
    return send_by(frame_bytes, seed, sizeof(packet));
}

/* What the far end must read next. The loop runs when nothing waits. */
static void far_reads(void *to, size_t length)
{
    uint8_t *at = to;
    for (unsigned idle = 0; length; idle++) {
        ssize_t got = read(far, at, length);
        if (got > 0) {
            at += got;
            length -= (size_t)got;
            idle = 0;
            continue;
        }
        assert_true(got < 0 && errno == EAGAIN && idle < 10);
        turn_loop();
    }
}

static void far_expects(size_t frame_bytes, unsigned seed)
{
    uint32_t length;
    far_reads(&length, sizeof(length));
    assert_int_equal(ntohl(length), frame_bytes);
    far_reads(wire, frame_bytes);
    expect_bytes(wire, frame_bytes, seed);
}

static void frames_go_behind_their_length_and_without_the_header(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_int_equal(send_frame(sizes[i], i), NET_HEADER_BYTES + sizes[i]);
        far_expects(sizes[i], i);
    }
}

static void frames_go_out_of_buffers_of_any_size(void **state)
{
    static const size_t pieces[] = {1, 5, 12, 13, 64, 1526, 4096};
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        size_t bytes = MIN(1024 * pieces[i], (size_t)LARGEST_BYTES) - NET_HEADER_BYTES;
        assert_int_equal(send_by(bytes, i, pieces[i]), NET_HEADER_BYTES + bytes);
        far_expects(bytes, i);
    }
}

static void what_is_no_frame_is_refused_and_the_stream_goes_on(void **state)
{
    assert_int_equal(send_frame(13, 1), -EMSGSIZE);
    assert_int_equal(send_frame(NET_FRAME_MAX_BYTES + 1, 1), -EMSGSIZE);
    const struct iovec header = {packet, NET_HEADER_BYTES};
    assert_int_equal(net_stream_send(&stream->net, &header, 1), -EMSGSIZE);
    send_frame(14, 2);
    far_expects(14, 2);
}

/* Returns how many frames of `frame_bytes` went, seeds from 0 on; the next one would not. */
static unsigned fill_socket(size_t frame_bytes, size_t piece)
{
    unsigned sent = 0;
    ssize_t rc;
    while ((rc = send_by(frame_bytes, sent, piece)) > 0)
        sent++;
    assert_int_equal(rc, -EAGAIN);
    assert_true(sent > 0);
    return sent;
}

static void small_socket(void)
{
    const int bytes = 40000;
    assert_int_equal(setsockopt(stream->net.fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
}

static void a_full_socket_holds_the_guest_back_and_loses_nothing(void **state)
{
    static const size_t frames[] = {14, 1514, 40000, 65534};
    static const size_t pieces[] = {LARGEST_BYTES, 1526, 600}; /* 600: put together by a copy */
    small_socket();
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(pieces); j++) {
            unsigned sent = fill_socket(frames[i], pieces[j]);
            for (unsigned seed = 0; seed < sent; seed++)
                far_expects(frames[i], seed);
            assert_int_equal(read(far, wire, 1), -1);
        }
    }
}

static void the_rest_of_a_frame_goes_before_the_next(void **state)
{
    unsigned sent;
    uint8_t prefix[4];
    small_socket();
    /* Somewhere in these a frame is cut: the socket's room is no multiple of theirs. */
    sent = fill_socket(65534, LARGEST_BYTES);
    assert_true(stream->unsent_bytes > 0);
    far_expects(65534, 0);
    ssize_t next = send_frame(60, 99);
    for (unsigned seed = 1; seed < sent; seed++)
        far_expects(65534, seed);
    if (next < 0)
        assert_true(send_frame(60, 99) > 0);
    far_expects(60, 99);
    assert_int_equal(read(far, prefix, 1), -1);
}

static void the_rest_of_a_frame_goes_without_the_guest(void **state)
{
    small_socket();
    unsigned sent = fill_socket(65534, LARGEST_BYTES);
    assert_true(stream->unsent_bytes > 0);
    for (unsigned seed = 0; seed < sent; seed++)
        far_expects(65534, seed);
    assert_int_equal(stream->unsent_bytes, 0);
    assert_int_equal(stream->unsent.events, 0); /* a socket with room must not wake the loop */
}

static void a_far_end_that_is_gone_is_told_and_kills_nobody(void **state)
{
    hang_up();
    assert_int_equal(send_frame(60, 1), -ENODEV);
    assert_int_equal(send_frame(60, 1), -ENODEV);
    turn_loop();
    turn_loop();
}

static void a_far_end_that_goes_in_the_middle_of_a_frame_is_told(void **state)
{
    small_socket();
    fill_socket(65534, LARGEST_BYTES);
    hang_up();
    turn_loop();
    assert_int_equal(send_frame(60, 1), -ENODEV);
}

/* ---- both ---- */

static unsigned random_state = 1;

static unsigned random_below(unsigned limit)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % limit;
}

/* A far end that reads and writes in pieces of any size; all frames come, in order, unharmed. */
static void a_hundred_thousand_pieces_lose_nothing(void **state)
{
    static uint8_t pending[sizeof(wire)];
    size_t pending_at = 0, pending_bytes = 0;
    unsigned received = 0, made = 0;
    for (unsigned i = 0; i < 100000; i++) {
        if (pending_at == pending_bytes) {
            pending_at = 0;
            pending_bytes = make_wire(14 + random_below(made % 8 ? 300 : 65000), made);
            memcpy(pending, wire, pending_bytes);
            made++;
        }
        size_t n = 1 + random_below(random_below(4) ? 400 : 40000);
        n = MIN(n, pending_bytes - pending_at);
        ssize_t sent = send(far, pending + pending_at, n, MSG_NOSIGNAL);
        if (sent > 0)
            pending_at += (size_t)sent;
        if (random_below(3))
            continue;
        ssize_t got = receive_by(LARGEST_BYTES, 70 + random_below(4000));
        assert_true(got >= 0);
        if (got)
            expect_packet(got, (size_t)got - NET_HEADER_BYTES, received++);
    }
    assert_true(received > 1000 && received + 1000 > made);
}

#define STREAM_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STREAM_TEST(frames_arrive_behind_a_header_of_zeros),
        STREAM_TEST(frames_are_laid_into_buffers_of_any_size),
        STREAM_TEST(frames_that_come_together_are_taken_one_by_one),
        STREAM_TEST(a_frame_cut_anywhere_arrives_whole),
        STREAM_TEST(a_frame_that_comes_byte_by_byte_arrives_whole),
        STREAM_TEST(a_frame_longer_than_the_buffers_is_cut),
        STREAM_TEST(lengths_that_no_frame_has_end_the_backend),
        STREAM_TEST(the_end_of_the_stream_ends_the_backend),
        STREAM_TEST(the_end_in_the_middle_of_a_frame_ends_the_backend),
        STREAM_TEST(frames_go_behind_their_length_and_without_the_header),
        STREAM_TEST(frames_go_out_of_buffers_of_any_size),
        STREAM_TEST(what_is_no_frame_is_refused_and_the_stream_goes_on),
        STREAM_TEST(a_full_socket_holds_the_guest_back_and_loses_nothing),
        STREAM_TEST(the_rest_of_a_frame_goes_before_the_next),
        STREAM_TEST(the_rest_of_a_frame_goes_without_the_guest),
        STREAM_TEST(a_far_end_that_is_gone_is_told_and_kills_nobody),
        STREAM_TEST(a_far_end_that_goes_in_the_middle_of_a_frame_is_told),
        STREAM_TEST(a_hundred_thousand_pieces_lose_nothing),
    };
    log_set_level(LOG_ERROR); /* the warnings are expected */
    return cmocka_run_group_tests_name("net_stream", tests, NULL, NULL);
}
