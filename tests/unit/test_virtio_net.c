/* SPDX-License-Identifier: Apache-2.0 */
/* What the network card tells its driver, what it sends, and how it ends. Receiving is in
 * test_virtio_net_rx.c. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "tests/unit/net_bench.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- what the driver is told ---- */

static void net_offers_what_the_backend_can(void **state)
{
    const uint64_t both = F(VIRTIO_NET_F_CSUM) | GUEST_TSO | F(VIRTIO_NET_F_HOST_TSO4) |
                          F(VIRTIO_NET_F_HOST_TSO6) | F(VIRTIO_NET_F_HOST_ECN) |
                          F(VIRTIO_NET_F_GUEST_ECN) | F(54) | F(55) | F(56);
    const uint64_t always = F(VIRTIO_NET_F_MAC) | F(VIRTIO_NET_F_STATUS) | MERGEABLE;
    uint64_t offered = guest_device_features(&guest);
    assert_int_equal(offered & both, both);
    assert_int_equal(offered & always, always);
    assert_true(offered & F(VIRTIO_NET_F_MTU));
    assert_false(offered & (F(VIRTIO_NET_F_CTRL_VQ) | F(VIRTIO_NET_F_MQ)));
}

static void net_offers_no_offload_that_the_backend_lacks(void **state)
{
    struct guest other; /* whose loop does not run: a device is made and destroyed outside of it */
    struct virtio_device *device;
    struct nido_error err;
    struct net plain = fake.net;
    plain.can = (struct net_offload){0};
    plain.mtu = 0;
    plain.fd = dup(fake.net.fd);
    guest_init(&other);
    assert_int_equal(
        virtio_net_create(&device, &plain, &net_options, other.mem, other.loop, &other.irq, &err),
        0);
    assert_int_equal(device->offered_features & 0xffffff,
                     F(VIRTIO_NET_F_MAC) | F(VIRTIO_NET_F_STATUS) | MERGEABLE);
    assert_int_equal(device->offered_features & (F(54) | F(55) | F(56)), 0);
    device->ops->destroy(device);
    guest_finish(&other);
}

