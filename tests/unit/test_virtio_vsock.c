/* SPDX-License-Identifier: Apache-2.0 */
/* How connections of a vsock begin and end, on good behaviour. Their bytes are in
 * test_virtio_vsock_flow.c, bad behaviour is in test_virtio_vsock_hostile.c. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "tests/unit/vsock_bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BUF 65536u

/* ---- what the driver is told ---- */

static void vsock_offers_streams_and_shows_its_cid(void **state)
{
    uint8_t space[8];
    assert_int_equal(guest_device_features(&vguest) & 0xff, 0);
    guest_read_config(&vguest, 0, space, sizeof(space));
    assert_true(get_le64(space) == GUEST_CID);
}

static int create_at(const char *path, uint32_t cid, struct nido_error *err)
{
    struct guest other; /* whose loop does not run */
    struct virtio_device *device;
    const struct virtio_vsock_options options = {.cid = cid, .path = path};
    guest_init(&other);
    int ret = virtio_vsock_create(&device, &options, other.mem, other.loop, &other.irq, err);
    if (ret == 0)
        device->ops->destroy(device);
    guest_finish(&other);
    return ret;
}

static void vsock_refuses_reserved_cids(void **state)
{
    static const uint32_t bad[] = {0, 1, 2, UINT32_MAX};
    struct nido_error err;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(create_at("/tmp/none", bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "is reserved; say 3 to 4294967294"));
    }
}

/* ---- the socket's file ---- */

static void vsock_socket_is_its_owners_alone(void **state)
{
    struct stat file;
    assert_int_equal(stat(vsock_path, &file), 0);
    assert_true(S_ISSOCK(file.st_mode));
    assert_int_equal(file.st_mode & 0777, 0600);
}

static void vsock_refuses_a_path_that_is_in_use(void **state)
{
    struct nido_error err;
    assert_int_equal(create_at(vsock_path, 3, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, vsock_path));
    assert_non_null(strstr(err.text, "another program listens there"));
    assert_int_equal(access(vsock_path, F_OK), 0);
}

static void vsock_replaces_a_stale_socket(void **state)
{
    struct nido_error err;
    char path[80];
    snprintf(path, sizeof(path), "%s_7", vsock_path);
    close(host_listen(7, 1)); /* leaves the file */
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(create_at(path, 3, &err), 0);
    assert_int_equal(access(path, F_OK), -1);
}

static void vsock_leaves_other_files_alone(void **state)
{
    struct nido_error err;
    char path[80];
    snprintf(path, sizeof(path), "%s_file", vsock_path);
    FILE *file = fopen(path, "w");
    fclose(file);
    assert_int_equal(create_at(path, 3, &err), -EEXIST);
    assert_non_null(strstr(err.text, "a file of another kind has this name"));
    assert_int_equal(access(path, F_OK), 0);
}

static void vsock_refuses_a_path_too_long_or_nowhere(void **state)
{
    struct nido_error err;
    char path[200];
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(create_at(path, 3, &err), -ENAMETOOLONG);
    assert_non_null(strstr(err.text, "at most 107 bytes"));
    assert_int_equal(create_at("/nowhere/at/all", 3, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

/* What has come in its place since is not ours. */
static void vsock_removes_only_its_own_file(void **state)
{
    char path[80];
    struct guest other;
    struct virtio_device *device;
    snprintf(path, sizeof(path), "%s_other", vsock_path);
    const struct virtio_vsock_options options = {.cid = 3, .path = path};
    guest_init(&other);
    assert_int_equal(
        virtio_vsock_create(&device, &options, other.mem, other.loop, &other.irq, NULL), 0);
    assert_int_equal(unlink(path), 0);
    fclose(fopen(path, "w"));
    device->ops->destroy(device);
    guest_finish(&other);
    assert_int_equal(access(path, F_OK), 0);
}

/* ---- a client of the host ---- */

static void host_reaches_a_port_of_the_guest(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES];
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 1234);
    assert_true(peer.host_port >= 1u << 30);
    assert_true(peer.host_alloc > 0);

    host_send(fd, "ping", 4);
    struct vsock_packet packet = receive_on(&peer, data);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RW);
    assert_int_equal(packet.len, 4);
    assert_memory_equal(data, "ping", 4);
    send_data(&peer, "pong!", 5);
    expect_bytes(fd, "pong!", 5);
    close(fd);
}

