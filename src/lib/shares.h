/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_SHARES_H
#define NIDO_LIB_SHARES_H

/* The directories that a machine shares: a virtio-fs device for each, and its loop thread. */

#include "devices/virtio/fs.h"

#include <nido/config.h>
#include <nido/machine.h>

struct shares {
    unsigned count;
    struct {
        struct loop *loop;
        struct virtio_device *device; /* the board's */
    } slots[NIDO_SHARES_MAX];
};

/* Opens the next one. The device belongs to the caller. */
int shares_add(struct shares *shares, const struct nido_config *config, const struct mem *mem,
               const struct irq *irq, struct virtio_device **device, struct nido_error *err);

int shares_start(struct shares *shares, struct nido_error *err);
void shares_stop(struct shares *shares);
void shares_destroy(struct shares *shares); /* after the devices */

/* Adds what they have moved. */
void shares_add_traffic(const struct shares *shares, struct nido_traffic *traffic);
/* Any thread. Adds at most `max` counters and returns how many. */
unsigned shares_counters(const struct shares *shares, struct nido_counter *counters, unsigned max);

#endif
