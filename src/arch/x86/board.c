/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x86-64 board. `slots` is its one list: board_create() and board_attach_virtio() fill it, the
 * buses and the ACPI tables are made from it.
 */
#include "arch/board.h"

#include "arch/parts.h"
#include "arch/x86/layout.h"
#include "arch/x86/regs.h"
#include "base/checked.h"
#include "devices/acpi_pm.h"
#include "devices/i8042.h"
#include "devices/pvpanic.h"
#include "devices/rtc_cmos.h"
#include "devices/serial_8250.h"
#include "devices/virtio/mmio.h"
#include "firmware/x86/acpi.h"
#include "firmware/x86/reset_vector.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SLOTS_MAX 24

/* GSIs for virtio: the IOAPIC's upper pins first, then ISA's that nothing here uses. */
static const uint8_t virtio_gsis[] = {16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15};

struct board {
    struct board_parts parts;
    struct irq serial_irq, power_button_irq;
    struct device *serial, *acpi_pm; /* the machine's */
    unsigned slot_count;
    struct acpi_device slots[SLOTS_MAX];
    char slot_names[SLOTS_MAX][5];
};

static int place_port(struct board *board, struct device *device, uint16_t port,
                      uint32_t length_bytes, struct nido_error *err)
{
    return parts_place(&board->parts, device, &board->parts.machine->pio, port, length_bytes, err);
}

static int add_serial(struct board *board, struct nido_error *err)
{
    int ret = parts_connect_irq(&board->parts, &board->serial_irq, COM1_GSI, err);
    if (ret == 0)
        ret = serial_8250_create(&board->serial, "serial0", &board->serial_irq, err);
    if (ret < 0)
        return ret;
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = "COM1",
        .hid = "PNP0501",
        .space = ACPI_PIO,
        .base = COM1_PORT,
        .length_bytes = SERIAL_8250_PORT_BYTES,
        .gsi = COM1_GSI,
        .has_gsi = true,
    };
    return place_port(board, board->serial, COM1_PORT, SERIAL_8250_PORT_BYTES, err);
}

static int add_rtc(struct board *board, struct nido_error *err)
{
    struct device *rtc;
    int ret = rtc_cmos_create(&rtc, NULL, err);
    if (ret < 0)
        return ret;
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = "RTC_",
        .hid = "PNP0B00",
        .space = ACPI_PIO,
        .base = RTC_CMOS_PORT,
        .length_bytes = RTC_CMOS_PORT_BYTES,
    };
    return place_port(board, rtc, RTC_CMOS_PORT, RTC_CMOS_PORT_BYTES, err);
}

static int add_i8042(struct board *board, struct nido_error *err)
{
    struct device *i8042;
    int ret = i8042_create(&i8042, &board->parts.power, err);
    return ret < 0 ? ret : place_port(board, i8042, I8042_PORT, I8042_PORT_BYTES, err);
}

static int add_acpi_pm(struct board *board, struct nido_error *err)
{
    int ret = parts_connect_irq(&board->parts, &board->power_button_irq, POWER_BUTTON_GSI, err);
    if (ret == 0)
        ret = acpi_pm_create(&board->acpi_pm, &board->parts.power, &board->power_button_irq, err);
    return ret < 0 ? ret : place_port(board, board->acpi_pm, ACPI_PM_PORT, ACPI_PM_PORT_BYTES, err);
}

static int add_pvpanic(struct board *board, struct nido_error *err)
{
    struct device *pvpanic;
    int ret = pvpanic_create(&pvpanic, &board->parts.panic, err);
    if (ret < 0)
        return ret;
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = "PEVT",
        .hid = PVPANIC_ACPI_HID,
        .space = ACPI_PIO,
        .base = PVPANIC_PORT,
        .length_bytes = PVPANIC_PORT_BYTES,
    };
    return place_port(board, pvpanic, PVPANIC_PORT, PVPANIC_PORT_BYTES, err);
}

