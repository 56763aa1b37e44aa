/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_BUS_H
#define NIDO_VM_BUS_H

/*
 * A bus maps addresses to devices. The machine has two: port I/O (16-bit addresses) and MMIO.
 * Ranges are added while the board is built and do not change while vCPUs run, so dispatch takes no
 * lock.
 */

#include "base/error.h"
#include "vm/device.h"

#include <stdint.h>

#define BUS_RANGES_MAX 64

struct bus_range {
    uint64_t base;
    uint64_t length_bytes;
    struct device *device;
};

struct bus {
    const char *name; /* "pio" or "mmio" */
    unsigned count;
    struct bus_range ranges[BUS_RANGES_MAX]; /* ascending, disjoint */
};

void bus_init(struct bus *bus, const char *name);

/* Fails with -EBUSY where the range overlaps one that is there, naming both devices. */
int bus_add(struct bus *bus, uint64_t base, uint64_t length_bytes, struct device *device,
            struct nido_error *err);

/* `size_bytes` is 1 to 8. What no device answers reads as all ones; a rate-limited debug line
 * tells. */
enum verdict bus_read(struct bus *bus, uint64_t address, unsigned size_bytes, uint64_t *value);
enum verdict bus_write(struct bus *bus, uint64_t address, unsigned size_bytes, uint64_t value);

#endif
