/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's pvpanic (docs/specs/pvpanic in its sources): one byte that the guest's kernel writes when
 * it has panicked, after it has printed why. Linux's driver (pvpanic-mmio) finds it by its ACPI id
 * and takes a port or a memory address.
 *
 *   0  read   the events that can be told: bits of enum pvpanic_event
 *      write  what has happened: one or more of them
 *
 * Without it, a panicked guest is one that does nothing any more, or one that reboots.
 *
 * vCPU threads; no state.
 */
#include "devices/pvpanic.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>

struct pvpanic {
    struct device device;
    struct pvpanic_listener *listener;
};

static enum verdict pvpanic_read(struct device *device, uint64_t offset, unsigned size_bytes,
                                 uint64_t *value)
{
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    *value = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
    return DEVICE_HANDLED;
}

/* Events that were not offered are ignored. A kernel that says both has a crash kernel: its own end
 * is not the machine's. */
static enum verdict pvpanic_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                  uint64_t value)
{
    struct pvpanic_listener *listener = container_of(device, struct pvpanic, device)->listener;
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    if (value & PVPANIC_CRASH_LOADED)
        listener->happened(listener, PVPANIC_CRASH_LOADED);
    else if (value & PVPANIC_PANICKED)
        listener->happened(listener, PVPANIC_PANICKED);
    return DEVICE_HANDLED;
}

static void pvpanic_destroy(struct device *device)
{
    free(container_of(device, struct pvpanic, device));
}

static const struct device_ops pvpanic_ops = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .destroy = pvpanic_destroy,
};

int pvpanic_create(struct device **out, struct pvpanic_listener *listener, struct nido_error *err)
{
    struct pvpanic *pvpanic = calloc(1, sizeof(*pvpanic));
    if (!pvpanic)
        return error_set(err, ENOMEM, "pvpanic: out of memory");
    pvpanic->device = (struct device){.ops = &pvpanic_ops, .name = "pvpanic"};
    pvpanic->listener = listener;
    *out = &pvpanic->device;
    return 0;
}
