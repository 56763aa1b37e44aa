/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC's clock: a Motorola MC146818 (data sheet) behind an index port and a data port, with 128
 * bytes of RAM. It shows the host's clock in UTC, moved by what the guest has set.
 *
 *   0x70  index (bit 7, which masks NMI on a PC, is ignored)      0x71  data
 *
 *   00 02 04  seconds, minutes, hours           0a  A: update in progress, divider, rate
 *   01 03 05  the alarm's, plain RAM            0b  B: SET, interrupt enables, binary, 24 hours
 *   06 07 08 09  weekday, day, month, year      0c  C: interrupt flags, always 0
 *   32  century                                 0d  D: bit 7, the battery is good
 *
 * There is no interrupt line: alarm, periodic and update interrupts can be enabled and never come.
 * The board gives the device no interrupt in ACPI, so Linux offers no alarms.
 *
 * Reading it consistently: a chip asks its reader to stay out of the 2.2 ms around a tick, and to
 * be done in 244 us. A vCPU may take longer than that for seven registers, so the registers show a
 * latched second, taken anew when A is read with UIP clear, or by a read that comes LATCH_US after
 * the last latch. Who asks UIP first, as all do, or compares the seconds afterwards, reads one
 * second.
 *
 * vCPU threads; one lock guards all state.
 */
#include "devices/rtc_cmos.h"

#include "base/checked.h"
#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#define SECOND_US 1000000
#define LATCH_US  10000
/* UIP goes up 244 us before an update, which takes 1984 us with a 32 kHz crystal. */
#define UPDATE_US (244 + 1984)

enum {
    REG_SECONDS = 0x00,
    REG_MINUTES = 0x02,
    REG_HOURS = 0x04,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
};

#define A_UIP           0x80u
#define A_DIVIDER_RESET 0x60u /* both bits */
#define A_DEFAULT       0x26u /* 32 kHz, rate 1024 Hz */
#define B_SET           0x80u
#define B_BINARY        0x04u
#define B_24H           0x02u
#define D_VALID         0x80u
#define HOURS_PM        0x80u

struct rtc {
    struct device device;
    rtc_now_us_fn *now_us;
    pthread_mutex_t lock;
    uint8_t index;
    uint8_t ram[128];   /* the time registers hold the latched second, or what is being set */
    int64_t offset_us;  /* the guest's time less the host's */
    int64_t latched_us; /* the guest's time at the latch */
    bool latched;
};

static int64_t host_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000;
}

static int64_t second_of(int64_t time_us)
{
    return time_us / SECOND_US - (time_us % SECOND_US < 0);
}

static int64_t fraction_of(int64_t time_us)
{
    return time_us - second_of(time_us) * SECOND_US;
}

static bool is_time(uint8_t reg)
{
    return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
           (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == RTC_CMOS_CENTURY;
}

/* Register B says how numbers are written. */

static uint8_t encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->ram[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 0x0f);
}

static uint8_t encode_hours(const struct rtc *rtc, int hours)
{
    if (rtc->ram[REG_B] & B_24H)
        return encode(rtc, hours);
    uint8_t pm = hours >= 12 ? HOURS_PM : 0;
    return encode(rtc, (hours + 11) % 12 + 1) | pm;
}

