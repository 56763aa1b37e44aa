/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a device: status, features, queues, kicks, failure, reset. */
#include "devices/virtio/virtio.h"

#include "base/checked.h"
#include "base/clock.h"
#include "tests/unit/virtio_probe.h"

#include "cmocka_nido.h"

#include <linux/virtio_mmio.h>
#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

#define ACKNOWLEDGE VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER      VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define FAILED      VIRTIO_CONFIG_S_FAILED
#define RUNNING     (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

struct fixture {
    struct guest guest;
    struct virtio_probe *probe;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    f->probe = virtio_probe_create(&f->guest);
    guest_attach(&f->guest, &f->probe->virtio);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    guest_finish(&f->guest);
    free(f);
    return 0;
}

static uint32_t status(struct fixture *f)
{
    return guest_read32(&f->guest, VIRTIO_MMIO_STATUS);
}

static uint32_t set_status(struct fixture *f, uint32_t value)
{
    guest_write32(&f->guest, VIRTIO_MMIO_STATUS, value);
    return status(f);
}

/* One try, as a vCPU makes it. */
static enum verdict try_status(struct fixture *f, uint32_t value)
{
    return f->guest.transport->ops->write(f->guest.transport, VIRTIO_MMIO_STATUS, 4, value);
}

/* ---- status and features ---- */

static void virtio_adds_status_bits_and_never_clears_them(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(status(f), 0);
    assert_int_equal(set_status(f, ACKNOWLEDGE), ACKNOWLEDGE);
    assert_int_equal(set_status(f, DRIVER), ACKNOWLEDGE | DRIVER);
    assert_int_equal(set_status(f, FAILED), ACKNOWLEDGE | DRIVER | FAILED);
    assert_int_equal(set_status(f, 0), 0);
}

static void virtio_keeps_needs_reset_to_itself(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_status(f, ACKNOWLEDGE | NEEDS_RESET), ACKNOWLEDGE);
}

static void virtio_refuses_features_it_did_not_offer(void **state)
{
    struct fixture *f = *state;
    for (unsigned bit = 0; bit < 64; bit++) {
        bool offered = f->probe->virtio.offered_features >> bit & 1;
        assert_int_equal(guest_negotiate(&f->guest, GUEST_FEATURE(bit)), offered);
    }
}

static void virtio_refuses_a_driver_without_version_1(void **state)
{
    struct fixture *f = *state;
    set_status(f, ACKNOWLEDGE | DRIVER);
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, 1u << PROBE_FEATURE);
    assert_int_equal(set_status(f, ACKNOWLEDGE | DRIVER | FEATURES_OK), ACKNOWLEDGE | DRIVER);
    /* It may think again. */
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    assert_int_equal(set_status(f, FEATURES_OK), ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

static void virtio_keeps_features_after_features_ok(void **state)
{
    struct fixture *f = *state;
    assert_true(guest_negotiate(&f->guest, GUEST_FEATURE(PROBE_FEATURE)));
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
    guest_driver_ok(&f->guest);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->features,
                     GUEST_FEATURE(PROBE_FEATURE) | GUEST_FEATURE(VIRTIO_F_VERSION_1));
}

static void virtio_needs_a_reset_after_driver_ok_without_features_ok(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_status(f, ACKNOWLEDGE | DRIVER | DRIVER_OK),
                     ACKNOWLEDGE | DRIVER | NEEDS_RESET);
    /* And stays so, whatever comes. */
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    assert_int_equal(set_status(f, RUNNING), ACKNOWLEDGE | DRIVER | FEATURES_OK | NEEDS_RESET);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->activated, 0);
    assert_int_equal(set_status(f, 0), 0);
    guest_bring_up(&f->guest, 0, 1, 8);
    assert_int_equal(f->probe->activated, 1);
}

/* ---- activation ---- */

static void virtio_activates_once(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, GUEST_FEATURE(PROBE_FEATURE), PROBE_QUEUES, 8);
    assert_int_equal(status(f), RUNNING);
    assert_int_equal(set_status(f, RUNNING), RUNNING);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->activated, 1);
}

static void check_only_queue_1_is_live(struct virtio_probe *probe)
{
    assert_false(virtq_live(&probe->virtio.queues[0].ring));
    assert_true(virtq_live(&probe->virtio.queues[1].ring));
}

static void virtio_runs_only_the_queues_that_are_ready(void **state)
{
    struct fixture *f = *state;
    assert_true(guest_negotiate(&f->guest, 0));
    guest_setup_queue(&f->guest, 0, 8);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 0);
    guest_setup_queue(&f->guest, 1, 8);
    guest_driver_ok(&f->guest);
    guest_kick(&f->guest, 0);
    guest_sync(&f->guest);
    virtio_probe_call(f->probe, check_only_queue_1_is_live);
    assert_int_equal(f->probe->kicks[0], 0);
}

