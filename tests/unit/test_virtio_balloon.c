/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/checked.h"
#include "devices/virtio/balloon.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE      4096u
#define FIRST_GPA 0x200000u /* what the tests give up; guest_alloc() does not come here */
#define EVENT_IDX GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define STATS     GUEST_FEATURE(VIRTIO_BALLOON_F_STATS_VQ)
#define REPORTING GUEST_FEATURE(VIRTIO_BALLOON_F_REPORTING)
#define POISON    GUEST_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON)

enum { INFLATE, DEFLATE, STATS_QUEUE, REPORT_PACKED, REPORT, QUEUES };

struct fixture {
    struct guest guest;
    struct virtio_device *device;
};

static int set_up_with(void **state, const struct virtio_balloon_options *options)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    if (virtio_balloon_create(&f->device, options, f->guest.mem, f->guest.loop, &f->guest.irq,
                              NULL) < 0)
        return -1;
    guest_attach(&f->guest, f->device);
    *state = f;
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(state, &(struct virtio_balloon_options){.reporting = true});
}

static int set_up_plain(void **state)
{
    return set_up_with(
        state, &(struct virtio_balloon_options){.target_bytes = 5 * PAGE, .stats_interval_s = 1});
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    guest_finish(&f->guest);
    free(f);
    return 0;
}

static uint8_t *page_at(const struct fixture *f, unsigned page)
{
    return guest_at(&f->guest, FIRST_GPA + (uint64_t)page * PAGE, PAGE);
}

static void fill(const struct fixture *f, unsigned pages)
{
    memset(guest_at(&f->guest, FIRST_GPA, (size_t)pages * PAGE), 0xa5, (size_t)pages * PAGE);
}

static bool is_discarded(const struct fixture *f, unsigned page)
{
    const uint8_t *bytes = page_at(f, page);
    for (unsigned i = 1; i < PAGE; i++)
        assert_int_equal(bytes[i], bytes[0]);
    return bytes[0] == 0;
}

static struct guest_used serve(struct fixture *f, unsigned queue, struct guest_buffer buffer)
{
    guest_add(&f->guest.rings[queue], &buffer, 1);
    guest_kick(&f->guest, queue);
    return guest_wait_used(&f->guest, queue);
}

static void inflate(struct fixture *f, const uint32_t *pfns, unsigned count)
{
    uint64_t gpa = guest_alloc(&f->guest, (uint64_t)count * 4, 4);
    for (unsigned i = 0; i < count; i++)
        put_le32(guest_at(&f->guest, gpa + 4ull * i, 4), pfns[i]);
    assert_int_equal(serve(f, INFLATE, GUEST_OUT(gpa, count * 4)).written, 0);
}

static struct nido_balloon_stats stats_of(struct fixture *f)
{
    struct nido_balloon_stats stats;
    virtio_balloon_stats(f->device, &stats);
    return stats;
}

static uint32_t config_at(struct fixture *f, unsigned offset)
{
    uint8_t bytes[4];
    guest_read_config(&f->guest, offset, bytes, sizeof(bytes));
    return get_le32(bytes);
}

static void balloon_discards_what_the_guest_gives_up_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    const uint32_t first = FIRST_GPA / PAGE;
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    fill(f, 8);
    /* Any order, twice the same, and a lone one. */
    inflate(f, (uint32_t[]){first + 3, first + 2, first + 1, first + 2, first + 6}, 5);
    static const bool expected[] = {false, true, true, true, false, false, true, false};
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(is_discarded(f, i), expected[i]);
    assert_int_equal(stats_of(f).inflated_bytes, 4 * PAGE);
}

