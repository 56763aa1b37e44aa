/* SPDX-License-Identifier: Apache-2.0 */
#include "config/config.h"

#include "base/checked.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEM_MIN_BYTES (32 * MIB)
#define MEM_MAX_BYTES (1024 * GIB)

/* One word of a value such as "root.img,ro,id=root": the path stands first, these follow. */
struct option {
    const char *name;
    bool takes_value;
    int (*set)(void *target, const char *value, struct nido_error *err);
};

/* Cuts off the text before the next comma, in place; a doubled comma stands for one. */
static char *next_word(char **rest)
{
    char *start = *rest, *to = start;
    if (!start)
        return NULL;
    for (char *from = start;; from++) {
        if (from[0] == ',' && from[1] == ',') {
            from++;
        } else if (from[0] == ',' || from[0] == '\0') {
            *rest = from[0] ? from + 1 : NULL;
            *to = '\0';
            return start;
        }
        *to++ = *from;
    }
}

static int set_option(const struct option *options, unsigned count, void *target, char *word,
                      struct nido_error *err)
{
    char *value = strchr(word, '=');
    if (value)
        *value++ = '\0';
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(options[i].name, word) != 0)
            continue;
        if (options[i].takes_value && (!value || !*value))
            return error_set(err, EINVAL, "'%s' needs a value: %s=...", word, word);
        if (!options[i].takes_value && value)
            return error_set(err, EINVAL, "'%s' takes no value", word);
        int ret = options[i].set(target, value, err);
        return ret < 0 ? error_prefix(err, "%s", word) : 0;
    }
    return error_set(err, EINVAL, "'%s' is not an option here; 'nido help run' lists them", word);
}

static int set_options(const struct option *options, unsigned count, void *target, char *rest,
                       struct nido_error *err)
{
    int ret = 0;
    char *word;
    while (ret == 0 && (word = next_word(&rest)))
        ret = set_option(options, count, target, word, err);
    return ret;
}

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

static int disk_ro(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_disk *)target)->read_only = true;
    return 0;
}

static int disk_direct(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_disk *)target)->direct = true;
    return 0;
}

static int disk_id(void *target, const char *value, struct nido_error *err)
{
    if (strlen(value) > NIDO_DISK_ID_BYTES)
        return error_set(err, EINVAL, "'%s' is longer than %u bytes", value, NIDO_DISK_ID_BYTES);
    ((struct nido_disk *)target)->id = value;
    return 0;
}

static int disk_format(void *target, const char *value, struct nido_error *err)
{
    if (strcmp(value, "raw") == 0)
        return 0;
    return error_set(err, EINVAL, "'%s' is not supported; convert it with qemu-img convert -O raw",
                     value);
}

static int disk_queues(void *target, const char *value, struct nido_error *err)
{
    unsigned long queues;
    int ret = config_parse_number(value, 1, NIDO_DISK_QUEUES_MAX, &queues, err);
    if (ret == 0)
        ((struct nido_disk *)target)->queues = (unsigned)queues;
    return ret;
}

static const struct option disk_options[] = {
    {"ro", false, disk_ro},        {"direct", false, disk_direct}, {"id", true, disk_id},
    {"format", true, disk_format}, {"queues", true, disk_queues},
};

