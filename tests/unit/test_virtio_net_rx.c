/* SPDX-License-Identifier: Apache-2.0 */
/* How the network card receives, and what it does with nonsense in both rings. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "tests/unit/net_bench.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- receive ---- */

static void net_receives_into_one_buffer(void **state)
{
    bring_up(0);
    uint64_t gpa = post_rx(1526);
    memset(guest_at(&guest, gpa, 1526), 0xee, 1526);
    guest_kick(&guest, RX);
    put_on_wire(600, 9);

    struct guest_used used = guest_wait_used(&guest, RX);
    assert_int_equal(used.written, 600);
    check_frame(guest_at(&guest, gpa, 600), 600, 9);
    assert_int_equal(header_at(gpa)->num_buffers, 1);
    assert_int_equal(counters().rx_frames, 1);
    assert_int_equal(counters().rx_bytes, 600 - NET_HEADER_BYTES);
}

static void put_flagged_frame(void)
{
    uint8_t frame[100];
    make_frame(frame, sizeof(frame), 0);
    frame[0] = VIRTIO_NET_HDR_F_DATA_VALID;
    assert_int_equal(send(wire, frame, sizeof(frame), 0), sizeof(frame));
}

static void net_shows_checksum_flags_to_those_who_know_them(void **state)
{
    bring_up(F(VIRTIO_NET_F_GUEST_CSUM));
    uint64_t gpa = post_rx(1526);
    guest_kick(&guest, RX);
    put_flagged_frame();
    guest_wait_used(&guest, RX);
    assert_int_equal(header_at(gpa)->flags, VIRTIO_NET_HDR_F_DATA_VALID);

    guest_reset(&guest);
    bring_up(0);
    gpa = post_rx(1526);
    guest_kick(&guest, RX);
    put_flagged_frame();
    guest_wait_used(&guest, RX);
    assert_int_equal(header_at(gpa)->flags, 0);
}

/* The header itself may be scattered over descriptors. */
static void net_writes_a_scattered_header(void **state)
{
    uint64_t gpa = guest_alloc(&guest, 200, 1);
    struct guest_buffer pieces[13];
    for (unsigned i = 0; i < 12; i++)
        pieces[i] = GUEST_IN(gpa + i, 1);
    pieces[12] = GUEST_IN(gpa + 12, 188);

    bring_up(MERGEABLE | F(VIRTIO_RING_F_INDIRECT_DESC));
    guest_add_indirect(&guest.rings[RX], pieces, 13);
    guest_kick(&guest, RX);
    put_on_wire(150, 2);
    assert_int_equal(guest_wait_used(&guest, RX).written, 150);
    check_frame(guest_at(&guest, gpa, 150), 150, 2);
    assert_int_equal(get_le16(guest_at(&guest, gpa + 10, 2)), 1);
}

static void net_spreads_a_frame_over_merged_buffers(void **state)
{
    static uint8_t got[80000];
    const size_t bytes = LARGEST_BYTES;
    uint64_t gpas[64];
    bring_up(MERGEABLE | GUEST_TSO);
    for (unsigned i = 0; i < 64; i++)
        gpas[i] = post_rx(1536);
    guest_kick(&guest, RX);
    put_on_wire(bytes, 4);
    put_on_wire(100, 5);

    const unsigned count = (bytes + 1535) / 1536;
    for (unsigned i = 0, at = 0; i < count; i++) {
        uint32_t written = guest_wait_used(&guest, RX).written;
        assert_int_equal(written, MIN(1536u, bytes - at));
        memcpy(got + at, guest_at(&guest, gpas[i], written), written);
        at += written;
    }
    assert_int_equal(get_le16(got + 10), count);
    check_frame(got, bytes, 4);
    /* The next frame starts in the buffer after. */
    assert_int_equal(guest_wait_used(&guest, RX).written, 100);
    check_frame(guest_at(&guest, gpas[count], 100), 100, 5);
    assert_int_equal(header_at(gpas[count])->num_buffers, 1);
}

static void net_never_delivers_a_cut_frame(void **state)
{
    bring_up(0);
    uint64_t gpa = post_rx(500);
    guest_kick(&guest, RX);
    put_on_wire(501, 0);
    put_on_wire(70000, 0);
    put_on_wire(NET_HEADER_BYTES, 0);
    put_on_wire(500, 8);
    assert_int_equal(guest_wait_used(&guest, RX).written, 500);
    check_frame(guest_at(&guest, gpa, 500), 500, 8);
    wait_rx_dropped(3);
    assert_int_equal(counters().rx_frames, 1);
}

