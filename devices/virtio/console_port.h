/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_CONSOLE_PORT_H
#define NIDO_DEVICES_VIRTIO_CONSOLE_PORT_H

/* One port of the console device: two queues and a stream. For console.c. Loop thread. */

#include "devices/virtio/console.h"

enum console_port_direction { PORT_RECEIVE, PORT_TRANSMIT };

struct console_port {
    struct stream_guest line;
    struct virtio_device *virtio;
    struct virtio_console_port is;
    unsigned index;
    unsigned first_queue; /* the receive queue; the next one is the transmit queue */
    bool connected;       /* the host's end */
    bool open;            /* the guest's end */

    /* The control messages' (console.c). */
    bool ready;
    unsigned owed;

    /* To the host. */
    uint8_t *ring; /* starts over whenever it runs empty */
    size_t ring_bytes, ring_start, ring_count;
    bool line_idle; /* the stream saw no bytes to send and sleeps */
    bool sending;   /* `chain` is not used up */
    uint64_t sent_bytes;
    struct virtq_chain chain;
    uint64_t transmissions; /* turns that brought something, since the driver came */
    void (*transmitted)(struct console_port *port);
};

/* `port` is zeroed but for `virtio`, `is`, `index`, `first_queue` and `transmitted` (may be
 * NULL). */
int console_port_init(struct console_port *port);
void console_port_finish(struct console_port *port); /* takes one that was never initialised */

void console_port_kick(struct console_port *port, enum console_port_direction direction);
void console_port_set_open(struct console_port *port, bool open);
void console_port_set_connected(struct console_port *port, bool connected);

/* The driver goes: while the rings are still live, then when they are not. */
void console_port_take_last(struct console_port *port);
void console_port_reset(struct console_port *port);

#endif
