/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A TAP interface of the host: one read() or write() is one frame with its virtio-net header.
 *
 * The kernel checks every header that a guest sends (tun_get_user), so frames go from guest memory
 * to it as they are. What Linux 5.15 to 6.18 were seen to do, and this file relies on:
 *  - an interface that is down has nothing to read, refuses a write with EIO and does not poll as
 *    writable; it polls as writable again when it comes up;
 *  - a deleted interface polls as EPOLLERR, and every call on it fails with EBADFD; it wakes only
 *    those who wait for EPOLLIN, the others find out with their next call;
 *  - a read that is too small cuts the frame and returns its own size;
 *  - the send buffer is unlimited unless TUNSETSNDBUF was used, so EAGAIN on write is rare.
 */

#include "host/net.h"

#include "base/log.h"
#include "base/own.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

/* UDP segmentation came with Linux 6.2. The kernel takes both together or none. */
#define TAP_OFFLOAD_USO (0x20u | 0x40u)

struct tap {
    struct net net;
    char interface[IFNAMSIZ];
    struct log_limit complaints;
};

static int host_error(int code)
{
    return code == EBADFD ? -ENODEV : -code;
}

static ssize_t tap_receive(struct net *net, struct iovec *iov, unsigned count)
{
    ssize_t got;
    do {
        got = readv(net->fd, iov, (int)count);
    } while (got < 0 && errno == EINTR);
    if (got >= 0)
        return got;
    return errno == EAGAIN ? 0 : host_error(errno);
}

static void complain_that_it_is_down(struct tap *tap)
{
    log_warn_limited(&tap->complaints,
                     "%s is down and the guest's frames are lost: `ip link set %s up`",
                     tap->net.name, tap->interface);
}

static ssize_t tap_send(struct net *net, const struct iovec *iov, unsigned count)
{
    ssize_t sent;
    do {
        sent = writev(net->fd, iov, (int)count);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    int code = errno;
    if (code == EIO)
        complain_that_it_is_down((struct tap *)net);
    return host_error(code);
}

static unsigned offload_flags(const struct net_offload *offload)
{
    if (!offload->csum)
        return 0;
    return TUN_F_CSUM | (offload->tso4 ? TUN_F_TSO4 : 0u) | (offload->tso6 ? TUN_F_TSO6 : 0u) |
           (offload->ecn ? TUN_F_TSO_ECN : 0u) | (offload->uso ? TAP_OFFLOAD_USO : 0u);
}

static int tap_set_offload(struct net *net, const struct net_offload *offload)
{
    if (ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)offload_flags(offload)))
        return host_error(errno);
    return 0;
}

static void tap_close(struct net *net)
{
    close(net->fd);
    free(net);
}

static const struct net_ops tap_ops = {
    .receive = tap_receive,
    .send = tap_send,
    .set_offload = tap_set_offload,
    .close = tap_close,
};

/* The kernel has no question for what it can do, other than to try. Leaves all off. */
static void probe_offloads(struct net *net)
{
    const struct net_offload none = {0};
    net->can =
        (struct net_offload){.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true};
    if (tap_set_offload(net, &net->can))
        net->can.uso = false;
    if (tap_set_offload(net, &net->can))
        net->can = none;
    tap_set_offload(net, &none);
}

/* What both ways to get a TAP have in common. Takes `fd` over on success. */
static int finish_open(struct net **out, int *fd, const char *interface, struct nido_error *err)
{
    int header_bytes = NET_HEADER_BYTES;
    if (ioctl(*fd, TUNSETVNETHDRSZ, &header_bytes))
        return error_errno(err, errno, "cannot set the header size of %s", interface);

    struct tap *tap = calloc(1, sizeof(*tap));
    if (!tap)
        return error_errno(err, ENOMEM, "cannot open %s", interface);
    tap->net.ops = &tap_ops;
    tap->net.fd = own_take_fd(fd);
    memcpy(tap->interface, interface, strnlen(interface, IFNAMSIZ - 1));
    probe_offloads(&tap->net);
    *out = &tap->net;
    return 0;
}

/* Asks this network namespace about the interface. */
static int ask_interface(const char *name, unsigned long request, struct ifreq *answer)
{
    own_fd int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(answer->ifr_name, name, strlen(name) + 1);
    return sock < 0 || ioctl(sock, request, answer) ? -errno : 0;
}

/* "tap" or "tun"; "" for any other kind of interface, and where there is none. */
static void interface_kind(const char *name, char kind[ETHTOOL_BUSINFO_LEN])
{
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq ifr = {.ifr_data = (char *)&driver};
    kind[0] = '\0';
    if (ask_interface(name, SIOCETHTOOL, &ifr) == 0 && strcmp(driver.driver, "tun") == 0)
        memcpy(kind, driver.bus_info, ETHTOOL_BUSINFO_LEN);
}

static uint16_t interface_mtu(const char *name)
{
    struct ifreq ifr = {0};
    if (ask_interface(name, SIOCGIFMTU, &ifr) || ifr.ifr_mtu < 0 || ifr.ifr_mtu > UINT16_MAX)
        return 0;
    return (uint16_t)ifr.ifr_mtu;
}

