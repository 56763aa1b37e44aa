/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_VIRTIO_PROBE_H
#define NIDO_TESTS_UNIT_VIRTIO_PROBE_H

/* A virtio device that counts what happens to it, for the tests of virtio.c and mmio.c. */

#include "devices/virtio/virtio.h"
#include "tests/unit/guest_driver.h"

#define PROBE_ID           42u
#define PROBE_FEATURE      3u /* the one that it offers */
#define PROBE_QUEUES       2u
#define PROBE_SIZE_MAX     64u
#define PROBE_CONFIG_BYTES 13u

struct virtio_probe {
    struct virtio_device virtio;
    _Atomic unsigned activated, deactivated;
    _Atomic unsigned kicks[PROBE_QUEUES];
    _Atomic uint64_t features; /* as they were in activate */
    /* Set before guest_attach(). */
    bool holds_back; /* deactivate does not answer; the test calls virtio_idle() */
    void (*serve)(struct virtio_probe *probe, unsigned queue); /* what a kick does; may be NULL */
    uint8_t config[PROBE_CONFIG_BYTES];                        /* under virtio.lock */
};

/* Not attached yet; the device frees itself when it is destroyed. */
struct virtio_probe *virtio_probe_create(struct guest *guest);

/* Runs a function on the loop thread and waits for it. */
void virtio_probe_call(struct virtio_probe *probe, void (*run)(struct virtio_probe *probe));

#endif
