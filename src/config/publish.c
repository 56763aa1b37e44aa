/* SPDX-License-Identifier: Apache-2.0 */
/* Published ports, in docker's words: [ADDRESS:]HOST:GUEST[/tcp|/udp]. */
#include "config/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Cuts `text` before the last `separator`. Returns what stood behind it; NULL: there is none. */
static char *cut_last(char *text, char separator)
{
    char *at = strrchr(text, separator);
    if (!at)
        return NULL;
    *at = '\0';
    return at + 1;
}

static int parse_port(const char *text, uint16_t *port, struct nido_error *err)
{
    unsigned long number;
    int ret = config_parse_number(text, 1, UINT16_MAX, &number, err);
    if (ret < 0)
        return error_prefix(err, "port '%s'", text);
    *port = (uint16_t)number;
    return 0;
}

static int parse_protocol(const char *text, struct nido_publish *publish, struct nido_error *err)
{
    publish->udp = text && strcmp(text, "udp") == 0;
    if (text && !publish->udp && strcmp(text, "tcp") != 0)
        return error_set(err, EINVAL, "'%s' is no protocol here; say tcp or udp", text);
    return 0;
}

/* Spelled as inet_ntop() does, so that two are the same when they look so. */
static int parse_address(char *text, struct nido_publish *publish, struct nido_error *err)
{
    unsigned char binary[16];
    size_t length = strlen(text);
    int family = AF_INET;
    if (length > 2 && text[0] == '[' && text[length - 1] == ']') {
        text[length - 1] = '\0';
        text++;
        family = AF_INET6;
    }
    if (inet_pton(family, text, binary) != 1)
        return error_set(err, EINVAL,
                         "'%s' is no address of this host; say one like 127.0.0.1 or [::1]", text);
    inet_ntop(family, binary, publish->address, sizeof(publish->address));
    return 0;
}

int config_parse_publish(const char *text, struct nido_publish *publish, struct nido_error *err)
{
    char copy[80];
    *publish = (struct nido_publish){0};
    if (strlen(text) >= sizeof(copy))
        return error_set(err, EINVAL, "too long; say it like 127.0.0.1:8080:80");
    memcpy(copy, text, strlen(text) + 1);
    int ret = parse_protocol(cut_last(copy, '/'), publish, err);
    if (ret < 0)
        return ret;
    const char *guest = cut_last(copy, ':');
    if (!guest)
        return error_set(err, EINVAL, "'%s' is not HOST:GUEST, two ports like 8080:80", text);
    char *host = cut_last(copy, ':');
    if (host)
        ret = parse_address(copy, publish, err);
    if (ret == 0)
        ret = parse_port(host ? host : copy, &publish->host_port, err);
    return ret < 0 ? ret : parse_port(guest, &publish->guest_port, err);
}

static bool same_port(const struct nido_publish *a, const struct nido_publish *b)
{
    return a->host_port == b->host_port && a->udp == b->udp &&
           (!a->address[0] || !b->address[0] || strcmp(a->address, b->address) == 0);
}

/* `count` of `all` come before `publish`. */
static int check_port(const struct nido_publish *const *all, unsigned count,
                      const struct nido_publish *publish, struct nido_error *err)
{
    for (unsigned i = 0; i < count; i++)
        if (same_port(all[i], publish))
            return error_set(err, EINVAL,
                             "--net user: %s port %u of the host is published twice, to ports %u "
                             "and %u of a guest",
                             publish->udp ? "UDP" : "TCP", publish->host_port, all[i]->guest_port,
                             publish->guest_port);
    return 0;
}

int config_check_ports(const struct nido_config *machine, struct nido_error *err)
{
    const struct nido_publish *all[NIDO_NETS_MAX * NIDO_PUBLISH_MAX];
    unsigned count = 0;
    int ret = 0;
    for (unsigned i = 0; i < machine->net_count; i++) {
        for (unsigned j = 0; ret == 0 && j < machine->nets[i].publish_count; j++) {
            all[count] = &machine->nets[i].publish[j];
            ret = check_port(all, count, all[count], err);
            count++;
        }
    }
    return ret;
}
