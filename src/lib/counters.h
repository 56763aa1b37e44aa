/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_COUNTERS_H
#define NIDO_LIB_COUNTERS_H

/* What a machine has done so far, as names and numbers. Any thread: the counters have one writer each. */

#include "devices/virtio/virtio.h"
#include "vm/machine.h"

#include <nido/machine.h>

uint64_t counters_all_exits(const struct machine *machine);

/* Adds what the disks and networks among the devices have moved. */
void counters_add_traffic(struct virtio_device *const *devices, unsigned device_count,
                          struct nido_traffic *traffic);

/* Fills at most `max` and returns how many. */
unsigned counters_fill(const struct machine *machine, struct virtio_device *const *devices,
                       unsigned device_count, struct nido_counter *counters, unsigned max);

#endif
