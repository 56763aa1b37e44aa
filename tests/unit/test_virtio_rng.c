/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/virtio/rng.h"

#include "base/checked.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_IDX GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  GUEST_FEATURE(VIRTIO_RING_F_INDIRECT_DESC)

struct fixture {
    struct guest guest;
    struct guest_ring *ring;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct virtio_device *device;
    guest_init(&f->guest);
    f->ring = &f->guest.rings[0];
    if (virtio_rng_create(&device, f->guest.mem, f->guest.loop, &f->guest.irq, NULL) < 0)
        return -1;
    guest_attach(&f->guest, device);
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

/* Of 64 random bytes, more than 16 zeroes come once in 10^18 tries. */
static bool looks_random(const struct fixture *f, uint64_t gpa)
{
    const uint8_t *bytes = guest_at(&f->guest, gpa, 64);
    unsigned zeroes = 0;
    for (unsigned i = 0; i < 64; i++)
        zeroes += bytes[i] == 0;
    return zeroes <= 16;
}

static struct guest_used ask(struct fixture *f, const struct guest_buffer *buffers, unsigned count)
{
    guest_add(f->ring, buffers, count);
    guest_kick(&f->guest, 0);
    return guest_wait_used(&f->guest, 0);
}

static void rng_is_an_entropy_device_without_config(void **state)
{
    struct fixture *f = *state;
    uint64_t value;
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
    assert_int_equal(
        f->guest.transport->ops->read(f->guest.transport, VIRTIO_MMIO_CONFIG, 1, &value),
        DEVICE_UNHANDLED);
}

static void rng_fills_the_buffer(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 16);
    uint64_t gpa = guest_alloc(&f->guest, 65, 1);
    struct guest_used used = ask(f, &GUEST_IN(gpa, 64), 1);
    assert_int_equal(used.written, 64);
    assert_true(looks_random(f, gpa));
    assert_int_equal(*(uint8_t *)guest_at(&f->guest, gpa + 64, 1), 0);
}

static void rng_interrupts_when_it_is_done(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    guest_bring_up(&f->guest, 0, 1, 16);
    guest_add(f->ring, &GUEST_IN(0x100000, 64), 1);
    guest_kick(&f->guest, 0);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_QUEUE);
    assert_true(guest_take_used(f->ring, &used));
}

static void rng_fills_all_parts_of_a_chain_and_reads_none(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, EVENT_IDX | INDIRECT, 1, 16);
    uint64_t out = guest_alloc(&f->guest, 64, 1);
    uint64_t a = guest_alloc(&f->guest, 64, 1), b = guest_alloc(&f->guest, 64, 1);
    const struct guest_buffer buffers[] = {GUEST_OUT(out, 64), GUEST_IN(a, 64), GUEST_IN(b, 64)};
    const char zero[64] = {0};
    guest_add_indirect(f->ring, buffers, ARRAY_SIZE(buffers));
    guest_kick(&f->guest, 0);
    assert_int_equal(guest_wait_used(&f->guest, 0).written, 128);
    assert_true(looks_random(f, a));
    assert_true(looks_random(f, b));
    assert_memory_equal(guest_at(&f->guest, out, 64), zero, 64);
}

static void rng_completes_chains_without_room(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 16);
    assert_int_equal(ask(f, &GUEST_OUT(0x100000, 16), 1).written, 0);
    assert_int_equal(ask(f, &GUEST_IN(0x100000, 0), 1).written, 0);
}

static void rng_gives_64_kib_at_a_time(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 16);
    uint64_t gpa = guest_alloc(&f->guest, 1 << 20, 8);
    const struct guest_buffer buffers[] = {GUEST_IN(gpa, 40000), GUEST_IN(gpa + 40000, 1 << 19)};
    assert_int_equal(ask(f, buffers, 2).written, 65536);
    assert_true(looks_random(f, gpa + 65536 - 64));
    assert_int_equal(*(uint64_t *)guest_at(&f->guest, gpa + 65536, 8), 0);
}

/* More than one turn's worth, so that it has to come back by itself. */
static void rng_serves_a_full_queue_after_one_kick(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, EVENT_IDX, 1, 64);
    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i < 64; i++)
            guest_add(f->ring, &GUEST_IN(0x100000 + 64 * i, 64), 1);
        guest_kick_if_wanted(&f->guest, 0);
        for (unsigned i = 0; i < 64; i++)
            assert_int_equal(guest_wait_used(&f->guest, 0).written, 64);
    }
}

/* A driver that kicks only when asked to and sleeps between interrupts: a lost one would hang. */
static void rng_loses_no_kick_and_no_interrupt(void **state)
{
    struct fixture *f = *state;
    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        guest_bring_up(&f->guest, event_idx ? EVENT_IDX : 0, 1, 4);
        for (unsigned done = 0, asked = 0; done < 20000;) {
            struct guest_used used;
            for (; asked - done < 4; asked++)
                guest_add(f->ring, &GUEST_IN(0x100000 + asked % 4, 1), 1);
            guest_kick_if_wanted(&f->guest, 0);
            if (!guest_take_used(f->ring, &used)) {
                assert_int_not_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), 0);
                continue;
            }
            done++;
        }
        guest_reset(&f->guest);
    }
}

static void rng_needs_a_reset_after_a_ring_of_nonsense(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 16);
    guest_add_head(f->ring, 99);
    guest_kick(&f->guest, 0);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_CONFIG);
    assert_true(guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);

    guest_bring_up(&f->guest, 0, 1, 16);
    uint64_t gpa = guest_alloc(&f->guest, 64, 1);
    assert_int_equal(ask(f, &GUEST_IN(gpa, 64), 1).written, 64);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rng_is_an_entropy_device_without_config),
        TEST(rng_fills_the_buffer),
        TEST(rng_interrupts_when_it_is_done),
        TEST(rng_fills_all_parts_of_a_chain_and_reads_none),
        TEST(rng_completes_chains_without_room),
        TEST(rng_gives_64_kib_at_a_time),
        TEST(rng_serves_a_full_queue_after_one_kick),
        TEST(rng_loses_no_kick_and_no_interrupt),
        TEST(rng_needs_a_reset_after_a_ring_of_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
