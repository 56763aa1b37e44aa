/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/net_bench.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the backend ---- */

struct fake_net fake;
struct guest guest;
int wire;
const struct virtio_net_options net_options = {"net0", {2, 0, 0, 0xaa, 0xbb, 0xcc}};

static ssize_t fake_receive(struct net *net, struct iovec *iov, unsigned count)
{
    atomic_fetch_add(&fake.receive_calls, 1);
    if (fake.receive_error)
        return fake.receive_error;
    ssize_t got = readv(net->fd, iov, (int)count);
    if (got < 0)
        return errno == EAGAIN ? 0 : -errno;
    return got;
}

static ssize_t fake_send(struct net *net, const struct iovec *iov, unsigned count)
{
    if (fake.send_error)
        return fake.send_error;
    const struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
    ssize_t sent = sendmsg(net->fd, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

static int fake_set_offload(struct net *net, const struct net_offload *offload)
{
    fake.offload = *offload;
    return fake.offload_error;
}

static void fake_close(struct net *net)
{
    close(net->fd);
    fake.closed = true;
}

static const struct net_ops fake_ops = {
    .receive = fake_receive,
    .send = fake_send,
    .set_offload = fake_set_offload,
    .close = fake_close,
};

/* ---- the bench ---- */

static void make_fake(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    memset(&fake, 0, sizeof(fake));
    fake.net = (struct net){
        .ops = &fake_ops,
        .fd = pair[0],
        .can = {.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true},
        .mtu = 1500,
        .name = "fake",
    };
    wire = pair[1];
}

int net_bench_set_up(void **state)
{
    struct virtio_device *device;
    struct nido_error err;
    make_fake();
    guest_init(&guest);
    assert_int_equal(virtio_net_create(&device, &fake.net, &net_options, guest.mem, guest.loop,
                                       &guest.irq, &err),
                     0);
    guest_attach(&guest, device);
    return 0;
}

int net_bench_tear_down(void **state)
{
    guest_finish(&guest);
    if (wire >= 0)
        close(wire);
    return fake.closed ? 0 : -1;
}

void bring_up(uint64_t features)
{
    guest_bring_up(&guest, features, 2, 64);
}

struct ask {
    struct loop_task task;
    struct virtio_net_counters counters;
};

static void answer(struct loop_task *task)
{
    struct ask *ask = container_of(task, struct ask, task);
    ask->counters = virtio_net_counters(guest.device);
}

struct virtio_net_counters counters(void)
{
    struct ask ask = {.task.run = answer};
    loop_call(guest.loop, &ask.task);
    return ask.counters;
}

void wait_rx_dropped(uint64_t count)
{
    const uint64_t give_up_ns = clock_now_ns() + 10000000000ull;
    while (counters().rx_dropped < count && clock_now_ns() < give_up_ns)
        usleep(1000);
    assert_int_equal(counters().rx_dropped, count);
}

bool needs_reset(void)
{
    guest_sync(&guest);
    return guest_read32(&guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

void make_frame(uint8_t *frame, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        frame[i] = (uint8_t)(i * 7 + i / 256 + seed);
    memset(frame, 0, MIN(bytes, (size_t)NET_HEADER_BYTES));
}

void put_on_wire(size_t bytes, unsigned seed)
{
    static uint8_t frame[80000];
    make_frame(frame, bytes, seed);
    assert_int_equal(send(wire, frame, bytes, 0), bytes);
}

void check_frame(const uint8_t *got, size_t bytes, unsigned seed)
{
    static uint8_t frame[80000];
    make_frame(frame, bytes, seed);
    assert_memory_equal(got + NET_HEADER_BYTES, frame + NET_HEADER_BYTES, bytes - NET_HEADER_BYTES);
}

ssize_t take_from_wire(uint8_t *frame, size_t size)
{
    struct pollfd poll_fd = {.fd = wire, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 10000), 1);
    return recv(wire, frame, size, 0);
}

uint64_t post_rx(uint32_t bytes)
{
    uint64_t gpa = guest_alloc(&guest, bytes, 8);
    guest_add(&guest.rings[RX], &GUEST_IN(gpa, bytes), 1);
    return gpa;
}

uint64_t post_tx(size_t bytes, unsigned seed)
{
    uint64_t gpa = guest_alloc(&guest, bytes, 8);
    make_frame(guest_at(&guest, gpa, bytes), bytes, seed);
    guest_add(&guest.rings[TX], &GUEST_OUT(gpa, bytes), 1);
    return gpa;
}

const struct virtio_net_hdr_v1 *header_at(uint64_t gpa)
{
    return guest_at(&guest, gpa, sizeof(struct virtio_net_hdr_v1));
}

void expect_link_down(void)
{
    const uint64_t give_up_ns = clock_now_ns() + 10000000000ull;
    uint8_t status[2] = {VIRTIO_NET_S_LINK_UP};
    while (get_le16(status) && clock_now_ns() < give_up_ns) {
        usleep(1000);
        guest_read_config(&guest, 6, status, 2);
    }
    assert_int_equal(get_le16(status), 0);
}
