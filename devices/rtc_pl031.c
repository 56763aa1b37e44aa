/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arm's PrimeCell real-time clock, PL031 (technical reference manual, ARM DDI 0224): a counter of
 * seconds, 32 bits wide. It shows the host's clock in UTC, moved by what the guest has set.
 *
 *   00  DR    the time                          10  IMSC  interrupt mask
 *   04  MR    the alarm's                       14  RIS   the alarm has come, whatever the mask
 *   08  LR    set the time                      18  MIS   the same, if the mask lets it through
 *   0c  CR    bit 0: the clock runs; always     1c  ICR   clears it
 *   fe0..ffc  who made it: how a bus driver knows the device
 *
 * There is no interrupt line: the alarm can be set, and seen in RIS by whoever asks. The board gives
 * the device no interrupt, so Linux offers no alarms.
 *
 * vCPU threads; one lock guards all state.
 */
#include "devices/rtc_pl031.h"

#include "base/checked.h"
#include "base/lock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum {
    REG_DR = 0x00,
    REG_MR = 0x04,
    REG_LR = 0x08,
    REG_CR = 0x0c,
    REG_IMSC = 0x10,
    REG_RIS = 0x14,
    REG_MIS = 0x18,
    REG_ICR = 0x1c,
    REG_ID = 0xfe0,
};

#define CR_RUNS 1u
#define ALARM   1u

struct rtc {
    struct device device;
    rtc_pl031_now_fn *now;
    struct lock lock;
    uint32_t offset; /* the guest's time less the host's, modulo 2^32; under lock, as the rest */
    uint32_t match, load;
    bool armed; /* a match was set, and has not come yet */
    uint32_t mask, raised;
};

static int64_t host_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec;
}

/* Part number 031, designed by 'A' for Arm, revision 0; then what all PrimeCells say. */
static uint32_t read_id(uint64_t offset)
{
    static const uint8_t id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
    return id[(offset - REG_ID) / sizeof(uint32_t)];
}

/* Equality is what the hardware looks for, once a second; nobody looks here between two accesses. */
static void notice_alarm(struct rtc *rtc, uint32_t guest)
{
    if (!rtc->armed || (int32_t)(guest - rtc->match) < 0)
        return;
    rtc->armed = false;
    rtc->raised = ALARM;
}

static uint32_t read_register(struct rtc *rtc, uint64_t offset, uint32_t guest)
{
    switch (offset) {
    case REG_DR:
        return guest;
    case REG_MR:
        return rtc->match;
    case REG_LR:
        return rtc->load;
    case REG_CR:
        return CR_RUNS;
    case REG_IMSC:
        return rtc->mask;
    case REG_RIS:
        return rtc->raised;
    case REG_MIS:
        return rtc->raised & rtc->mask;
    default:
        return offset >= REG_ID ? read_id(offset) : 0;
    }
}

static void write_register(struct rtc *rtc, uint64_t offset, uint32_t value, uint32_t guest)
{
    switch (offset) {
    case REG_MR:
        rtc->match = value;
        rtc->armed = true;
        break;
    case REG_LR:
        rtc->offset += value - guest;
        rtc->load = value;
        break;
    case REG_IMSC:
        rtc->mask = value & ALARM;
        break;
    case REG_ICR:
        rtc->raised &= ~value;
        break;
    default: /* the clock cannot be stopped, and the others are for reading */
        break;
    }
}

static enum verdict rtc_read(struct device *device, uint64_t offset, unsigned size_bytes,
                             uint64_t *value)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    if (size_bytes != sizeof(uint32_t) || !is_aligned(offset, sizeof(uint32_t)))
        return DEVICE_UNHANDLED;
    uint32_t host = (uint32_t)rtc->now();
    lock_take(&rtc->lock);
    notice_alarm(rtc, host + rtc->offset);
    *value = read_register(rtc, offset, host + rtc->offset);
    lock_release(&rtc->lock);
    return DEVICE_HANDLED;
}

static enum verdict rtc_write(struct device *device, uint64_t offset, unsigned size_bytes,
                              uint64_t value)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    if (size_bytes != sizeof(uint32_t) || !is_aligned(offset, sizeof(uint32_t)))
        return DEVICE_UNHANDLED;
    uint32_t host = (uint32_t)rtc->now();
    lock_take(&rtc->lock);
    notice_alarm(rtc, host + rtc->offset);
    write_register(rtc, offset, (uint32_t)value, host + rtc->offset);
    lock_release(&rtc->lock);
    return DEVICE_HANDLED;
}

static void rtc_destroy(struct device *device)
{
    struct rtc *rtc = container_of(device, struct rtc, device);
    lock_finish(&rtc->lock);
    free(rtc);
}

static const struct device_ops rtc_ops = {
    .read = rtc_read,
    .write = rtc_write,
    .destroy = rtc_destroy,
};

int rtc_pl031_create(struct device **out, rtc_pl031_now_fn *now, struct nido_error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    if (!rtc)
        return error_set(err, ENOMEM, "clock: out of memory");
    rtc->device = (struct device){.ops = &rtc_ops, .name = "rtc"};
    rtc->now = now ? now : host_now;
    lock_init(&rtc->lock);
    *out = &rtc->device;
    return 0;
}
