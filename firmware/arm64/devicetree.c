/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/arm64/devicetree.h"

#include "base/own.h"
#include "firmware/arm64/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PHANDLE_GIC       1u
#define PHANDLE_BUS_CLOCK 2u
#define BUS_CLOCK_HZ      24000000u

/* bindings/interrupt-controller/arm,gic.yaml: three cells, type, number, flags. */
#define GIC_SPI           0u
#define GIC_PPI           1u
#define IRQ_EDGE_RISING   1u
#define IRQ_LEVEL_HIGH    4u
#define GIC_V2_CPUS_SHIFT 8u
#define GIC_V2_CPUS_MAX   8u

/* BSA 1.0, "PPI assignments": what the timers interrupt with, less the 16 SGIs. */
#define PPI_TIMER_SECURE   13u
#define PPI_TIMER_PHYSICAL 14u
#define PPI_TIMER_VIRTUAL  11u
#define PPI_TIMER_HYP      10u

#define NODE_NAME_BYTES 40u

/* Tree under way. After the first failure the other calls do nothing, so only the end is checked. */
struct tree {
    void *fdt;
    int error; /* libfdt's */
};

static void keep(struct tree *tree, int error)
{
    if (tree->error == 0)
        tree->error = error;
}

static void begin(struct tree *tree, const char *name)
{
    if (tree->error == 0)
        keep(tree, fdt_begin_node(tree->fdt, name));
}

static void begin_at(struct tree *tree, const char *name, uint64_t gpa)
{
    char with_address[NODE_NAME_BYTES];
    snprintf(with_address, sizeof(with_address), "%s@%llx", name, (unsigned long long)gpa);
    begin(tree, with_address);
}

static void end(struct tree *tree)
{
    if (tree->error == 0)
        keep(tree, fdt_end_node(tree->fdt));
}

static void bytes(struct tree *tree, const char *name, const void *value, size_t length)
{
    if (tree->error == 0)
        keep(tree, fdt_property(tree->fdt, name, value, (int)length));
}

static void flag(struct tree *tree, const char *name)
{
    bytes(tree, name, NULL, 0);
}

static void string(struct tree *tree, const char *name, const char *value)
{
    bytes(tree, name, value, strlen(value) + 1);
}

static void cells(struct tree *tree, const char *name, const uint32_t *values, unsigned count)
{
    fdt32_t raw[16];
    for (unsigned i = 0; i < count; i++)
        raw[i] = cpu_to_fdt32(values[i]);
    bytes(tree, name, raw, count * sizeof(raw[0]));
}

