/* SPDX-License-Identifier: Apache-2.0 */
#include "config/config.h"

#include "base/checked.h"
#include "config/disk.h"
#include "config/share.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MEM_MIN_BYTES (32 * MIB)
#define MEM_MAX_BYTES (1024 * GIB)

static int set_kernel(struct config *config, char *value, struct nido_error *err)
{
    config->machine.kernel = value;
    return 0;
}

static int set_initrd(struct config *config, char *value, struct nido_error *err)
{
    config->machine.initrd = value;
    return 0;
}

static int set_cmdline(struct config *config, char *value, struct nido_error *err)
{
    config->machine.cmdline = value;
    return 0;
}

static int set_cpus(struct config *config, char *value, struct nido_error *err)
{
    unsigned long cpus;
    int ret = config_parse_number(value, 1, NIDO_CPUS_MAX, &cpus, err);
    if (ret == 0)
        config->machine.cpus = (unsigned)cpus;
    return ret;
}

static int set_mem(struct config *config, char *value, struct nido_error *err)
{
    uint64_t bytes;
    int ret = config_parse_size(value, &bytes, err);
    if (ret < 0)
        return ret;
    if (bytes < MEM_MIN_BYTES || bytes > MEM_MAX_BYTES)
        return error_set(err, ERANGE, "out of range; say 32M to 1024G (a bare number is bytes)");
    if (!is_aligned(bytes, MIB))
        return error_set(err, EINVAL, "not a whole number of MiB");
    config->machine.mem_bytes = bytes;
    return 0;
}

static int set_hugepages(struct config *config, char *value, struct nido_error *err)
{
    config->machine.huge_pages = true;
    return 0;
}

static int set_mem_merge(struct config *config, char *value, struct nido_error *err)
{
    config->machine.mem_merge = true;
    return 0;
}

/* A net that was told what it is. */
struct net_target {
    struct nido_net net;
    bool none;
    unsigned kinds;
};

static int net_tap(void *target, const char *value, struct nido_error *err)
{
    struct net_target *wanted = target;
    wanted->net.kind = NIDO_NET_TAP;
    wanted->net.tap = value;
    wanted->kinds++;
    return 0;
}

static int net_fd(void *target, const char *value, struct nido_error *err)
{
    struct net_target *wanted = target;
    unsigned long fd;
    int ret = config_parse_number(value, 3, 1u << 20, &fd, err);
    wanted->net.kind = NIDO_NET_FD;
    wanted->net.fd = (int)fd;
    wanted->kinds++;
    return ret;
}

static int net_user(void *target, const char *value, struct nido_error *err)
{
    struct net_target *wanted = target;
    wanted->net.kind = NIDO_NET_USER;
    wanted->kinds++;
    return 0;
}

static int net_publish(void *target, const char *value, struct nido_error *err)
{
    struct nido_net *net = &((struct net_target *)target)->net;
    if (net->publish_count == NIDO_PUBLISH_MAX)
        return error_set(err, E2BIG, "a network publishes at most %u ports", NIDO_PUBLISH_MAX);
    int ret = config_parse_publish(value, &net->publish[net->publish_count], err);
    if (ret == 0)
        net->publish_count++;
    return ret;
}

static int net_host_loopback(void *target, const char *value, struct nido_error *err)
{
    ((struct net_target *)target)->net.host_loopback = true;
    return 0;
}

static int net_none(void *target, const char *value, struct nido_error *err)
{
    struct net_target *wanted = target;
    wanted->none = true;
    wanted->kinds++;
    return 0;
}

