/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x86-64 board. `slots` is its one list: board_create() and board_attach_virtio() fill it, the
 * buses and the ACPI tables are made from it.
 */
#include "arch/board.h"

#include "arch/x86/layout.h"
#include "arch/x86/regs.h"
#include "base/checked.h"
#include "base/log.h"
#include "devices/acpi_pm.h"
#include "devices/i8042.h"
#include "devices/power.h"
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
    struct machine *machine;
    struct power_switch power;
    struct pvpanic_listener panic;
    enum nido_on_panic on_panic;
    struct log_limit panics;
    struct irq serial_irq, power_button_irq;
    struct device *serial, *acpi_pm; /* the machine's */
    unsigned virtio_count;           /* attached */
    unsigned virtio_irq_count;       /* handed out; as many, or one more */
    struct irq virtio_irqs[ARRAY_SIZE(virtio_gsis)];
    unsigned slot_count;
    struct acpi_device slots[SLOTS_MAX];
    char slot_names[SLOTS_MAX][5];
};

static void switch_off(struct power_switch *power)
{
    struct board *board = container_of(power, struct board, power);
    machine_end(board->machine, NIDO_POWERED_OFF, NULL);
}

static void switch_reset(struct power_switch *power)
{
    struct board *board = container_of(power, struct board, power);
    machine_end(board->machine, NIDO_RESET, NULL);
}

static void on_panic(struct pvpanic_listener *listener, enum pvpanic_event event)
{
    struct board *board = container_of(listener, struct board, panic);
    if (event == PVPANIC_PANICKED && board->on_panic == NIDO_ON_PANIC_EXIT)
        machine_end(board->machine, NIDO_PANICKED,
                    "the guest's kernel panicked; its console has the message");
    else
        log_warn_limited(&board->panics, "the guest's kernel panicked%s; the machine goes on",
                         event == PVPANIC_CRASH_LOADED ? " and goes to its crash kernel" : "");
}

/* Gives the device to the machine, and its registers a place. */
static int place(struct board *board, struct device *device, struct bus *bus, uint64_t base,
                 uint32_t length_bytes, struct nido_error *err)
{
    int ret = machine_add_device(board->machine, device, err);
    return ret < 0 ? ret : bus_add(bus, base, length_bytes, device, err);
}

static int add_serial(struct board *board, struct nido_error *err)
{
    int ret = irq_init(&board->serial_irq, COM1_GSI, err);
    if (ret == 0)
        ret = machine_connect_irq(board->machine, &board->serial_irq, err);
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
    return place(board, board->serial, &board->machine->pio, COM1_PORT, SERIAL_8250_PORT_BYTES,
                 err);
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
    return place(board, rtc, &board->machine->pio, RTC_CMOS_PORT, RTC_CMOS_PORT_BYTES, err);
}

static int add_i8042(struct board *board, struct nido_error *err)
{
    struct device *i8042;
    int ret = i8042_create(&i8042, &board->power, err);
    return ret < 0 ? ret
                   : place(board, i8042, &board->machine->pio, I8042_PORT, I8042_PORT_BYTES, err);
}

static int add_acpi_pm(struct board *board, struct nido_error *err)
{
    int ret = irq_init(&board->power_button_irq, POWER_BUTTON_GSI, err);
    if (ret == 0)
        ret = machine_connect_irq(board->machine, &board->power_button_irq, err);
    if (ret == 0)
        ret = acpi_pm_create(&board->acpi_pm, &board->power, &board->power_button_irq, err);
    return ret < 0 ? ret
                   : place(board, board->acpi_pm, &board->machine->pio, ACPI_PM_PORT,
                           ACPI_PM_PORT_BYTES, err);
}

static int add_pvpanic(struct board *board, struct nido_error *err)
{
    struct device *pvpanic;
    int ret = pvpanic_create(&pvpanic, &board->panic, err);
    if (ret < 0)
        return ret;
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = "PEVT",
        .hid = PVPANIC_ACPI_HID,
        .space = ACPI_PIO,
        .base = PVPANIC_PORT,
        .length_bytes = PVPANIC_PORT_BYTES,
    };
    return place(board, pvpanic, &board->machine->pio, PVPANIC_PORT, PVPANIC_PORT_BYTES, err);
}

