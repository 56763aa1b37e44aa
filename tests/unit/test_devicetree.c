/* SPDX-License-Identifier: Apache-2.0 */
/* The device tree, as libfdt and dtc read it. */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/arm64/devicetree.h"
#include "firmware/arm64/layout.h"

#include "cmocka_nido.h"

#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES (16 * MIB)

static const struct devicetree_device devices[] = {
    {.name = "serial",
     .compatible = "ns16550a",
     .base = 0x9000000,
     .length_bytes = 8,
     .spi = 1,
     .has_spi = true,
     .is_console = true,
     .clock_hz = 1843200},
    {.name = "rtc",
     .compatible = "arm,pl031",
     .base = 0x9010000,
     .length_bytes = 0x1000,
     .is_primecell = true},
    {.name = "virtio_mmio",
     .compatible = "virtio,mmio",
     .base = 0xa000000,
     .length_bytes = 0x1000,
     .spi = 16,
     .has_spi = true,
     .is_dma_coherent = true},
};

static uint64_t mpidrs[DEVICETREE_CPUS_MAX];
static struct mem *mem;

static struct devicetree_machine machine_of(unsigned cpus, enum devicetree_gic gic)
{
    struct devicetree_machine machine = {
        .cpus = cpus,
        .mpidr = mpidrs,
        .ram_gpa = RAM_BASE_GPA,
        .ram_bytes = 9 * GIB,
        .gic = gic,
        .gic_distributor_gpa = 0x8000000,
        .gic_distributor_bytes = 0x10000,
        .gic_cpu_gpa = 0x80a0000,
        .gic_cpu_bytes = 0x20000 * cpus,
        .devices = devices,
        .device_count = ARRAY_SIZE(devices),
        .has_seeds = true,
        .rng_seed = {1, 2, 3},
        .kaslr_seed = 0x123456789abcdef0,
    };
    return machine;
}

static int start(void **state)
{
    struct mem_range range = {RAM_BASE_GPA, RAM_BYTES};
    for (unsigned i = 0; i < ARRAY_SIZE(mpidrs); i++)
        mpidrs[i] = i % 16 | i / 16 << 8;
    return mem_create(&mem, &range, 1, MEM_ANONYMOUS, NULL);
}

static int finish(void **state)
{
    mem_destroy(mem);
    return 0;
}

static const void *write_tree(const struct devicetree_machine *machine)
{
    struct nido_error err = {0};
    if (devicetree_write(machine, mem, DEVICETREE_GPA, &err) < 0)
        fail_msg("%s", err.text);
    const void *fdt = mem_for_read(mem, DEVICETREE_GPA, DEVICETREE_BYTES);
    assert_int_equal(fdt_check_full(fdt, DEVICETREE_BYTES), 0);
    return fdt;
}

static const void *property(const void *fdt, const char *path, const char *name, int length)
{
    int is = -1, node = fdt_path_offset(fdt, path);
    if (node < 0)
        fail_msg("%s: no such node", path);
    const void *value = fdt_getprop(fdt, node, name, &is);
    if (is != length)
        fail_msg("%s: %s has %d bytes, not %d", path, name, is, length);
    return value;
}

static uint32_t cell(const void *fdt, const char *path, const char *name, unsigned index,
                     unsigned count)
{
    const uint8_t *value = property(fdt, path, name, (int)count * 4);
    return get_be32(value + index * sizeof(uint32_t));
}

static uint64_t pair(const void *fdt, const char *path, const char *name, unsigned index,
                     unsigned count)
{
    const uint8_t *value = property(fdt, path, name, (int)count * 8);
    return get_be64(value + index * sizeof(uint64_t));
}

static void tree_says_what_the_board_is(void **state)
{
    const struct devicetree_machine machine = machine_of(2, DEVICETREE_GIC_V3);
    const void *fdt = write_tree(&machine);
    assert_int_equal(pair(fdt, "/memory@40000000", "reg", 0, 2), RAM_BASE_GPA);
    assert_int_equal(pair(fdt, "/memory@40000000", "reg", 1, 2), 9 * GIB);
    assert_string_equal(property(fdt, "/psci", "method", 4), "hvc");
    assert_string_equal(property(fdt, "/interrupt-controller@8000000", "compatible", 11),
                        "arm,gic-v3");
    assert_int_equal(pair(fdt, "/interrupt-controller@8000000", "reg", 2, 4), 0x80a0000);
    assert_int_equal(pair(fdt, "/interrupt-controller@8000000", "reg", 3, 4), 0x40000);
    assert_string_equal(property(fdt, "/chosen", "stdout-path", 16), "/serial@9000000");
    assert_int_equal(pair(fdt, "/chosen", "kaslr-seed", 0, 1), 0x123456789abcdef0);
    assert_memory_equal(property(fdt, "/chosen", "rng-seed", DEVICETREE_SEED), machine.rng_seed,
                        DEVICETREE_SEED);
}