static void host_may_send_right_behind_its_line(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES];
    vsock_bring_up(0);
    int fd = host_connect();
    host_send(fd, "CONN", 4);
    expect_silence();
    host_send(fd, "ECT 99\nhello", 12);
    struct vsock_packet packet = receive(NULL);
    peer.host_port = packet.src_port;
    peer.guest_port = 99;
    peer.host_alloc = packet.buf_alloc;
    send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE);
    packet = receive_on(&peer, data);
    assert_int_equal(packet.len, 5);
    assert_memory_equal(data, "hello", 5);
    close(fd);
}

static void host_is_turned_away_where_nobody_listens(void **state)
{
    vsock_bring_up(0);
    int fd = host_connect();
    host_send(fd, "connect 5 \r\n", 12);
    struct vsock_packet packet = receive(NULL);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_REQUEST);
    struct peer peer = {.host_port = packet.src_port, .guest_port = 5};
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_closed(fd);
    expect_silence();
}

static void host_that_leaves_early_is_forgotten(void **state)
{
    vsock_bring_up(0);
    int fd = host_connect();
    host_send(fd, "CONNECT 5\n", 10);
    struct vsock_packet packet = receive(NULL);
    struct peer peer = {.host_port = packet.src_port, .guest_port = 5};
    close(fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
    send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE); /* too late */
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void host_waits_for_a_driver(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    int early = host_connect();
    host_send(early, "CONNECT 5\n", 10);
    vsock_bring_up(0);
    struct vsock_packet packet = receive(NULL);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_REQUEST);
    peer.host_port = packet.src_port;
    peer.guest_port = 5;
    send_op(&peer, VIRTIO_VSOCK_OP_RESPONSE);
    char answer[32];
    expect_bytes(early, answer, (size_t)sprintf(answer, "OK %u\n", peer.host_port));
    close(early);
}

/* ---- a call of the guest ---- */

static void guest_reaches_a_listener_of_the_host(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES];
    vsock_bring_up(GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    int listener = host_listen(1024, 5);
    int fd = connect_to_host(&peer, listener, 1024, 7);
    send_data(&peer, "ping", 4);
    expect_bytes(fd, "ping", 4);
    host_send(fd, "pong", 4);
    assert_int_equal(receive_on(&peer, data).len, 4);
    assert_memory_equal(data, "pong", 4);
    close(fd);
    close(listener);
}

