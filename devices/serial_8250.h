/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_SERIAL_8250_H
#define NIDO_DEVICES_SERIAL_8250_H

/* A 16550A UART whose line is a host byte stream. */

#include "base/error.h"
#include "host/stream.h"
#include "vm/device.h"
#include "vm/irq.h"

#define SERIAL_8250_PORT_BYTES 8u

/* `irq` outlives the device. Until a stream is attached, what the guest sends goes nowhere. */
int serial_8250_create(struct device **out, const char *name, const struct irq *irq,
                       struct nido_error *err);

/* The line's end, for stream_create(); lives as long as the device. */
struct stream_guest *serial_8250_stream(struct device *device);

#endif