static void net_shows_its_mac_link_and_mtu(void **state)
{
    uint8_t space[12];
    guest_read_config(&guest, 0, space, sizeof(space));
    assert_memory_equal(space, net_options.mac, 6);
    assert_int_equal(get_le16(space + 6), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(get_le16(space + 8), 1);
    assert_int_equal(get_le16(space + 10), 1500);
}

static void net_refuses_a_mac_that_is_no_station(void **state)
{
    struct virtio_device *device;
    struct nido_error err;
    const struct virtio_net_options group = {"net1", {0x33, 0x33, 0, 0, 0, 1}};
    const struct virtio_net_options zero = {"net1", {0}};
    assert_int_equal(
        virtio_net_create(&device, &fake.net, &group, guest.mem, guest.loop, &guest.irq, &err),
        -EINVAL);
    assert_non_null(strstr(err.text, "net net1: the MAC 33:33:00:00:00:01 is the address of a"));
    assert_int_equal(
        virtio_net_create(&device, &fake.net, &zero, guest.mem, guest.loop, &guest.irq, &err),
        -EINVAL);
    assert_false(fake.closed);
}

static void net_asks_for_the_negotiated_offloads_until_reset(void **state)
{
    bring_up(GUEST_TSO | F(VIRTIO_NET_F_GUEST_ECN) | F(54) | F(55));
    assert_true(fake.offload.csum && fake.offload.tso4 && fake.offload.tso6 && fake.offload.ecn &&
                fake.offload.uso);
    guest_reset(&guest);
    const struct net_offload none = {0};
    assert_memory_equal(&fake.offload, &none, sizeof(none));

    /* Segmentation without checksums, and half of USO, cannot be. */
    bring_up(F(VIRTIO_NET_F_GUEST_TSO4) | F(54));
    assert_memory_equal(&fake.offload, &none, sizeof(none));
}

/* ---- transmit ---- */

static void net_sends_a_frame_from_where_it_lies(void **state)
{
    uint8_t got[2048];
    bring_up(0);
    uint64_t low = guest_alloc(&guest, 100, 1);
    uint64_t high = GUEST_HIGH_GPA + 4000;
    uint8_t frame[300];
    make_frame(frame, sizeof(frame), 3);
    frame[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    memcpy(guest_at(&guest, low, 100), frame, 100);
    memcpy(guest_at(&guest, high, 200), frame + 100, 200);
    const struct guest_buffer buffers[] = {GUEST_OUT(low, 5), GUEST_OUT(low + 5, 95),
                                           GUEST_OUT(high, 200)};
    uint16_t head = guest_add(&guest.rings[TX], buffers, ARRAY_SIZE(buffers));
    guest_kick(&guest, TX);

    struct guest_used used = guest_wait_used(&guest, TX);
    assert_int_equal(used.head, head);
    assert_int_equal(used.written, 0);
    assert_int_equal(take_from_wire(got, sizeof(got)), sizeof(frame));
    assert_memory_equal(got, frame, sizeof(frame));
    assert_int_equal(counters().tx_frames, 1);
    assert_int_equal(counters().tx_bytes, sizeof(frame) - NET_HEADER_BYTES);
}

static void net_sends_the_largest_frame(void **state)
{
    static uint8_t got[80000];
    const size_t bytes = LARGEST_BYTES;
    bring_up(F(VIRTIO_NET_F_CSUM) | F(VIRTIO_NET_F_HOST_TSO4));
    post_tx(bytes, 1);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_int_equal(take_from_wire(got, sizeof(got)), bytes);
    check_frame(got, bytes, 1);
}

/* Back-pressure: the backend takes a part, the rest goes out as the wire is emptied, in order. */
static void net_waits_while_the_backend_is_full(void **state)
{
    enum { FRAMES = 64, BYTES = 20000 };
    static uint8_t got[BYTES];
    bring_up(F(VIRTIO_RING_F_EVENT_IDX));
    for (unsigned i = 0; i < FRAMES; i++)
        post_tx(BYTES, i);
    guest_kick(&guest, TX);
    guest_sync(&guest);
    assert_in_range(counters().tx_frames, 1, FRAMES - 1);

    for (unsigned i = 0; i < FRAMES; i++) {
        assert_int_equal(take_from_wire(got, sizeof(got)), BYTES);
        check_frame(got, BYTES, i);
    }
    for (unsigned i = 0; i < FRAMES; i++)
        guest_wait_used(&guest, TX);
    assert_int_equal(counters().tx_frames, FRAMES);
    assert_int_equal(counters().tx_dropped, 0);
}

/* More than one turn's worth, while the ring is refilled. */
static void net_sends_on_after_a_full_turn(void **state)
{
    enum { FRAMES = 1000 };
    uint8_t got[100];
    unsigned sent = 0, done = 0;
    bring_up(0);
    uint64_t gpa = guest_alloc(&guest, sizeof(got), 1);
    make_frame(guest_at(&guest, gpa, sizeof(got)), sizeof(got), 5);
    while (done < FRAMES) {
        for (; sent < FRAMES && sent - done < 64; sent++)
            guest_add(&guest.rings[TX], &GUEST_OUT(gpa, sizeof(got)), 1);
        guest_kick_if_wanted(&guest, TX);
        guest_wait_used(&guest, TX);
        done++;
        assert_int_equal(take_from_wire(got, sizeof(got)), sizeof(got));
    }
    assert_int_equal(counters().tx_frames, FRAMES);
}

static void net_drops_what_the_backend_refuses(void **state)
{
    bring_up(0);
    fake.send_error = -EIO;
    post_tx(100, 0);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    fake.send_error = 0;
    post_tx(100, 0);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_int_equal(counters().tx_dropped, 1);
    assert_int_equal(counters().tx_frames, 1);
    assert_false(needs_reset());
}

static void net_drops_frames_of_impossible_length(void **state)
{
    bring_up(0);
    post_tx(LARGEST_BYTES + 1, 0);
    post_tx(NET_HEADER_BYTES, 0);
    post_tx(NET_HEADER_BYTES + 13, 0);
    guest_kick(&guest, TX);
    for (int i = 0; i < 3; i++)
        guest_wait_used(&guest, TX);
    assert_int_equal(counters().tx_dropped, 3);
    assert_false(needs_reset());
}

static void net_breaks_on_a_writable_frame(void **state)
{
    bring_up(0);
    uint64_t gpa = guest_alloc(&guest, 200, 1);
    const struct guest_buffer buffers[] = {GUEST_OUT(gpa, 100), GUEST_IN(gpa + 100, 100)};
    guest_add(&guest.rings[TX], buffers, 2);
    guest_kick(&guest, TX);
    assert_true(needs_reset());
}

static void net_breaks_on_half_a_header(void **state)
{
    bring_up(0);
    post_tx(NET_HEADER_BYTES - 1, 0);
    guest_kick(&guest, TX);
    assert_true(needs_reset());
}

/* ---- the end of things ---- */

static void net_forgets_all_on_reset(void **state)
{
    bring_up(MERGEABLE | GUEST_TSO);
    post_rx(1000);
    guest_kick(&guest, RX);
    put_on_wire(5000, 1); /* waits for buffers */
    usleep(10000);
    guest_reset(&guest);
    put_on_wire(200, 2); /* nobody there */

    bring_up(0);
    uint64_t gpa = post_rx(1526);
    guest_kick(&guest, RX);
    put_on_wire(300, 3);
    assert_int_equal(guest_wait_used(&guest, RX).written, 300);
    check_frame(guest_at(&guest, gpa, 300), 300, 3);
}

static void net_resets_while_the_backend_is_full(void **state)
{
    static uint8_t got[20000];
    bring_up(0);
    for (unsigned i = 0; i < 64; i++)
        post_tx(sizeof(got), i);
    guest_kick(&guest, TX);
    guest_sync(&guest);
    guest_reset(&guest);
    while (recv(wire, got, sizeof(got), 0) > 0)
        ;
    bring_up(0);
    post_tx(100, 77);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_int_equal(take_from_wire(got, sizeof(got)), 100);
    check_frame(got, 100, 77);
}

static void net_link_goes_down_with_the_backend(void **state)
{
    bring_up(0);
    for (unsigned i = 0; i < 64; i++)
        post_tx(20000, i); /* more than the socket takes: some wait */
    guest_kick(&guest, TX);
    guest_sync(&guest);
    close(wire);
    wire = -1;
    expect_link_down();
    for (unsigned i = 0; i < 64; i++)
        guest_wait_used(&guest, TX);
    post_tx(100, 0);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_true(counters().tx_dropped > 1);
    assert_false(needs_reset());
}

static void net_finds_a_backend_that_left_before_the_driver_came(void **state)
{
    fake.offload_error = -ENODEV;
    bring_up(0);
    expect_link_down();
    post_rx(1526);
    guest_kick(&guest, RX);
    post_tx(100, 0);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_int_equal(counters().tx_dropped, 1);
}

static void net_runs_without_offloads_where_they_fail(void **state)
{
    fake.offload_error = -EINVAL;
    bring_up(GUEST_TSO);
    post_tx(100, 0);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_int_equal(counters().tx_frames, 1);
}

static void net_does_not_spin_on_a_backend_that_only_fails(void **state)
{
    bring_up(0);
    post_rx(1526);
    guest_kick(&guest, RX);
    fake.receive_error = -EIO;
    put_on_wire(100, 0);
    expect_link_down();
    assert_in_range(fake.receive_calls, 60, 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(net_offers_what_the_backend_can),
        NET_TEST(net_offers_no_offload_that_the_backend_lacks),
        NET_TEST(net_shows_its_mac_link_and_mtu),
        NET_TEST(net_refuses_a_mac_that_is_no_station),
        NET_TEST(net_asks_for_the_negotiated_offloads_until_reset),
        NET_TEST(net_sends_a_frame_from_where_it_lies),
        NET_TEST(net_sends_the_largest_frame),
        NET_TEST(net_waits_while_the_backend_is_full),
        NET_TEST(net_sends_on_after_a_full_turn),
        NET_TEST(net_drops_what_the_backend_refuses),
        NET_TEST(net_drops_frames_of_impossible_length),
        NET_TEST(net_breaks_on_a_writable_frame),
        NET_TEST(net_breaks_on_half_a_header),
        NET_TEST(net_forgets_all_on_reset),
        NET_TEST(net_resets_while_the_backend_is_full),
        NET_TEST(net_link_goes_down_with_the_backend),
        NET_TEST(net_finds_a_backend_that_left_before_the_driver_came),
        NET_TEST(net_runs_without_offloads_where_they_fail),
        NET_TEST(net_does_not_spin_on_a_backend_that_only_fails),
    };
    log_set_level(LOG_ERROR); /* the complaints are expected */
    return cmocka_run_group_tests_name("virtio_net", tests, NULL, NULL);
}