int board_create(struct board **out, struct machine *machine, struct nido_error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board)
        return error_set(err, ENOMEM, "out of memory");
    board->machine = machine;
    board->power = (struct power_switch){.off = switch_off, .reset = switch_reset};
    board->panic.happened = on_panic;
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
    for (unsigned i = 0; i < board->virtio_irq_count; i++)
        irq_finish(&board->virtio_irqs[i]);
    free(board);
}

struct stream_guest *board_console(struct board *board)
{
    return serial_8250_stream(board->serial);
}

void board_set_on_panic(struct board *board, enum nido_on_panic on_panic)
{
    board->on_panic = on_panic;
}

int board_next_irq(struct board *board, const struct irq **out, struct nido_error *err)
{
    unsigned index = board->virtio_count;
    if (index == ARRAY_SIZE(virtio_gsis))
        return error_set(err, ENOSPC, "this machine has room for %zu virtio devices",
                         ARRAY_SIZE(virtio_gsis));
    struct irq *irq = &board->virtio_irqs[index];
    if (index == board->virtio_irq_count) {
        int ret = irq_init(irq, virtio_gsis[index], err);
        if (ret < 0)
            return ret;
        board->virtio_irq_count++;
    }
    *out = irq;
    return 0;
}

static void add_virtio_slot(struct board *board, uint64_t base, unsigned gsi)
{
    char *name = board->slot_names[board->slot_count];
    snprintf(name, sizeof(board->slot_names[0]), "VR%02u", board->virtio_count % 100);
    board->slots[board->slot_count++] = (struct acpi_device){
        .name = name,
        .hid = "LNRO0005",
        .uid = board->virtio_count,
        .space = ACPI_MMIO,
        .base = base,
        .length_bytes = VIRTIO_MMIO_BYTES,
        .gsi = gsi,
        .has_gsi = true,
    };
}

/* A kick of queue i is a write of i to one register; KVM turns each into a signal of its
 * eventfd. */
static int connect_doorbells(struct machine *machine, const struct virtio_device *device,
                             uint64_t base, struct nido_error *err)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        int ret = machine_connect_doorbell(machine, base + VIRTIO_MMIO_NOTIFY_OFFSET, i,
                                           device->queues[i].kick_fd, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int board_attach_virtio(struct board *board, struct virtio_device *device, const struct irq *irq,
                        struct nido_error *err)
{
    uint64_t base = VIRTIO_MMIO_BASE_GPA + (uint64_t)board->virtio_count * VIRTIO_MMIO_BYTES;
    struct device *transport;
    int ret = virtio_mmio_create(&transport, device, err);
    if (ret < 0)
        return ret;
    ret = place(board, transport, &board->machine->mmio, base, VIRTIO_MMIO_BYTES, err);
    if (ret == 0)
        ret = machine_connect_irq(board->machine, irq, err);
    if (ret == 0)
        ret = connect_doorbells(board->machine, device, base, err);
    add_virtio_slot(board, base, irq->gsi);
    board->virtio_count++;
    return ret;
}

int board_finish(struct board *board, const char *dump_directory, uint64_t *tables_gpa,
                 struct nido_error *err)
{
    const struct acpi_machine acpi = {
        .cpus = board->machine->cpus,
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
    if (reset_vector_write(board->machine->mem) < 0)
        return error_set(err, EFAULT, "RAM has no room for the reset vector");
    int ret = dump_directory ? acpi_dump_tables(&acpi, dump_directory, err) : 0;
    return ret < 0 ? ret : acpi_write_tables(&acpi, board->machine->mem, tables_gpa, err);
}

int board_boot(struct board *board, const struct boot_entry *entry, struct nido_error *err)
{
    return regs_set_entry(&board->machine->vcpus[0], entry, err);
}

void board_press_power_button(struct board *board)
{
    acpi_pm_press_power_button(board->acpi_pm);
}
