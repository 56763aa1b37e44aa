/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/x86/acpi.h"
#include "firmware/x86/aml.h"
#include "firmware/x86/layout.h"

#include "cmocka_nido.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES_MAX 64

static const struct acpi_device serial = {.name = "COM1",
                                          .hid = "PNP0501",
                                          .space = ACPI_PIO,
                                          .base = 0x3f8,
                                          .length_bytes = 8,
                                          .gsi = 4,
                                          .has_gsi = true};
static const struct acpi_device clock_device = {
    .name = "RTC_", .hid = "PNP0B00", .space = ACPI_PIO, .base = 0x70, .length_bytes = 2};

static struct acpi_machine machine_of(const struct acpi_device *devices, unsigned count)
{
    return (struct acpi_machine){
        .cpus = 2,
        .devices = devices,
        .device_count = count,
        .lapic_gpa = 0xfee00000,
        .ioapic_gpa = 0xfec00000,
        .power_button_gsi = 9,
        .sleep_control_port = 0x600,
        .sleep_status_port = 0x601,
        .reset_port = 0x602,
        .reset_value = 0x42,
        .s5_sleep_type = 5,
    };
}

/* A serial port, a clock and as many virtio devices as fit. */
static unsigned list_devices(struct acpi_device *list, char (*names)[5], unsigned count)
{
    list[0] = serial;
    list[1] = clock_device;
    for (unsigned i = 2; i < count; i++) {
        snprintf(names[i], 5, "VR%02u", i % 100);
        list[i] = (struct acpi_device){.name = names[i],
                                       .hid = "LNRO0005",
                                       .uid = i,
                                       .space = ACPI_MMIO,
                                       .base = 0xd0000000 + i * 0x1000,
                                       .length_bytes = 0x1000,
                                       .gsi = 5 + i % 18,
                                       .has_gsi = true};
    }
    return count;
}

static struct mem *ram_with_tables(const struct acpi_machine *machine)
{
    struct mem *mem = NULL;
    struct mem_range range = {0, 2 * MIB};
    struct nido_error err = {0};
    uint64_t rsdp = 0;
    assert_int_equal(mem_create(&mem, &range, 1, MEM_ANONYMOUS, &err), 0);
    if (acpi_write_tables(machine, mem, &rsdp, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(rsdp, ACPI_TABLES_GPA);
    return mem;
}

static void check_sum(const uint8_t *table, size_t length)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + table[i]);
    assert_int_equal(sum, 0);
}

