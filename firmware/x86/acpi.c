/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One block of tables, the same in guest RAM and in a dump: RSDP, XSDT, FADT, MADT, DSDT, each on a
 * 64-byte boundary.
 *
 * Every object in the namespace costs the guest time at boot, so there is nothing in it that it can
 * do without: no processor devices (the MADT has them), no _STA (absent means present and working),
 * no methods but the power button's. Hardware-reduced means no fixed hardware: no PM timer, no SCI,
 * no FACS, and a kernel that does not look for a PIC or a PIT.
 */
#include "firmware/x86/acpi.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "firmware/x86/aml.h"
#include "firmware/x86/layout.h"

#include <errno.h>
#include <fcntl.h>

#define TABLE_ALIGNMENT   64u
#define HEADER_BYTES      36u
#define RSDP_BYTES        36u
#define FADT_BYTES        276u
#define MADT_BYTES        44u /* without its entries */
#define MADT_LAPIC_BYTES  8u
#define MADT_IOAPIC_BYTES 12u
#define CPUS_MAX          255u /* APIC ids of one byte; 255 means all */

enum table { RSDP, XSDT, FADT, MADT, DSDT, TABLES };

/* Where a table lies in the block. */
struct block {
    uint8_t *bytes;
    size_t capacity, length;
    struct {
        size_t at, length;
    } tables[TABLES];
};

static uint8_t checksum(const uint8_t *bytes, size_t length)
{
    uint8_t sum = 0;
    while (length--)
        sum = (uint8_t)(sum + *bytes++);
    return (uint8_t)-sum;
}

/* The next table's zeroed bytes, or NULL where the block is full. */
static uint8_t *begin(struct block *block, enum table table, size_t length)
{
    size_t at = align_up(block->length, TABLE_ALIGNMENT);
    if (!checked_inside(at, length, block->capacity))
        return NULL;
    block->tables[table].at = at;
    block->tables[table].length = length;
    block->length = at + length;
    return memset(block->bytes + at, 0, length);
}

static uint64_t gpa_of(const struct block *block, enum table table)
{
    return ACPI_TABLES_GPA + block->tables[table].at;
}

/* 5.2.6. The checksum comes last: it covers what the caller has filled in. */
static void finish(uint8_t *table, const char *signature, uint8_t revision, size_t length)
{
    memcpy(table, signature, 4);
    put_le32(table + 4, (uint32_t)length);
    table[8] = revision;
    memcpy(table + 10, "NIDO  ", 6);
    memcpy(table + 16, "NIDO    ", 8);
    put_le32(table + 24, 1);
    memcpy(table + 28, "NIDO", 4);
    put_le32(table + 32, 1);
    table[9] = 0;
    table[9] = checksum(table, length);
}

/* 5.2.3.2, a generic address: one byte in port space. */
static void put_port(uint8_t *at, uint16_t port)
{
    at[0] = 1; /* system I/O */
    at[1] = 8; /* bits wide */
    at[2] = 0;
    at[3] = 1; /* byte access */
    put_le64(at + 4, port);
}

static int write_device(struct aml *aml, const struct acpi_device *device, struct nido_error *err)
{
    uint64_t limit = device->space == ACPI_PIO ? 0x10000 : 4 * GIB;
    if (!checked_inside(device->base, device->length_bytes, limit) ||
        (device->space == ACPI_PIO && device->length_bytes > UINT8_MAX))
        return error_set(err, EINVAL, "acpi: device %s: 0x%x bytes at 0x%llx cannot be described",
                         device->name, device->length_bytes, (unsigned long long)device->base);

    size_t mark = aml_device_begin(aml, device->name);
    aml_hid(aml, device->hid);
    aml_name(aml, "_UID");
    aml_integer(aml, device->uid);
    if (device->length_bytes || device->has_gsi) {
        aml_name(aml, "_CRS");
        size_t resources = aml_resources_begin(aml);
        if (device->length_bytes && device->space == ACPI_PIO)
            aml_io(aml, (uint16_t)device->base, (uint8_t)device->length_bytes);
        else if (device->length_bytes)
            aml_memory32(aml, (uint32_t)device->base, device->length_bytes);
        if (device->has_gsi)
            aml_interrupt(aml, device->gsi);
        aml_resources_end(aml, resources);
    }
    aml_end(aml, mark);
    return 0;
}

