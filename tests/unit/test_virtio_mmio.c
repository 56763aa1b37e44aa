/* SPDX-License-Identifier: Apache-2.0 */
/* The registers. What they set in motion is in test_virtio.c. */
#include "devices/virtio/mmio.h"

#include "base/checked.h"
#include "tests/unit/virtio_probe.h"

#include "cmocka_nido.h"

#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    struct guest guest;
    struct virtio_probe *probe;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    f->probe = virtio_probe_create(&f->guest);
    for (unsigned i = 0; i < PROBE_CONFIG_BYTES; i++)
        f->probe->config[i] = (uint8_t)(0xa0 + i);
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

static enum verdict read_at(struct fixture *f, uint64_t offset, unsigned size, uint64_t *value)
{
    return f->guest.transport->ops->read(f->guest.transport, offset, size, value);
}

static enum verdict write_at(struct fixture *f, uint64_t offset, unsigned size, uint64_t value)
{
    return f->guest.transport->ops->write(f->guest.transport, offset, size, value);
}

static void mmio_tells_who_it_is(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_ID), PROBE_ID);
    uint32_t vendor = htole32(guest_read32(&f->guest, VIRTIO_MMIO_VENDOR_ID));
    assert_memory_equal(&vendor, "NIDO", 4);
    assert_string_equal(f->guest.transport->name, "probe");
}

static void mmio_offers_features_word_by_word(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_device_features(&f->guest),
                     1ull << PROBE_FEATURE | 1ull << VIRTIO_F_VERSION_1 |
                         1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC);
    for (uint32_t word = 2; word; word <<= 1) {
        guest_write32(&f->guest, VIRTIO_MMIO_DEVICE_FEATURES_SEL, word);
        assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_FEATURES), 0);
        guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
        guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
    }
    assert_int_equal(f->probe->virtio.driver_features, 0);
}

static void mmio_handles_aligned_words_only(void **state)
{
    static const unsigned sizes[] = {1, 2, 8};
    struct fixture *f = *state;
    uint64_t value;
    for (uint64_t offset = 0; offset < VIRTIO_MMIO_CONFIG; offset++) {
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            assert_int_equal(read_at(f, offset, sizes[i], &value), DEVICE_UNHANDLED);
            assert_int_equal(write_at(f, offset, sizes[i], 0), DEVICE_UNHANDLED);
        }
        if (offset % 4) {
            assert_int_equal(read_at(f, offset, 4, &value), DEVICE_UNHANDLED);
            assert_int_equal(write_at(f, offset, 4, 0), DEVICE_UNHANDLED);
        }
    }
}

static void mmio_handles_the_registers_of_the_specification_and_no_others(void **state)
{
    static const uint16_t readable[] = {0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x44,
                                        0x60, 0x70, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc};
    static const uint16_t writable[] = {0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64,
                                        0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac};
    struct fixture *f = *state;
    for (uint16_t offset = 0, r = 0, w = 0; offset < VIRTIO_MMIO_CONFIG; offset += 4) {
        uint64_t value;
        bool reads = r < ARRAY_SIZE(readable) && readable[r] == offset;
        bool writes = w < ARRAY_SIZE(writable) && writable[w] == offset;
        assert_int_equal(read_at(f, offset, 4, &value), reads ? DEVICE_HANDLED : DEVICE_UNHANDLED);
        assert_int_equal(write_at(f, offset, 4, 0), writes ? DEVICE_HANDLED : DEVICE_UNHANDLED);
        r = (uint16_t)(r + reads);
        w = (uint16_t)(w + writes);
    }
}

static void mmio_has_no_shared_memory(void **state)
{
    struct fixture *f = *state;
    guest_write32(&f->guest, VIRTIO_MMIO_SHM_SEL, 0);
    for (uint64_t offset = VIRTIO_MMIO_SHM_LEN_LOW; offset <= VIRTIO_MMIO_SHM_BASE_HIGH;
         offset += 4) {
        uint64_t value = 0;
        assert_int_equal(read_at(f, offset, 4, &value), DEVICE_HANDLED);
        assert_int_equal(value, UINT32_MAX);
    }
}