static void virtio_freezes_queue_setups_at_driver_ok(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 8);
    struct virtq_setup before = f->probe->virtio.queues[0].setup;
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_SEL, 0);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NUM, 16);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_memory_equal(&f->probe->virtio.queues[0].setup, &before, sizeof(before));
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 1);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_SEL, 1);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void virtio_needs_a_reset_when_a_ready_queue_is_nonsense(void **state)
{
    struct fixture *f = *state;
    assert_true(guest_negotiate(&f->guest, 0));
    guest_setup_queue(&f->guest, 0, 8);
    guest_ring_init(&f->guest.rings[1], &f->guest, 8);
    f->guest.rings[1].used_gpa = GUEST_LOW_BYTES;
    guest_setup_queue(&f->guest, 1, 8);
    guest_driver_ok(&f->guest);
    guest_sync(&f->guest);
    assert_int_equal(status(f), RUNNING | NEEDS_RESET);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_CONFIG);
    guest_kick(&f->guest, 0);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->activated, 0);
    assert_int_equal(f->probe->kicks[0], 0);

    guest_bring_up(&f->guest, 0, PROBE_QUEUES, 8);
    assert_int_equal(status(f), RUNNING);
    assert_int_equal(f->probe->activated, 1);
    assert_int_equal(f->probe->deactivated, 0);
}

/* ---- kicks ---- */

static void virtio_kicks_each_live_queue_once_at_the_start(void **state)
{
    struct fixture *f = *state;
    assert_true(guest_negotiate(&f->guest, 0));
    guest_setup_queue(&f->guest, 1, 8);
    guest_driver_ok(&f->guest);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[0], 0);
    assert_int_equal(f->probe->kicks[1], 1);
}

static void virtio_passes_kicks_of_kvm_and_of_the_register(void **state)
{
    const uint64_t one = 1;
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, PROBE_QUEUES, 8);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[1], 2);
    assert_int_equal(write(f->probe->virtio.queues[0].kick_fd, &one, sizeof(one)), sizeof(one));
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[0], 2);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, PROBE_QUEUES);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, UINT32_MAX);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[0] + f->probe->kicks[1], 4);
}

static void virtio_ignores_kicks_before_the_start(void **state)
{
    struct fixture *f = *state;
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[0], 0);
}

/* ---- failure ---- */

static void break_it(struct virtio_probe *probe)
{
    virtio_broken(&probe->virtio, "a test broke it");
    virtio_broken(&probe->virtio, "and again");
}

static void virtio_broken_tells_the_driver_and_stops_looking(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 8);
    virtio_probe_call(f->probe, break_it);
    assert_int_equal(status(f), RUNNING | NEEDS_RESET);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_CONFIG);
    assert_int_equal(set_status(f, RUNNING), RUNNING | NEEDS_RESET);
    guest_add(&f->guest.rings[0], &GUEST_OUT(0x100000, 1), 1);
    guest_kick(&f->guest, 0);
    guest_sync(&f->guest);
    assert_int_equal(f->probe->kicks[0], 1);

    guest_bring_up(&f->guest, 0, 1, 8);
    assert_int_equal(f->probe->deactivated, 1);
    assert_int_equal(f->probe->activated, 2);
    assert_int_equal(status(f), RUNNING);
}

static void virtio_cannot_be_broken_while_it_rests(void **state)
{
    struct fixture *f = *state;
    virtio_probe_call(f->probe, break_it);
    assert_int_equal(status(f), 0);
    guest_bring_up(&f->guest, 0, 1, 8);
    assert_int_equal(status(f), RUNNING);
    virtio_probe_call(f->probe, break_it);
    assert_int_equal(status(f), RUNNING | NEEDS_RESET);
}

/* ---- reset ---- */

static void virtio_reset_forgets_everything(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, GUEST_FEATURE(PROBE_FEATURE), 1, 8);
    virtio_probe_call(f->probe, break_it);
    assert_int_equal(set_status(f, 0), 0);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(f->probe->virtio.driver_features, 0);
    assert_int_equal(f->probe->virtio.queues[0].setup.size, 0);
    assert_int_equal(try_status(f, 0), DEVICE_HANDLED); /* again, with nothing to do */
}

/* A request that is under way when the reset comes. */
static uint16_t held_head;

static void hold_one(struct virtio_probe *probe, unsigned queue)
{
    struct virtq_chain chain;
    if (virtq_pop(&probe->virtio.queues[queue].ring, &chain) == 1)
        held_head = chain.head;
}

static void complete_late(struct virtio_probe *probe)
{
    virtq_push(&probe->virtio.queues[0].ring, held_head, 1);
    virtio_flush(&probe->virtio, 0);
    virtio_idle(&probe->virtio);
}