static void tree_has_no_seeds_where_the_host_gave_none(void **state)
{
    struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    machine.has_seeds = false;
    const void *fdt = write_tree(&machine);
    int node = fdt_path_offset(fdt, "/chosen");
    assert_true(node >= 0);
    assert_null(fdt_getprop(fdt, node, "rng-seed", NULL));
    assert_null(fdt_getprop(fdt, node, "kaslr-seed", NULL));
}

static void tree_has_each_device_with_its_interrupt(void **state)
{
    const struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    const void *fdt = write_tree(&machine);
    assert_int_equal(pair(fdt, "/serial@9000000", "reg", 0, 2), 0x9000000);
    assert_int_equal(pair(fdt, "/serial@9000000", "reg", 1, 2), 8);
    assert_int_equal(cell(fdt, "/serial@9000000", "interrupts", 0, 3), 0);
    assert_int_equal(cell(fdt, "/serial@9000000", "interrupts", 1, 3), 1);
    assert_int_equal(cell(fdt, "/serial@9000000", "interrupts", 2, 3), 1);
    assert_int_equal(cell(fdt, "/virtio_mmio@a000000", "interrupts", 1, 3), 16);
    property(fdt, "/virtio_mmio@a000000", "dma-coherent", 0);
    assert_memory_equal(property(fdt, "/rtc@9010000", "compatible", 24), "arm,pl031\0arm,primecell",
                        24);
    assert_null(fdt_getprop(fdt, fdt_path_offset(fdt, "/rtc@9010000"), "interrupts", NULL));
    assert_int_equal(cell(fdt, "/rtc@9010000", "clocks", 0, 1),
                     fdt_get_phandle(fdt, fdt_path_offset(fdt, "/apb-pclk")));
}

static void tree_numbers_cpus_as_kvm_does(void **state)
{
    const struct devicetree_machine machine = machine_of(64, DEVICETREE_GIC_V3);
    const void *fdt = write_tree(&machine);
    assert_int_equal(cell(fdt, "/cpus/cpu@f", "reg", 0, 1), 0xf);
    assert_int_equal(cell(fdt, "/cpus/cpu@100", "reg", 0, 1), 0x100);
    assert_int_equal(cell(fdt, "/cpus/cpu@30f", "reg", 0, 1), 0x30f);
    unsigned count = 0;
    int node;
    fdt_for_each_subnode(node, fdt, fdt_path_offset(fdt, "/cpus")) count++;
    assert_int_equal(count, 64);
}

static void tree_of_a_gicv2_says_which_cpus_a_timer_is_for(void **state)
{
    const struct devicetree_machine machine = machine_of(3, DEVICETREE_GIC_V2);
    const void *fdt = write_tree(&machine);
    assert_string_equal(property(fdt, "/interrupt-controller@8000000", "compatible", 19),
                        "arm,cortex-a15-gic");
    assert_int_equal(cell(fdt, "/timer", "interrupts", 7, 12), 11);
    assert_int_equal(cell(fdt, "/timer", "interrupts", 8, 12), 0x704);
}

static void tree_takes_what_is_booted(void **state)
{
    const struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    const struct initrd initrd = {.gpa = 0x48000000, .length_bytes = 0x1234};
    const void *fdt = write_tree(&machine);
    assert_int_equal(devicetree_add_boot(mem, DEVICETREE_GPA, "a b=\"c d\"", &initrd, NULL), 0);
    assert_int_equal(fdt_check_full(fdt, DEVICETREE_BYTES), 0);
    assert_string_equal(property(fdt, "/chosen", "bootargs", 10), "a b=\"c d\"");
    assert_int_equal(cell(fdt, "/chosen", "linux,initrd-start", 0, 1), 0x48000000);
    assert_int_equal(cell(fdt, "/chosen", "linux,initrd-end", 0, 1), 0x48001234);
    /* One that ends beyond 4 GiB. */
    const struct initrd high = {.gpa = 0xfffff000, .length_bytes = 0x2000};
    assert_int_equal(devicetree_add_boot(mem, DEVICETREE_GPA, "a b=\"c d\"", &high, NULL), 0);
    assert_int_equal(cell(fdt, "/chosen", "linux,initrd-start", 0, 1), 0xfffff000);
    assert_int_equal(pair(fdt, "/chosen", "linux,initrd-end", 0, 1), 0x100001000);
}