static void mmio_forgets_the_selectors_with_a_reset_and_only_then(void **state)
{
    static const uint64_t selectors[] = {VIRTIO_MMIO_DEVICE_FEATURES_SEL,
                                         VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_SEL};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++)
        guest_write32(&f->guest, selectors[i], 99);
    guest_write32(&f->guest, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    guest_write32(&f->guest, VIRTIO_MMIO_STATUS, 0);
    assert_int_not_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_NUM_MAX), PROBE_SIZE_MAX);
    guest_write32(&f->guest, VIRTIO_MMIO_DRIVER_FEATURES, 5);
    assert_int_equal(f->probe->virtio.driver_features, 5);
}

/* ---- queues ---- */

static void mmio_tells_the_largest_size_of_queues_that_exist(void **state)
{
    static const uint32_t none[] = {PROBE_QUEUES, VIRTIO_QUEUES_MAX, 65536, UINT32_MAX};
    struct fixture *f = *state;
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_SEL, PROBE_QUEUES - 1);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_NUM_MAX), PROBE_SIZE_MAX);
    for (unsigned i = 0; i < ARRAY_SIZE(none); i++) {
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_SEL, none[i]);
        assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 1);
        assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 0);
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NUM, 8);
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NOTIFY, none[i]);
    }
}

static void mmio_keeps_each_queue_s_setup(void **state)
{
    struct fixture *f = *state;
    for (uint32_t queue = 0; queue < PROBE_QUEUES; queue++) {
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_SEL, queue);
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NUM, 8 << queue);
        for (uint32_t half = 0; half < 6; half++)
            guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_DESC_LOW + half / 2 * 16 + half % 2 * 4,
                          0x10 * (half + 1) + queue);
    }
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 1);
    for (uint32_t queue = 0; queue < PROBE_QUEUES; queue++) {
        const struct virtq_setup *setup = &f->probe->virtio.queues[queue].setup;
        assert_int_equal(setup->size, 8 << queue);
        assert_int_equal(setup->desc_gpa, 0x2000000010ull + queue * 0x100000001ull);
        assert_int_equal(setup->avail_gpa, 0x4000000030ull + queue * 0x100000001ull);
        assert_int_equal(setup->used_gpa, 0x6000000050ull + queue * 0x100000001ull);
        assert_int_equal(f->probe->virtio.queues[queue].ready, queue == 1);
    }
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 1);
    guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void mmio_does_not_cut_a_queue_size_to_16_bits(void **state)
{
    static const uint32_t bad[] = {PROBE_SIZE_MAX + 1, 0x10000 + 8, UINT32_MAX};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        guest_write32(&f->guest, VIRTIO_MMIO_QUEUE_NUM, bad[i]);
        assert_int_equal(f->probe->virtio.queues[0].setup.size, 0);
    }
}

/* ---- config space ---- */

static void mmio_reads_and_writes_the_config_space_in_any_size(void **state)
{
    struct fixture *f = *state;
    uint64_t value;
    assert_int_equal(read_at(f, VIRTIO_MMIO_CONFIG, 1, &value), DEVICE_HANDLED);
    assert_int_equal(value, 0xa0);
    assert_int_equal(read_at(f, VIRTIO_MMIO_CONFIG + 2, 2, &value), DEVICE_HANDLED);
    assert_int_equal(value, 0xa3a2);
    assert_int_equal(read_at(f, VIRTIO_MMIO_CONFIG + 4, 4, &value), DEVICE_HANDLED);
    assert_int_equal(value, 0xa7a6a5a4);
    assert_int_equal(read_at(f, VIRTIO_MMIO_CONFIG, 8, &value), DEVICE_HANDLED);
    assert_int_equal(value, 0xa7a6a5a4a3a2a1a0);
    assert_int_equal(write_at(f, VIRTIO_MMIO_CONFIG + 4, 2, 0x1234), DEVICE_HANDLED);
    assert_int_equal(write_at(f, VIRTIO_MMIO_CONFIG + 12, 1, 0xff), DEVICE_HANDLED);
    assert_memory_equal(f->probe->config, "\xa0\xa1\xa2\xa3\x34\x12\xa6\xa7\xa8\xa9\xaa\xab\xff",
                        PROBE_CONFIG_BYTES);
}