/* As a kernel finds it: RSDP, XSDT, then by signature. */
static const uint8_t *find_table(const struct mem *mem, const char *signature)
{
    const uint8_t *rsdp = mem_for_read(mem, ACPI_TABLES_GPA, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    const uint8_t *xsdt = mem_for_read(mem, get_le64(rsdp + 24), 36);
    uint32_t length = get_le32(xsdt + 4);
    if (memcmp(signature, "XSDT", 4) == 0)
        return xsdt;
    for (uint32_t at = 36; at < length; at += 8) {
        const uint8_t *table = mem_for_read(mem, get_le64(xsdt + at), 36);
        assert_non_null(table);
        if (memcmp(table, signature, 4) == 0)
            return table;
        if (memcmp(table, "FACP", 4) == 0 && memcmp(signature, "DSDT", 4) == 0)
            return mem_for_read(mem, get_le64(table + 140), 36);
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void acpi_tables_add_up(void **state)
{
    const struct acpi_device devices[] = {serial, clock_device};
    struct acpi_machine machine = machine_of(devices, 2);
    struct mem *mem = ram_with_tables(&machine);
    check_sum(mem_for_read(mem, ACPI_TABLES_GPA, 20), 20);
    check_sum(mem_for_read(mem, ACPI_TABLES_GPA, 36), 36);
    static const char *const signatures[] = {"XSDT", "FACP", "APIC", "DSDT"};
    for (unsigned i = 0; i < ARRAY_SIZE(signatures); i++) {
        const uint8_t *table = find_table(mem, signatures[i]);
        check_sum(table, get_le32(table + 4));
    }
    mem_destroy(mem);
}

static void acpi_says_how_to_reset_and_power_off(void **state)
{
    struct acpi_machine machine = machine_of(&serial, 1);
    struct mem *mem = ram_with_tables(&machine);
    const uint8_t *fadt = find_table(mem, "FACP");
    const uint32_t HW_REDUCED = 1u << 20, RESET_REG_SUP = 1u << 10, BUTTON_IS_A_DEVICE = 1u << 4;
    uint32_t wanted = HW_REDUCED | RESET_REG_SUP | BUTTON_IS_A_DEVICE;
    assert_int_equal(get_le32(fadt + 4), 276);
    assert_int_equal(fadt[8], 6);
    assert_int_equal(get_le32(fadt + 112) & wanted, wanted);
    assert_int_equal(fadt[116], 1); /* in port space */
    assert_int_equal(get_le64(fadt + 120), 0x602);
    assert_int_equal(fadt[128], 0x42);
    assert_int_equal(get_le64(fadt + 248), 0x600);
    assert_int_equal(get_le64(fadt + 260), 0x601);
    mem_destroy(mem);
}

static void acpi_lists_each_cpu_and_the_ioapic(void **state)
{
    static const unsigned counts[] = {1, 2, 64, 255};
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        struct acpi_machine machine = machine_of(&serial, 1);
        machine.cpus = counts[i];
        struct mem *mem = ram_with_tables(&machine);
        const uint8_t *madt = find_table(mem, "APIC");
        assert_int_equal(get_le32(madt + 36), 0xfee00000);
        const uint8_t *at = madt + 44;
        for (unsigned cpu = 0; cpu < counts[i]; cpu++, at += 8) {
            const uint8_t entry[8] = {0, 8, (uint8_t)cpu, (uint8_t)cpu, 1};
            assert_memory_equal(at, entry, 8);
        }
        assert_int_equal(at[0], 1);
        assert_int_equal(get_le32(at + 4), 0xfec00000);
        assert_int_equal(get_le32(at + 8), 0); /* its first interrupt */
        assert_ptr_equal(at + 12, madt + get_le32(madt + 4));
        mem_destroy(mem);
    }
}

static void expect_error(const struct acpi_machine *machine, const char *sentence)
{
    struct nido_error err = {0};
    assert_true(acpi_dump_tables(machine, "/nonexistent", &err) < 0);
    if (!strstr(err.text, sentence))
        fail_msg("\"%s\" is not \"... %s ...\"", err.text, sentence);
}

static void acpi_refuses_what_it_cannot_describe(void **state)
{
    struct acpi_device device = serial;
    struct acpi_machine machine = machine_of(&device, 1);
    expect_error(&machine, "/nonexistent/rsdp.dat: cannot be written");
    machine.cpus = 256;
    expect_error(&machine, "no room for 256 CPUs");
    machine.cpus = 1;
    device.length_bytes = 256;
    expect_error(&machine, "device COM1");
    device.base = 0xffff;
    device.length_bytes = 2;
    expect_error(&machine, "device COM1");
    device.space = ACPI_MMIO;
    device.base = 0x100000000;
    expect_error(&machine, "device COM1");
}

static void acpi_refuses_more_devices_than_its_room(void **state)
{
    unsigned count = 3000;
    struct acpi_device *devices = calloc(count, sizeof(*devices));
    char(*names)[5] = calloc(count, sizeof(*names));
    assert_true(devices && names);
    list_devices(devices, names, count);
    struct acpi_machine machine = machine_of(devices, count);
    expect_error(&machine, "use fewer devices");
    free(devices);
    free(names);
}

/* Each size around the places where the length's encoding grows by a byte. */
static void aml_lengths_are_right_at_every_size(void **state)
{
    static const size_t bodies[] = {0, 58, 59, 60, 4088, 4089, 4090, 70000};
    static uint8_t bytes[100000];
    for (unsigned i = 0; i < ARRAY_SIZE(bodies); i++) {
        struct aml aml = {.bytes = bytes, .capacity = sizeof(bytes)};
        size_t mark = aml_scope_begin(&aml, "_SB_");
        for (size_t n = 0; n < bodies[i]; n++)
            aml_integer(&aml, 0);
        aml_end(&aml, mark);
        assert_false(aml.overflow);

        size_t extra = bytes[1] >> 6, length = bytes[1] & (extra ? 0x0f : 0x3f);
        for (size_t n = 0; n < extra; n++)
            length |= (size_t)bytes[2 + n] << (4 + 8 * n);
        assert_int_equal(length, aml.length - 1);
        assert_memory_equal(bytes + 2 + extra, "\\_SB_", 5);
    }
}

static void aml_never_writes_past_its_room(void **state)
{
    for (size_t capacity = 0; capacity < 64; capacity++) {
        uint8_t *bytes = malloc(capacity ? capacity : 1); /* a sanitizer watches its end */
        struct aml aml = {.bytes = bytes, .capacity = capacity};
        size_t mark = aml_device_begin(&aml, "COM1");
        aml_hid(&aml, "PNP0501");
        aml_name(&aml, "_CRS");
        size_t resources = aml_resources_begin(&aml);
        aml_io(&aml, 0x3f8, 8);
        aml_memory32(&aml, 0xd0000000, 4096);
        aml_interrupt(&aml, 4);
        aml_resources_end(&aml, resources);
        aml_end(&aml, mark);
        assert_true(aml.length <= capacity);
        assert_int_equal(aml.overflow, capacity < 57);
        free(bytes);
    }
}

static void aml_packs_an_eisa_id(void **state)
{
    uint8_t bytes[32];
    struct aml aml = {.bytes = bytes, .capacity = sizeof(bytes)};
    aml_hid(&aml, "PNP0C0C");
    const uint8_t wanted[] = {0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x0c, 0x0c};
    assert_int_equal(aml.length, sizeof(wanted));
    assert_memory_equal(bytes, wanted, sizeof(wanted));
}

/* Dumps the tables and lets ACPICA take them apart and put them together again: the same bytes must
 * come out, but for the header (36 bytes), which iasl signs itself. */
static void check_with_iasl(const struct acpi_machine *machine)
{
    char directory[] = "/tmp/nido-test-acpi.XXXXXX", command[512];
    struct nido_error err = {0};
    assert_non_null(mkdtemp(directory));
    if (acpi_dump_tables(machine, directory, &err) < 0)
        fail_msg("%s", err.text);
    /* The RSDP is no table that iasl would take by itself. */
    snprintf(command, sizeof(command),
             "cd %s && rm rsdp.dat && for t in *.dat; do iasl -d $t; done >log 2>&1 && "
             "iasl -ve dsdt.dsl >log2 2>&1 && iasl apic.dsl facp.dsl xsdt.dsl >>log2 2>&1 && "
             "! grep -E '(Warning|Error) +[0-9]|nvalid|ncorrect' log log2 && "
             "grep -q 'Compilation successful. 0 Errors, 0 Warnings' log2 && "
             "for t in apic facp xsdt; do cmp -i 36 $t.dat $t.aml || exit 1; done",
             directory);
    int status = system(command);
    if (status != 0) {
        snprintf(command, sizeof(command), "cat %s/log %s/log2", directory, directory);
        status = system(command) | 1;
    }
    snprintf(command, sizeof(command), "rm -r %s", directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(status, 0);
}

static void acpi_tables_pass_through_iasl_and_back(void **state)
{
    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        print_message("skipped: iasl is not installed (package acpica-tools)\n");
        skip();
    }
    static const unsigned counts[] = {2, 3, 40};
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        struct acpi_device devices[DEVICES_MAX];
        char names[DEVICES_MAX][5];
        struct acpi_machine machine = machine_of(devices, list_devices(devices, names, counts[i]));
        machine.s5_sleep_type = (uint8_t)i;
        check_with_iasl(&machine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acpi_tables_add_up),
        cmocka_unit_test(acpi_says_how_to_reset_and_power_off),
        cmocka_unit_test(acpi_lists_each_cpu_and_the_ioapic),
        cmocka_unit_test(acpi_refuses_what_it_cannot_describe),
        cmocka_unit_test(acpi_refuses_more_devices_than_its_room),
        cmocka_unit_test(acpi_tables_pass_through_iasl_and_back),
        cmocka_unit_test(aml_lengths_are_right_at_every_size),
        cmocka_unit_test(aml_never_writes_past_its_room),
        cmocka_unit_test(aml_packs_an_eisa_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
