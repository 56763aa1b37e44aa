/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_RTC_CMOS_H
#define NIDO_DEVICES_RTC_CMOS_H

/* The PC's battery-backed clock and its 128 bytes of RAM, in UTC. */

#include "base/error.h"
#include "vm/device.h"

#include <stdint.h>

#define RTC_CMOS_PORT       0x70u
#define RTC_CMOS_PORT_BYTES 2u
#define RTC_CMOS_CENTURY    0x32u /* where the century is; the FADT's CENTURY field says the same */

/* Microseconds since 1970 in UTC. Any thread. */
typedef int64_t rtc_now_us_fn(void);

/* `now_us` NULL: the host's clock. */
int rtc_cmos_create(struct device **out, rtc_now_us_fn *now_us, struct nido_error *err);

#endif
