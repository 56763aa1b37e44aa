/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-fs: a directory of the host (virtio 1.2, 5.11).
 *
 * Purpose        FUSE requests from the guest's kernel, to a struct share
 * Queue 0        hiprio: FORGET and INTERRUPT, which must not wait behind what needs memory
 * Queue 1        requests
 * Config space   struct virtio_fs_config of linux/virtio_fs.h; never changes, not writable
 * Owner thread   the loop, which is its own; read_config alone runs on vCPU threads
 *
 * A request is a chain, readable part first, cut into descriptors in any way. It is served where it
 * is found, by system calls that return when they are done: a file system has no calls of another
 * kind for most of what is asked. Hence the loop of its own, and one request queue, since there is
 * one thread to serve it. What one slow request holds up is the share's other requests.
 *
 * What the two queues hold is told apart by the opcode alone; a driver that mixes them up is served
 * all the same. A chain without room for a FUSE header breaks the device: there is nowhere to put
 * an answer. All else that is wrong with a request is its answer.
 */
#include "devices/virtio/fs.h"

#include "base/checked.h"
#include "devices/virtio/fs_session.h"

#include <errno.h>
#include <linux/virtio_fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_COUNT   2u
#define TURN_REQUESTS 32u /* then the other queue, and whoever wants the loop to stop, has a turn */

_Static_assert(sizeof(((struct virtio_fs_config *)0)->tag) == VIRTIO_FS_TAG_BYTES, "tag");

struct virtio_fs {
    struct virtio_device virtio;
    struct share *share; /* owned */
    char name[8 + VIRTIO_FS_TAG_BYTES];
    struct virtio_fs_config config;

    /* Loop thread. */
    bool adopted; /* the loop's thread knows how to make files */
    struct virtq_chain chain;
    struct fs_session session;
};

static struct virtio_fs *fs_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_fs, virtio);
}

/* 1: served; otherwise as virtq_pop(). Each is published at once, for the next one may take its
 * time. */
static int serve_one(struct virtio_fs *self, unsigned queue)
{
    struct virtq *ring = &self->virtio.queues[queue].ring;
    int got = virtq_pop(ring, &self->chain);
    if (got != 1)
        return got;
    int64_t written = fs_session_serve(&self->session, &self->chain);
    if (written < 0)
        return (int)written;
    virtq_push(ring, self->chain.head, (uint32_t)written);
    virtio_flush(&self->virtio, queue);
    return 1;
}

static void fs_kick(struct virtio_device *device, unsigned queue)
{
    struct virtio_fs *self = fs_of(device);
    struct virtq *ring = &device->queues[queue].ring;
    unsigned served = 0;
    do {
        int got = 1;
        virtq_quiet(ring);
        while (served < TURN_REQUESTS && (got = serve_one(self, queue)) == 1)
            served++;
        if (got < 0)
            virtio_broken(device, "a queue is nonsense, or a request has no room for its header");
        if (served == TURN_REQUESTS) {
            virtio_notify(device, queue); /* come again */
            return;
        }
    } while (virtq_listen(ring));
}

/* Here because it is the first thing that runs on the loop's thread. */
static void fs_activate(struct virtio_device *device)
{
    struct virtio_fs *self = fs_of(device);
    if (self->adopted)
        return;
    self->adopted = true;
    int ret = share_adopt_thread();
    if (ret < 0)
        log_warn("%s: new files will obey nido's umask: unshare(CLONE_FS): %s", self->name,
                 strerror(-ret));
}

static void fs_deactivate(struct virtio_device *device)
{
    fs_session_forget(&fs_of(device)->session);
    virtio_idle(device);
}

static void fs_read_config(struct virtio_device *device, unsigned offset, void *to, unsigned length)
{
    memcpy(to, (const uint8_t *)&fs_of(device)->config + offset, length);
}

static void fs_destroy(struct virtio_device *device)
{
    struct virtio_fs *self = fs_of(device);
    virtio_finish(device);
    share_close(self->share);
    free(self);
}

static const struct virtio_ops fs_ops = {
    .activate = fs_activate,
    .kick = fs_kick,
    .deactivate = fs_deactivate,
    .read_config = fs_read_config,
    .destroy = fs_destroy,
};

void virtio_fs_stats(struct virtio_device *device, struct virtio_fs_stats *stats)
{
    const struct fs_session *session = &fs_of(device)->session;
    *stats = (struct virtio_fs_stats){
        .requests = atomic_load(&session->requests),
        .failures = atomic_load(&session->failures),
        .read_bytes = atomic_load(&session->read_bytes),
        .written_bytes = atomic_load(&session->written_bytes),
        .nodes = atomic_load(&session->nodes),
        .handles = atomic_load(&session->handles),
    };
}

static void prepare(struct virtio_fs *self, const struct virtio_fs_options *options)
{
    struct virtio_device *virtio = &self->virtio;
    snprintf(self->name, sizeof(self->name), "fs %s", options->tag);
    memcpy(self->config.tag, options->tag, strlen(options->tag));
    self->config.num_request_queues = htole32(QUEUE_COUNT - 1);
    self->session.share = self->share;
    self->session.name = self->name;
    self->session.cache = options->cache;
    self->session.flat = options->flat;
    virtio->ops = &fs_ops;
    virtio->name = self->name;
    virtio->device_id = VIRTIO_ID_FS;
    virtio->config_bytes = sizeof(self->config);
    virtio->queue_count = QUEUE_COUNT;
    virtio->queue_size_max = VIRTQ_SIZE_MAX;
}

int virtio_fs_create(struct virtio_device **out, struct share *share,
                     const struct virtio_fs_options *options, const struct mem *mem,
                     struct loop *loop, const struct irq *irq, struct nido_error *err)
{
    if (!*options->tag || strlen(options->tag) > VIRTIO_FS_TAG_BYTES)
        return error_set(err, EINVAL, "fs '%s': a tag has 1 to %u bytes", options->tag,
                         VIRTIO_FS_TAG_BYTES);
    struct virtio_fs *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "fs %s: out of memory", options->tag);
    self->share = share;
    prepare(self, options);
    int ret = virtio_init(&self->virtio, mem, loop, irq, err);
    if (ret < 0) {
        free(self);
        return ret;
    }
    *out = &self->virtio;
    return 0;
}
