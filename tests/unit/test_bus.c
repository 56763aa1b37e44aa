/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "vm/bus.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A device that remembers the last access and answers with its offset. */
struct probe_device {
    struct device device;
    uint64_t offset;
    unsigned size_bytes;
    uint64_t value;
    enum verdict verdict;
};

static enum verdict probe_read(struct device *device, uint64_t offset, unsigned size_bytes,
                               uint64_t *value)
{
    struct probe_device *probe = container_of(device, struct probe_device, device);
    probe->offset = offset;
    probe->size_bytes = size_bytes;
    *value = offset;
    return probe->verdict;
}

static enum verdict probe_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                uint64_t value)
{
    struct probe_device *probe = container_of(device, struct probe_device, device);
    probe->offset = offset;
    probe->size_bytes = size_bytes;
    probe->value = value;
    return probe->verdict;
}

static const struct device_ops probe_ops = {.read = probe_read, .write = probe_write};
static const struct device_ops mute_ops = {0};

static void bus_hands_devices_offsets_of_their_own(void **state)
{
    struct probe_device a = {.device = {&probe_ops, "a"}}, b = {.device = {&probe_ops, "b"}};
    struct bus bus;
    uint64_t value = 0;
    bus_init(&bus, "mmio");
    assert_int_equal(bus_add(&bus, 0x2000, 0x1000, &b.device, NULL), 0);
    assert_int_equal(bus_add(&bus, 0x1000, 0x1000, &a.device, NULL), 0);

    assert_int_equal(bus_read(&bus, 0x1ffc, 4, &value), DEVICE_HANDLED);
    assert_int_equal(value, 0xffc);
    assert_int_equal(a.size_bytes, 4);
    assert_int_equal(bus_write(&bus, 0x2000, 8, 0x1234), DEVICE_HANDLED);
    assert_int_equal(b.offset, 0);
    assert_int_equal(b.value, 0x1234);
}

static void bus_reads_all_ones_where_nobody_is(void **state)
{
    struct probe_device a = {.device = {&probe_ops, "a"}};
    struct device mute = {&mute_ops, "mute"};
    struct bus bus;
    bus_init(&bus, "pio");
    bus_add(&bus, 0x100, 0x10, &a.device, NULL);
    bus_add(&bus, 0x200, 0x10, &mute, NULL);
    static const uint64_t nobody[] = {0, 0xff, 0x110, 0x10e, 0x200, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(nobody); i++) {
        uint64_t value = 0;
        assert_int_equal(bus_read(&bus, nobody[i], 4, &value), DEVICE_UNHANDLED);
        assert_true(value == UINT64_MAX);
        assert_int_equal(bus_write(&bus, nobody[i], 4, 0), DEVICE_UNHANDLED);
    }
}

static void bus_passes_a_stall_on(void **state)
{
    struct probe_device a = {.device = {&probe_ops, "a"}, .verdict = DEVICE_STALL};
    struct bus bus;
    uint64_t value;
    bus_init(&bus, "pio");
    bus_add(&bus, 0, 8, &a.device, NULL);
    assert_int_equal(bus_read(&bus, 0, 1, &value), DEVICE_STALL);
    assert_int_equal(bus_write(&bus, 0, 1, 0), DEVICE_STALL);
}

static void bus_refuses_overlap_and_names_both(void **state)
{
    struct probe_device a = {.device = {&probe_ops, "first"}};
    struct probe_device b = {.device = {&probe_ops, "second"}};
    struct bus bus;
    struct nido_error err;
    bus_init(&bus, "pio");
    bus_add(&bus, 0x100, 0x10, &a.device, NULL);
    assert_int_equal(bus_add(&bus, 0x10f, 1, &b.device, &err), -EBUSY);
    assert_non_null(strstr(err.text, "first"));
    assert_non_null(strstr(err.text, "second"));
    assert_int_equal(bus_add(&bus, 0xf0, 0x100, &b.device, &err), -EBUSY);
    assert_int_equal(bus_add(&bus, 0x110, 1, &b.device, &err), 0);
}

static void bus_refuses_one_device_too_many(void **state)
{
    struct probe_device a = {.device = {&probe_ops, "a"}};
    struct bus bus;
    struct nido_error err;
    bus_init(&bus, "mmio");
    for (unsigned i = 0; i < BUS_RANGES_MAX; i++)
        assert_int_equal(bus_add(&bus, i, 1, &a.device, &err), 0);
    assert_int_equal(bus_add(&bus, BUS_RANGES_MAX, 1, &a.device, &err), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bus_hands_devices_offsets_of_their_own),
        cmocka_unit_test(bus_reads_all_ones_where_nobody_is),
        cmocka_unit_test(bus_passes_a_stall_on),
        cmocka_unit_test(bus_refuses_overlap_and_names_both),
        cmocka_unit_test(bus_refuses_one_device_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