/* 4.8.3.2 and 5.6.9: the generic event device's interrupt is the control-method button. */
static void write_power_button(struct aml *aml, unsigned gsi)
{
    size_t button = aml_device_begin(aml, "PWRB");
    aml_hid(aml, "PNP0C0C");
    aml_end(aml, button);

    size_t ged = aml_device_begin(aml, "GED_");
    aml_hid(aml, "ACPI0013");
    aml_name(aml, "_CRS");
    size_t resources = aml_resources_begin(aml);
    aml_interrupt(aml, gsi);
    aml_resources_end(aml, resources);
    size_t event = aml_method_begin(aml, "_EVT", 1);
    aml_notify(aml, "PWRB", 0x80);
    aml_end(aml, event);
    aml_end(aml, ged);
}

static int write_namespace(struct aml *aml, const struct acpi_machine *machine,
                           struct nido_error *err)
{
    /* 7.4.2: the value for the sleep control register, for the two registers of old. */
    aml_root_name(aml, "_S5_");
    size_t mark = aml_package_begin(aml, 2);
    aml_integer(aml, machine->s5_sleep_type);
    aml_integer(aml, machine->s5_sleep_type);
    aml_end(aml, mark);

    int r = 0;
    mark = aml_scope_begin(aml, "_SB_");
    for (unsigned i = 0; r == 0 && i < machine->device_count; i++)
        r = write_device(aml, &machine->devices[i], err);
    write_power_button(aml, machine->power_button_gsi);
    aml_end(aml, mark);
    return r;
}

static int no_room(struct nido_error *err)
{
    return error_set(err, ENOSPC, "acpi: the tables do not fit into %u bytes; use fewer devices",
                     ACPI_TABLES_BYTES);
}

/* 5.2.11.1. It comes last, for its length is known afterwards. */
static int write_dsdt(struct block *block, const struct acpi_machine *machine,
                      struct nido_error *err)
{
    uint8_t *table = begin(block, DSDT, HEADER_BYTES);
    if (!table)
        return no_room(err);
    struct aml aml = {.bytes = table + HEADER_BYTES, .capacity = block->capacity - block->length};
    int r = write_namespace(&aml, machine, err);
    if (r < 0)
        return r;
    if (aml.overflow)
        return no_room(err);
    block->tables[DSDT].length += aml.length;
    block->length += aml.length;
    finish(table, "DSDT", 2, HEADER_BYTES + aml.length); /* 2: integers of 64 bits */
    return 0;
}

/* 5.2.12. No PC-AT PICs, so neither the flag for them nor ISA interrupts that lie elsewhere. */
static int write_madt(struct block *block, const struct acpi_machine *machine,
                      struct nido_error *err)
{
    size_t length = MADT_BYTES + machine->cpus * MADT_LAPIC_BYTES + MADT_IOAPIC_BYTES;
    uint8_t *table = machine->cpus <= CPUS_MAX ? begin(block, MADT, length) : NULL;
    if (!table)
        return error_set(err, EINVAL, "acpi: no room for %u CPUs; the most is %u", machine->cpus,
                         CPUS_MAX);
    put_le32(table + 36, (uint32_t)machine->lapic_gpa);
    uint8_t *at = table + MADT_BYTES;
    for (unsigned i = 0; i < machine->cpus; i++, at += MADT_LAPIC_BYTES) {
        at[0] = 0;
        at[1] = MADT_LAPIC_BYTES;
        at[2] = (uint8_t)i; /* processor UID */
        at[3] = (uint8_t)i; /* APIC id */
        at[4] = 1;          /* enabled */
    }
    at[0] = 1;
    at[1] = MADT_IOAPIC_BYTES;
    put_le32(at + 4, (uint32_t)machine->ioapic_gpa);
    finish(table, "APIC", 5, length);
    return 0;
}