static void balloon_ignores_pages_that_are_not_there(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    fill(f, 1);
    inflate(f,
            (uint32_t[]){UINT32_MAX, 0x80000, FIRST_GPA / PAGE, (uint32_t)(GUEST_LOW_BYTES / PAGE)},
            4);
    assert_true(is_discarded(f, 0));
    assert_int_equal(stats_of(f).inflated_bytes, PAGE);
    assert_false(guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* More than a turn does, with a stray byte behind it. */
static void balloon_takes_long_lists_and_odd_ones(void **state)
{
    struct fixture *f = *state;
    const unsigned count = 5000;
    guest_bring_up(&f->guest, EVENT_IDX, QUEUES, 16);
    fill(f, 16);
    uint64_t gpa = guest_alloc(&f->guest, 4 * count + 1, 4);
    for (unsigned i = 0; i < count; i++)
        put_le32(guest_at(&f->guest, gpa + 4ull * i, 4), FIRST_GPA / PAGE + i % 16);
    serve(f, INFLATE, GUEST_OUT(gpa, 4 * count + 1));
    for (unsigned i = 0; i < 16; i++)
        assert_true(is_discarded(f, i));
    serve(f, INFLATE, GUEST_OUT(gpa, 3));
    serve(f, INFLATE, GUEST_IN(gpa, 4));
}

static void balloon_answers_deflating(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(serve(f, DEFLATE, GUEST_OUT(0x100000, 1024)).written, 0);
}

static void balloon_tells_the_guest_of_a_new_target(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    assert_int_equal(config_at(f, 0), 0);
    virtio_balloon_set_target(f->device, 3 * MIB);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_CONFIG);
    assert_int_equal(config_at(f, 0), 3 * MIB / PAGE);
    guest_write32(&f->guest, VIRTIO_MMIO_CONFIG + 4, 700);
    assert_int_equal(config_at(f, 4), 700);
    assert_int_equal(stats_of(f).actual_bytes, 700 * PAGE);
    assert_int_equal(stats_of(f).target_bytes, 3 * MIB);
    /* Its own number is not the guest's to write. */
    guest_write32(&f->guest, VIRTIO_MMIO_CONFIG, 1);
    assert_int_equal(config_at(f, 0), 3 * MIB / PAGE);
    guest_reset(&f->guest);
    assert_int_equal(config_at(f, 4), 0);
}

static void balloon_discards_free_pages_that_are_reported(void **state)
{
    struct fixture *f = *state;
    for (unsigned queue = REPORT_PACKED; queue <= REPORT; queue++) {
        guest_bring_up(&f->guest, REPORTING, QUEUES, 16);
        fill(f, 8);
        const struct guest_buffer buffers[] = {
            GUEST_IN(FIRST_GPA, 2 * PAGE),
            GUEST_IN(FIRST_GPA + 3 * PAGE + 1, 3 * PAGE), /* two whole pages */
            GUEST_IN(FIRST_GPA + 7 * PAGE, PAGE - 1),     /* none */
        };
        guest_add(&f->guest.rings[queue], buffers, ARRAY_SIZE(buffers));
        guest_kick(&f->guest, queue);
        guest_wait_used(&f->guest, queue);
        static const bool expected[] = {true, true, false, false, true, true, false, false};
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(is_discarded(f, i), expected[i]);
    }
    assert_int_equal(stats_of(f).reported_bytes, 8 * PAGE);
}

static void balloon_leaves_poisoned_pages_alone(void **state)
{
    struct fixture *f = *state;
    assert_true(guest_negotiate(&f->guest, REPORTING | POISON));
    guest_write32(&f->guest, VIRTIO_MMIO_CONFIG + 12, 0xa5a5a5a5);
    for (unsigned i = 0; i < QUEUES; i++)
        guest_setup_queue(&f->guest, i, 16);
    guest_driver_ok(&f->guest);
    fill(f, 4);
    serve(f, REPORT, GUEST_IN(FIRST_GPA, 4 * PAGE));
    for (unsigned i = 0; i < 4; i++)
        assert_false(is_discarded(f, i));
    guest_bring_up(&f->guest, REPORTING, QUEUES, 16);
    serve(f, REPORT, GUEST_IN(FIRST_GPA, 4 * PAGE));
    assert_true(is_discarded(f, 3));
}

/* The rings themselves may be given up, or reported while they are in use. */
static void balloon_survives_a_guest_that_gives_up_its_rings(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, REPORTING, QUEUES, 16);
    uint32_t pfn = (uint32_t)(f->guest.rings[INFLATE].used_gpa / PAGE);
    uint64_t gpa = guest_alloc(&f->guest, 4, 4);
    put_le32(guest_at(&f->guest, gpa, 4), pfn);
    guest_add(&f->guest.rings[INFLATE], &GUEST_OUT(gpa, 4), 1);
    guest_add(&f->guest.rings[REPORT], &GUEST_IN(0, GUEST_LOW_BYTES), 1);
    guest_kick(&f->guest, REPORT);
    guest_kick(&f->guest, INFLATE);
    guest_sync(&f->guest);
    guest_reset(&f->guest);
    guest_bring_up(&f->guest, REPORTING, QUEUES, 16);
    fill(f, 1);
    inflate(f, (uint32_t[]){FIRST_GPA / PAGE}, 1);
    assert_true(is_discarded(f, 0));
}

static void balloon_needs_a_reset_after_a_ring_of_nonsense(void **state)
{
    struct fixture *f = *state;
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        guest_bring_up(&f->guest, REPORTING | STATS, QUEUES, 16);
        guest_add_head(&f->guest.rings[queue], 99);
        guest_kick(&f->guest, queue);
        assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS),
                         VIRTIO_INTERRUPT_CONFIG);
        assert_true(guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
}

