/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest with two CPUs: one drives the device through its registers, the other writes into the
 * rings and the descriptors all the time. Nothing can be asserted of what the device answers, only
 * that this process and the device survive: afterwards a proper driver gets service. The sanitizers
 * say the rest.
 */
#include "devices/virtio/rng.h"

#include "base/checked.h"
#include "base/clock.h"
#include "tests/unit/virtio_probe.h"

#include "cmocka_nido.h"

#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RUN_NS   1500000000ull
#define SIZE     16u
#define RING_GPA 0x8000ull /* every ring starts here or a little later */
#define FEATURES                                                                                   \
    (GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX) | GUEST_FEATURE(VIRTIO_RING_F_INDIRECT_DESC))

/* What a guest CPU writes obeys nobody's memory model; ThreadSanitizer is to look at us alone. */
#define GUEST_CPU __attribute__((no_sanitize_thread, noinline))

struct fixture {
    struct guest guest;
    struct virtio_probe *probe;
    _Atomic bool stop;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
};

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Mostly what could be right, so that the device gets further than the first check. */
GUEST_CPU static void scribble_desc(volatile struct vring_desc *desc, uint32_t *seed)
{
    uint32_t dice = next_random(seed);
    desc->addr = dice % 8 ? 0x1000 + next_random(seed) % 0x10000
                          : (uint64_t)next_random(seed) << (dice >> 8) % 33;
    desc->len = dice % 16 > 1 ? next_random(seed) % 512 / 16 * 16 : next_random(seed);
    desc->flags = (uint16_t)(dice >> 16 & 7);
    desc->next = (uint16_t)(next_random(seed) % (dice % 32 ? SIZE : 0x10000));
}

GUEST_CPU static void scribble(volatile struct vring_desc *desc, volatile struct vring_avail *avail,
                               volatile struct vring_used *used, uint32_t *seed)
{
    uint32_t dice = next_random(seed);
    scribble_desc(&desc[dice % SIZE], seed);
    avail->ring[next_random(seed) % (SIZE + 1)] = (uint16_t)(next_random(seed) % SIZE);
    if (dice % 4 == 0)
        avail->idx = (uint16_t)(avail->idx + 1);
    if (dice % 1024 == 1)
        avail->idx = (uint16_t)next_random(seed);
    if (dice % 64 == 2)
        avail->flags = (uint16_t)next_random(seed);
    if (dice % 128 == 3)
        ((volatile uint8_t *)used)[next_random(seed) % (6 + 8 * SIZE)] = (uint8_t)dice;
}

static void *run_second_cpu(void *self)
{
    struct fixture *f = self;
    uint32_t seed = 0x6e69646f;
    while (!atomic_load(&f->stop))
        scribble(f->desc, f->avail, f->used, &seed);
    return NULL;
}

/* All rounds lay out their rings in the same place. */
static void bring_up(struct fixture *f)
{
    f->guest.free_gpa = RING_GPA;
    guest_bring_up(&f->guest, FEATURES, f->guest.device->queue_count, SIZE);
}

static void drive_for_a_while(struct fixture *f)
{
    const uint64_t until_ns = clock_now_ns() + RUN_NS;
    for (unsigned i = 1; clock_now_ns() < until_ns; i++) {
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, i % PROBE_QUEUES);
        guest_wait_interrupt(&f->guest, i % 8 == 0);
        bool broken = guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
        if (broken || i % 256 == 0)
            bring_up(f);
    }
}

static void let_two_cpus_loose(struct fixture *f)
{
    pthread_t second;
    bring_up(f);
    f->desc = f->guest.rings[0].desc;
    f->avail = f->guest.rings[0].avail;
    f->used = f->guest.rings[0].used;
    atomic_store(&f->stop, false);
    assert_int_equal(pthread_create(&second, NULL, run_second_cpu, f), 0);
    drive_for_a_while(f);
    atomic_store(&f->stop, true);
    pthread_join(second, NULL);
    guest_reset(&f->guest);
}

/* Until here the RAM under the rings may hold anything. */
static void assert_serves_a_proper_driver(struct fixture *f)
{
    memset(guest_at(&f->guest, 0x1000, 0x100000), 0, 0x100000);
    f->guest.free_gpa = RING_GPA;
    guest_bring_up(&f->guest, FEATURES, 1, SIZE);
    guest_add(&f->guest.rings[0], &GUEST_IN(0x200000, 16), 1);
    guest_kick(&f->guest, 0);
    assert_int_equal(guest_wait_used(&f->guest, 0).written, 16);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
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

static void rng_survives_a_guest_that_changes_its_rings_all_the_time(void **state)
{
    struct fixture *f = *state;
    struct virtio_device *device;
    assert_int_equal(virtio_rng_create(&device, f->guest.mem, f->guest.loop, &f->guest.irq, NULL),
                     0);
    guest_attach(&f->guest, device);
    let_two_cpus_loose(f);
    assert_serves_a_proper_driver(f);
}

/* Uses everything a queue can do: reads, writes, chains put back, chains completed in another turn
 * and in another order. */
static uint16_t held[VIRTQ_SIZE_MAX];
static unsigned held_count;

static void complete_held(struct virtq *ring, unsigned leave)
{
    while (held_count > leave)
        virtq_push(ring, held[--held_count], 16);
}

static bool serve_one(struct virtq *ring, unsigned turn)
{
    static struct virtq_chain chain;
    uint8_t bytes[16];
    if (virtq_pop(ring, &chain) != 1)
        return false;
    if (virtq_chain_read(&chain, 0, bytes, sizeof(bytes)) < 0)
        memset(bytes, (int)turn, sizeof(bytes));
    virtq_chain_write(&chain, chain.in_bytes / 2, bytes, sizeof(bytes));
    if (turn % 8 == 0) {
        virtq_unpop(ring, 1);
        return false;
    }
    held[held_count++] = chain.head;
    return true;
}

static void serve(struct virtio_probe *probe, unsigned queue)
{
    struct virtq *ring = &probe->virtio.queues[queue].ring;
    static unsigned turn;
    if (queue != 0)
        return;
    /* What was held when the ring died is not ours any more. */
    if (ring->in_flight != held_count)
        held_count = 0;
    virtq_quiet(ring);
    while (serve_one(ring, turn++))
        ;
    complete_held(ring, turn % 4);
    virtio_flush(&probe->virtio, queue);
    virtq_listen(ring);
    if (!virtq_live(ring))
        virtio_broken(&probe->virtio, "nonsense");
}

static void virtio_survives_a_guest_that_changes_its_rings_all_the_time(void **state)
{
    struct fixture *f = *state;
    struct virtio_probe *probe = virtio_probe_create(&f->guest);
    probe->serve = serve;
    guest_attach(&f->guest, &probe->virtio);
    let_two_cpus_loose(f);
    assert_true(atomic_load(&probe->activated) > 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rng_survives_a_guest_that_changes_its_rings_all_the_time),
        TEST(virtio_survives_a_guest_that_changes_its_rings_all_the_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
