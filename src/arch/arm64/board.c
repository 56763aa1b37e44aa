/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arm64 board. `slots` is its one list: board_create() and board_attach_virtio() fill it, the
 * bus and the device tree are made from it. Power-off and reset are not devices: the guest asks
 * PSCI, which is KVM's, and KVM tells the vCPU's thread.
 */
#include "arch/board.h"

#include "arch/arm64/layout.h"
#include "arch/arm64/regs.h"
#include "arch/arm64/vm_arm64.h"
#include "arch/parts.h"
#include "base/checked.h"
#include "devices/rtc_pl031.h"
#include "devices/serial_8250.h"
#include "devices/virtio/button.h"
#include "devices/virtio/mmio.h"
#include "firmware/arm64/devicetree.h"
#include "firmware/arm64/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define VIRTIO_PLACES 32u
#define SLOTS_MAX     (VIRTIO_PLACES + 8u)
#define MPIDR_FIELDS  0xff00ffffffull

/* What a 16550's divisor divides; the guest's kernel wants to know, nothing depends on it. */
#define UART_CLOCK_HZ 1843200u

struct board {
    struct board_parts parts;
    struct irq serial_irq;
    struct device *serial;        /* the machine's */
    struct virtio_device *button; /* the same */
    uint8_t virtio_spis[VIRTIO_PLACES];
    unsigned slot_count;
    struct devicetree_device slots[SLOTS_MAX];
};

/* Gives the device to the machine, and puts it on the bus and on the list. */
static int place(struct board *board, struct device *device, const struct devicetree_device *slot,
                 struct nido_error *err)
{
    board->slots[board->slot_count++] = *slot;
    return parts_place(&board->parts, device, &board->parts.machine->mmio, slot->base,
                       slot->length_bytes, err);
}

static int add_serial(struct board *board, struct nido_error *err)
{
    static const struct devicetree_device slot = {
        .name = "serial",
        .compatible = "ns16550a",
        .base = UART_GPA,
        .length_bytes = SERIAL_8250_PORT_BYTES,
        .spi = UART_SPI,
        .has_spi = true,
        .is_console = true,
        .clock_hz = UART_CLOCK_HZ,
    };
    int ret = parts_connect_irq(&board->parts, &board->serial_irq, UART_SPI, err);
    if (ret == 0)
        ret = serial_8250_create(&board->serial, "serial0", &board->serial_irq, err);
    return ret < 0 ? ret : place(board, board->serial, &slot, err);
}

static int add_rtc(struct board *board, struct nido_error *err)
{
    static const struct devicetree_device slot = {
        .name = "rtc",
        .compatible = "arm,pl031",
        .base = RTC_GPA,
        .length_bytes = RTC_PL031_BYTES,
        .is_primecell = true,
    };
    struct device *rtc;
    int ret = rtc_pl031_create(&rtc, NULL, err);
    return ret < 0 ? ret : place(board, rtc, &slot, err);
}

static int add_pvpanic(struct board *board, struct nido_error *err)
{
    static const struct devicetree_device slot = {
        .name = "pvpanic",
        .compatible = "qemu,pvpanic-mmio",
        .base = PVPANIC_GPA,
        .length_bytes = PVPANIC_PORT_BYTES,
    };
    struct device *pvpanic;
    int ret = pvpanic_create(&pvpanic, &board->parts.panic, err);
    return ret < 0 ? ret : place(board, pvpanic, &slot, err);
}

int board_create(struct board **out, struct machine *machine, struct nido_error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board)
        return error_set(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < VIRTIO_PLACES; i++)
        board->virtio_spis[i] = (uint8_t)(VIRTIO_FIRST_SPI + i);
    board->parts = (struct board_parts){
        .virtio_base_gpa = VIRTIO_MMIO_BASE_GPA,
        .virtio_gsis = board->virtio_spis,
        .virtio_places = VIRTIO_PLACES,
    };
    parts_init(&board->parts, machine);
    board->serial_irq.fd = -1;
    /* The caller destroys it also after a failure: devices on the bus refer to it. */
    *out = board;
    int ret = add_serial(board, err);
    if (ret == 0)
        ret = add_rtc(board, err);
    if (ret == 0)
        ret = add_pvpanic(board, err);
    return ret;
}

