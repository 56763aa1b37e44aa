/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_PVPANIC_H
#define NIDO_DEVICES_PVPANIC_H

/* Where the guest's kernel tells that it has panicked: QEMU's pvpanic. */

#include "base/error.h"
#include "vm/device.h"

#define PVPANIC_PORT_BYTES 1u
#define PVPANIC_ACPI_HID   "QEMU0001"

enum pvpanic_event {
    PVPANIC_PANICKED = 1u << 0,     /* and that is the end of it */
    PVPANIC_CRASH_LOADED = 1u << 1, /* and its crash kernel takes over */
};

/* Embedded in whoever is told. Called on a vCPU thread; returns at once. */
struct pvpanic_listener {
    void (*happened)(struct pvpanic_listener *listener, enum pvpanic_event event);
};

/* `listener` outlives the device. */
int pvpanic_create(struct device **out, struct pvpanic_listener *listener, struct nido_error *err);

#endif
