/* SPDX-License-Identifier: Apache-2.0 */
#include "config/disk.h"

#include <errno.h>
#include <string.h>

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
    struct nido_disk *disk = target;
    disk->raw_for_sure = strcmp(value, "raw") == 0;
    if (strcmp(value, "qcow2") == 0)
        disk->format = NIDO_DISK_QCOW2;
    else if (!disk->raw_for_sure)
        return error_set(err, EINVAL,
                         "'%s' is not supported, raw and qcow2 are; convert it with qemu-img "
                         "convert -O qcow2",
                         value);
    return 0;
}

static int disk_cache(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_disk *)target)->unsafe = strcmp(value, "unsafe") == 0;
    if (strcmp(value, "unsafe") != 0 && strcmp(value, "writeback") != 0)
        return error_set(err, EINVAL, "'%s' is not a mode; say writeback or unsafe", value);
    return 0;
}

static int disk_overlay(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_disk *)target)->overlay = true;
    ((struct nido_disk *)target)->overlay_path = value;
    return 0;
}

static int disk_queues(void *target, const char *value, struct nido_error *err)
{
    unsigned long queues;
    int ret = config_parse_number(value, 1, NIDO_DISK_QUEUES_MAX, &queues, err);
    if (ret == 0)
        ((struct nido_disk *)target)->queues = (unsigned)queues;
    return ret;
}

const struct config_option config_disk_options[CONFIG_DISK_OPTIONS] = {
    {"ro", CONFIG_SWITCH, disk_ro},         {"id", CONFIG_TEXT, disk_id},
    {"direct", CONFIG_SWITCH, disk_direct}, {"format", CONFIG_TEXT, disk_format},
    {"cache", CONFIG_TEXT, disk_cache},     {"overlay", CONFIG_SWITCH_OR_TEXT, disk_overlay},
    {"queues", CONFIG_NUMBER, disk_queues},
};

/* Of --overlay, which says by its name what "overlay" says of a --disk. */
const struct config_option config_overlay_options[CONFIG_OVERLAY_OPTIONS] = {
    {"keep", CONFIG_TEXT, disk_overlay},    {"id", CONFIG_TEXT, disk_id},
    {"format", CONFIG_TEXT, disk_format},   {"cache", CONFIG_TEXT, disk_cache},
    {"queues", CONFIG_NUMBER, disk_queues},
};

static int check_disk(const struct nido_disk *disk, struct nido_error *err)
{
    if (disk->overlay && disk->read_only)
        return error_set(err, EINVAL, "ro and overlay contradict each other; say one of them");
    if (disk->direct && (disk->overlay || disk->format != NIDO_DISK_RAW))
        return error_set(err, EINVAL, "direct goes with raw disks, and not with an overlay");
    return 0;
}

static int put_disk(struct config *config, struct nido_disk disk, char *value,
                    const struct config_option *options, unsigned option_count,
                    struct nido_error *err)
{
    if (config->machine.disk_count == NIDO_DISKS_MAX)
        return error_set(err, E2BIG, "a machine has at most %u disks", NIDO_DISKS_MAX);
    disk.path = config_next_word(&value);
    if (!*disk.path)
        return error_set(err, EINVAL, "the file's name is empty");
    int ret = config_set_options(options, option_count, &disk, value, err);
    if (ret == 0)
        ret = check_disk(&disk, err);
    if (ret == 0)
        config->machine.disks[config->machine.disk_count++] = disk;
    return ret;
}

int config_add_disk(struct config *config, char *value, struct nido_error *err)
{
    return put_disk(config, (struct nido_disk){0}, value, config_disk_options, CONFIG_DISK_OPTIONS,
                    err);
}

int config_add_overlay(struct config *config, char *value, struct nido_error *err)
{
    return put_disk(config, (struct nido_disk){.overlay = true}, value, config_overlay_options,
                    CONFIG_OVERLAY_OPTIONS, err);
}
