/* SPDX-License-Identifier: Apache-2.0 */
/* Arm's clock, register by register. */
#include "tests/unit/cmocka_nido.h"

#include "devices/rtc_pl031.h"

#define DR   0x00
#define MR   0x04
#define LR   0x08
#define CR   0x0c
#define IMSC 0x10
#define RIS  0x14
#define MIS  0x18
#define ICR  0x1c
#define ID   0xfe0

static struct device *rtc;
static int64_t host;

static int64_t now(void)
{
    return host;
}

static int start(void **state)
{
    host = 1700000000;
    return rtc_pl031_create(&rtc, now, NULL);
}

static int finish(void **state)
{
    rtc->ops->destroy(rtc);
    return 0;
}

static uint64_t get(uint64_t offset)
{
    uint64_t value = 0;
    assert_int_equal(rtc->ops->read(rtc, offset, 4, &value), DEVICE_HANDLED);
    return value;
}

static void set(uint64_t offset, uint64_t value)
{
    assert_int_equal(rtc->ops->write(rtc, offset, 4, value), DEVICE_HANDLED);
}

static void pl031_shows_the_hosts_time(void **state)
{
    assert_int_equal(get(DR), 1700000000);
    host += 5;
    assert_int_equal(get(DR), 1700000005);
    assert_int_equal(get(CR), 1);
}

static void pl031_is_set_and_goes_on_from_there(void **state)
{
    set(LR, 1000);
    assert_int_equal(get(DR), 1000);
    assert_int_equal(get(LR), 1000);
    host += 7;
    assert_int_equal(get(DR), 1007);
    set(LR, 1000);
    assert_int_equal(get(DR), 1000);
}

static void pl031_cannot_be_stopped(void **state)
{
    set(CR, 0);
    host++;
    assert_int_equal(get(CR), 1);
    assert_int_equal(get(DR), 1700000001);
}

static void pl031_alarm_comes_once(void **state)
{
    set(MR, 1700000010);
    assert_int_equal(get(RIS), 0);
    host += 9;
    assert_int_equal(get(RIS), 0);
    host += 1;
    assert_int_equal(get(RIS), 1);
    assert_int_equal(get(MIS), 0);
    set(IMSC, 0xff);
    assert_int_equal(get(IMSC), 1);
    assert_int_equal(get(MIS), 1);
    set(ICR, 1);
    assert_int_equal(get(RIS), 0);
    host += 1;
    assert_int_equal(get(RIS), 0);
}

static void pl031_counts_beyond_32_bits_from_zero(void **state)
{
    host = 0xffffffff;
    assert_int_equal(get(DR), 0xffffffff);
    host++;
    assert_int_equal(get(DR), 0);
}

/* What Linux's AMBA bus compares: part 0x031, designer 0x41; and the PrimeCell's own mark. */
static void pl031_says_who_it_is(void **state)
{
    uint32_t id = 0, cell = 0;
    for (unsigned i = 0; i < 4; i++) {
        id |= (uint32_t)get(ID + 4 * i) << 8 * i;
        cell |= (uint32_t)get(ID + 16 + 4 * i) << 8 * i;
    }
    assert_int_equal(id & 0xfffff, 0x41031);
    assert_int_equal(cell, 0xb105f00d);
}

static void pl031_has_words_only(void **state)
{
    uint64_t value = 0;
    assert_int_equal(rtc->ops->read(rtc, DR, 1, &value), DEVICE_UNHANDLED);
    assert_int_equal(rtc->ops->read(rtc, DR, 8, &value), DEVICE_UNHANDLED);
    assert_int_equal(rtc->ops->read(rtc, DR + 2, 4, &value), DEVICE_UNHANDLED);
    assert_int_equal(rtc->ops->write(rtc, LR, 2, 0), DEVICE_UNHANDLED);
    assert_int_equal(rtc->ops->write(rtc, LR + 1, 4, 0), DEVICE_UNHANDLED);
    for (uint64_t offset = 0x20; offset < ID; offset += 4)
        assert_int_equal(get(offset), 0);
    set(DR, 1);
    set(RIS, 1);
    set(0x20, 1);
    assert_int_equal(get(DR), 1700000000);
    assert_int_equal(get(RIS), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pl031_shows_the_hosts_time),
        TEST(pl031_is_set_and_goes_on_from_there),
        TEST(pl031_cannot_be_stopped),
        TEST(pl031_alarm_comes_once),
        TEST(pl031_counts_beyond_32_bits_from_zero),
        TEST(pl031_says_who_it_is),
        TEST(pl031_has_words_only),
    };
    return cmocka_run_group_tests_name("pl031", tests, NULL, NULL);
}