static void mmio_has_nothing_behind_the_config_space(void **state)
{
    static const struct {
        unsigned offset, size;
    } bad[] = {{13, 1}, {12, 2}, {10, 4}, {6, 8}, {0xeff, 1}, {0xef8, 8}};
    struct fixture *f = *state;
    uint8_t before[PROBE_CONFIG_BYTES];
    memcpy(before, f->probe->config, sizeof(before));
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t value, offset = VIRTIO_MMIO_CONFIG + bad[i].offset;
        assert_int_equal(read_at(f, offset, bad[i].size, &value), DEVICE_UNHANDLED);
        assert_int_equal(write_at(f, offset, bad[i].size, 0), DEVICE_UNHANDLED);
    }
    assert_memory_equal(f->probe->config, before, sizeof(before));
}

static void change_config(struct virtio_probe *probe)
{
    virtio_config_changed(&probe->virtio);
}

static void mmio_tells_of_a_new_config_only_a_driver_that_is_there(void **state)
{
    struct fixture *f = *state;
    uint32_t generation = guest_read32(&f->guest, VIRTIO_MMIO_CONFIG_GENERATION);
    virtio_probe_call(f->probe, change_config);
    assert_int_not_equal(guest_read32(&f->guest, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_int_equal(guest_wait_interrupt(&f->guest, 0), 0);

    guest_bring_up(&f->guest, 0, 1, 8);
    virtio_probe_call(f->probe, change_config);
    assert_int_equal(guest_wait_interrupt(&f->guest, 0), VIRTIO_INTERRUPT_CONFIG);
}

/* ---- interrupts ---- */

static void raise_both(struct virtio_probe *probe)
{
    struct virtq_chain chain;
    virtio_config_changed(&probe->virtio);
    if (virtq_pop(&probe->virtio.queues[0].ring, &chain) == 1)
        virtq_push(&probe->virtio.queues[0].ring, chain.head, 0);
    virtio_flush(&probe->virtio, 0);
}

static void mmio_acknowledges_only_the_bits_written(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 1, 8);
    guest_add(&f->guest.rings[0], &GUEST_OUT(0x100000, 1), 1);
    guest_publish(&f->guest.rings[0]);
    virtio_probe_call(f->probe, raise_both);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    guest_write32(&f->guest, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_INTERRUPT_QUEUE);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_INTERRUPT_STATUS),
                     VIRTIO_INTERRUPT_CONFIG);
    guest_write32(&f->guest, VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mmio_tells_who_it_is),
        TEST(mmio_offers_features_word_by_word),
        TEST(mmio_handles_aligned_words_only),
        TEST(mmio_handles_the_registers_of_the_specification_and_no_others),
        TEST(mmio_has_no_shared_memory),
        TEST(mmio_forgets_the_selectors_with_a_reset_and_only_then),
        TEST(mmio_tells_the_largest_size_of_queues_that_exist),
        TEST(mmio_keeps_each_queue_s_setup),
        TEST(mmio_does_not_cut_a_queue_size_to_16_bits),
        TEST(mmio_reads_and_writes_the_config_space_in_any_size),
        TEST(mmio_has_nothing_behind_the_config_space),
        TEST(mmio_tells_of_a_new_config_only_a_driver_that_is_there),
        TEST(mmio_acknowledges_only_the_bits_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