static int net_mac(void *target, const char *value, struct nido_error *err)
{
    struct net_target *wanted = target;
    uint8_t *mac = wanted->net.mac;
    char end;
    /* sscanf() alone would take signs and blanks as well. */
    if (strlen(value) != 17 || strspn(value, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3],
               &mac[4], &mac[5], &end) != 6)
        return error_set(err, EINVAL, "'%s' is not six bytes like 52:54:00:12:34:56", value);
    if (mac[0] & 1)
        return error_set(err, EINVAL, "'%s' is a multicast address; make the first byte even",
                         value);
    if (!(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
        return error_set(err, EINVAL, "all zero is no address");
    return 0;
}

static const struct config_option net_options[] = {
    {"user", CONFIG_SWITCH, net_user},
    {"tap", CONFIG_TEXT, net_tap},
    {"fd", CONFIG_NUMBER, net_fd},
    {"none", CONFIG_SWITCH, net_none},
    {"mac", CONFIG_TEXT, net_mac},
    {"publish", CONFIG_TEXTS, net_publish},
    {"host-loopback", CONFIG_SWITCH, net_host_loopback},
};

static int add_net(struct config *config, char *value, struct nido_error *err)
{
    struct net_target wanted = {0};
    int ret = config_set_options(net_options, ARRAY_SIZE(net_options), &wanted, value, err);
    if (ret < 0)
        return ret;
    if (wanted.kinds != 1)
        return error_set(err, EINVAL, "say one of user, tap=NAME, fd=N and none");
    if (wanted.net.publish_count && wanted.net.kind != NIDO_NET_USER)
        return error_set(err, EINVAL, "publish= goes with user; a TAP is a network of its own");
    if (wanted.net.host_loopback && wanted.net.kind != NIDO_NET_USER)
        return error_set(err, EINVAL, "host-loopback goes with user");
    if (wanted.none) {
        config->net_none = true;
        return 0;
    }
    if (config->machine.net_count == NIDO_NETS_MAX)
        return error_set(err, E2BIG, "a machine has at most %u networks", NIDO_NETS_MAX);
    config->machine.nets[config->machine.net_count++] = wanted.net;
    return 0;
}

/* A port that was told what it is. */
struct port_target {
    struct nido_port port;
    unsigned kinds;
};

static int port_end(void *target, enum nido_port_kind kind, const char *path,
                    struct nido_error *err)
{
    struct port_target *wanted = target;
    wanted->port.kind = kind;
    wanted->port.path = path;
    wanted->kinds++;
    return 0;
}

static int port_file(void *target, const char *value, struct nido_error *err)
{
    return port_end(target, NIDO_PORT_FILE, value, err);
}

static int port_pipe(void *target, const char *value, struct nido_error *err)
{
    return port_end(target, NIDO_PORT_PIPE, value, err);
}

static int port_socket(void *target, const char *value, struct nido_error *err)
{
    return port_end(target, NIDO_PORT_SOCKET, value, err);
}

static int port_stdio(void *target, const char *value, struct nido_error *err)
{
    return port_end(target, NIDO_PORT_STDIO, NULL, err);
}

static int port_console(void *target, const char *value, struct nido_error *err)
{
    ((struct port_target *)target)->port.console = true;
    return 0;
}

static const struct config_option port_options[] = {
    {"file", CONFIG_TEXT, port_file},         {"pipe", CONFIG_TEXT, port_pipe},
    {"socket", CONFIG_TEXT, port_socket},     {"stdio", CONFIG_SWITCH, port_stdio},
    {"console", CONFIG_SWITCH, port_console},
};

static int add_port(struct config *config, char *value, struct nido_error *err)
{
    if (config->machine.port_count == NIDO_PORTS_MAX)
        return error_set(err, E2BIG, "a machine has at most %u ports", NIDO_PORTS_MAX);
    struct port_target wanted = {.port.name = config_next_word(&value)};
    size_t length = strlen(wanted.port.name);
    if (length == 0 || length > NIDO_PORT_NAME_BYTES || strchr(wanted.port.name, '/'))
        return error_set(err, EINVAL,
                         "'%s' is no name for a port; say up to %u bytes without a slash",
                         wanted.port.name, NIDO_PORT_NAME_BYTES);
    int ret = config_set_options(port_options, ARRAY_SIZE(port_options), &wanted, value, err);
    if (ret < 0)
        return ret;
    if (wanted.kinds != 1)
        return error_set(err, EINVAL, "say one of file=, pipe=, socket= and stdio behind the name");
    config->machine.ports[config->machine.port_count++] = wanted.port;
    return 0;
}

static int balloon_on(void *target, const char *value, struct nido_error *err)
{
    return 0;
}

static int balloon_target(void *target, const char *value, struct nido_error *err)
{
    uint64_t bytes;
    int ret = config_parse_size(value, &bytes, err);
    if (ret < 0)
        return ret;
    if (!is_aligned(bytes, 4 * KIB))
        return error_set(err, EINVAL, "not a whole number of pages of 4K");
    ((struct nido_balloon *)target)->target_bytes = bytes;
    return 0;
}

static int balloon_no_reporting(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_balloon *)target)->no_reporting = true;
    return 0;
}

