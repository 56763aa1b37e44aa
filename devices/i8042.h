/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_I8042_H
#define NIDO_DEVICES_I8042_H

/* The one thing that is left of the PC's keyboard controller: the pulse on the reset line. */

#include "base/error.h"
#include "devices/power.h"
#include "vm/device.h"

#define I8042_PORT       0x60u
#define I8042_PORT_BYTES 5u /* 0x60 data, 0x64 status and command; nothing answers in between */

/* `power` outlives the device. */
int i8042_create(struct device **out, struct power_switch *power, struct nido_error *err);

#endif
