/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_PORTS_H
#define NIDO_LIB_PORTS_H

/*
 * The virtio console device of a machine: the console itself where the configuration wants it to be
 * hvc0 (port 0), and the named ports (from 1 on) with their ends on the host.
 */

#include "base/error.h"
#include "devices/virtio/virtio.h"
#include "host/loop.h"
#include "host/stream.h"

#include <nido/config.h>

struct ports;

/* Whether the configuration needs the device at all. */
bool ports_wanted(const struct nido_config *config);

/* The device and all streams run on `loop`. The configuration's strings are not kept. */
int ports_create(struct ports **out, const struct nido_config *config, const struct mem *mem,
                 struct loop *loop, const struct irq *irq, struct nido_error *err);
/* After the loop has stopped, before the board's devices are gone; takes NULL. */
void ports_destroy(struct ports *ports);

/* The device, once, for the board, which owns it from here on. */
struct virtio_device *ports_take_device(struct ports *ports);

/* Port 0's end, to put a stream on; it counts as connected. */
struct stream_guest *ports_console(struct ports *ports);
/* Any thread: the size of the terminal behind port 0. */
void ports_resize(struct ports *ports, uint16_t columns, uint16_t rows);

/* At the machine's end: waits until what the guest has sent to the named ports is written, until
 * `stop_fd` is readable, or until nobody has read any of it for some seconds. */
void ports_drain(struct ports *ports, int stop_fd);

#endif
