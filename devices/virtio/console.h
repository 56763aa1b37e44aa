/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_CONSOLE_H
#define NIDO_DEVICES_VIRTIO_CONSOLE_H

/* The console device with its ports: consoles (hvc0) and named byte streams (virtio 1.2, 5.3). */

#include "devices/virtio/virtio.h"
#include "host/stream.h"

/* Two queues each, and two for control. */
#define VIRTIO_CONSOLE_PORTS_MAX ((VIRTIO_QUEUES_MAX - 2) / 2)

struct virtio_console_port {
    const char *name; /* in the guest: /dev/virtio-ports/NAME; NULL: none. Outlives the device */
    bool present;
    bool is_console;
};

/* Port 0 alone, and that a console, is a device without MULTIPORT; it knows the terminal's size. */
struct virtio_console_options {
    struct virtio_console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
    unsigned port_count; /* from 1; one more than the last that is present */
};

/* The streams that are put on the ports run on `loop`, too. Destroyed through its ops, or by the
 * transport that takes it over. */
int virtio_console_create(struct virtio_device **out, const struct virtio_console_options *options,
                          const struct mem *mem, struct loop *loop, const struct irq *irq,
                          struct nido_error *err);

/* The port's end, for stream_create(); lives as long as the device. */
struct stream_guest *virtio_console_stream(struct virtio_device *device, unsigned port);

/* On the loop's thread, or before it starts: whether somebody is at the host's end. The guest is
 * told; while nobody is, what it sends goes nowhere. False at first. */
void virtio_console_set_connected(struct virtio_device *device, unsigned port, bool connected);

/* Any thread. Where the device has more than one port this says nothing to the guest. */
void virtio_console_resize(struct virtio_device *device, uint16_t columns, uint16_t rows);

#endif
