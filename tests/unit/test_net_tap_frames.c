/* SPDX-License-Identifier: Apache-2.0 */
/* Frames through a real TAP, with and without the network card in front of it. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/own.h"
#include "devices/virtio/net.h"
#include "tests/unit/guest_driver.h"
#include "tests/unit/tap_bench.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* ---- frames ---- */

static void tap_carries_frames_both_ways(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    uint16_t port;
    struct net *net = open_tap("tap0");
    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);

    size_t bytes = make_udp(packet, port, "from the guest");
    assert_int_equal(send_packet(net, packet, bytes), bytes);
    expect_text(sock, "from the guest");

    send_to_guest(sock, "from the host", 13);
    assert_int_equal(receive_udp(net, packet, sizeof(packet)), NET_HEADER_BYTES + PAYLOAD_AT + 13);
    assert_memory_equal(packet + NET_HEADER_BYTES + PAYLOAD_AT, "from the host", 13);
    net_close(net);
}

static void tap_leaves_checksums_only_to_those_who_asked(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    uint16_t port;
    struct net *net = open_tap("tap0");
    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);

    send_to_guest(sock, "x", 1);
    receive_udp(net, packet, sizeof(packet));
    assert_false(packet[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM);

    assert_int_equal(net->ops->set_offload(net, &(struct net_offload){.csum = true}), 0);
    send_to_guest(sock, "x", 1);
    receive_udp(net, packet, sizeof(packet));
    assert_true(packet[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(get_le16(packet + 6), UDP_AT);

    assert_int_equal(net->ops->set_offload(net, &(struct net_offload){0}), 0);
    send_to_guest(sock, "x", 1);
    receive_udp(net, packet, sizeof(packet));
    assert_false(packet[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM);
    net_close(net);
}

static void tap_hands_over_udp_segments_in_one_piece(void **state)
{
    NEEDS_TAP();
    static uint8_t packet[NET_HEADER_BYTES + NET_FRAME_MAX_BYTES];
    static const uint8_t payload[5000];
    const int segment = 1000;
    uint16_t port;
    struct net *net = open_tap("tap0");
    if (!net->can.uso) {
        net_close(net);
        print_message("skipped: this kernel's TAP has no UDP segmentation (Linux 6.2 has)\n");
        skip();
    }
    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);
    assert_int_equal(setsockopt(sock, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)), 0);
    assert_int_equal(net->ops->set_offload(net, &net->can), 0);
    send_to_guest(sock, payload, sizeof(payload));
    assert_int_equal(receive_udp(net, packet, sizeof(packet)),
                     NET_HEADER_BYTES + PAYLOAD_AT + sizeof(payload));
    assert_int_equal(packet[1], 5); /* VIRTIO_NET_HDR_GSO_UDP_L4 */
    assert_int_equal(get_le16(packet + 4), segment);
    net_close(net);
}

/* What the head of net_tap.c says of the kernel. */
static void tap_cuts_a_frame_to_the_vectors(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    uint16_t port;
    struct net *net = open_tap("tap0");
    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);
    send_to_guest(sock, packet, 1000);
    assert_int_equal(receive_udp(net, packet, 100), 100);
    net_close(net);
}

static void expect_poll(struct net *net, short events)
{
    struct pollfd poll_fd = {.fd = net->fd, .events = POLLIN | POLLOUT};
    poll(&poll_fd, 1, 0);
    assert_int_equal(poll_fd.revents, events);
}

static void tap_that_is_down_loses_frames_and_keeps_quiet(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    struct net *net = open_tap("tap0");
    struct iovec iov = {packet, sizeof(packet)};
    size_t bytes = make_udp(packet, 9, "nobody there");
    expect_poll(net, 0);
    assert_int_equal(net->ops->receive(net, &iov, 1), 0);
    assert_int_equal(send_packet(net, packet, bytes), -EIO);
    bring_up_interface("tap0");
    assert_int_equal(send_packet(net, packet, bytes), bytes);
    net_close(net);
}

static void tap_that_is_deleted_is_gone(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    struct net *net = open_tap("tap0");
    struct iovec iov = {packet, sizeof(packet)};
    size_t bytes = make_udp(packet, 9, "nobody there");
    delete_interface("tap0");
    expect_poll(net, POLLERR);
    assert_int_equal(net->ops->receive(net, &iov, 1), -ENODEV);
    assert_int_equal(send_packet(net, packet, bytes), -ENODEV);
    assert_int_equal(net->ops->set_offload(net, &(struct net_offload){0}), -ENODEV);
    net_close(net);
}