int board_create(struct board **out, struct machine *machine, struct nido_error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board)
        return error_set(err, ENOMEM, "out of memory");
    board->parts = (struct board_parts){
        .virtio_base_gpa = VIRTIO_MMIO_BASE_GPA,
        .virtio_gsis = virtio_gsis,
        .virtio_places = ARRAY_SIZE(virtio_gsis),
    };
    parts_init(&board->parts, machine);
    board->serial_irq.fd = board->power_button_irq.fd = -1;
    /* The caller destroys it also after a failure: devices on the bus refer to it. */
    *out = board;
    int ret = add_serial(board, err);
    if (ret == 0)
        ret = add_rtc(board, err);
    if (ret == 0)
        ret = add_i8042(board, err);
    if (ret == 0)
        ret = add_acpi_pm(board, err);
    if (ret == 0)
        ret = add_pvpanic(board, err);
    return ret;
}

void board_destroy(struct board *board)
{
    if (!board)
        return;
    irq_finish(&board->serial_irq);
    irq_finish(&board->power_button_irq);
    parts_finish(&board->parts);
    free(board);
}

struct stream_guest *board_console(struct board *board)
{
    return serial_8250_stream(board->serial);
}

void board_set_on_panic(struct board *board, enum nido_on_panic on_panic)
{
    board->parts.on_panic = on_panic;
}

int board_next_irq(struct board *board, const struct irq **out, struct nido_error *err)
{
    return parts_next_irq(&board->parts, out, err);
}

static void add_virtio_slot(struct board *board, uint64_t base, unsigned gsi)
{
    char *name = board->slot_names[board->slot_count];
    unsigned number = board->parts.virtio_count - 1;
    snprintf(name, sizeof(board->slot_names[0]), "VR%02u", number % 100);
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = name,
        .hid = "LNRO0005",
        .uid = number,
        .space = ACPI_MMIO,
        .base = base,
        .length_bytes = VIRTIO_MMIO_BYTES,
        .gsi = gsi,
        .has_gsi = true,
    };
}

int board_attach_virtio(struct board *board, struct virtio_device *device, const struct irq *irq,
                        struct nido_error *err)
{
    uint64_t base;
    int ret = parts_attach_virtio(&board->parts, device, irq, &base, err);
    if (ret == 0)
        add_virtio_slot(board, base, irq->gsi);
    return ret;
}

int board_add_loop_devices(struct board *board, struct loop *loop, struct nido_error *err)
{
    return 0;
}

int board_finish(struct board *board, const char *dump_directory, uint64_t *tables_gpa,
                 struct nido_error *err)
{
    const struct acpi_machine acpi = {
        .cpus = board->parts.machine->cpus,
        .devices = board->slots,
        .device_count = board->slot_count,
        .lapic_gpa = LAPIC_GPA,
        .ioapic_gpa = IOAPIC_GPA,
        .power_button_gsi = POWER_BUTTON_GSI,
        .sleep_control_port = ACPI_PM_PORT + ACPI_PM_SLEEP_CONTROL,
        .sleep_status_port = ACPI_PM_PORT + ACPI_PM_SLEEP_STATUS,
        .reset_port = ACPI_PM_PORT + ACPI_PM_RESET,
        .reset_value = ACPI_PM_RESET_VALUE,
        .s5_sleep_type = ACPI_PM_S5_SLEEP_TYPE,
    };
    if (reset_vector_write(board->parts.machine->mem) < 0)
        return error_set(err, EFAULT, "RAM has no room for the reset vector");
    int ret = dump_directory ? acpi_dump_tables(&acpi, dump_directory, err) : 0;
    return ret < 0 ? ret : acpi_write_tables(&acpi, board->parts.machine->mem, tables_gpa, err);
}

int board_boot(struct board *board, const struct boot_entry *entry, struct nido_error *err)
{
    return regs_set_entry(&board->parts.machine->vcpus[0], entry, err);
}

void board_press_power_button(struct board *board)
{
    acpi_pm_press_power_button(board->acpi_pm);
}