/* 5.2.9. What is left 0 is ignored in a hardware-reduced machine, or absent. */
static void write_fadt(uint8_t *table, const struct acpi_machine *machine, uint64_t dsdt_gpa)
{
    const uint32_t WBINVD = 1u << 0, PROC_C1 = 1u << 2, PWR_BUTTON = 1u << 4, SLP_BUTTON = 1u << 5,
                   RESET_REG_SUP = 1u << 10, HW_REDUCED_ACPI = 1u << 20;
    /* 5.2.9.3. Not set: 8042 (the reset pulse needs no driver), no MSI, no CMOS clock. */
    const uint16_t VGA_NOT_PRESENT = 1u << 2;

    put_le16(table + 109, VGA_NOT_PRESENT);
    put_le32(table + 112,
             WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | RESET_REG_SUP | HW_REDUCED_ACPI);
    put_port(table + 116, machine->reset_port);
    table[128] = machine->reset_value;
    table[131] = 4; /* of ACPI 6.4 */
    put_le64(table + 140, dsdt_gpa);
    put_port(table + 244, machine->sleep_control_port);
    put_port(table + 256, machine->sleep_status_port);
    memcpy(table + 268, "NIDO\0\0\0", 8); /* hypervisor vendor */
    finish(table, "FACP", 6, FADT_BYTES);
}

/* 5.2.8 */
static void write_xsdt(uint8_t *table, const struct block *block)
{
    put_le64(table + HEADER_BYTES, gpa_of(block, FADT));
    put_le64(table + HEADER_BYTES + 8, gpa_of(block, MADT));
    finish(table, "XSDT", 1, block->tables[XSDT].length);
}

/* 5.2.5.3: the first checksum covers ACPI 1.0's 20 bytes, the second all. */
static void write_rsdp(uint8_t *table, uint64_t xsdt_gpa)
{
    memcpy(table, "RSD PTR ", 8);
    memcpy(table + 9, "NIDO  ", 6);
    table[15] = 2;
    put_le32(table + 20, RSDP_BYTES);
    put_le64(table + 24, xsdt_gpa);
    table[8] = checksum(table, 20);
    table[32] = checksum(table, RSDP_BYTES);
}

static int write_block(struct block *block, const struct acpi_machine *machine,
                       struct nido_error *err)
{
    uint8_t *rsdp = begin(block, RSDP, RSDP_BYTES);
    uint8_t *xsdt = begin(block, XSDT, HEADER_BYTES + 2 * sizeof(uint64_t));
    uint8_t *fadt = begin(block, FADT, FADT_BYTES);
    if (!rsdp || !xsdt || !fadt)
        return no_room(err);

    int r = write_madt(block, machine, err);
    if (r == 0)
        r = write_dsdt(block, machine, err);
    if (r < 0)
        return r;
    write_fadt(fadt, machine, gpa_of(block, DSDT));
    write_xsdt(xsdt, block);
    write_rsdp(rsdp, gpa_of(block, XSDT));
    return 0;
}

int acpi_write_tables(const struct acpi_machine *machine, struct mem *mem, uint64_t *rsdp_gpa,
                      struct nido_error *err)
{
    struct block block = {
        .bytes = mem_for_write(mem, ACPI_TABLES_GPA, ACPI_TABLES_BYTES),
        .capacity = ACPI_TABLES_BYTES,
    };
    if (!block.bytes)
        return error_set(err, EFAULT, "acpi: no RAM at 0x%x; say more with --mem", ACPI_TABLES_GPA);
    int r = write_block(&block, machine, err);
    if (r == 0)
        *rsdp_gpa = gpa_of(&block, RSDP);
    return r;
}

static int dump_table(const struct block *block, enum table table, const char *directory,
                      struct nido_error *err)
{
    /* As acpidump -b names them. */
    static const char *const names[TABLES] = {"rsdp", "xsdt", "facp", "apic", "dsdt"};
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s.dat", directory, names[table]) >= (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "%s: the name is too long", directory);
    own_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_errno(err, errno, "%s: cannot be written", path);
    size_t length = block->tables[table].length;
    ssize_t n = write(fd, block->bytes + block->tables[table].at, length);
    if (n != (ssize_t)length)
        return error_errno(err, n < 0 ? errno : ENOSPC, "%s: cannot be written", path);
    return 0;
}

int acpi_dump_tables(const struct acpi_machine *machine, const char *directory,
                     struct nido_error *err)
{
    own_mem uint8_t *bytes = malloc(ACPI_TABLES_BYTES);
    if (!bytes)
        return error_set(err, ENOMEM, "acpi: the host has no memory left");
    struct block block = {.bytes = bytes, .capacity = ACPI_TABLES_BYTES};
    int r = write_block(&block, machine, err);
    for (enum table table = RSDP; r == 0 && table < TABLES; table++)
        r = dump_table(&block, table, directory, err);
    return r;
}
