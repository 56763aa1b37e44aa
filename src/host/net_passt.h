/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_NET_PASST_H
#define NIDO_HOST_NET_PASST_H

/* User-mode networking: passt, a process of its own, between the guest and the host's sockets. It
 * needs no privilege. The guest gets address, routes and name servers from it, by DHCP, DHCPv6 and
 * router advertisements; with host_loopback it reaches what listens on the host's 127.0.0.1 at the
 * address of its gateway. */

#include "host/loop.h"
#include "host/net.h"

#include <nido/config.h>

/* What passt tells guests in its DHCP answers: the most that an IPv4 packet may have, in words. */
#define NET_PASST_MTU 65520u

/* Starts passt and waits until it serves; of `wanted` (copied) the ports and host_loopback count. It ends with net_close(), and with this process, however
 * that ends. Before `loop` starts or on its thread. */
int net_open_passt(struct net **out, const struct nido_net *wanted, struct loop *loop,
                   struct nido_error *err);

/* Where all name servers of this host are on its loopback, as with systemd-resolved, passt hands out none; but the
 * first of them answers the guest at this address, and nothing else of the host's does. "" where it is not needed. */
const char *net_passt_resolver(const struct nido_net *wanted);

/* Whether there is a passt on the PATH. */
bool net_passt_installed(void);

/* ---- net_publish.c ---- */

/* The port in passt's words, "127.0.0.1/8080:80". */
#define NET_PUBLISH_SPEC_BYTES 64u
void net_publish_spec(char spec[NET_PUBLISH_SPEC_BYTES], const struct nido_publish *publish);

/* Whether the port is free. passt would be content with one of IPv4 and IPv6, and does not say why
 * it could have none. 0 also where only passt can tell. */
int net_publish_check(const struct nido_publish *publish, struct nido_error *err);

/* The lowest port that any user may take. */
unsigned net_publish_lowest_free_port(void);

#endif