static void tap_refuses_a_frame_that_is_nonsense(void **state)
{
    NEEDS_TAP();
    uint8_t packet[200] = {VIRTIO_NET_HDR_F_NEEDS_CSUM};
    struct net *net = open_tap("tap0");
    bring_up_interface("tap0");
    put_le16(packet + 6, 5000); /* csum_start */
    assert_true(send_packet(net, packet, sizeof(packet)) < 0);
    memset(packet, 0xff, sizeof(packet));
    assert_true(send_packet(net, packet, sizeof(packet)) < 0);
    assert_true(send_packet(net, packet, NET_HEADER_BYTES) < 0);
    net_close(net);
}

/* ---- with the network card in front ---- */

static void use_card(struct guest *guest)
{
    const struct virtio_net_options options = {"net0", {2, 0, 0, 0, 0, 2}};
    struct virtio_device *device;
    struct nido_error err;
    struct net *net = open_tap("tap0");
    guest_init(guest);
    assert_int_equal(
        virtio_net_create(&device, net, &options, guest->mem, guest->loop, &guest->irq, &err), 0);
    guest_attach(guest, device);
    guest_bring_up(guest,
                   GUEST_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | GUEST_FEATURE(VIRTIO_NET_F_CSUM) |
                       GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX),
                   2, 64);
}

static void transmit(struct guest *guest, uint16_t port, const char *text)
{
    uint64_t gpa = guest_alloc(guest, 200, 1);
    size_t bytes = make_udp(guest_at(guest, gpa, 200), port, text);
    guest_add(&guest->rings[1], &GUEST_OUT(gpa, bytes), 1);
    guest_kick(guest, 1);
    guest_wait_used(guest, 1);
}

static void guest_and_host_talk_through_a_tap(void **state)
{
    NEEDS_TAP();
    enum { BUFFERS = 64, BYTES = 1526 };
    struct guest guest;
    uint16_t port;
    use_card(&guest);
    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);
    transmit(&guest, port, "hello host");
    expect_text(sock, "hello host");

    uint64_t buffers = guest_alloc(&guest, BUFFERS * BYTES, 8);
    uint64_t gpa_of[BUFFERS];
    for (unsigned i = 0; i < BUFFERS; i++) {
        uint64_t gpa = buffers + i * BYTES;
        gpa_of[guest_add(&guest.rings[0], &GUEST_IN(gpa, BYTES), 1)] = gpa;
    }
    guest_kick(&guest, 0);
    send_to_guest(sock, "hello guest", 11);
    struct guest_used used;
    const uint8_t *packet;
    do {
        used = guest_wait_used(&guest, 0);
        packet = guest_at(&guest, gpa_of[used.head], BYTES);
    } while (!is_udp_to_guest(packet, used.written));
    assert_int_equal(get_le16(packet + 10), 1);
    assert_memory_equal(packet + NET_HEADER_BYTES + PAYLOAD_AT, "hello guest", 11);
    guest_finish(&guest);
}

static void guest_sees_the_link_go_down_when_the_tap_is_deleted(void **state)
{
    NEEDS_TAP();
    struct guest guest;
    use_card(&guest);
    bring_up_interface("tap0");
    uint64_t gpa = guest_alloc(&guest, 200, 1);
    size_t bytes = make_udp(guest_at(&guest, gpa, 200), 9, "too late");
    guest_add(&guest.rings[0], &GUEST_IN(guest_alloc(&guest, 1526, 1), 1526), 1);
    guest_kick(&guest, 0);
    guest_sync(&guest);
    delete_interface("tap0");
    uint32_t why;
    do {
        why = guest_wait_interrupt(&guest, TIMEOUT_MS);
        assert_int_not_equal(why, 0);
    } while (!(why & VIRTIO_INTERRUPT_CONFIG));
    uint8_t status[2];
    guest_read_config(&guest, offsetof(struct virtio_net_config, status), status, 2);
    assert_int_equal(get_le16(status), 0);

    guest_add(&guest.rings[1], &GUEST_OUT(gpa, bytes), 1);
    guest_kick(&guest, 1);
    guest_wait_used(&guest, 1);
    guest_finish(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tap_carries_frames_both_ways),
        cmocka_unit_test(tap_leaves_checksums_only_to_those_who_asked),
        cmocka_unit_test(tap_hands_over_udp_segments_in_one_piece),
        cmocka_unit_test(tap_cuts_a_frame_to_the_vectors),
        cmocka_unit_test(tap_that_is_down_loses_frames_and_keeps_quiet),
        cmocka_unit_test(tap_that_is_deleted_is_gone),
        cmocka_unit_test(tap_refuses_a_frame_that_is_nonsense),
        cmocka_unit_test(guest_and_host_talk_through_a_tap),
        cmocka_unit_test(guest_sees_the_link_go_down_when_the_tap_is_deleted),
    };
    tap_bench_enter();
    log_set_level(LOG_ERROR); /* the warnings are expected */
    return cmocka_run_group_tests_name("net_tap_frames", tests, NULL, NULL);
}