void board_destroy(struct board *board)
{
    if (!board)
        return;
    irq_finish(&board->serial_irq);
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

int board_attach_virtio(struct board *board, struct virtio_device *device, const struct irq *irq,
                        struct nido_error *err)
{
    uint64_t base;
    int ret = parts_attach_virtio(&board->parts, device, irq, &base, err);
    if (ret < 0)
        return ret;
    board->slots[board->slot_count++] = (struct devicetree_device){
        .name = "virtio_mmio",
        .compatible = "virtio,mmio",
        .base = base,
        .length_bytes = VIRTIO_MMIO_BYTES,
        .spi = irq->gsi,
        .has_spi = true,
        .is_dma_coherent = true,
    };
    return 0;
}

/* A guest without them boots as well, with less to be random from. */
static void fill_seeds(struct devicetree_machine *tree)
{
    tree->has_seeds =
        getrandom(tree->rng_seed, sizeof(tree->rng_seed), 0) == sizeof(tree->rng_seed) &&
        getrandom(&tree->kaslr_seed, sizeof(tree->kaslr_seed), 0) == sizeof(tree->kaslr_seed);
}

static int read_mpidrs(const struct machine *machine, uint64_t *mpidrs, struct nido_error *err)
{
    for (unsigned i = 0; i < machine->cpus; i++) {
        int ret = regs_get(machine->vcpus[i].fd, REG_MPIDR, &mpidrs[i]);
        if (ret < 0)
            return error_errno(err, -ret, "vCPU %u: cannot read its number", i);
        mpidrs[i] &= MPIDR_FIELDS;
    }
    return 0;
}

/* Linux has drivers for keys on GPIO pins, and Debian's cloud kernels leave them out; virtio's input
 * devices they have. */
int board_add_loop_devices(struct board *board, struct loop *loop, struct nido_error *err)
{
    const struct irq *irq;
    int ret = board_next_irq(board, &irq, err);
    if (ret == 0)
        ret = virtio_button_create(&board->button, board->parts.machine->mem, loop, irq, err);
    return ret < 0 ? ret : board_attach_virtio(board, board->button, irq, err);
}

int board_finish(struct board *board, const char *dump_directory, uint64_t *tables_gpa,
                 struct nido_error *err)
{
    const struct machine *machine = board->parts.machine;
    const struct gic *gic = &machine->arch->gic;
    uint64_t mpidrs[NIDO_CPUS_MAX];
    struct devicetree_machine tree = {
        .cpus = machine->cpus,
        .mpidr = mpidrs,
        .ram_gpa = RAM_BASE_GPA,
        .ram_bytes = mem_total_bytes(machine->mem),
        .gic = gic->version == 2 ? DEVICETREE_GIC_V2 : DEVICETREE_GIC_V3,
        .gic_distributor_gpa = gic->distributor_gpa,
        .gic_distributor_bytes = gic->distributor_bytes,
        .gic_cpu_gpa = gic->cpu_gpa,
        .gic_cpu_bytes = gic->cpu_bytes,
        .devices = board->slots,
        .device_count = board->slot_count,
    };
    if (dump_directory)
        return error_set(err, ENOTSUP,
                         "--dump-acpi: this machine has a device tree and no ACPI tables; use "
                         "--dump-dtb");
    fill_seeds(&tree);
    *tables_gpa = DEVICETREE_GPA;
    int ret = read_mpidrs(machine, mpidrs, err);
    return ret < 0 ? ret : devicetree_write(&tree, machine->mem, DEVICETREE_GPA, err);
}

int board_boot(struct board *board, const struct boot_entry *entry, struct nido_error *err)
{
    return regs_set_entry(board->parts.machine->vcpus[0].fd, entry, err);
}

void board_press_power_button(struct board *board)
{
    virtio_button_press(board->button);
}
