/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_ACPI_PM_H
#define NIDO_DEVICES_ACPI_PM_H

/*
 * Power off, reset and the power button of a hardware-reduced ACPI machine. The board puts the
 * block at a port base of its choice and tells the same addresses and values to
 * acpi_write_tables().
 */

#include "base/error.h"
#include "devices/power.h"
#include "vm/device.h"
#include "vm/irq.h"

#define ACPI_PM_PORT_BYTES 3u

/* Offsets in the block. */
#define ACPI_PM_SLEEP_CONTROL 0u
#define ACPI_PM_SLEEP_STATUS  1u
#define ACPI_PM_RESET         2u

#define ACPI_PM_RESET_VALUE   1u
#define ACPI_PM_S5_SLEEP_TYPE 5u

/* `power` and `power_button`, the line of the generic event device, outlive the device. */
int acpi_pm_create(struct device **out, struct power_switch *power, const struct irq *power_button,
                   struct nido_error *err);

/* Asks the guest to shut down, as a finger would. It may refuse. Any thread. */
void acpi_pm_press_power_button(struct device *device);

#endif