static int balloon_stats(void *target, const char *value, struct nido_error *err)
{
    unsigned long seconds;
    int ret = config_parse_number(value, 1, 86400, &seconds, err);
    if (ret == 0)
        ((struct nido_balloon *)target)->stats_interval_s = (unsigned)seconds;
    return ret;
}

static const struct config_option balloon_options[] = {
    {"on", CONFIG_SWITCH, balloon_on},
    {"target", CONFIG_SIZE, balloon_target},
    {"no-reporting", CONFIG_SWITCH, balloon_no_reporting},
    {"stats", CONFIG_NUMBER, balloon_stats},
};

static int set_balloon(struct config *config, char *value, struct nido_error *err)
{
    struct nido_balloon balloon = {.present = true};
    int ret =
        config_set_options(balloon_options, ARRAY_SIZE(balloon_options), &balloon, value, err);
    if (ret == 0)
        config->machine.balloon = balloon;
    return ret;
}

static int vsock_cid(void *target, const char *value, struct nido_error *err)
{
    unsigned long cid;
    int ret = config_parse_number(value, NIDO_VSOCK_CID_MIN, NIDO_VSOCK_CID_MAX, &cid, err);
    if (ret == 0)
        ((struct nido_vsock *)target)->cid = (uint32_t)cid;
    return ret;
}

static int vsock_path(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_vsock *)target)->path = value;
    return 0;
}

static const struct config_option vsock_options[] = {
    {"cid", CONFIG_NUMBER, vsock_cid},
    {"path", CONFIG_TEXT, vsock_path},
};

static int set_vsock(struct config *config, char *value, struct nido_error *err)
{
    struct nido_vsock vsock = {0};
    int ret = config_set_options(vsock_options, ARRAY_SIZE(vsock_options), &vsock, value, err);
    if (ret < 0)
        return ret;
    if (!vsock.cid || !vsock.path)
        return error_set(err, EINVAL, "say both: cid=N, the guest's address, and path=PATH");
    config->machine.vsock = vsock;
    return 0;
}

/* "virtio" in front says which device; what follows, where it goes. */
static int set_console(struct config *config, char *value, struct nido_error *err)
{
    if (strcmp(value, "virtio") == 0 || strncmp(value, "virtio,", 7) == 0) {
        config->machine.console_virtio = true;
        value += value[6] ? 7 : 6;
    }
    if (strcmp(value, "stdio") == 0 || (config->machine.console_virtio && !*value)) {
        config->machine.console = NIDO_CONSOLE_STDIO;
    } else if (strcmp(value, "none") == 0) {
        config->machine.console = NIDO_CONSOLE_NONE;
    } else if (strncmp(value, "file=", 5) == 0 && value[5]) {
        config->machine.console = NIDO_CONSOLE_FILE;
        config->machine.console_file = value + 5;
    } else {
        return error_set(err, EINVAL,
                         "say stdio, file=PATH or none, with virtio, in front for hvc0");
    }
    return 0;
}

static int set_kernel_cache(struct config *config, char *value, struct nido_error *err)
{
    config->machine.kernel_cache = strcmp(value, "none") == 0 ? NULL : value;
    return 0;
}

static int set_dump_acpi(struct config *config, char *value, struct nido_error *err)
{
    config->machine.dump_acpi = value;
    return 0;
}

static int set_dump_dtb(struct config *config, char *value, struct nido_error *err)
{
    config->machine.dump_dtb = value;
    return 0;
}

static int set_config(struct config *config, char *value, struct nido_error *err)
{
    config->file = value;
    return 0;
}

static int set_dump_config(struct config *config, char *value, struct nido_error *err)
{
    config->dump = true;
    return 0;
}