static int add_disk(struct config *config, char *value, struct nido_error *err)
{
    if (config->machine.disk_count == NIDO_DISKS_MAX)
        return error_set(err, E2BIG, "a machine has at most %u disks", NIDO_DISKS_MAX);
    struct nido_disk disk = {.path = next_word(&value)};
    if (!*disk.path)
        return error_set(err, EINVAL, "the file's name is empty");
    int ret = set_options(disk_options, ARRAY_SIZE(disk_options), &disk, value, err);
    if (ret == 0)
        config->machine.disks[config->machine.disk_count++] = disk;
    return ret;
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
    if (strlen(value) != 17 || sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0],
                                      &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &end) != 6)
        return error_set(err, EINVAL, "'%s' is not six bytes like 52:54:00:12:34:56", value);
    if (mac[0] & 1)
        return error_set(err, EINVAL, "'%s' is a multicast address; make the first byte even",
                         value);
    if (!(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
        return error_set(err, EINVAL, "all zero is no address");
    return 0;
}

static const struct option net_options[] = {
    {"user", false, net_user}, {"tap", true, net_tap}, {"fd", true, net_fd},
    {"none", false, net_none}, {"mac", true, net_mac}, {"publish", true, net_publish},
};

static int add_net(struct config *config, char *value, struct nido_error *err)
{
    struct net_target wanted = {0};
    int ret = set_options(net_options, ARRAY_SIZE(net_options), &wanted, value, err);
    if (ret < 0)
        return ret;
    if (wanted.kinds != 1)
        return error_set(err, EINVAL, "say one of user, tap=NAME, fd=N and none");
    if (wanted.net.publish_count && wanted.net.kind != NIDO_NET_USER)
        return error_set(err, EINVAL, "publish= goes with user; a TAP is a network of its own");
    if (wanted.none) {
        config->net_none = true;
        return 0;
    }
    if (config->machine.net_count == NIDO_NETS_MAX)
        return error_set(err, E2BIG, "a machine has at most %u networks", NIDO_NETS_MAX);
    config->machine.nets[config->machine.net_count++] = wanted.net;
    return 0;
}

static int set_console(struct config *config, char *value, struct nido_error *err)
{
    if (strcmp(value, "stdio") == 0) {
        config->machine.console = NIDO_CONSOLE_STDIO;
    } else if (strcmp(value, "none") == 0) {
        config->machine.console = NIDO_CONSOLE_NONE;
    } else if (strncmp(value, "file=", 5) == 0 && value[5]) {
        config->machine.console = NIDO_CONSOLE_FILE;
        config->machine.console_file = value + 5;
    } else {
        return error_set(err, EINVAL, "say stdio, file=PATH or none");
    }
    return 0;
}

static int set_kernel_cache(struct config *config, char *value, struct nido_error *err)
{
    config->machine.kernel_cache = strcmp(value, "none") == 0 ? NULL : value;
    config->kernel_cache_given = true;
    return 0;
}

static int set_dump_acpi(struct config *config, char *value, struct nido_error *err)
{
    config->machine.dump_acpi = value;
    return 0;
}

const struct config_key config_keys[] = {
    {"kernel", "FILE", "bzImage or ELF vmlinux to boot (needed)", false, set_kernel},
    {"initrd", "FILE", "initial RAM disk", false, set_initrd},
    {"cmdline", "TEXT", "kernel command line (default: console=ttyS0)", false, set_cmdline},
    {"cpus", "N", "vCPUs, 1 to 64 (default: 1)", false, set_cpus},
    {"mem", "SIZE", "RAM, like 512M or 4G (default: 256M, from 32M)", false, set_mem},
    {"hugepages", NULL, "take RAM from the host's reserved 2 MiB pages", false, set_hugepages},
    {"disk", "FILE[,ro][,id=S][,direct][,queues=N]", "raw file or block device; repeat for more",
     true, add_disk},
    {"net", "user|tap=NAME|fd=N|none[,mac=ADDR][,publish=[ADDR:]HOST:GUEST[/udp]]...",
     "network card: without privilege (passt), or on a TAP (default: none)", true, add_net},
    {"console", "stdio|file=PATH|none", "where the serial port goes (default: stdio)", false,
     set_console},
    {"kernel-cache", "DIR|none", "keeps unpacked kernels (default: ~/.cache/nido/kernels)", false,
     set_kernel_cache},
    {"dump-acpi", "DIR", "write the ACPI tables to DIR as well", false, set_dump_acpi},
};
const unsigned config_key_count = ARRAY_SIZE(config_keys);

_Static_assert(ARRAY_SIZE(config_keys) <= ARRAY_SIZE(((struct config *)0)->seen_count),
               "every key has a counter");

const struct config_key *config_find(const char *name, size_t length)
{
    for (unsigned i = 0; i < config_key_count; i++)
        if (strlen(config_keys[i].name) == length &&
            strncmp(config_keys[i].name, name, length) == 0)
            return &config_keys[i];
    return NULL;
}

/* The copy lives as long as the configuration; values are cut up in place. */
static char *keep_string(struct config *config, const char *text)
{
    if (config->string_count == CONFIG_STRINGS_MAX)
        return NULL;
    char *copy = strdup(text);
    if (copy)
        config->strings[config->string_count++] = copy;
    return copy;
}

int config_set(struct config *config, const struct config_key *key, const char *value,
               struct nido_error *err)
{
    if (!key->value && value)
        return error_set(err, EINVAL, "--%s: it takes no value", key->name);
    if (key->value && (!value || !*value))
        return error_set(err, EINVAL, "--%s: needs a value: --%s %s", key->name, key->name,
                         key->value);
    if (config->seen_count[key - config_keys]++ && !key->repeatable)
        return error_set(err, EINVAL, "--%s: given twice; give it once", key->name);
    char *copy = value ? keep_string(config, value) : NULL;
    if (value && !copy)
        return error_set(err, E2BIG, "--%s: too many flags", key->name);
    int ret = key->set(config, copy, err);
    return ret < 0 ? error_prefix(err, "--%s %s", key->name, value ? value : "") : 0;
}

static int check_disks(const struct nido_config *machine, struct nido_error *err)
{
    for (unsigned i = 0; i < machine->disk_count; i++)
        for (unsigned j = 0; j < i; j++)
            if (machine->disks[i].id && machine->disks[j].id &&
                strcmp(machine->disks[i].id, machine->disks[j].id) == 0)
                return error_set(err, EINVAL, "--disk %s: id=%s is taken by %s",
                                 machine->disks[i].path, machine->disks[i].id,
                                 machine->disks[j].path);
    return 0;
}

int config_check(const struct config *config, struct nido_error *err)
{
    const struct nido_config *machine = &config->machine;
    if (!machine->kernel)
        return error_set(err, EINVAL,
                         "--kernel is needed: a bzImage or vmlinux, such as /boot/vmlinuz-...");
    if (config->net_none && machine->net_count)
        return error_set(err, EINVAL, "--net none contradicts the other --net");
    int ret = config_check_ports(machine, err);
    return ret < 0 ? ret : check_disks(machine, err);
}

/* XDG Base Directory Specification: the user's cache, if there is a user with a home. */
static int default_kernel_cache(struct config *config, struct nido_error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[PATH_MAX];
    if (cache && cache[0] == '/')
        snprintf(path, sizeof(path), "%s/nido/kernels", cache);
    else if (home && home[0] == '/')
        snprintf(path, sizeof(path), "%s/.cache/nido/kernels", home);
    else
        return 0;
    config->machine.kernel_cache = keep_string(config, path);
    return config->machine.kernel_cache ? 0 : error_set(err, E2BIG, "too many flags");
}

int config_finalise(struct config *config, struct nido_error *err)
{
    int ret = config_check(config, err);
    if (ret < 0 || config->kernel_cache_given)
        return ret;
    return default_kernel_cache(config, err);
}

void config_finish(struct config *config)
{
    for (unsigned i = 0; i < config->string_count; i++)
        free(config->strings[i]);
    config->string_count = 0;
}