static void net_drops_what_no_frame_can_be(void **state)
{
    bring_up(MERGEABLE | GUEST_TSO);
    for (unsigned i = 0; i < 50; i++)
        post_rx(1536);
    guest_kick(&guest, RX);
    put_on_wire(LARGEST_BYTES + 1, 0);
    put_on_wire(70000, 0);
    put_on_wire(5, 0);
    wait_rx_dropped(3);
    assert_int_equal(counters().rx_frames, 0);
}

/* A frame longer than what the driver has posted so far: nothing is lost, nothing comes early. */
static void net_keeps_a_frame_until_there_are_buffers(void **state)
{
    uint64_t gpas[5];
    uint8_t got[5000];
    bring_up(MERGEABLE | GUEST_TSO | F(VIRTIO_RING_F_EVENT_IDX));
    gpas[0] = post_rx(1000);
    gpas[1] = post_rx(1000);
    guest_kick(&guest, RX);
    put_on_wire(4500, 6);
    put_on_wire(300, 7);
    usleep(20000);
    guest_sync(&guest);
    struct guest_used used;
    assert_false(guest_take_used(&guest.rings[RX], &used));

    gpas[2] = post_rx(1000);
    assert_true(guest_kick_if_wanted(&guest, RX));
    guest_sync(&guest);
    assert_false(guest_take_used(&guest.rings[RX], &used));

    gpas[3] = post_rx(1000);
    gpas[4] = post_rx(1000);
    assert_true(guest_kick_if_wanted(&guest, RX));
    for (unsigned i = 0; i < 5; i++) {
        uint32_t written = guest_wait_used(&guest, RX).written;
        assert_int_equal(written, i < 4 ? 1000 : 500);
        memcpy(got + 1000 * i, guest_at(&guest, gpas[i], written), written);
    }
    assert_int_equal(get_le16(got + 10), 5);
    check_frame(got, 4500, 6);

    uint64_t next = post_rx(1000);
    assert_true(guest_kick_if_wanted(&guest, RX));
    assert_int_equal(guest_wait_used(&guest, RX).written, 300);
    check_frame(guest_at(&guest, next, 300), 300, 7);
    assert_int_equal(counters().rx_dropped, 0);
}

/* 64 buffers of 100 bytes are all that this ring can hold. */
static void net_drops_a_frame_that_the_whole_ring_cannot_hold(void **state)
{
    bring_up(MERGEABLE | GUEST_TSO);
    uint64_t first = post_rx(100);
    for (unsigned i = 1; i < 64; i++)
        post_rx(100);
    guest_kick(&guest, RX);
    put_on_wire(6401, 0);
    put_on_wire(90, 3);
    assert_int_equal(guest_wait_used(&guest, RX).written, 90);
    check_frame(guest_at(&guest, first, 90), 90, 3);
    assert_int_equal(counters().rx_dropped, 1);
}

/* Level-triggered epoll and a frame that cannot be taken must not make a busy loop. */
static void net_is_quiet_without_buffers(void **state)
{
    bring_up(MERGEABLE);
    put_on_wire(100, 1);
    usleep(20000);
    int before = fake.receive_calls;
    usleep(50000);
    assert_int_equal(fake.receive_calls, before);

    uint64_t gpa = post_rx(1526);
    guest_kick(&guest, RX);
    assert_int_equal(guest_wait_used(&guest, RX).written, 100);
    check_frame(guest_at(&guest, gpa, 100), 100, 1);
}

/* Once it has buffers it wants no kicks, with or without EVENT_IDX. */
static void net_wants_no_kicks_while_it_has_buffers(void **state)
{
    const uint64_t features[] = {MERGEABLE, MERGEABLE | F(VIRTIO_RING_F_EVENT_IDX)};
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        bring_up(features[i]);
        for (unsigned k = 0; k < 8; k++)
            post_rx(1526);
        guest_kick(&guest, RX);
        guest_sync(&guest);
        post_rx(1526);
        assert_false(guest_kick_if_wanted(&guest, RX));
        put_on_wire(100, 1);
        guest_wait_used(&guest, RX);
        guest_reset(&guest);
    }
}

static void net_breaks_on_a_readable_receive_buffer(void **state)
{
    bring_up(0);
    uint64_t gpa = guest_alloc(&guest, 200, 1);
    const struct guest_buffer buffers[] = {GUEST_OUT(gpa, 100), GUEST_IN(gpa + 100, 100)};
    guest_add(&guest.rings[RX], buffers, 2);
    guest_kick(&guest, RX);
    assert_true(needs_reset());
}