#define CELLS(tree, name, ...)                                                                     \
    cells(tree, name, (const uint32_t[]){__VA_ARGS__},                                             \
          sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

#define TWO_CELLS(value) (uint32_t)((value) >> 32), (uint32_t)(value)

static void add_cpus(struct tree *tree, const struct devicetree_machine *machine)
{
    begin(tree, "cpus");
    CELLS(tree, "#address-cells", 1);
    CELLS(tree, "#size-cells", 0);
    for (unsigned i = 0; i < machine->cpus; i++) {
        begin_at(tree, "cpu", machine->mpidr[i]);
        string(tree, "device_type", "cpu");
        string(tree, "compatible", "arm,armv8");
        CELLS(tree, "reg", (uint32_t)machine->mpidr[i]);
        string(tree, "enable-method", "psci");
        end(tree);
    }
    end(tree);
}

static void add_psci(struct tree *tree)
{
    static const char compatible[] = "arm,psci-1.0\0arm,psci-0.2";
    begin(tree, "psci");
    bytes(tree, "compatible", compatible, sizeof(compatible));
    string(tree, "method", "hvc");
    end(tree);
}

static void add_gic(struct tree *tree, const struct devicetree_machine *machine)
{
    begin_at(tree, "interrupt-controller", machine->gic_distributor_gpa);
    string(tree, "compatible",
           machine->gic == DEVICETREE_GIC_V3 ? "arm,gic-v3" : "arm,cortex-a15-gic");
    CELLS(tree, "#interrupt-cells", 3);
    flag(tree, "interrupt-controller");
    CELLS(tree, "reg", TWO_CELLS(machine->gic_distributor_gpa),
          TWO_CELLS(machine->gic_distributor_bytes), TWO_CELLS(machine->gic_cpu_gpa),
          TWO_CELLS(machine->gic_cpu_bytes));
    CELLS(tree, "#address-cells", 2);
    CELLS(tree, "#size-cells", 2);
    flag(tree, "ranges");
    CELLS(tree, "phandle", PHANDLE_GIC);
    end(tree);
}

/* bindings/timer/arm,arch_timer.yaml. Version 2 of the GIC wants to know which CPUs a PPI is for. */
static void add_timer(struct tree *tree, const struct devicetree_machine *machine)
{
    uint32_t flags = IRQ_LEVEL_HIGH;
    if (machine->gic == DEVICETREE_GIC_V2)
        flags |= ((1u << (machine->cpus < GIC_V2_CPUS_MAX ? machine->cpus : GIC_V2_CPUS_MAX)) - 1)
                 << GIC_V2_CPUS_SHIFT;
    begin(tree, "timer");
    string(tree, "compatible", "arm,armv8-timer");
    CELLS(tree, "interrupts", GIC_PPI, PPI_TIMER_SECURE, flags, GIC_PPI, PPI_TIMER_PHYSICAL, flags,
          GIC_PPI, PPI_TIMER_VIRTUAL, flags, GIC_PPI, PPI_TIMER_HYP, flags);
    flag(tree, "always-on");
    end(tree);
}

static void add_bus_clock(struct tree *tree)
{
    begin(tree, "apb-pclk");
    string(tree, "compatible", "fixed-clock");
    CELLS(tree, "#clock-cells", 0);
    CELLS(tree, "clock-frequency", BUS_CLOCK_HZ);
    CELLS(tree, "phandle", PHANDLE_BUS_CLOCK);
    end(tree);
}

/* bindings/arm/primecell.yaml. */
static void add_primecell(struct tree *tree, const char *compatible)
{
    char both[64];
    int n = snprintf(both, sizeof(both), "%s%carm,primecell", compatible, 0);
    bytes(tree, "compatible", both, (size_t)n + 1);
    CELLS(tree, "clocks", PHANDLE_BUS_CLOCK);
    string(tree, "clock-names", "apb_pclk");
}

static void add_device(struct tree *tree, const struct devicetree_device *device)
{
    begin_at(tree, device->name, device->base);
    if (device->is_primecell)
        add_primecell(tree, device->compatible);
    else
        string(tree, "compatible", device->compatible);
    CELLS(tree, "reg", TWO_CELLS(device->base), TWO_CELLS((uint64_t)device->length_bytes));
    if (device->has_spi)
        CELLS(tree, "interrupts", GIC_SPI, device->spi, IRQ_EDGE_RISING);
    if (device->clock_hz)
        CELLS(tree, "clock-frequency", device->clock_hz);
    if (device->is_dma_coherent)
        flag(tree, "dma-coherent");
    end(tree);
}

static void add_chosen(struct tree *tree, const struct devicetree_machine *machine)
{
    begin(tree, "chosen");
    for (unsigned i = 0; i < machine->device_count; i++) {
        char path[NODE_NAME_BYTES];
        if (!machine->devices[i].is_console)
            continue;
        snprintf(path, sizeof(path), "/%s@%llx", machine->devices[i].name,
                 (unsigned long long)machine->devices[i].base);
        string(tree, "stdout-path", path);
    }
    if (machine->has_seeds) {
        bytes(tree, "rng-seed", machine->rng_seed, sizeof(machine->rng_seed));
        CELLS(tree, "kaslr-seed", TWO_CELLS(machine->kaslr_seed));
    }
    end(tree);
}

static void add_memory(struct tree *tree, const struct devicetree_machine *machine)
{
    begin_at(tree, "memory", machine->ram_gpa);
    string(tree, "device_type", "memory");
    CELLS(tree, "reg", TWO_CELLS(machine->ram_gpa), TWO_CELLS(machine->ram_bytes));
    end(tree);
}

static void add_all(struct tree *tree, const struct devicetree_machine *machine)
{
    begin(tree, "");
    string(tree, "compatible", "linux,dummy-virt");
    string(tree, "model", "nido");
    CELLS(tree, "#address-cells", 2);
    CELLS(tree, "#size-cells", 2);
    CELLS(tree, "interrupt-parent", PHANDLE_GIC);
    add_chosen(tree, machine);
    add_memory(tree, machine);
    add_cpus(tree, machine);
    add_psci(tree);
    add_gic(tree, machine);
    add_timer(tree, machine);
    add_bus_clock(tree);
    for (unsigned i = 0; i < machine->device_count; i++)
        add_device(tree, &machine->devices[i]);
    end(tree);
}

static int failed(int error, struct nido_error *err)
{
    return error_set(err, EINVAL, "device tree: it cannot be built: %s", fdt_strerror(error));
}

static int build(const struct devicetree_machine *machine, void *buffer, struct nido_error *err)
{
    struct tree tree = {.fdt = buffer};
    keep(&tree, fdt_create(buffer, DEVICETREE_BYTES));
    if (tree.error == 0)
        keep(&tree, fdt_finish_reservemap(buffer));
    add_all(&tree, machine);
    if (tree.error == 0)
        keep(&tree, fdt_finish(buffer));
    return tree.error ? failed(tree.error, err) : 0;
}

int devicetree_write(const struct devicetree_machine *machine, struct mem *mem, uint64_t gpa,
                     struct nido_error *err)
{
    void *buffer = calloc(1, DEVICETREE_BYTES);
    if (!buffer)
        return error_set(err, ENOMEM, "device tree: out of memory");
    int ret = build(machine, buffer, err);
    if (ret == 0 && mem_write(mem, gpa, buffer, fdt_totalsize(buffer)) < 0)
        ret = error_set(err, EFAULT, "device tree: no RAM at 0x%llx", (unsigned long long)gpa);
    free(buffer);
    return ret;
}

/* One cell where that holds it, as the schema of /chosen has it; Linux takes either. */
static int set_address(void *fdt, int node, const char *name, uint64_t gpa)
{
    return gpa <= UINT32_MAX ? fdt_setprop_u32(fdt, node, name, (uint32_t)gpa)
                             : fdt_setprop_u64(fdt, node, name, gpa);
}

static int set_boot(void *fdt, const char *cmdline, const struct initrd *initrd)
{
    int error = fdt_open_into(fdt, fdt, DEVICETREE_BYTES);
    int chosen = error ? error : fdt_path_offset(fdt, "/chosen");
    if (chosen < 0)
        return chosen;
    error = fdt_setprop_string(fdt, chosen, "bootargs", cmdline);
    if (error == 0 && initrd->length_bytes)
        error = set_address(fdt, chosen, "linux,initrd-start", initrd->gpa);
    if (error == 0 && initrd->length_bytes)
        error = set_address(fdt, chosen, "linux,initrd-end", initrd->gpa + initrd->length_bytes);
    return error ? error : fdt_pack(fdt);
}

int devicetree_add_boot(struct mem *mem, uint64_t gpa, const char *cmdline,
                        const struct initrd *initrd, struct nido_error *err)
{
    void *fdt = mem_for_write(mem, gpa, DEVICETREE_BYTES);
    if (!fdt)
        return error_set(err, EFAULT, "device tree: no RAM at 0x%llx", (unsigned long long)gpa);
    int error = set_boot(fdt, cmdline, initrd);
    return error ? failed(error, err) : 0;
}

int devicetree_dump(struct mem *mem, uint64_t gpa, const char *path, struct nido_error *err)
{
    const void *fdt = mem_for_read(mem, gpa, DEVICETREE_BYTES);
    if (!fdt || fdt_check_header(fdt) != 0)
        return error_set(err, EINVAL, "device tree: there is none at 0x%llx",
                         (unsigned long long)gpa);
    own_file FILE *file = fopen(path, "we");
    if (!file || fwrite(fdt, fdt_totalsize(fdt), 1, file) != 1 || fflush(file) != 0)
        return error_errno(err, errno, "device tree: cannot be written to %s", path);
    return 0;
}
