/* SPDX-License-Identifier: Apache-2.0 */
/* Where values come from: flags, then the file, then defaults; the first that has a key wins. */
#include "config/config.h"

#include "base/checked.h"
#include "config/share.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_PREFIX "~/.cache/"

const struct config_key *config_key_at(const struct config *config, unsigned i)
{
    if (i < config_key_count)
        return &config_keys[i];
    i -= config_key_count;
    return i < config->more_count ? &config->more_keys[i] : NULL;
}

const struct config_key *config_find(const struct config *config, const char *name, size_t length)
{
    const struct config_key *key;
    for (unsigned i = 0; (key = config_key_at(config, i)); i++)
        if (strlen(key->name) == length && strncmp(key->name, name, length) == 0)
            return key;
    return NULL;
}

const struct config_option *config_find_option(const struct config_key *key, const char *name)
{
    for (unsigned i = 0; i < key->option_count; i++)
        if (strcmp(key->options[i].name, name) == 0)
            return &key->options[i];
    return NULL;
}

static bool is_given(const struct config *config, const struct config_key *key, bool from_file)
{
    for (unsigned i = 0; i < config->entry_count; i++)
        if (config->entries[i].key == key && config->entries[i].from_file == from_file)
            return true;
    return false;
}

/* NULL: there is no room for more values, as *err tells. */
static struct config_entry *add_entry(struct config *config, const struct config_key *key,
                                      const char *text, struct nido_error *err)
{
    struct config_entry entry = {.key = key};
    if (config->entry_count == CONFIG_ENTRIES_MAX) {
        error_set(err, E2BIG, "more than %u values", CONFIG_ENTRIES_MAX);
        return NULL;
    }
    if (text) {
        entry.text = strdup(text);
        entry.words = strdup(text);
        if (!entry.text || !entry.words) {
            free(entry.text);
            free(entry.words);
            error_set(err, ENOMEM, "out of memory");
            return NULL;
        }
    }
    struct config_entry *added = &config->entries[config->entry_count++];
    *added = entry;
    return added;
}

static int apply(struct config *config, struct config_entry *entry, struct nido_error *err)
{
    entry->applied = true;
    int ret = entry->key->set(config, entry->words, err);
    if (ret == 0)
        return 0;
    const char *text = entry->text ? entry->text : "";
    if (entry->from_file)
        return error_prefix(err, "config %s: %s %.200s", config->file, entry->key->name, text);
    return error_prefix(err, "--%s %.200s", entry->key->name, text);
}

int config_set(struct config *config, const struct config_key *key, const char *value,
               struct nido_error *err)
{
    if (!key->value && value)
        return error_set(err, EINVAL, "--%s: it takes no value", key->name);
    if (key->value && (!value || !*value))
        return error_set(err, EINVAL, "--%s: needs a value: --%s %s", key->name, key->name,
                         key->value);
    if (!key->repeatable && is_given(config, key, false))
        return error_set(err, EINVAL, "--%s: given twice; give it once", key->name);
    struct config_entry *entry = add_entry(config, key, value, err);
    return entry ? apply(config, entry, err) : error_prefix(err, "--%s", key->name);
}

int config_set_from_file(struct config *config, const struct config_key *key, const char *value,
                         struct nido_error *err)
{
    if (key->value && !*value)
        return error_set(err, EINVAL, "needs a value");
    struct config_entry *entry = add_entry(config, key, value, err);
    if (!entry)
        return -ENOMEM;
    entry->from_file = true;
    return 0;
}

static int apply_file(struct config *config, struct nido_error *err)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < config->entry_count; i++) {
        struct config_entry *entry = &config->entries[i];
        if (entry->from_file && !is_given(config, entry->key, false))
            ret = apply(config, entry, err);
    }
    return ret;
}

/* The XDG Base Directory Specification puts the user's cache elsewhere on request. NULL: there is no
 * user with a home, and so no default. */
