/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_NET_BENCH_H
#define NIDO_TESTS_UNIT_NET_BENCH_H

/* The network card in front of a backend that is a pair of sockets: what the test writes into
 * `wire` reaches the card as frames from the network, and the other way round. One card at a time;
 * each test has a fresh one (NET_TEST). */

#include "devices/virtio/net.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/guest_driver.h"

#include <linux/virtio_net.h>
#include <stdatomic.h>

#define RX 0
#define TX 1
#define F  GUEST_FEATURE

#define MERGEABLE F(VIRTIO_NET_F_MRG_RXBUF)
#define GUEST_TSO                                                                                  \
    (F(VIRTIO_NET_F_GUEST_CSUM) | F(VIRTIO_NET_F_GUEST_TSO4) | F(VIRTIO_NET_F_GUEST_TSO6))
#define LARGEST_BYTES (NET_HEADER_BYTES + NET_FRAME_MAX_BYTES)

struct fake_net {
    struct net net;
    struct net_offload offload; /* the last one asked for; read after guest_sync() */
    _Atomic int receive_calls;
    _Atomic int receive_error, send_error, offload_error; /* to fail with; 0: none */
    _Atomic bool closed;
};

extern struct fake_net fake;
extern struct guest guest;
extern int wire; /* the far end; -1: closed by the test */
extern const struct virtio_net_options net_options;

int net_bench_set_up(void **state);
int net_bench_tear_down(void **state);
#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, net_bench_set_up, net_bench_tear_down)

/* Queues of 64. */
void bring_up(uint64_t features);
struct virtio_net_counters counters(void);
void wait_rx_dropped(uint64_t count);
bool needs_reset(void);
void expect_link_down(void);

/* A frame of `bytes`, header included, whose bytes tell where they belong; `seed` tells frames
 * apart. The header is zero. */
void make_frame(uint8_t *frame, size_t bytes, unsigned seed);
void check_frame(const uint8_t *got, size_t bytes, unsigned seed); /* but for the header */

void put_on_wire(size_t bytes, unsigned seed);
ssize_t take_from_wire(uint8_t *frame, size_t size); /* ten seconds at most */

/* One buffer, not yet published. Returns where it is. */
uint64_t post_rx(uint32_t bytes);
uint64_t post_tx(size_t bytes, unsigned seed);
const struct virtio_net_hdr_v1 *header_at(uint64_t gpa);

#endif