static void net_breaks_on_a_buffer_smaller_than_the_header(void **state)
{
    bring_up(MERGEABLE);
    post_rx(NET_HEADER_BYTES - 1);
    guest_kick(&guest, RX);
    assert_true(needs_reset());
    /* Frames go on arriving, and nobody looks. */
    put_on_wire(100, 0);
    usleep(20000);
    int before = fake.receive_calls;
    usleep(30000);
    assert_int_equal(fake.receive_calls, before);
}

/* ---- hostile ---- */

static uint32_t dice_state = 1;

static uint32_t dice(uint32_t limit)
{
    dice_state = dice_state * 1664525u + 1013904223u;
    return (dice_state >> 8) % limit;
}

/* Once in a while, anything. */
static uint32_t mostly(uint32_t sensible)
{
    return dice(300) ? sensible : dice(UINT32_MAX);
}

/* Rings that are plausible for the most part, so that nonsense gets far. */
static void scribble(struct guest_ring *ring, uint64_t buffers_gpa, uint16_t write_flag)
{
    static const uint32_t lengths[] = {0, 1, 11, 12, 13, 26, 100, 1526, 20000, 65562};
    const uint32_t shift = dice(ring->size);
    for (unsigned i = 0; i < ring->size; i++) {
        ring->desc[i] = (struct vring_desc){
            .addr = buffers_gpa + mostly(dice(4096)),
            .len = mostly(lengths[dice(ARRAY_SIZE(lengths))]),
            .flags = (uint16_t)mostly(write_flag | dice(2)),
            .next = (uint16_t)mostly(dice(ring->size)),
        };
        ring->avail->ring[i] = (uint16_t)mostly((i + shift) % ring->size);
    }
    ring->avail->flags = (uint16_t)dice(2);
    ring->next_avail = (uint16_t)(ring->published_avail + mostly(dice(ring->size / 4)));
}

/* guest_alloc() never gives back, and its RAM is zero. */
static void use_heap_again(uint64_t heap)
{
    memset(guest_at(&guest, heap, guest.free_gpa - heap + 1), 0, guest.free_gpa - heap + 1);
    guest.free_gpa = heap;
}

static void net_survives_nonsense_in_its_rings(void **state)
{
    static const uint64_t features[] = {
        0,
        MERGEABLE,
        MERGEABLE | GUEST_TSO | F(VIRTIO_RING_F_EVENT_IDX),
        MERGEABLE | GUEST_TSO | F(VIRTIO_RING_F_INDIRECT_DESC),
    };
    uint64_t buffers = guest_alloc(&guest, 0x20000, 4096);
    uint64_t heap = guest.free_gpa;
    static uint8_t frame[80000];
    for (unsigned round = 0; round < 2000; round++) {
        use_heap_again(heap);
        bring_up(features[round % ARRAY_SIZE(features)]);
        for (unsigned step = 0; step < 4; step++) {
            scribble(&guest.rings[RX], buffers, VRING_DESC_F_WRITE);
            scribble(&guest.rings[TX], buffers, 0);
            make_frame(frame, sizeof(frame), round);
            ssize_t ignored = send(wire, frame, 1 + dice(70000), 0);
            (void)ignored; /* the wire may be full */
            guest_kick(&guest, RX);
            guest_kick(&guest, TX);
            guest_sync(&guest);
        }
        while (recv(wire, frame, sizeof(frame), 0) > 0)
            ;
        guest_reset(&guest);
    }
    use_heap_again(heap);
    bring_up(0);
    uint64_t gpa = post_rx(1526);
    guest_kick(&guest, RX);
    put_on_wire(600, 9);
    assert_int_equal(guest_wait_used(&guest, RX).written, 600);
    check_frame(guest_at(&guest, gpa, 600), 600, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(net_receives_into_one_buffer),
        NET_TEST(net_shows_checksum_flags_to_those_who_know_them),
        NET_TEST(net_writes_a_scattered_header),
        NET_TEST(net_spreads_a_frame_over_merged_buffers),
        NET_TEST(net_never_delivers_a_cut_frame),
        NET_TEST(net_drops_what_no_frame_can_be),
        NET_TEST(net_keeps_a_frame_until_there_are_buffers),
        NET_TEST(net_drops_a_frame_that_the_whole_ring_cannot_hold),
        NET_TEST(net_is_quiet_without_buffers),
        NET_TEST(net_wants_no_kicks_while_it_has_buffers),
        NET_TEST(net_breaks_on_a_readable_receive_buffer),
        NET_TEST(net_breaks_on_a_buffer_smaller_than_the_header),
        NET_TEST(net_survives_nonsense_in_its_rings),
    };
    log_set_level(LOG_ERROR); /* the complaints are expected */
    return cmocka_run_group_tests_name("virtio_net_rx", tests, NULL, NULL);
}
