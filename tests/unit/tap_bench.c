/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tap_bench.h"

#include "base/bytes.h"
#include "base/own.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>
#include <net/if_arp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define HOST_IP  0x0a090001u /* 10.9.0.1, the host's side */
#define GUEST_IP 0x0a090002u

static const uint8_t guest_mac[6] = {2, 0, 0, 0, 0, 2};
const char *tap_bench_why_not;

void tap_bench_enter(void)
{
    if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
        tap_bench_why_not = "no network namespace can be made here";
        return;
    }
    own_fd int fd = open("/dev/net/tun", O_RDWR);
    if (fd < 0)
        tap_bench_why_not = "/dev/net/tun cannot be opened";
}

/* ---- interfaces ---- */

struct ifreq about(const char *name)
{
    struct ifreq ifr = {0};
    strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
    return ifr;
}

void interface_ioctl(unsigned long request, void *argument)
{
    own_fd int sock = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(ioctl(sock, request, argument), 0);
}

static void set_up_or_down(const char *name, bool up)
{
    struct ifreq ifr = about(name);
    interface_ioctl(SIOCGIFFLAGS, &ifr);
    ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
    interface_ioctl(SIOCSIFFLAGS, &ifr);
}

static struct sockaddr_in address(uint32_t ip, uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(ip), .sin_port = htons(port)};
}

void bring_up_interface(const char *name)
{
    struct sockaddr_in host = address(HOST_IP, 0), mask = address(0xffffff00u, 0);
    struct sockaddr_in neighbour = address(GUEST_IP, 0);
    struct ifreq ifr = about(name);
    memcpy(&ifr.ifr_addr, &host, sizeof(host));
    interface_ioctl(SIOCSIFADDR, &ifr);
    memcpy(&ifr.ifr_addr, &mask, sizeof(mask));
    interface_ioctl(SIOCSIFNETMASK, &ifr);
    set_up_or_down(name, true);

    struct arpreq arp = {.arp_ha.sa_family = ARPHRD_ETHER, .arp_flags = ATF_COM | ATF_PERM};
    memcpy(&arp.arp_pa, &neighbour, sizeof(neighbour));
    memcpy(arp.arp_ha.sa_data, guest_mac, 6);
    strncpy(arp.arp_dev, name, sizeof(arp.arp_dev) - 1);
    interface_ioctl(SIOCSARP, &arp);
}

void delete_interface(const char *name)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = RTM_DELLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_index = (int)if_nametoindex(name)},
    };
    char ack[256];
    own_fd int sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    assert_int_equal(send(sock, &request, sizeof(request), 0), sizeof(request));
    assert_true(recv(sock, ack, sizeof(ack), 0) > 0);
    assert_int_equal(if_nametoindex(name), 0);
}

int open_raw(const char *name, int flags)
{
    struct ifreq ifr = about(name);
    ifr.ifr_flags = (short)flags;
    int fd = open("/dev/net/tun", O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
    return fd;
}

void make_persistent(const char *name, int flags)
{
    own_fd int fd = open_raw(name, flags);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
}

struct net *open_tap(const char *name)
{
    struct net *net = NULL;
    struct nido_error err;
    int rc = net_open_tap(&net, name, &err);
    if (rc)
        print_error("%s\n", err.text);
    assert_int_equal(rc, 0);
    return net;
}

/* ---- frames ---- */

static uint32_t sum16(const uint8_t *bytes, size_t length)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

size_t make_udp(uint8_t *packet, uint16_t port, const char *text)
{
    const size_t text_bytes = strlen(text), udp_bytes = 8 + text_bytes;
    struct ifreq ifr = about("tap0");
    interface_ioctl(SIOCGIFHWADDR, &ifr);
    memset(packet, 0, NET_HEADER_BYTES + PAYLOAD_AT);
    packet[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    put_le16(packet + 6, UDP_AT);
    put_le16(packet + 8, offsetof(struct udphdr, check));

    uint8_t *frame = packet + NET_HEADER_BYTES;
    memcpy(frame, ifr.ifr_hwaddr.sa_data, 6);
    memcpy(frame + 6, guest_mac, 6);
    put_be16(frame + 12, 0x0800);
    uint8_t *ip = frame + ETH_BYTES, *udp = frame + UDP_AT;
    ip[0] = 0x45;
    put_be16(ip + 2, (uint16_t)(20 + udp_bytes));
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    const uint32_t ips[2] = {htonl(GUEST_IP), htonl(HOST_IP)};
    memcpy(ip + 12, ips, sizeof(ips));
    put_be16(ip + 10, (uint16_t)~fold(sum16(ip, 20)));
    put_be16(udp, 4711);
    put_be16(udp + 2, port);
    put_be16(udp + 4, (uint16_t)udp_bytes);
    put_be16(udp + 6, fold(sum16(ip + 12, 8) + IPPROTO_UDP + (uint32_t)udp_bytes));
    memcpy(frame + PAYLOAD_AT, text, text_bytes);
    return NET_HEADER_BYTES + PAYLOAD_AT + text_bytes;
}

int udp_socket(uint16_t *port)
{
    struct sockaddr_in host = address(HOST_IP, 0);
    socklen_t size = sizeof(host);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(sock, (struct sockaddr *)&host, size), 0);
    assert_int_equal(getsockname(sock, (struct sockaddr *)&host, &size), 0);
    *port = ntohs(host.sin_port);
    return sock;
}

void expect_text(int sock, const char *text)
{
    char got[64] = {0};
    struct pollfd poll_fd = {.fd = sock, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, TIMEOUT_MS), 1);
    assert_true(recv(sock, got, sizeof(got) - 1, 0) > 0);
    assert_string_equal(got, text);
}

void send_to_guest(int sock, const void *bytes, size_t length)
{
    struct sockaddr_in guest = address(GUEST_IP, 99);
    assert_int_equal(sendto(sock, bytes, length, 0, (struct sockaddr *)&guest, sizeof(guest)),
                     length);
}

bool is_udp_to_guest(const uint8_t *packet, ssize_t bytes)
{
    return bytes > (ssize_t)(NET_HEADER_BYTES + PAYLOAD_AT) &&
           memcmp(packet + NET_HEADER_BYTES, guest_mac, 6) == 0 &&
           packet[NET_HEADER_BYTES + ETH_BYTES + 9] == IPPROTO_UDP;
}

ssize_t receive_udp(struct net *net, uint8_t *packet, size_t size)
{
    struct pollfd poll_fd = {.fd = net->fd, .events = POLLIN};
    struct iovec iov[2] = {{packet, 20}, {packet + 20, size - 20}};
    ssize_t got;
    do {
        assert_int_equal(poll(&poll_fd, 1, TIMEOUT_MS), 1);
        got = net->ops->receive(net, iov, 2);
        assert_true(got >= 0);
    } while (!is_udp_to_guest(packet, got));
    return got;
}

ssize_t send_packet(struct net *net, uint8_t *packet, size_t bytes)
{
    const struct iovec iov[2] = {{packet, 7}, {packet + 7, bytes - 7}};
    return net->ops->send(net, iov, 2);
}
