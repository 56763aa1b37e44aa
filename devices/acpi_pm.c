/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power management of a hardware-reduced ACPI machine (ACPI 6.4): three byte-wide ports, and the
 * power button.
 *
 *   0  sleep control (4.8.3.7)  bit 5 SLP_EN, bits 2-4 SLP_TYP; S5 is the only sleep
 *   1  sleep status  (4.8.3.7)  bit 7 WAK_STS: never set, nothing ever wakes
 *   2  reset         (4.8.3.6)  ACPI_PM_RESET_VALUE resets
 *
 * The button is the interrupt of a generic event device (5.6.9), whose _EVT notifies the button's
 * object. The line says all there is to say, so no port is read and there is no state to keep.
 *
 * vCPU threads; no state.
 */
#include "devices/acpi_pm.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>

#define SLEEP_ENABLE     (1u << 5)
#define SLEEP_TYPE_SHIFT 2u
#define SLEEP_TYPE_MASK  7u

struct acpi_pm {
    struct device device;
    struct power_switch *power;
    const struct irq *power_button;
};

/* Sleep control is for writing; its enable bit reads as zero always, and so may the rest. */
static enum verdict acpi_pm_read(struct device *device, uint64_t offset, unsigned size_bytes,
                                 uint64_t *value)
{
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    *value = 0;
    return DEVICE_HANDLED;
}

/* A sleep type that the tables do not offer is ignored, as is clearing WAK_STS. */
static enum verdict acpi_pm_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                  uint64_t value)
{
    struct acpi_pm *pm = container_of(device, struct acpi_pm, device);
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    unsigned sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
    if (offset == ACPI_PM_SLEEP_CONTROL && value & SLEEP_ENABLE &&
        sleep_type == ACPI_PM_S5_SLEEP_TYPE)
        pm->power->off(pm->power);
    else if (offset == ACPI_PM_RESET && value == ACPI_PM_RESET_VALUE)
        pm->power->reset(pm->power);
    return DEVICE_HANDLED;
}

static void acpi_pm_destroy(struct device *device)
{
    free(container_of(device, struct acpi_pm, device));
}

static const struct device_ops acpi_pm_ops = {
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .destroy = acpi_pm_destroy,
};

int acpi_pm_create(struct device **out, struct power_switch *power, const struct irq *power_button,
                   struct nido_error *err)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    if (!pm)
        return error_set(err, ENOMEM, "ACPI power management: out of memory");
    pm->device = (struct device){.ops = &acpi_pm_ops, .name = "acpi_pm"};
    pm->power = power;
    pm->power_button = power_button;
    *out = &pm->device;
    return 0;
}

void acpi_pm_press_power_button(struct device *device)
{
    irq_pulse(container_of(device, struct acpi_pm, device)->power_button);
}