static void say_idle(struct virtio_probe *probe)
{
    virtio_idle(&probe->virtio);
}

static void virtio_reset_stalls_until_the_device_is_idle(void **state)
{
    struct fixture *f = *state;
    f->probe->holds_back = true;
    f->probe->serve = hold_one;
    guest_bring_up(&f->guest, 0, 1, 8);
    const struct guest_ring ring = f->guest.rings[0];
    guest_add(&f->guest.rings[0], &GUEST_IN(0x100000, 1), 1);
    guest_kick(&f->guest, 0);
    guest_sync(&f->guest);

    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(try_status(f, 0), DEVICE_STALL);
        assert_int_equal(try_status(f, RUNNING), DEVICE_STALL);
        guest_sync(&f->guest);
    }
    assert_int_equal(f->probe->deactivated, 1);
    assert_int_equal(status(f), RUNNING);
    virtio_probe_call(f->probe, complete_late);
    assert_int_equal(try_status(f, 0), DEVICE_HANDLED);
    assert_int_equal(status(f), 0);
    assert_int_equal(ring.used->idx, 0);
    assert_int_equal(guest_wait_interrupt(&f->guest, 0), 0);

    assert_int_equal(set_status(f, ACKNOWLEDGE), ACKNOWLEDGE);
    virtio_probe_call(f->probe, say_idle); /* once too often does no harm */
    assert_int_equal(status(f), ACKNOWLEDGE);
    guest_bring_up(&f->guest, 0, 1, 8);
    assert_int_equal(f->probe->activated, 2);
}

static sem_t gate;

static void wait_at_gate(struct loop_task *task)
{
    while (sem_wait(&gate) < 0)
        ;
}

/* The loop is busy elsewhere while the driver says DRIVER_OK and thinks better of it. */
static void virtio_reset_overtakes_an_activation(void **state)
{
    struct fixture *f = *state;
    struct loop_task busy = {.run = wait_at_gate};
    sem_init(&gate, 0, 0);
    loop_post(f->guest.loop, &busy);
    assert_true(guest_negotiate(&f->guest, 0));
    guest_setup_queue(&f->guest, 0, 8);
    guest_driver_ok(&f->guest);
    assert_int_equal(try_status(f, 0), DEVICE_STALL);
    assert_int_equal(try_status(f, 0), DEVICE_STALL);
    sem_post(&gate);
    guest_sync(&f->guest);
    assert_int_equal(status(f), 0);
    assert_int_equal(f->probe->activated, 0);
    assert_int_equal(f->probe->deactivated, 0);
    guest_bring_up(&f->guest, 0, 1, 8);
    assert_int_equal(f->probe->activated, 1);
    sem_destroy(&gate);
}

static void virtio_starts_and_stops_many_times(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 1; i <= 200; i++) {
        guest_bring_up(&f->guest, 0, PROBE_QUEUES, 8);
        guest_kick(&f->guest, i % 2);
        guest_reset(&f->guest);
        assert_int_equal(f->probe->activated, i);
        assert_int_equal(f->probe->deactivated, i);
    }
}

static void virtio_device_can_be_destroyed_while_it_runs(void **state)
{
    struct fixture *f = *state;
    f->probe->holds_back = true;
    guest_bring_up(&f->guest, 0, PROBE_QUEUES, 8);
    guest_kick(&f->guest, 0);
    try_status(f, 0);
    /* tear_down() does it */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(virtio_adds_status_bits_and_never_clears_them),
        TEST(virtio_keeps_needs_reset_to_itself),
        TEST(virtio_refuses_features_it_did_not_offer),
        TEST(virtio_refuses_a_driver_without_version_1),
        TEST(virtio_keeps_features_after_features_ok),
        TEST(virtio_needs_a_reset_after_driver_ok_without_features_ok),
        TEST(virtio_activates_once),
        TEST(virtio_runs_only_the_queues_that_are_ready),
        TEST(virtio_freezes_queue_setups_at_driver_ok),
        TEST(virtio_needs_a_reset_when_a_ready_queue_is_nonsense),
        TEST(virtio_kicks_each_live_queue_once_at_the_start),
        TEST(virtio_passes_kicks_of_kvm_and_of_the_register),
        TEST(virtio_ignores_kicks_before_the_start),
        TEST(virtio_broken_tells_the_driver_and_stops_looking),
        TEST(virtio_cannot_be_broken_while_it_rests),
        TEST(virtio_reset_forgets_everything),
        TEST(virtio_reset_stalls_until_the_device_is_idle),
        TEST(virtio_reset_overtakes_an_activation),
        TEST(virtio_starts_and_stops_many_times),
        TEST(virtio_device_can_be_destroyed_while_it_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
