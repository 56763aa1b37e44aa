/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_ARM64_DEVICETREE_H
#define NIDO_FIRMWARE_ARM64_DEVICETREE_H

/*
 * The flattened device tree (Devicetree Specification 0.4; the nodes follow Linux's
 * Documentation/devicetree/bindings), made from the board's one list of devices. It is written in
 * two steps: the board knows the machine, the boot loader what it loads.
 */

#include "base/error.h"
#include "firmware/initrd.h"
#include "vm/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICETREE_CPUS_MAX 64u
#define DEVICETREE_SEED     64u

enum devicetree_gic { DEVICETREE_GIC_V2, DEVICETREE_GIC_V3 };

/* One device with a register block. */
struct devicetree_device {
    const char *name;       /* of the node, without its address: "serial" */
    const char *compatible; /* "ns16550a" */
    uint64_t base;
    uint32_t length_bytes;
    unsigned spi; /* edge-triggered, active high; counted from 0 */
    bool has_spi;
    bool is_primecell;    /* one of Arm's, which wants a bus clock */
    bool is_dma_coherent; /* reads and writes RAM as a CPU does */
    bool is_console;      /* where the kernel's first words go */
    uint32_t clock_hz;    /* of a UART; 0: none */
};

struct devicetree_machine {
    unsigned cpus;
    const uint64_t *mpidr; /* each CPU's affinity fields; below 2^32 */
    uint64_t ram_gpa, ram_bytes;
    enum devicetree_gic gic;
    uint64_t gic_distributor_gpa, gic_distributor_bytes;
    uint64_t gic_cpu_gpa, gic_cpu_bytes; /* version 2: CPU interfaces, 3: redistributors */
    const struct devicetree_device *devices;
    unsigned device_count;
    /* Random bytes for the kernel's pool and for the place that it moves itself to. It believes
     * them, so there are none rather than any. */
    bool has_seeds;
    uint8_t rng_seed[DEVICETREE_SEED];
    uint64_t kaslr_seed;
};

/* Writes the tree of a machine, without what is booted on it, to `gpa`, DEVICETREE_BYTES at most. */
int devicetree_write(const struct devicetree_machine *machine, struct mem *mem, uint64_t gpa,
                     struct nido_error *err);

/* Adds to the tree at `gpa` what is booted. */
int devicetree_add_boot(struct mem *mem, uint64_t gpa, const char *cmdline,
                        const struct initrd *initrd, struct nido_error *err);

/* Writes the tree at `gpa` to a file, as dtc -I dtb takes it. */
int devicetree_dump(struct mem *mem, uint64_t gpa, const char *path, struct nido_error *err);

#endif
