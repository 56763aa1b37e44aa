/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_VSOCK_BENCH_H
#define NIDO_TESTS_UNIT_VSOCK_BENCH_H

/* A vsock device with a guest made of packets on one side and unix sockets on the other. One device
 * at a time; each test has a fresh one (VSOCK_TEST). Whatever is awaited is awaited ten seconds. */

#include "devices/virtio/vsock.h"
#include "devices/virtio/vsock_packet.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/guest_driver.h"

#include <sys/types.h>

#define RX    0
#define TX    1
#define EVENT 2

#define GUEST_CID     42u
#define QUEUE_SIZE    64u
#define RX_DATA_BYTES 4096u /* of each receive buffer, as Linux has them */
#define TX_DATA_BYTES 16384u

#define GUARDED_PORT 4000u /* of the host */

extern struct guest vguest;
extern char vsock_path[64];

int vsock_bench_set_up(void **state);
int vsock_bench_tear_down(void **state);
#define VSOCK_TEST(name)                                                                           \
    cmocka_unit_test_setup_teardown(name, vsock_bench_set_up, vsock_bench_tear_down)

/* Queues of QUEUE_SIZE; the receive queue is filled with buffers and kept full. */
void vsock_bring_up(uint64_t features);
/* The same with an empty receive queue, and buffers that are not given back. */
void vsock_bring_up_starved(void);
void vsock_post_rx(unsigned count);
bool vsock_needs_reset(void); /* waits for it */
bool is_healthy(void);        /* looks once, after the loop has had its turn */

/* ---- the guest's half ---- */

/* A connection as the guest sees it. */
struct peer {
    uint32_t host_port, guest_port;
    uint32_t buf_alloc, fwd_cnt; /* ours, as told in every packet */
    uint32_t sent;               /* bytes */
    uint32_t host_alloc, host_fwd;
    uint32_t received;
    bool ended; /* it has said that it sends no more */
};

uint32_t peer_room(const struct peer *peer); /* what it may send */
/* A good packet of this connection, to be changed by whoever wants a bad one. */
struct vsock_packet peer_packet(const struct peer *peer, uint16_t op);
void send_raw(const void *bytes, size_t length);
void vsock_send(const struct vsock_packet *packet, const void *data, size_t length);
void send_op(struct peer *peer, uint16_t op);
void send_shutdown(struct peer *peer, uint32_t flags);
void send_data(struct peer *peer, const void *data, size_t length); /* counts */

/* The next packet for the guest. `data` has RX_DATA_BYTES; NULL: not wanted. */
bool try_receive(struct vsock_packet *packet, uint8_t *data);
struct vsock_packet receive(uint8_t *data);
/* The next packet is for this connection; takes its credit. */
struct vsock_packet receive_on(struct peer *peer, uint8_t *data);
/* The next one but for credit updates must be `op` of this connection. */
struct vsock_packet expect_op(struct peer *peer, uint16_t op);
void expect_silence(void);
void note_credit(struct peer *peer, const struct vsock_packet *packet);

/* ---- the host's half ---- */

int host_connect(void);
int host_listen(uint32_t port, int backlog);
int host_accept(int listener);
void host_send(int fd, const void *bytes, size_t length);
void expect_bytes(int fd, const void *bytes, size_t length);
/* The other side has closed: an end of file, or a reset. */
void expect_closed(int fd);
bool is_open(int fd);

/* ---- both ---- */

/* A client of the host talks to port `guest_port` of the guest / the guest to a listener on
 * `host_port`. Returns the host's socket. */
int connect_to_guest(struct peer *peer, uint32_t guest_port);
int connect_to_host(struct peer *peer, int listener, uint32_t host_port, uint32_t guest_port);

/* A connection that was there before the trouble, and should be after it. */
extern struct peer witness;
extern int witness_fd;
void call_witness(void);
void expect_witness(void);

/* The process does nothing while nobody asks for anything. */
void expect_rest(void);

/* Bytes that tell where they belong. */
void make_bytes(uint8_t *bytes, size_t length, uint64_t offset, unsigned seed);
void check_bytes(const uint8_t *bytes, size_t length, uint64_t offset, unsigned seed);

#endif