/* ---- statistics ---- */

static uint64_t put_stats(struct fixture *f, uint64_t gpa, uint64_t free_bytes)
{
    static const uint16_t tags[] = {VIRTIO_BALLOON_S_MEMFREE, 999, VIRTIO_BALLOON_S_MAJFLT};
    const uint64_t values[] = {free_bytes, 1, 77};
    for (unsigned i = 0; i < ARRAY_SIZE(tags); i++) {
        uint8_t *at = guest_at(&f->guest, gpa + 10ull * i, 10);
        put_le16(at, tags[i]);
        put_le64(at + 2, values[i]);
    }
    return 10 * ARRAY_SIZE(tags);
}

static void offer_stats(struct fixture *f, uint64_t gpa, uint64_t free_bytes)
{
    uint64_t length = put_stats(f, gpa, free_bytes);
    guest_add(&f->guest.rings[STATS_QUEUE], &GUEST_OUT(gpa, length), 1);
    guest_kick(&f->guest, STATS_QUEUE);
    guest_sync(&f->guest);
}

static void balloon_asks_for_statistics_when_it_is_asked(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    guest_bring_up(&f->guest, STATS, QUEUES, 16);
    uint64_t gpa = guest_alloc(&f->guest, 100, 2);
    assert_false(stats_of(f).known);
    guest_sync(&f->guest);
    offer_stats(f, gpa, 1234567);
    assert_false(guest_take_used(&f->guest.rings[STATS_QUEUE], &used)); /* it is kept */
    struct nido_balloon_stats stats = stats_of(f);
    assert_true(stats.known);
    assert_int_equal(stats.free_bytes, 1234567);
    assert_int_equal(stats.major_faults, 77);
    assert_int_equal(stats.cache_bytes, 0);
    guest_wait_used(&f->guest, STATS_QUEUE);
    offer_stats(f, gpa, 7654321);
    assert_int_equal(stats_of(f).free_bytes, 7654321);
}

static void balloon_keeps_one_buffer_of_statistics(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, STATS, QUEUES, 16);
    uint64_t gpa = guest_alloc(&f->guest, 100, 2);
    offer_stats(f, gpa, 1);
    for (unsigned i = 0; i < 100; i++) {
        offer_stats(f, gpa, 2);
        guest_wait_used(&f->guest, STATS_QUEUE);
    }
}

static void balloon_takes_nonsense_for_statistics(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, STATS, QUEUES, 16);
    uint64_t gpa = guest_alloc(&f->guest, 65536, 2);
    memset(guest_at(&f->guest, gpa, 65536), 0xff, 65536);
    static const uint32_t lengths[] = {0, 1, 9, 11, 65536};
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        guest_add(&f->guest.rings[STATS_QUEUE], &GUEST_OUT(gpa, lengths[i]), 1);
        guest_kick(&f->guest, STATS_QUEUE);
        guest_sync(&f->guest);
        stats_of(f);
        guest_wait_used(&f->guest, STATS_QUEUE);
    }
}

static void balloon_asks_for_statistics_by_itself(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, STATS, 3, 16);
    uint64_t gpa = guest_alloc(&f->guest, 100, 2);
    offer_stats(f, gpa, 1);
    guest_wait_used(&f->guest, STATS_QUEUE);
}

static void balloon_offers_what_it_was_told_to(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BALLOON);
    assert_false(guest_device_features(&f->guest) & REPORTING);
    assert_int_equal(config_at(f, 0), 5);
}

#define TEST(name)       cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_PLAIN(name) cmocka_unit_test_setup_teardown(name, set_up_plain, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(balloon_discards_what_the_guest_gives_up_and_nothing_else),
        TEST(balloon_ignores_pages_that_are_not_there),
        TEST(balloon_takes_long_lists_and_odd_ones),
        TEST(balloon_answers_deflating),
        TEST(balloon_tells_the_guest_of_a_new_target),
        TEST(balloon_discards_free_pages_that_are_reported),
        TEST(balloon_leaves_poisoned_pages_alone),
        TEST(balloon_survives_a_guest_that_gives_up_its_rings),
        TEST(balloon_needs_a_reset_after_a_ring_of_nonsense),
        TEST(balloon_asks_for_statistics_when_it_is_asked),
        TEST(balloon_keeps_one_buffer_of_statistics),
        TEST(balloon_takes_nonsense_for_statistics),
        TEST_PLAIN(balloon_asks_for_statistics_by_itself),
        TEST_PLAIN(balloon_offers_what_it_was_told_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
