/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/shares.h"

#include "base/checked.h"
#include "base/own.h"
#include "lib/exposure.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>

/* What the rest of the process may want to open, and how many files of a share a guest may have in
 * mind. */
#define DESCRIPTORS_KEPT 256u
#define NODES_MAX        (1u << 20)

/* The shares divide what the process may have, so that a guest that fills one of them takes nothing
 * from the others, nor from its disks. */
static unsigned descriptors_for(unsigned share_count)
{
    struct rlimit limit = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &limit);
    uint64_t most = MIN((uint64_t)limit.rlim_cur, (uint64_t)NODES_MAX);
    uint64_t kept = MIN((uint64_t)DESCRIPTORS_KEPT, most / 2);
    return (unsigned)((most - kept) / share_count);
}

static enum virtio_fs_cache cache_of(const struct nido_share *wanted)
{
    switch (wanted->cache) {
    case NIDO_SHARE_CACHE_ALWAYS:
        return VIRTIO_FS_CACHE_ALWAYS;
    case NIDO_SHARE_CACHE_NONE:
        return VIRTIO_FS_CACHE_NONE;
    case NIDO_SHARE_CACHE_AUTO:
        break;
    }
    return VIRTIO_FS_CACHE_AUTO;
}

static int tell_not_found(const char *path, int code, struct nido_error *err)
{
    if (code == ELOOP || code == EXDEV)
        return error_set(err, code,
                         "share %s: a guest can write to where it lies, so no symbolic link and no "
                         "way out are followed there; name what it stands for",
                         path);
    return error_errno(err, code, "share %s: cannot open it", path);
}

/* Another share may have it, and its guest may have put a link there: before a restart, or in another machine. */
static int open_share(const struct nido_config *config, unsigned index, struct share **share,
                      struct nido_error *err)
{
    const char *path = config->shares[index].path;
    own_fd int fd = exposure_find(config, path);
    if (fd < 0)
        return tell_not_found(path, -fd, err);
    const struct share_config share_config = {
        .path = path,
        .found_fd = fd,
        .read_only = config->shares[index].read_only,
        .descriptors_max = descriptors_for(config->share_count),
        .nodes_max = NODES_MAX,
    };
    return share_open(share, &share_config, err);
}

int shares_add(struct shares *shares, const struct nido_config *config, const struct mem *mem,
               const struct irq *irq, struct virtio_device **device, struct nido_error *err)
{
    const unsigned index = shares->count;
    const struct nido_share *wanted = &config->shares[index];
    char tag[NIDO_SHARE_TAG_BYTES + 1], name[16];
    struct share *share = NULL;
    const struct virtio_fs_options options = {
        .tag = wanted->tag ? wanted->tag : tag,
        .cache = cache_of(wanted),
        .flat = wanted->flat,
    };
    snprintf(tag, sizeof(tag), "share%u", index);
    snprintf(name, sizeof(name), "share/%u", index);
    int ret = loop_create(&shares->slots[index].loop, name, err);
    if (ret < 0)
        return ret;
    shares->count++;
    ret = open_share(config, index, &share, err);
    if (ret < 0)
        return ret;
    ret = virtio_fs_create(device, share, &options, mem, shares->slots[index].loop, irq, err);
    if (ret < 0) {
        share_close(share);
        return ret;
    }
    shares->slots[index].device = *device;
    return 0;
}

int shares_start(struct shares *shares, struct nido_error *err)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < shares->count; i++)
        ret = loop_start(shares->slots[i].loop, err);
    return ret;
}

void shares_stop(struct shares *shares)
{
    for (unsigned i = 0; i < shares->count; i++)
        loop_stop(shares->slots[i].loop);
}

void shares_destroy(struct shares *shares)
{
    for (unsigned i = 0; i < shares->count; i++)
        loop_destroy(shares->slots[i].loop);
    shares->count = 0;
}

static unsigned counters_of(struct virtio_device *device, struct nido_counter *counters,
                            unsigned max)
{
    struct virtio_fs_stats stats;
    virtio_fs_stats(device, &stats);
    const struct {
        const char *what;
        uint64_t value;
    } named[] = {
        {"requests", stats.requests},     {"failures", stats.failures},
        {"read-bytes", stats.read_bytes}, {"written-bytes", stats.written_bytes},
        {"files-known", stats.nodes},     {"files-open", stats.handles},
    };
    unsigned count = 0;
    for (; count < ARRAY_SIZE(named) && count < max; count++) {
        snprintf(counters[count].name, sizeof(counters[count].name), "%s.%s", device->name,
                 named[count].what);
        counters[count].value = named[count].value;
    }
    return count;
}

void shares_add_traffic(const struct shares *shares, struct nido_traffic *traffic)
{
    for (unsigned i = 0; i < shares->count; i++) {
        struct virtio_fs_stats stats = {0};
        if (shares->slots[i].device)
            virtio_fs_stats(shares->slots[i].device, &stats);
        traffic->share_read_bytes += stats.read_bytes;
        traffic->share_written_bytes += stats.written_bytes;
    }
}

unsigned shares_counters(const struct shares *shares, struct nido_counter *counters, unsigned max)
{
    unsigned count = 0;
    for (unsigned i = 0; i < shares->count; i++)
        if (shares->slots[i].device)
            count += counters_of(shares->slots[i].device, counters + count, max - count);
    return count;
}
