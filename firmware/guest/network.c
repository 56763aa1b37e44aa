/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses for the first network card, by DHCP (RFC 2131), as nido's --net user offers it: DISCOVER,
 * OFFER, REQUEST, ACK, and no lease is ever renewed: the machine is gone sooner. IPv6 is the
 * kernel's own business.
 *
 * Sent through a UDP socket; received below IP, which drops what goes to an address that is not
 * ours yet.
 */
#include "firmware/guest/guest.h"

#include "base/bytes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>

#define CARD          "eth0"
#define CLIENT_PORT   68u
#define SERVER_PORT   67u
#define FRAME_BYTES   2048u
#define TRIES         5u
#define PATIENCE_MS   2000
#define NAMES_MAX     3u
#define MESSAGE_BYTES 300u /* of ours: the least that some servers take */
#define OPTIONS_AT    240u
#define COOKIE        0x63825363u
#define TRANSACTION   0x6e69646fu

enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5 };
enum {
    OPTION_MASK = 1,
    OPTION_ROUTER = 3,
    OPTION_NAMES = 6,
    OPTION_MTU = 26,
    OPTION_ADDRESS = 50,
    OPTION_TYPE = 53,
    OPTION_SERVER = 54,
    OPTION_WANTED = 55,
    OPTION_END = 255,
};

/* Addresses as they come, in network order; 0: not told. */
struct lease {
    uint8_t type;
    uint16_t mtu;
    uint32_t address, mask, router, server;
    uint32_t names[NAMES_MAX];
};

static struct ifreq card_request(const char *name)
{
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return request;
}

static bool bring_up(int fd, const char *name)
{
    struct ifreq request = card_request(name);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return false;
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

void network_loopback(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bring_up(fd, "lo");
    close(fd);
}

/* ---- messages ---- */

static uint32_t get_address(const uint8_t *at)
{
    uint32_t address;
    memcpy(&address, at, sizeof(address));
    return address;
}

static uint8_t *put_option(uint8_t *at, uint8_t code, const void *bytes, uint8_t length)
{
    *at++ = code;
    *at++ = length;
    memcpy(at, bytes, length);
    return at + length;
}

static bool send_message(int fd, const uint8_t mac[6], uint8_t type, const struct lease *offer)
{
    static const uint8_t wanted[] = {OPTION_MASK, OPTION_ROUTER, OPTION_NAMES, OPTION_MTU};
    const struct sockaddr_in everybody = {
        .sin_family = AF_INET, .sin_port = htons(SERVER_PORT), .sin_addr.s_addr = INADDR_BROADCAST};
    uint8_t message[MESSAGE_BYTES] = {1, 1, 6};
    put_be32(message + 4, TRANSACTION);
    put_be16(message + 10, 0x8000); /* answers by broadcast, from a server that can */
    memcpy(message + 28, mac, 6);
    put_be32(message + 236, COOKIE);
    uint8_t *at = put_option(message + OPTIONS_AT, OPTION_TYPE, &type, 1);
    at = put_option(at, OPTION_WANTED, wanted, sizeof(wanted));
    if (type == REQUEST) {
        at = put_option(at, OPTION_ADDRESS, &offer->address, 4);
        at = put_option(at, OPTION_SERVER, &offer->server, 4);
    }
    *at = OPTION_END;
    return sendto(fd, message, sizeof(message), 0, (const struct sockaddr *)&everybody,
                  sizeof(everybody)) == (ssize_t)sizeof(message);
}

static void take_option(struct lease *lease, uint8_t code, const uint8_t *at, size_t length)
{
    if (code == OPTION_TYPE && length == 1)
        lease->type = *at;
    else if (code == OPTION_MASK && length == 4)
        lease->mask = get_address(at);
    else if (code == OPTION_ROUTER && length >= 4)
        lease->router = get_address(at);
    else if (code == OPTION_SERVER && length == 4)
        lease->server = get_address(at);
    else if (code == OPTION_MTU && length == 2)
        lease->mtu = get_be16(at);
    for (size_t i = 0; code == OPTION_NAMES && i < NAMES_MAX && 4 * i + 4 <= length; i++)
        lease->names[i] = get_address(at + 4 * i);
}

static bool parse_message(const uint8_t *message, size_t length, struct lease *lease)
{
    *lease = (struct lease){0};
    if (length < OPTIONS_AT || message[0] != 2 || get_be32(message + 4) != TRANSACTION ||
        get_be32(message + 236) != COOKIE)
        return false;
    lease->address = get_address(message + 16);
    for (size_t at = OPTIONS_AT; at + 1 < length && message[at] != OPTION_END;) {
        size_t option_bytes = message[at] ? 2u + message[at + 1] : 1;
        if (at + option_bytes > length)
            return false;
        if (message[at])
            take_option(lease, message[at], message + at + 2, message[at + 1]);
        at += option_bytes;
    }
    return true;
}

/* An IP packet: a DHCP answer in it? */
static bool parse_packet(const uint8_t *packet, size_t length, struct lease *lease)
{
    size_t header = length ? (size_t)(packet[0] & 0x0f) * 4 : 0;
    if (length < header + sizeof(struct udphdr) || header < sizeof(struct iphdr) ||
        packet[9] != IPPROTO_UDP || get_be16(packet + header + 2) != CLIENT_PORT)
        return false;
    header += sizeof(struct udphdr);
    return parse_message(packet + header, length - header, lease);
}

static bool receive(int fd, uint8_t type, struct lease *lease)
{
    static uint8_t packet[FRAME_BYTES];
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    while (poll(&readable, 1, PATIENCE_MS) == 1) {
        ssize_t n = recv(fd, packet, sizeof(packet), 0);
        if (n > 0 && parse_packet(packet, (size_t)n, lease) && lease->type == type)
            return true;
    }
    return false;
}

static bool negotiate(int udp, int below, const uint8_t mac[6], struct lease *lease)
{
    for (unsigned i = 0; i < TRIES; i++) {
        struct lease offer;
        if (send_message(udp, mac, DISCOVER, NULL) && receive(below, OFFER, &offer) &&
            send_message(udp, mac, REQUEST, &offer) && receive(below, ACK, lease))
            return true;
    }
    return false;
}

/* ---- what came of it ---- */

static void set_address(struct sockaddr *to, uint32_t address)
{
    const struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = address};
    memcpy(to, &from, sizeof(from));
}