static void guest_is_refused_where_nobody_listens(void **state)
{
    struct peer peer = {.host_port = 77, .guest_port = 7, .buf_alloc = BUF};
    vsock_bring_up(0);
    send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
    close(host_listen(77, 5)); /* a file without a listener */
    send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void guarded_port_is_for_privileged_ports_alone(void **state)
{
    struct peer stranger = {.host_port = GUARDED_PORT, .guest_port = 1024, .buf_alloc = BUF};
    struct peer ours = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int listener = host_listen(GUARDED_PORT, 5);
    send_op(&stranger, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&stranger, VIRTIO_VSOCK_OP_RST);
    int fd = connect_to_host(&ours, listener, GUARDED_PORT, 1023);
    expect_silence();
    close(fd);
    close(listener);
}

static void guest_waits_for_a_full_listener(void **state)
{
    struct peer peers[8];
    int fds[8];
    vsock_bring_up(0);
    int listener = host_listen(80, 0);
    for (unsigned i = 0; i < 8; i++) {
        peers[i] = (struct peer){.host_port = 80, .guest_port = 100 + i, .buf_alloc = BUF};
        send_op(&peers[i], VIRTIO_VSOCK_OP_REQUEST);
    }
    for (unsigned i = 0; i < 8; i++)
        fds[i] = host_accept(listener);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(receive(NULL).op, VIRTIO_VSOCK_OP_RESPONSE);
    for (unsigned i = 0; i < 8; i++)
        close(fds[i]);
    close(listener);
}

/* The device's path fits into an address, with a port behind it no more. */
static void guest_is_refused_where_the_port_makes_the_path_too_long(void **state)
{
    struct guest other = vguest;
    char long_path[108];
    struct virtio_device *device;
    snprintf(long_path, sizeof(long_path), "%s.%0*d", vsock_path, 106 - (int)strlen(vsock_path), 0);
    assert_int_equal(strlen(long_path), 107);
    const struct virtio_vsock_options options = {.cid = GUEST_CID, .path = long_path};
    guest_init(&vguest);
    assert_int_equal(
        virtio_vsock_create(&device, &options, vguest.mem, vguest.loop, &vguest.irq, NULL), 0);
    guest_attach(&vguest, device);
    vsock_bring_up(0);
    struct peer peer = {.host_port = 1, .guest_port = 7, .buf_alloc = BUF};
    send_op(&peer, VIRTIO_VSOCK_OP_REQUEST);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
    guest_finish(&vguest);
    vguest = other;
}

/* ---- the end of things ---- */

static void host_closes_and_the_guest_confirms(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES];
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    host_send(fd, "last words", 10);
    close(fd);
    /* The words come before the end of them, whatever else is told in between. */
    struct vsock_packet packet;
    do
        packet = receive_on(&peer, data);
    while (packet.op != VIRTIO_VSOCK_OP_RW);
    assert_memory_equal(data, "last words", 10);
    do
        packet = expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN);
    while (packet.flags != 3);
    send_data(&peer, "into the void", 13);
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_silence();
    send_op(&peer, VIRTIO_VSOCK_OP_CREDIT_UPDATE); /* it is over: */
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void guest_closes_and_is_confirmed(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    send_data(&peer, "last words", 10);
    send_shutdown(&peer, 3);
    expect_bytes(fd, "last words", 10);
    expect_closed(fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void both_close_at_once(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    close(fd);
    while (expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    send_shutdown(&peer, 3); /* which was on its way already */
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void host_half_closes_and_still_listens(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    shutdown(fd, SHUT_WR);
    assert_int_equal(expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
    send_data(&peer, "answer", 6);
    expect_bytes(fd, "answer", 6);
    send_shutdown(&peer, 3);
    expect_closed(fd);
    expect_op(&peer, VIRTIO_VSOCK_OP_RST);
}

static void guest_half_closes_and_still_listens(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES], byte;
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    send_data(&peer, "question", 8);
    send_shutdown(&peer, VIRTIO_VSOCK_SHUTDOWN_SEND);
    expect_bytes(fd, "question", 8);
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    host_send(fd, "answer", 6);
    struct vsock_packet packet = receive_on(&peer, data);
    assert_int_equal(packet.len, 6);
    close(fd);
    while (expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
        ;
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_silence();
}

static void guest_that_reads_no_more_breaks_the_hosts_pipe(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    send_shutdown(&peer, VIRTIO_VSOCK_SHUTDOWN_RCV);
    guest_sync(&vguest);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    send_data(&peer, "still here", 10);
    expect_bytes(fd, "still here", 10);
    close(fd);
}

static void host_that_reads_no_more_stops_the_guest(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    uint8_t data[RX_DATA_BYTES];
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    shutdown(fd, SHUT_RD);
    send_data(&peer, "unheard", 7);
    assert_int_equal(expect_op(&peer, VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_RCV);
    host_send(fd, "still here", 10);
    assert_int_equal(receive_on(&peer, data).len, 10);
    close(fd);
}

static void guests_reset_closes_at_once(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    send_op(&peer, VIRTIO_VSOCK_OP_RST);
    expect_closed(fd);
    expect_silence();
}

static void reset_of_the_device_ends_all_connections(void **state)
{
    struct peer peer = {.buf_alloc = BUF}, caller = peer;
    vsock_bring_up(0);
    int listener = host_listen(80, 5);
    int fd = connect_to_guest(&peer, 9);
    int called = connect_to_host(&caller, listener, 80, 9);
    int silent = host_connect();
    guest_sync(&vguest);
    guest_reset(&vguest);
    expect_closed(fd);
    expect_closed(called);
    expect_closed(silent);

    vsock_bring_up(0);
    close(connect_to_guest(&peer, 9));
    close(listener);
}

static void transport_reset_ends_all_connections_and_is_told(void **state)
{
    struct peer peer = {.buf_alloc = BUF};
    vsock_bring_up(0);
    int fd = connect_to_guest(&peer, 9);
    uint64_t gpa = guest_alloc(&vguest, 4, 4);
    memset(guest_at(&vguest, gpa, 4), 0xff, 4);
    guest_add(&vguest.rings[EVENT], &GUEST_IN(gpa, 4), 1);
    guest_kick(&vguest, EVENT);
    guest_sync(&vguest);

    loop_stop(vguest.loop); /* so that this thread may speak for it */
    virtio_vsock_transport_reset(vguest.device);
    assert_int_equal(loop_start(vguest.loop, NULL), 0);
    assert_int_equal(guest_wait_used(&vguest, EVENT).written, 4);
    assert_int_equal(get_le32(guest_at(&vguest, gpa, 4)), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    expect_closed(fd);
    close(connect_to_guest(&peer, 10));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(vsock_offers_streams_and_shows_its_cid),
        VSOCK_TEST(vsock_refuses_reserved_cids),
        VSOCK_TEST(vsock_socket_is_its_owners_alone),
        VSOCK_TEST(vsock_refuses_a_path_that_is_in_use),
        VSOCK_TEST(vsock_replaces_a_stale_socket),
        VSOCK_TEST(vsock_leaves_other_files_alone),
        VSOCK_TEST(vsock_refuses_a_path_too_long_or_nowhere),
        VSOCK_TEST(vsock_removes_only_its_own_file),
        VSOCK_TEST(host_reaches_a_port_of_the_guest),
        VSOCK_TEST(host_may_send_right_behind_its_line),
        VSOCK_TEST(host_is_turned_away_where_nobody_listens),
        VSOCK_TEST(host_that_leaves_early_is_forgotten),
        VSOCK_TEST(host_waits_for_a_driver),
        VSOCK_TEST(guest_reaches_a_listener_of_the_host),
        VSOCK_TEST(guest_is_refused_where_nobody_listens),
        VSOCK_TEST(guarded_port_is_for_privileged_ports_alone),
        VSOCK_TEST(guest_waits_for_a_full_listener),
        VSOCK_TEST(guest_is_refused_where_the_port_makes_the_path_too_long),
        VSOCK_TEST(host_closes_and_the_guest_confirms),
        VSOCK_TEST(guest_closes_and_is_confirmed),
        VSOCK_TEST(both_close_at_once),
        VSOCK_TEST(host_half_closes_and_still_listens),
        VSOCK_TEST(guest_half_closes_and_still_listens),
        VSOCK_TEST(guest_that_reads_no_more_breaks_the_hosts_pipe),
        VSOCK_TEST(host_that_reads_no_more_stops_the_guest),
        VSOCK_TEST(guests_reset_closes_at_once),
        VSOCK_TEST(reset_of_the_device_ends_all_connections),
        VSOCK_TEST(transport_reset_ends_all_connections_and_is_told),
    };
    log_set_level(LOG_ERROR); /* the complaints are expected */
    return cmocka_run_group_tests_name("virtio_vsock", tests, NULL, NULL);
}
