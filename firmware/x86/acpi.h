/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_ACPI_H
#define NIDO_FIRMWARE_X86_ACPI_H

/*
 * ACPI 6.4 tables for a hardware-reduced machine: RSDP, XSDT, FADT, MADT, DSDT, made from the
 * board's one list of devices.
 */

#include "base/error.h"
#include "vm/mem.h"

#include <stdbool.h>
#include <stdint.h>

enum acpi_space { ACPI_PIO, ACPI_MMIO };

/* One device of the DSDT. */
struct acpi_device {
    const char *name; /* four characters, unique: "COM1", "VR00" */
    const char *hid;  /* "LNRO0005", "PNP0501" */
    unsigned uid;
    enum acpi_space space;
    uint64_t base;
    uint32_t length_bytes; /* 0: no register range */
    unsigned gsi;          /* edge-triggered, active high */
    bool has_gsi;
};

struct acpi_machine {
    unsigned cpus; /* APIC ids 0 .. cpus - 1 */
    const struct acpi_device *devices;
    unsigned device_count;
    uint64_t lapic_gpa, ioapic_gpa;
    /* The generic event device (ACPI0013) that announces the power button. */
    unsigned power_button_gsi;
    /* Sleep control, sleep status and reset registers: one byte each in port space. */
    uint16_t sleep_control_port, sleep_status_port, reset_port;
    uint8_t reset_value;
    uint8_t s5_sleep_type;
};

/* Writes the tables at ACPI_TABLES_GPA; *rsdp_gpa is where the RSDP went. */
int acpi_write_tables(const struct acpi_machine *machine, struct mem *mem, uint64_t *rsdp_gpa,
                      struct nido_error *err);

/* Writes each table to DIRECTORY/apic.dat and so on, as iasl -d takes them. The directory must
 * exist. */
int acpi_dump_tables(const struct acpi_machine *machine, const char *directory,
                     struct nido_error *err);

#endif
