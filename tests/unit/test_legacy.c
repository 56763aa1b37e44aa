/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "devices/acpi_pm.h"
#include "devices/i8042.h"
#include "devices/rtc_cmos.h"

#include "tests/unit/cmocka_nido.h"

#include <stdbool.h>
#include <time.h>
#include <unistd.h>

/* A power switch that counts. */
static struct {
    struct power_switch power;
    unsigned offs, resets;
} house;

static void count_off(struct power_switch *power)
{
    house.offs++;
}

static void count_reset(struct power_switch *power)
{
    house.resets++;
}

static struct device *device;
static struct irq button;

static int finish(void **state)
{
    device->ops->destroy(device);
    return 0;
}

static uint8_t in(unsigned offset)
{
    uint64_t value = 0xee;
    assert_int_equal(device->ops->read(device, offset, 1, &value), DEVICE_HANDLED);
    return (uint8_t)value;
}

static void out(unsigned offset, uint8_t value)
{
    assert_int_equal(device->ops->write(device, offset, 1, value), DEVICE_HANDLED);
}

static void reset_house(void)
{
    house.power = (struct power_switch){.off = count_off, .reset = count_reset};
    house.offs = house.resets = 0;
}

/* i8042 */

static int start_i8042(void **state)
{
    reset_house();
    return i8042_create(&device, &house.power, NULL);
}

static void i8042_resets_on_the_pulse_command_alone(void **state)
{
    out(0, 0xfe); /* the data port */
    for (unsigned command = 0; command < 0xfe; command++)
        out(4, (uint8_t)command);
    out(4, 0xff);
    assert_int_equal(house.resets, 0);
    out(4, 0xfe);
    assert_int_equal(house.resets, 1);
    assert_int_equal(house.offs, 0);
}

/* Linux's i8042_flush() gives up after 16 reads; mach_reboot's kb_wait() sees bit 1 clear at
 * once. */
static void i8042_looks_busy_to_a_probe_and_idle_to_a_reboot(void **state)
{
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(in(4) & 3, 1);
        in(0);
    }
}

static void i8042_leaves_the_ports_in_between_alone(void **state)
{
    uint64_t value;
    for (unsigned offset = 1; offset <= 3; offset++) {
        assert_int_equal(device->ops->read(device, offset, 1, &value), DEVICE_UNHANDLED);
        assert_int_equal(device->ops->write(device, offset, 1, 0xfe), DEVICE_UNHANDLED);
    }
    assert_int_equal(device->ops->write(device, 4, 2, 0xfe), DEVICE_UNHANDLED);
}

/* ACPI */

static int start_acpi_pm(void **state)
{
    reset_house();
    assert_int_equal(irq_init(&button, 9, NULL), 0);
    return acpi_pm_create(&device, &house.power, &button, NULL);
}

static int finish_acpi_pm(void **state)
{
    irq_finish(&button);
    return finish(state);
}

static void acpi_pm_powers_off_on_s5_alone(void **state)
{
    for (unsigned value = 0; value < 256; value++)
        if ((value & 0x3c) != (0x20 | ACPI_PM_S5_SLEEP_TYPE << 2))
            out(ACPI_PM_SLEEP_CONTROL, (uint8_t)value);
    assert_int_equal(house.offs, 0);
    out(ACPI_PM_SLEEP_CONTROL, 0x20 | ACPI_PM_S5_SLEEP_TYPE << 2);
    assert_int_equal(house.offs, 1);
    assert_int_equal(house.resets, 0);
}

static void acpi_pm_never_says_it_woke_up(void **state)
{
    out(ACPI_PM_SLEEP_STATUS, 0x80);
    assert_int_equal(in(ACPI_PM_SLEEP_STATUS), 0);
    assert_int_equal(in(ACPI_PM_SLEEP_CONTROL), 0);
}

static void acpi_pm_resets_on_its_value_alone(void **state)
{
    out(ACPI_PM_RESET, (uint8_t)~ACPI_PM_RESET_VALUE);
    assert_int_equal(house.resets, 0);
    out(ACPI_PM_RESET, ACPI_PM_RESET_VALUE);
    assert_int_equal(house.resets, 1);
    assert_int_equal(house.offs, 0);
}