static void add_route(int fd, uint32_t destination, uint32_t mask, uint32_t router)
{
    char card[] = CARD;
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = card};
    set_address(&route.rt_dst, destination);
    set_address(&route.rt_genmask, mask);
    set_address(&route.rt_gateway, router);
    if (router)
        route.rt_flags |= RTF_GATEWAY;
    ioctl(fd, SIOCADDRT, &route);
}

static bool apply(int fd, const struct lease *lease)
{
    struct ifreq request = card_request(CARD);
    if (lease->mtu >= 576) {
        request.ifr_mtu = lease->mtu;
        ioctl(fd, SIOCSIFMTU, &request);
    }
    set_address(&request.ifr_addr, lease->address);
    if (ioctl(fd, SIOCSIFADDR, &request) < 0)
        return false;
    set_address(&request.ifr_netmask, lease->mask);
    if (lease->mask)
        ioctl(fd, SIOCSIFNETMASK, &request);
    if (lease->router) {
        add_route(fd, lease->router, INADDR_BROADCAST, 0); /* it may lie outside the subnet */
        add_route(fd, 0, 0, lease->router);
    }
    return true;
}

/* A root where it cannot be does without. */
static void write_names(const struct setup *setup, const struct lease *lease)
{
    char text[NAMES_MAX * 32] = "";
    size_t length = 0;
    for (unsigned i = 0; i < NAMES_MAX && lease->names[i]; i++)
        length += (size_t)snprintf(text + length, sizeof(text) - length, "nameserver %s\n",
                                   inet_ntoa((struct in_addr){.s_addr = lease->names[i]}));
    if (!length && *setup->resolver)
        length = (size_t)snprintf(text, sizeof(text), "nameserver %.45s\n", setup->resolver);
    if (length && root_put_file(setup, "/etc/resolv.conf", text) < 0)
        dprintf(STDERR_FILENO, "nido: the guest: no name servers: /etc/resolv.conf: %s\n",
                strerror(errno));
}

static bool open_sockets(int *udp, int *below)
{
    const int on = 1;
    const struct sockaddr_in us = {.sin_family = AF_INET, .sin_port = htons(CLIENT_PORT)};
    struct sockaddr_ll all = {.sll_family = AF_PACKET,
                              .sll_protocol = htons(ETH_P_IP),
                              .sll_ifindex = (int)if_nametoindex(CARD)};
    *udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    *below = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP));
    return *udp >= 0 && *below >= 0 && bring_up(*udp, CARD) &&
           setsockopt(*udp, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)) == 0 &&
           setsockopt(*udp, SOL_SOCKET, SO_BINDTODEVICE, CARD, sizeof(CARD)) == 0 &&
           bind(*udp, (const struct sockaddr *)&us, sizeof(us)) == 0 &&
           bind(*below, (struct sockaddr *)&all, sizeof(all)) == 0;
}

int network_configure(const struct setup *setup, char *why, size_t why_bytes)
{
    struct ifreq request = card_request(CARD);
    struct lease lease;
    int udp, below, ret = -1;
    if (!open_sockets(&udp, &below) || ioctl(udp, SIOCGIFHWADDR, &request) < 0)
        snprintf(why, why_bytes, "network card " CARD ": %s", strerror(errno));
    else if (!negotiate(udp, below, (const uint8_t *)request.ifr_hwaddr.sa_data, &lease))
        snprintf(why, why_bytes, "nobody gives an address for " CARD);
    else if (!apply(udp, &lease))
        snprintf(why, why_bytes, "the address for " CARD ": %s", strerror(errno));
    else
        ret = 0;
    if (ret == 0)
        write_names(setup, &lease);
    if (udp >= 0)
        close(udp);
    if (below >= 0)
        close(below);
    return ret;
}
