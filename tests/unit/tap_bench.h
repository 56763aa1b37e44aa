/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_TAP_BENCH_H
#define NIDO_TESTS_UNIT_TAP_BENCH_H

/* Real TAP interfaces, in a network namespace of the test program's own. */

#include "host/net.h"
#include "tests/unit/cmocka_nido.h"

#include <linux/if_tun.h>
#include <net/if.h>

#define TAP_FLAGS  (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
#define TIMEOUT_MS 30000
#define ETH_BYTES  14u
#define UDP_AT     (ETH_BYTES + 20u)
#define PAYLOAD_AT (UDP_AT + 8u)

/* Before there are threads. As root without a user namespace, so that interfaces can have owners.
 * Where that cannot be, NEEDS_TAP() skips the test and says why. */
void tap_bench_enter(void);
extern const char *tap_bench_why_not;
#define NEEDS_TAP()                                                                                \
    do {                                                                                           \
        if (tap_bench_why_not) {                                                                   \
            print_message("skipped: %s\n", tap_bench_why_not);                                     \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

struct ifreq about(const char *name);
void interface_ioctl(unsigned long request, void *argument);
void make_persistent(const char *name, int flags);
void delete_interface(const char *name);
/* Up, with an address of the host's side/24, and the guest's as a neighbour that needs no ARP. */
void bring_up_interface(const char *name);

/* A descriptor as another process would have it. */
int open_raw(const char *name, int flags);
struct net *open_tap(const char *name);

/* A packet from the guest to UDP `port` of the host's side of tap0, its checksum left to the host
 * (virtio 1.2, 5.1.6.2). Returns its length, virtio header included. */
size_t make_udp(uint8_t *packet, uint16_t port, const char *text);
ssize_t send_packet(struct net *net, uint8_t *packet, size_t bytes);

/* The host's end. */
int udp_socket(uint16_t *port);
void expect_text(int sock, const char *text);
void send_to_guest(int sock, const void *bytes, size_t length);

/* The host talks of its own accord too (IPv6 router solicitations): not ours. */
bool is_udp_to_guest(const uint8_t *packet, ssize_t bytes);
ssize_t receive_udp(struct net *net, uint8_t *packet, size_t size);

#endif
