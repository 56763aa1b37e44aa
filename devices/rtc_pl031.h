/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_RTC_PL031_H
#define NIDO_DEVICES_RTC_PL031_H

/* Arm's real-time clock: seconds since 1970, in UTC. */

#include "base/error.h"
#include "vm/device.h"

#include <stdint.h>

#define RTC_PL031_BYTES 0x1000u

/* Seconds since 1970 in UTC. Any thread. */
typedef int64_t rtc_pl031_now_fn(void);

/* `now` NULL: the host's clock. */
int rtc_pl031_create(struct device **out, rtc_pl031_now_fn *now, struct nido_error *err);

#endif