static int decode_hours(const struct rtc *rtc, uint8_t value)
{
    if (rtc->ram[REG_B] & B_24H)
        return decode(rtc, value);
    return decode(rtc, value & ~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

static void latch(struct rtc *rtc, int64_t guest_us)
{
    time_t second = second_of(guest_us);
    struct tm tm;
    gmtime_r(&second, &tm);
    rtc->ram[REG_SECONDS] = encode(rtc, tm.tm_sec);
    rtc->ram[REG_MINUTES] = encode(rtc, tm.tm_min);
    rtc->ram[REG_HOURS] = encode_hours(rtc, tm.tm_hour);
    rtc->ram[REG_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
    rtc->ram[REG_DAY] = encode(rtc, tm.tm_mday);
    rtc->ram[REG_MONTH] = encode(rtc, tm.tm_mon + 1);
    rtc->ram[REG_YEAR] = encode(rtc, tm.tm_year % 100);
    rtc->ram[RTC_CMOS_CENTURY] = encode(rtc, tm.tm_year / 100 + 19);
    rtc->latched_us = guest_us;
    rtc->latched = true;
}

/* The second that the time registers say. A nonsensical date comes out as some other date. */
static int64_t second_in_registers(const struct rtc *rtc)
{
    struct tm tm = {
        .tm_sec = decode(rtc, rtc->ram[REG_SECONDS]),
        .tm_min = decode(rtc, rtc->ram[REG_MINUTES]),
        .tm_hour = decode_hours(rtc, rtc->ram[REG_HOURS]),
        .tm_mday = decode(rtc, rtc->ram[REG_DAY]),
        .tm_mon = decode(rtc, rtc->ram[REG_MONTH]) - 1,
        .tm_year =
            decode(rtc, rtc->ram[RTC_CMOS_CENTURY]) * 100 - 1900 + decode(rtc, rtc->ram[REG_YEAR]),
    };
    return timegm(&tm);
}

static void set_time(struct rtc *rtc, int64_t guest_us, int64_t wanted_us)
{
    rtc->offset_us += wanted_us - guest_us;
    rtc->latched = false;
}

static uint8_t read_a(struct rtc *rtc, int64_t guest_us)
{
    bool frozen = rtc->ram[REG_B] & B_SET;
    if (!frozen && fraction_of(guest_us) >= SECOND_US - UPDATE_US)
        return rtc->ram[REG_A] | A_UIP;
    if (!frozen)
        latch(rtc, guest_us);
    return rtc->ram[REG_A];
}

static uint8_t read_register(struct rtc *rtc, int64_t guest_us)
{
    if (rtc->index == REG_A)
        return read_a(rtc, guest_us);
    if (is_time(rtc->index) && !(rtc->ram[REG_B] & B_SET)) {
        int64_t age_us = guest_us - rtc->latched_us;
        if (!rtc->latched || age_us < 0 || age_us >= LATCH_US)
            latch(rtc, guest_us);
    }
    return rtc->ram[rtc->index];
}

/* SET freezes the registers while they are written; the clock goes on from there when it is
 * cleared: with the divider held in reset, half a second before the next tick (data sheet,
 * "Divider Control"), which Linux reckons with. */
static void write_b(struct rtc *rtc, uint8_t value, int64_t guest_us)
{
    bool was_set = rtc->ram[REG_B] & B_SET;
    if (!was_set)
        latch(rtc, guest_us);
    rtc->ram[REG_B] = value;
    rtc->latched = false;
    if (!was_set || value & B_SET)
        return;
    bool held = (rtc->ram[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
    int64_t fraction_us = held ? SECOND_US / 2 : fraction_of(guest_us);
    set_time(rtc, guest_us, second_in_registers(rtc) * SECOND_US + fraction_us);
}

static void write_time(struct rtc *rtc, uint8_t value, int64_t guest_us)
{
    bool frozen = rtc->ram[REG_B] & B_SET;
    if (!frozen)
        latch(rtc, guest_us);
    rtc->ram[rtc->index] = value;
    if (!frozen)
        set_time(rtc, guest_us, second_in_registers(rtc) * SECOND_US + fraction_of(guest_us));
}

static void write_register(struct rtc *rtc, uint8_t value, int64_t guest_us)
{
    if (is_time(rtc->index))
        write_time(rtc, value, guest_us);
    else if (rtc->index == REG_A)
        rtc->ram[REG_A] = value & ~A_UIP;
    else if (rtc->index == REG_B)
        write_b(rtc, value, guest_us);
    else if (rtc->index != REG_C && rtc->index != REG_D)
        rtc->ram[rtc->index] = value;
}

static enum verdict rtc_read(struct device *device, uint64_t offset, unsigned size_bytes,
                             uint64_t *value)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    int64_t now_us = rtc->now_us();
    pthread_mutex_lock(&rtc->lock);
    *value = offset ? read_register(rtc, now_us + rtc->offset_us) : rtc->index;
    pthread_mutex_unlock(&rtc->lock);
    return DEVICE_HANDLED;
}

static enum verdict rtc_write(struct device *device, uint64_t offset, unsigned size_bytes,
                              uint64_t value)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    int64_t now_us = rtc->now_us();
    pthread_mutex_lock(&rtc->lock);
    if (offset)
        write_register(rtc, (uint8_t)value, now_us + rtc->offset_us);
    else
        rtc->index = value & 0x7f;
    pthread_mutex_unlock(&rtc->lock);
    return DEVICE_HANDLED;
}

static void rtc_destroy(struct device *device)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}

static const struct device_ops rtc_ops = {
    .read = rtc_read,
    .write = rtc_write,
    .destroy = rtc_destroy,
};

int rtc_cmos_create(struct device **out, rtc_now_us_fn *now_us, struct nido_error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    if (!rtc)
        return error_set(err, ENOMEM, "clock: out of memory");
    rtc->device = (struct device){.ops = &rtc_ops, .name = "rtc"};
    rtc->now_us = now_us ? now_us : host_now_us;
    rtc->ram[REG_A] = A_DEFAULT;
    rtc->ram[REG_B] = B_24H;
    rtc->ram[REG_D] = D_VALID;
    pthread_mutex_init(&rtc->lock, NULL);
    *out = &rtc->device;
    return 0;
}
