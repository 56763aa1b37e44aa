/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_FS_H
#define NIDO_DEVICES_VIRTIO_FS_H

/* A directory of the host that the guest mounts: mount -t virtiofs TAG /mnt (virtio 1.2, 5.11). */

#include "devices/virtio/virtio.h"
#include "host/share.h"

#define VIRTIO_FS_TAG_BYTES 36u

/* How long the guest may believe what it has seen, while the host may change the files too. */
enum virtio_fs_cache {
    VIRTIO_FS_CACHE_AUTO,   /* names for a second, files until they are opened or read again */
    VIRTIO_FS_CACHE_ALWAYS, /* for good: nobody else changes anything */
    VIRTIO_FS_CACHE_NONE,   /* not at all; files cannot be mapped shared then */
};

struct virtio_fs_options {
    const char *tag; /* 1 to VIRTIO_FS_TAG_BYTES bytes; copied */
    enum virtio_fs_cache cache;
    bool flat; /* what is mounted below looks like the rest, as the guest's overlays want it */
};

/* Owns `share` from a success on. The device's requests are system calls that take their time, so
 * `loop` should be its own. */
int virtio_fs_create(struct virtio_device **out, struct share *share,
                     const struct virtio_fs_options *options, const struct mem *mem,
                     struct loop *loop, const struct irq *irq, struct nido_error *err);

struct virtio_fs_stats {
    uint64_t requests, failures; /* failures: answered with an error, "no such file" too */
    uint64_t read_bytes, written_bytes;
    uint64_t nodes, handles; /* now */
};
/* Any thread. */
void virtio_fs_stats(struct virtio_device *device, struct virtio_fs_stats *stats);

#endif