/* In the order of --help; a default is what the flag would say. */
const struct config_key config_keys[] = {
    {.name = "kernel",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "bzImage or ELF vmlinux to boot (needed)",
     .common = true,
     .set = set_kernel},
    {.name = "initrd",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "initial RAM disk",
     .common = true,
     .set = set_initrd},
    {.name = "cmdline",
     .type = CONFIG_TEXT,
     .value = "TEXT",
     .initial = "console=ttyS0",
     .initial_on_hvc = "console=hvc0",
     .help = "kernel command line",
     .common = true,
     .set = set_cmdline},
    {.name = "cpus",
     .type = CONFIG_NUMBER,
     .value = "N",
     .initial = "1",
     .help = "vCPUs, 1 to 64",
     .common = true,
     .set = set_cpus},
    {.name = "mem",
     .type = CONFIG_SIZE,
     .value = "SIZE",
     .initial = "256M",
     .help = "RAM, like 512M or 4G; from 32M",
     .common = true,
     .set = set_mem},
    {.name = "hugepages",
     .type = CONFIG_SWITCH,
     .help = "take RAM from the host's reserved 2 MiB pages",
     .set = set_hugepages},
    {.name = "mem-merge",
     .type = CONFIG_SWITCH,
     .help = "RAM that guests have alike is there once (the host's KSM)",
     .set = set_mem_merge},
    {.name = "disk",
     .type = CONFIG_TEXT,
     .value =
         "FILE[,ro][,id=S][,format=raw|qcow2][,overlay[=FILE]][,cache=MODE][,direct][,queues=N]",
     .help = "image or block device; repeat for more",
     .repeatable = true,
     .common = true,
     .first = "file",
     .options = config_disk_options,
     .option_count = CONFIG_DISK_OPTIONS,
     .set = config_add_disk},
    {.name = "overlay",
     .type = CONFIG_TEXT,
     .value = "FILE[,keep=FILE][,id=S][,format=raw|qcow2][,cache=MODE][,queues=N]",
     .help = "a disk whose writes are thrown away, or kept elsewhere",
     .repeatable = true,
     .first = "file",
     .options = config_overlay_options,
     .option_count = CONFIG_OVERLAY_OPTIONS,
     .set = config_add_overlay},
    {.name = "net",
     .type = CONFIG_TEXT,
     .value =
         "user|tap=NAME|fd=N|none[,mac=ADDR][,publish=[ADDR:]HOST:GUEST[/udp]]...[,host-loopback]",
     .help = "network card: without privilege, or on a TAP",
     .repeatable = true,
     .common = true,
     .options = net_options,
     .option_count = ARRAY_SIZE(net_options),
     .set = add_net},
    {.name = "share",
     .type = CONFIG_TEXT,
     .value = "HOST:GUEST[,ro][,tag=NAME][,cache=auto|always|none]",
     .help = "directory of the host that the guest can mount",
     .repeatable = true,
     .common = true,
     .first = "paths",
     .options = config_share_options,
     .option_count = CONFIG_SHARE_OPTIONS,
     .set = config_add_share},
    {.name = "console",
     .type = CONFIG_TEXT,
     .value = "[virtio,]stdio|file=PATH|none",
     .initial = "stdio",
     .help = "where the serial port goes, or hvc0",
     .common = true,
     .set = set_console},
    {.name = "port",
     .type = CONFIG_TEXT,
     .value = "NAME,file=PATH|pipe=PATH|socket=PATH|stdio[,console]",
     .help = "byte stream to the guest's /dev/virtio-ports/NAME",
     .repeatable = true,
     .first = "name",
     .options = port_options,
     .option_count = ARRAY_SIZE(port_options),
     .set = add_port},
    {.name = "balloon",
     .type = CONFIG_TEXT,
     .value = "on|[target=SIZE][,no-reporting][,stats=SECONDS]",
     .help = "memory that the guest does not need goes back to the host",
     .options = balloon_options,
     .option_count = ARRAY_SIZE(balloon_options),
     .set = set_balloon},
    {.name = "vsock",
     .type = CONFIG_TEXT,
     .value = "cid=N,path=PATH",
     .help = "sockets between guest and host, on unix sockets",
     .options = vsock_options,
     .option_count = ARRAY_SIZE(vsock_options),
     .set = set_vsock},
    {.name = "kernel-cache",
     .type = CONFIG_TEXT,
     .value = "DIR|none",
     .initial = "~/.cache/nido/kernels",
     .help = "keeps unpacked kernels",
     .set = set_kernel_cache},
    {.name = "dump-acpi",
     .type = CONFIG_TEXT,
     .value = "DIR",
     .help = "write the ACPI tables to DIR as well",
     .set = set_dump_acpi},
    {.name = "dump-dtb",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "write the device tree to FILE as well (arm64)",
     .set = set_dump_dtb},
    {.name = "config",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "takes flags from a JSON file; see nido-config(5)",
     .common = true,
     .flag_only = true,
     .set = set_config},
    {.name = "dump-config",
     .type = CONFIG_SWITCH,
     .help = "prints what is in force, as JSON for --config, and ends",
     .flag_only = true,
     .set = set_dump_config},
};
const unsigned config_key_count = ARRAY_SIZE(config_keys);
