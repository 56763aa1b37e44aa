/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of the host that lead into a guest: how passt is told, and whether they are free. */
#include "host/net_passt.h"

#include "base/own.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* The way people write it: "127.0.0.1:8080:80/udp". */
static void describe(char *text, size_t size, const struct nido_publish *publish)
{
    bool is_v6 = strchr(publish->address, ':');
    snprintf(text, size, "%s%s%s%s%u:%u%s", is_v6 ? "[" : "", publish->address, is_v6 ? "]" : "",
             publish->address[0] ? ":" : "", publish->host_port, publish->guest_port,
             publish->udp ? "/udp" : "");
}

void net_publish_spec(char spec[NET_PUBLISH_SPEC_BYTES], const struct nido_publish *publish)
{
    snprintf(spec, NET_PUBLISH_SPEC_BYTES, "%s%s%u:%u", publish->address,
             publish->address[0] ? "/" : "", publish->host_port, publish->guest_port);
}

/* An address and the port of `publish`, as bind() wants it. 0: `text` is no address of `family`. */
static socklen_t fill_address(struct sockaddr_storage *address, int family, const char *text,
                              uint16_t port)
{
    struct sockaddr_in *in = (struct sockaddr_in *)address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof(*address));
    address->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        in->sin_port = htons(port);
        return inet_pton(AF_INET, text, &in->sin_addr) == 1 ? sizeof(*in) : 0;
    }
    in6->sin6_port = htons(port);
    return inet_pton(AF_INET6, text, &in6->sin6_addr) == 1 ? sizeof(*in6) : 0;
}

/* 0 or the errno of bind(). TCP as a server does it, so that connections of the past, which wait
 * for their end, do not count. */
static int try_bind(const struct nido_publish *publish, int family, const char *text)
{
    struct sockaddr_storage address;
    const int yes = 1;
    socklen_t bytes = fill_address(&address, family, text, publish->host_port);
    if (!bytes)
        return 0;
    own_fd int sock = socket(family, (publish->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return 0; /* no such family here */
    if (family == AF_INET6)
        setsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
    if (!publish->udp)
        setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    return bind(sock, (struct sockaddr *)&address, bytes) ? errno : 0;
}

static int cannot_bind(const struct nido_publish *publish, int code, struct nido_error *err)
{
    char text[80];
    describe(text, sizeof(text), publish);
    if (code == EADDRINUSE)
        return error_set(err, code,
                         "publish=%s: %s port %u of this host is in use; choose another, or see "
                         "who has it: `ss -%s 'sport = %u'`",
                         text, publish->udp ? "UDP" : "TCP", publish->host_port,
                         publish->udp ? "lunp" : "ltnp", publish->host_port);
    return error_set(err, code, "publish=%s: this host has no address %s; `ip addr` lists them",
                     text, publish->address);
}

int net_publish_check(const struct nido_publish *publish, struct nido_error *err)
{
    bool anywhere = !publish->address[0];
    int code = try_bind(publish, AF_INET, anywhere ? "0.0.0.0" : publish->address);
    if (code != EADDRINUSE && code != EADDRNOTAVAIL)
        code = try_bind(publish, AF_INET6, anywhere ? "::" : publish->address);
    /* Whatever else may be wrong, such as a right that is missing: passt may have it. */
    if (code == EADDRINUSE || (code == EADDRNOTAVAIL && !anywhere))
        return cannot_bind(publish, code, err);
    return 0;
}

unsigned net_publish_lowest_free_port(void)
{
    unsigned port = 1024;
    own_file FILE *file = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");
    if (file && fscanf(file, "%u", &port) != 1)
        port = 1024;
    return port;
}
