/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_VSOCK_H
#define NIDO_DEVICES_VIRTIO_VSOCK_H

/*
 * Sockets between guest and host (virtio 1.2, 5.10). On the host they are unix stream sockets, by
 * the convention that Firecracker made common:
 *
 *     PATH         the device listens; a program of the host connects, says "CONNECT PORT\n" and is
 *                  told "OK HOSTPORT\n" once the guest has accepted; a refusal closes the socket
 *     PATH_PORT    a program of the host listens; the device connects when the guest calls PORT
 *
 * Who can open PATH can talk to every service of the guest, so it is its owner's alone.
 */

#include "devices/virtio/virtio.h"

#define VIRTIO_VSOCK_CID_MIN 3u
#define VIRTIO_VSOCK_CID_MAX (UINT32_MAX - 1)

struct virtio_vsock_options {
    uint32_t cid;          /* the guest's address, VIRTIO_VSOCK_CID_MIN to VIRTIO_VSOCK_CID_MAX */
    const char *path;      /* made now, removed when the device is destroyed; copied */
    uint32_t guarded_port; /* of the host, for privileged ports of the guest alone; 0: none */
};

int virtio_vsock_create(struct virtio_device **out, const struct virtio_vsock_options *options,
                        const struct mem *mem, struct loop *loop, const struct irq *irq,
                        struct nido_error *err);

/* On the loop's thread: all connections are gone, as after a snapshot was restored, and the driver
 * is told (TRANSPORT_RESET, 5.10.6.7). Its listening sockets stay; it reads its CID anew. */
void virtio_vsock_transport_reset(struct virtio_device *device);

#endif