/* Of the names that the kernel would refuse, or would read as a pattern ("tap%d"). */
static int check_name(const char *name, struct nido_error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length >= IFNAMSIZ)
        return error_set(err, EINVAL,
                         "tap '%.32s': the name of an interface has 1 to %d characters", name,
                         IFNAMSIZ - 1);
    for (const char *at = name; *at; at++) {
        if (!isgraph((unsigned char)*at) || strchr("/:%", *at))
            return error_set(err, EINVAL,
                             "tap '%s': the name of an interface has no spaces and none of / : %%",
                             name);
    }
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return error_set(err, EINVAL, "tap '%s': no interface can be called that", name);
    return 0;
}

static int cannot_open_device(int code, struct nido_error *err)
{
    switch (code) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return error_set(err, code,
                         "there is no /dev/net/tun: `modprobe tun`, or give it to this container");
    case EACCES:
    case EPERM:
        return error_set(err, code,
                         "this user may not open /dev/net/tun: `chmod 0666 /dev/net/tun` as root");
    default:
        return error_errno(err, code, "cannot open /dev/net/tun");
    }
}

/* EINVAL of TUNSETIFF has three causes. */
static int wrong_kind(const char *name, struct nido_error *err)
{
    char kind[ETHTOOL_BUSINFO_LEN];
    interface_kind(name, kind);
    if (strcmp(kind, "tap") == 0)
        return error_set(err, EINVAL,
                         "%s was made with multi_queue, which nido does not use: make it again "
                         "without that",
                         name);
    if (strcmp(kind, "tun") == 0)
        return error_set(err, EINVAL,
                         "%s is a TUN interface, which has no Ethernet: make it again with `ip "
                         "tuntap add dev %s mode tap user $USER`",
                         name, name);
    return error_set(err, EINVAL,
                     "%s is not a TAP interface: use another name, and put both in a bridge to "
                     "connect them",
                     name);
}

static int cannot_attach(const char *name, int code, struct nido_error *err)
{
    switch (code) {
    case EPERM:
        if (if_nametoindex(name))
            return error_set(err, code,
                             "%s belongs to another user: as root, `ip link del %s`, then `ip "
                             "tuntap add dev %s mode tap user $USER`",
                             name, name, name);
        return error_set(err, code,
                         "there is no interface %s and this user may not make one: as root, `ip "
                         "tuntap add dev %s mode tap user $USER` and `ip link set %s up`",
                         name, name, name);
    case EBUSY:
        return error_set(err, code,
                         "%s is in use by another process: each machine needs a TAP of its own",
                         name);
    case EINVAL:
        return wrong_kind(name, err);
    default:
        return error_errno(err, code, "cannot attach to %s", name);
    }
}

int net_open_tap(struct net **out, const char *name, struct nido_error *err)
{
    int rc = check_name(name, err);
    if (rc)
        return rc;

    own_fd int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return cannot_open_device(errno, err);
    struct ifreq ifr = {.ifr_flags = TAP_FLAGS};
    memcpy(ifr.ifr_name, name, strlen(name) + 1);
    if (ioctl(fd, TUNSETIFF, &ifr))
        return cannot_attach(name, errno, err);

    rc = finish_open(out, &fd, name, err);
    if (rc)
        return rc;
    (*out)->mtu = interface_mtu(name);
    memcpy((*out)->name, name, strlen(name) + 1);
    return 0;
}

/* A descriptor that is no TAP, told by what it is: "socket:[4711]", "/dev/null". */
static int not_a_tap(int fd, int code, struct nido_error *err)
{
    char link[32], target[128];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof(target) - 1);
    target[length > 0 ? length : 0] = '\0';
    if (code == EBADF)
        return error_set(err, code, "fd %d is not open: pass an open TAP down to nido", fd);
    if (code == EBADFD)
        return error_set(err, code,
                         "fd %d is /dev/net/tun without an interface: attach it with TUNSETIFF "
                         "before passing it",
                         fd);
    return error_set(err, EINVAL, "fd %d is %s, not a TAP", fd,
                     target[0] ? target : "something else");
}

static int check_inherited(int fd, struct ifreq *ifr, struct nido_error *err)
{
    if (ioctl(fd, TUNGETIFF, ifr))
        return not_a_tap(fd, errno, err);
    unsigned flags = (unsigned short)ifr->ifr_flags;
    if (!(flags & IFF_TAP))
        return error_set(err, EINVAL,
                         "fd %d is the TUN interface %s, which has no Ethernet: pass a TAP", fd,
                         ifr->ifr_name);
    /* IFF_NO_PI cannot be asked for: TUNGETIFF answers with IFF_NOFILTER, which is the same bit. */
    if (!(flags & IFF_VNET_HDR))
        return error_set(err, EINVAL,
                         "fd %d (%s) lacks IFF_VNET_HDR: open it with IFF_TAP | IFF_NO_PI | "
                         "IFF_VNET_HDR",
                         fd, ifr->ifr_name);
    return 0;
}

int net_open_tap_fd(struct net **out, int fd, struct nido_error *err)
{
    struct ifreq ifr = {0};
    int rc = check_inherited(fd, &ifr, err);
    if (rc)
        return rc;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
        return error_errno(err, errno, "cannot take over fd %d", fd);

    int taken = fd;
    rc = finish_open(out, &taken, ifr.ifr_name, err);
    if (rc)
        return rc;
    snprintf((*out)->name, sizeof((*out)->name), "fd %d (%.15s)", fd, ifr.ifr_name);
    return 0;
}
