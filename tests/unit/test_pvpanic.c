/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "devices/pvpanic.h"

#include "tests/unit/cmocka_nido.h"

static struct {
    struct pvpanic_listener listener;
    unsigned calls;
    enum pvpanic_event last;
} witness;

static struct device *device;

static void note(struct pvpanic_listener *listener, enum pvpanic_event event)
{
    witness.calls++;
    witness.last = event;
}

static int set_up(void **state)
{
    witness.listener.happened = note;
    witness.calls = 0;
    witness.last = 0;
    return pvpanic_create(&device, &witness.listener, NULL);
}

static int tear_down(void **state)
{
    device->ops->destroy(device);
    return 0;
}

static void pvpanic_says_which_events_it_takes(void **state)
{
    uint64_t value = 0xff;
    assert_int_equal(device->ops->read(device, 0, 1, &value), DEVICE_HANDLED);
    assert_int_equal(value, 3);
    assert_int_equal(witness.calls, 0);
}

static void pvpanic_tells_of_a_panic(void **state)
{
    assert_int_equal(device->ops->write(device, 0, 1, 1), DEVICE_HANDLED);
    assert_int_equal(witness.calls, 1);
    assert_int_equal(witness.last, PVPANIC_PANICKED);
}

static void pvpanic_tells_of_a_crash_kernel(void **state)
{
    static const uint8_t values[] = {2, 3, 0xff};
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        device->ops->write(device, 0, 1, values[i]);
        assert_int_equal(witness.calls, i + 1);
        assert_int_equal(witness.last, PVPANIC_CRASH_LOADED);
    }
}

static void pvpanic_ignores_other_events(void **state)
{
    assert_int_equal(device->ops->write(device, 0, 1, 0), DEVICE_HANDLED);
    assert_int_equal(device->ops->write(device, 0, 1, 0xfc), DEVICE_HANDLED);
    assert_int_equal(witness.calls, 0);
}

static void pvpanic_is_a_byte(void **state)
{
    uint64_t value;
    assert_int_equal(device->ops->write(device, 0, 2, 1), DEVICE_UNHANDLED);
    assert_int_equal(device->ops->read(device, 0, 4, &value), DEVICE_UNHANDLED);
    assert_int_equal(witness.calls, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pvpanic_says_which_events_it_takes),
        TEST(pvpanic_tells_of_a_panic),
        TEST(pvpanic_tells_of_a_crash_kernel),
        TEST(pvpanic_ignores_other_events),
        TEST(pvpanic_is_a_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