static void tree_that_is_too_large_is_an_error(void **state)
{
    const unsigned count = 2000;
    struct devicetree_device *many = calloc(count, sizeof(*many));
    struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    struct nido_error err = {0};
    assert_non_null(many);
    for (unsigned i = 0; i < count; i++) {
        many[i] = devices[2];
        many[i].base += i * (uint64_t)0x1000;
    }
    machine.devices = many;
    machine.device_count = count;
    assert_true(devicetree_write(&machine, mem, DEVICETREE_GPA, &err) < 0);
    assert_non_null(strstr(err.text, "device tree: it cannot be built"));
    free(many);
}

static void tree_that_the_boot_data_burst_is_an_error(void **state)
{
    const struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    const struct initrd none = {0};
    struct nido_error err = {0};
    char *long_line = calloc(1, DEVICETREE_BYTES);
    assert_non_null(long_line);
    memset(long_line, 'x', DEVICETREE_BYTES - 1);
    write_tree(&machine);
    assert_true(devicetree_add_boot(mem, DEVICETREE_GPA, long_line, &none, &err) < 0);
    assert_non_null(strstr(err.text, "device tree: it cannot be built"));
    free(long_line);
}

static void tree_outside_of_ram_is_an_error(void **state)
{
    const struct devicetree_machine machine = machine_of(1, DEVICETREE_GIC_V3);
    const struct initrd none = {0};
    const uint64_t end = RAM_BASE_GPA + RAM_BYTES;
    assert_true(devicetree_write(&machine, mem, end - 16, NULL) < 0);
    assert_true(devicetree_add_boot(mem, end - 16, "", &none, NULL) < 0);
    assert_true(devicetree_add_boot(mem, RAM_BASE_GPA + 4 * MIB, "", &none, NULL) < 0);
    assert_true(devicetree_dump(mem, end - 16, "/dev/null", NULL) < 0);
    assert_true(devicetree_dump(mem, RAM_BASE_GPA + 4 * MIB, "/dev/null", NULL) < 0);
}

/* dtc knows rules of the bindings that libfdt does not, and says so on stderr. */
static void tree_is_one_that_dtc_finds_nothing_wrong_with(void **state)
{
    char path[] = "/tmp/nido-test-dtb.XXXXXX", command[128], output[256] = "";
    const struct initrd initrd = {.gpa = 0x48000000, .length_bytes = 0x1234};
    struct nido_error err = {0};
    if (system("dtc --version >/dev/null 2>&1") != 0)
        skip(); /* device-tree-compiler is not installed */
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (unsigned gic = DEVICETREE_GIC_V2; gic <= DEVICETREE_GIC_V3; gic++) {
        const struct devicetree_machine machine = machine_of(4, gic);
        write_tree(&machine);
        assert_int_equal(devicetree_add_boot(mem, DEVICETREE_GPA, "a=b", &initrd, NULL), 0);
        if (devicetree_dump(mem, DEVICETREE_GPA, path, &err) < 0)
            fail_msg("%s", err.text);
        snprintf(command, sizeof(command), "dtc -I dtb -O dts -o /dev/null %s 2>&1", path);
        FILE *dtc = popen(command, "re");
        assert_non_null(dtc);
        size_t said = fread(output, 1, sizeof(output) - 1, dtc);
        int status = pclose(dtc);
        if (said || status)
            fail_msg("%.*s", (int)said, output);
    }
    unlink(path);
    assert_true(devicetree_dump(mem, DEVICETREE_GPA, "/proc/no/such", &err) < 0);
    assert_non_null(strstr(err.text, "/proc/no/such"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tree_says_what_the_board_is),
        TEST(tree_has_no_seeds_where_the_host_gave_none),
        TEST(tree_has_each_device_with_its_interrupt),
        TEST(tree_numbers_cpus_as_kvm_does),
        TEST(tree_of_a_gicv2_says_which_cpus_a_timer_is_for),
        TEST(tree_takes_what_is_booted),
        TEST(tree_that_is_too_large_is_an_error),
        TEST(tree_that_the_boot_data_burst_is_an_error),
        TEST(tree_outside_of_ram_is_an_error),
        TEST(tree_is_one_that_dtc_finds_nothing_wrong_with),
    };
    return cmocka_run_group_tests_name("devicetree", tests, NULL, NULL);
}