static void acpi_pm_button_is_an_interrupt(void **state)
{
    uint64_t count;
    assert_int_equal(read(button.fd, &count, sizeof(count)), -1);
    acpi_pm_press_power_button(device);
    assert_int_equal(read(button.fd, &count, sizeof(count)), sizeof(count));
    assert_int_equal(house.offs, 0);
}

/* The clock */

enum { SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY = 7, MONTH = 8, YEAR = 9 };
enum { A = 10, B = 11, C = 12, D = 13, CENTURY = RTC_CMOS_CENTURY };

#define SECOND_US 1000000

static int64_t host_us;

static int64_t fake_now_us(void)
{
    return host_us;
}

static int64_t at(const char *utc)
{
    struct tm tm = {0};
    assert_non_null(strptime(utc, "%Y-%m-%d %H:%M:%S", &tm));
    return (int64_t)timegm(&tm) * SECOND_US;
}

static int start_rtc(void **state)
{
    host_us = at("2031-12-28 23:59:58"); /* a Sunday */
    return rtc_cmos_create(&device, fake_now_us, NULL);
}

static uint8_t cmos(uint8_t reg)
{
    out(0, reg);
    return in(1);
}

static void set_cmos(uint8_t reg, uint8_t value)
{
    out(0, reg);
    out(1, value);
}

static void assert_cmos(const uint8_t expected[8])
{
    static const uint8_t regs[8] = {CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS};
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
        assert_int_equal(cmos(regs[i]), expected[i]);
}

static void rtc_shows_utc_in_bcd(void **state)
{
    assert_cmos((const uint8_t[]){0x20, 0x31, 0x12, 0x28, 0x01, 0x23, 0x59, 0x58});
    host_us += 2 * SECOND_US;
    assert_cmos((const uint8_t[]){0x20, 0x31, 0x12, 0x29, 0x02, 0x00, 0x00, 0x00});
}

static void rtc_shows_binary_and_twelve_hours_when_told(void **state)
{
    set_cmos(B, 0x04);
    assert_cmos((const uint8_t[]){20, 31, 12, 28, 1, 0x80 | 11, 59, 58});
    host_us += 2 * SECOND_US;
    assert_cmos((const uint8_t[]){20, 31, 12, 29, 2, 12, 0, 0});
    set_cmos(B, 0x00);
    host_us = at("2031-12-29 12:34:56");
    assert_cmos((const uint8_t[]){0x20, 0x31, 0x12, 0x29, 0x02, 0x92, 0x34, 0x56});
}

/* As mc146818_set_time() does it. */
static void set_clock(const uint8_t values[8], uint8_t mode)
{
    static const uint8_t regs[8] = {CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS};
    set_cmos(B, mode | 0x80);
    set_cmos(A, 0x76);
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
        set_cmos(regs[i], values[i]);
        host_us += 300000;
    }
    set_cmos(B, mode);
    set_cmos(A, 0x26);
}

static void rtc_goes_on_from_what_was_set(void **state)
{
    static const uint8_t leap_day[] = {0x20, 0x24, 0x02, 0x28, 0x04, 0x23, 0x59, 0x59};
    set_clock(leap_day, 0x02);
    host_us += 400000; /* half a second after the divider starts comes the tick */
    assert_cmos(leap_day);
    host_us += 200000;
    assert_cmos((const uint8_t[]){0x20, 0x24, 0x02, 0x29, 0x05, 0x00, 0x00, 0x00});
    set_clock((const uint8_t[]){19, 99, 12, 31, 6, 0x80 | 12, 1, 2}, 0x04);
    set_cmos(B, 0x06);
    assert_cmos((const uint8_t[]){19, 99, 12, 31, 6, 12, 1, 2});
}

static void rtc_takes_one_register_by_itself(void **state)
{
    host_us += 250000;
    set_cmos(MINUTES, 0x01);
    assert_cmos((const uint8_t[]){0x20, 0x31, 0x12, 0x28, 0x01, 0x23, 0x01, 0x58});
    host_us += 750000;
    assert_int_equal(cmos(SECONDS), 0x59);
}

