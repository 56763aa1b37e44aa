/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC's keyboard controller, of which only the pulse on the CPU's reset line is left: command
 * 0xfe to port 0x64 (IBM PC/AT Technical Reference, "Keyboard Controller Commands"). It is one of
 * the ways in which Linux reboots (reboot=k) and the first one of many a small kernel.
 *
 * No keyboard answers. What the status port reads is chosen for those who look:
 *  - "output buffer full" for ever, so a probe that first flushes the buffer gives up after a few
 *    reads and finds no controller (Linux: 17); a clean status would make it send commands and wait
 *    half a second for the answer to each;
 *  - "input buffer full" clear, because who wants to reset waits for that (Linux: 65536 reads).
 *
 * vCPU threads; no state.
 */
#include "devices/i8042.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>

#define DATA_OFFSET    0u /* 0x60 */
#define COMMAND_OFFSET 4u /* 0x64 */

#define STATUS_OUTPUT_FULL  0x01u
#define COMMAND_PULSE_RESET 0xfeu

struct i8042 {
    struct device device;
    struct power_switch *power;
};

static enum verdict i8042_read(struct device *device, uint64_t offset, unsigned size_bytes,
                               uint64_t *value)
{
    if (size_bytes != 1 || (offset != DATA_OFFSET && offset != COMMAND_OFFSET))
        return DEVICE_UNHANDLED;
    *value = offset == COMMAND_OFFSET ? STATUS_OUTPUT_FULL : 0;
    return DEVICE_HANDLED;
}

static enum verdict i8042_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                uint64_t value)
{
    struct i8042 *i8042 = container_of(device, struct i8042, device);
    if (size_bytes != 1 || (offset != DATA_OFFSET && offset != COMMAND_OFFSET))
        return DEVICE_UNHANDLED;
    if (offset == COMMAND_OFFSET && value == COMMAND_PULSE_RESET)
        i8042->power->reset(i8042->power);
    return DEVICE_HANDLED;
}

static void i8042_destroy(struct device *device)
{
    free(container_of(device, struct i8042, device));
}

static const struct device_ops i8042_ops = {
    .read = i8042_read,
    .write = i8042_write,
    .destroy = i8042_destroy,
};

int i8042_create(struct device **out, struct power_switch *power, struct nido_error *err)
{
    struct i8042 *i8042 = calloc(1, sizeof(*i8042));
    if (!i8042)
        return error_set(err, ENOMEM, "keyboard controller: out of memory");
    i8042->device = (struct device){.ops = &i8042_ops, .name = "i8042"};
    i8042->power = power;
    *out = &i8042->device;
    return 0;
}