static const char *expand(const char *initial, char path[PATH_MAX])
{
    if (strncmp(initial, CACHE_PREFIX, strlen(CACHE_PREFIX)) != 0)
        return initial;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length;
    if (cache && cache[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/%s", cache, initial + strlen(CACHE_PREFIX));
    else if (home && home[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/%s", home, initial + strlen("~/"));
    else
        return NULL;
    return length < PATH_MAX ? path : NULL;
}

static int apply_defaults(struct config *config, struct nido_error *err)
{
    char path[PATH_MAX];
    const struct config_key *key;
    int ret = 0;
    for (unsigned i = 0; ret == 0 && (key = config_key_at(config, i)); i++) {
        bool on_hvc = config->machine.console_virtio && key->initial_on_hvc;
        const char *initial = on_hvc ? key->initial_on_hvc : key->initial;
        const char *text = initial ? expand(initial, path) : NULL;
        if (!text || is_given(config, key, false) || is_given(config, key, true))
            continue;
        struct config_entry *entry = add_entry(config, key, text, err);
        ret = entry ? apply(config, entry, err) : -ENOMEM;
    }
    return ret;
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

/* Two stations of one address on one bridge lose each other's frames. */
static int check_nets(const struct nido_config *machine, struct nido_error *err)
{
    static const uint8_t unsaid[sizeof(machine->nets[0].mac)];
    for (unsigned i = 0; i < machine->net_count; i++) {
        const uint8_t *mac = machine->nets[i].mac;
        if (memcmp(mac, unsaid, sizeof(unsaid)) == 0)
            continue;
        for (unsigned j = 0; j < i; j++)
            if (memcmp(mac, machine->nets[j].mac, sizeof(unsaid)) == 0)
                return error_set(err, EINVAL,
                                 "--net: mac=%02x:%02x:%02x:%02x:%02x:%02x is given twice; each "
                                 "network card needs its own",
                                 mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    }
    return 0;
}

static int check_ports(const struct nido_config *machine, struct nido_error *err)
{
    bool stdio_taken = machine->console == NIDO_CONSOLE_STDIO;
    for (unsigned i = 0; i < machine->port_count; i++) {
        const struct nido_port *port = &machine->ports[i];
        for (unsigned j = 0; j < i; j++)
            if (strcmp(port->name, machine->ports[j].name) == 0)
                return error_set(err, EINVAL, "--port %s: given twice; give it another name",
                                 port->name);
        if (port->kind == NIDO_PORT_STDIO && stdio_taken)
            return error_set(err, EINVAL,
                             "--port %s: stdio is taken; say --console none, or another --port",
                             port->name);
        stdio_taken |= port->kind == NIDO_PORT_STDIO;
    }
    return 0;
}

static int check_ram(const struct nido_config *machine, struct nido_error *err)
{
    if (machine->mem_merge && machine->huge_pages)
        return error_set(
            err, EINVAL,
            "--mem-merge: reserved huge pages cannot be merged; leave out --hugepages");
    return 0;
}

static int check_balloon(const struct nido_config *machine, struct nido_error *err)
{
    if (machine->balloon.present && machine->huge_pages)
        return error_set(err, EINVAL,
                         "--balloon: reserved huge pages cannot be given back; leave out "
                         "--hugepages");
    if (machine->mem_bytes && machine->balloon.target_bytes >= machine->mem_bytes)
        return error_set(err, ERANGE, "--balloon: the target leaves the guest nothing of --mem");
    return 0;
}

/* A kernel of nido's own would find no driver for the disk, which distributions have as modules of the initrd that
 * goes with theirs. */
static int tell_no_kernel(const struct nido_config *machine, struct nido_error *err)
{
    if (machine->disk_count)
        return error_set(
            err, EINVAL,
            "--kernel is needed, there is no firmware that would look for one on %.200s; "
            "to run a command there, say --root %.200s -- COMMAND",
            machine->disks[0].path, machine->disks[0].path);
    return error_set(err, EINVAL,
                     "--kernel is needed: a bzImage or vmlinux, such as /boot/vmlinuz-...; "
                     "to run a command, say --root DIR|IMAGE -- COMMAND");
}

int config_check(const struct config *config, struct nido_error *err)
{
    const struct nido_config *machine = &config->machine;
    if (!machine->kernel && !config->kernel_is_optional)
        return tell_no_kernel(machine, err);
    if (config->net_none && machine->net_count)
        return error_set(err, EINVAL, "--net none contradicts the other --net");
    int ret = check_nets(machine, err);
    if (ret == 0)
        ret = config_check_ports(machine, err);
    if (ret == 0)
        ret = check_ports(machine, err);
    if (ret == 0)
        ret = check_ram(machine, err);
    if (ret == 0)
        ret = check_balloon(machine, err);
    if (ret == 0)
        ret = config_check_shares(machine, err);
    return ret < 0 ? ret : check_disks(machine, err);
}

int config_finalise(struct config *config, struct nido_error *err)
{
    int ret = config->file ? config_load(config, config->file, err) : 0;
    if (ret == 0)
        ret = apply_file(config, err);
    if (ret == 0)
        ret = apply_defaults(config, err);
    return ret < 0 ? ret : config_check(config, err);
}

void config_finish(struct config *config)
{
    for (unsigned i = 0; i < config->entry_count; i++) {
        free(config->entries[i].text);
        free(config->entries[i].words);
    }
    config->entry_count = 0;
}