static void rtc_survives_a_date_that_is_none(void **state)
{
    static const uint8_t modes[] = {0, 2, 4, 6};
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        set_clock((const uint8_t[]){0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, modes[i]);
        cmos(SECONDS);
        set_clock((const uint8_t[]){0, 0, 0, 0, 0, 0, 0, 0}, modes[i]);
        cmos(SECONDS);
    }
}

/* Registers are read one by one; the second may turn over in between. */
static void rtc_reads_one_second_when_uip_was_clear(void **state)
{
    for (int64_t start_us = 0; start_us < 2 * SECOND_US; start_us += 997) {
        host_us = at("2031-12-31 23:59:59") + start_us;
        bool updating = cmos(A) & 0x80;
        assert_int_equal(updating, start_us % SECOND_US >= SECOND_US - 2228);
        if (updating)
            continue;
        uint8_t year = cmos(YEAR);
        host_us += 4000; /* a vCPU that was held up */
        uint8_t seconds = cmos(SECONDS);
        bool new_year = year == 0x32;
        assert_int_equal(new_year, start_us >= SECOND_US);
        assert_int_equal(seconds, new_year ? 0x00 : 0x59);
    }
}

static void rtc_ticks_for_who_only_reads_seconds(void **state)
{
    host_us = at("2031-12-28 12:00:00");
    for (unsigned ms = 0; ms < 3000; ms++, host_us += 1000) {
        unsigned late = ms % 1000 < 10 && ms >= 1000;
        if (!late)
            assert_int_equal(cmos(SECONDS), ms / 1000);
        else
            cmos(SECONDS);
    }
}

static void rtc_stands_still_while_it_is_set(void **state)
{
    set_cmos(B, 0x82);
    host_us += 5 * SECOND_US + SECOND_US - 1;
    assert_int_equal(cmos(A), 0x26);
    assert_int_equal(cmos(SECONDS), 0x58);
}

static void rtc_has_ram_and_a_good_battery(void **state)
{
    for (uint8_t reg = 14; reg < 128; reg++)
        if (reg != CENTURY)
            set_cmos(reg, reg ^ 0x5a);
    for (uint8_t reg = 14; reg < 128; reg++)
        if (reg != CENTURY)
            assert_int_equal(cmos(reg), reg ^ 0x5a);
    set_cmos(C, 0xff);
    set_cmos(D, 0x00);
    set_cmos(B, 0x72);
    assert_int_equal(cmos(B), 0x72);
    assert_int_equal(cmos(C), 0x00);
    assert_int_equal(cmos(D), 0x80);
    set_cmos(0x80 | 14, 1); /* with NMI masked */
    assert_int_equal(cmos(14), 1);
}

#define I8042(name) cmocka_unit_test_setup_teardown(name, start_i8042, finish)
#define ACPI(name)  cmocka_unit_test_setup_teardown(name, start_acpi_pm, finish_acpi_pm)
#define RTC(name)   cmocka_unit_test_setup_teardown(name, start_rtc, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        I8042(i8042_resets_on_the_pulse_command_alone),
        I8042(i8042_looks_busy_to_a_probe_and_idle_to_a_reboot),
        I8042(i8042_leaves_the_ports_in_between_alone),
        ACPI(acpi_pm_powers_off_on_s5_alone),
        ACPI(acpi_pm_never_says_it_woke_up),
        ACPI(acpi_pm_resets_on_its_value_alone),
        ACPI(acpi_pm_button_is_an_interrupt),
        RTC(rtc_shows_utc_in_bcd),
        RTC(rtc_shows_binary_and_twelve_hours_when_told),
        RTC(rtc_goes_on_from_what_was_set),
        RTC(rtc_takes_one_register_by_itself),
        RTC(rtc_survives_a_date_that_is_none),
        RTC(rtc_reads_one_second_when_uip_was_clear),
        RTC(rtc_ticks_for_who_only_reads_seconds),
        RTC(rtc_stands_still_while_it_is_set),
        RTC(rtc_has_ram_and_a_good_battery),
    };
    return cmocka_run_group_tests_name("legacy", tests, NULL, NULL);
}
