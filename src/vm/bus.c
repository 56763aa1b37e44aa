/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/bus.h"

#include "base/checked.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

void bus_init(struct bus *bus, const char *name)
{
    memset(bus, 0, sizeof(*bus));
    bus->name = name;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t length_bytes, struct device *device,
            struct nido_error *err)
{
    if (bus->count == BUS_RANGES_MAX)
        return error_set(err, ENOSPC, "%s: the %s bus is full (%u ranges)", device->name, bus->name,
                         BUS_RANGES_MAX);
    unsigned at = 0;
    for (; at < bus->count && bus->ranges[at].base < base; at++)
        ;
    for (unsigned i = 0; i < bus->count; i++) {
        const struct bus_range *range = &bus->ranges[i];
        if (checked_overlap(base, length_bytes, range->base, range->length_bytes))
            return error_set(err, EBUSY, "%s: its %s range at 0x%llx overlaps that of %s",
                             device->name, bus->name, (unsigned long long)base,
                             range->device->name);
    }
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(bus->ranges[0]));
    bus->ranges[at] = (struct bus_range){base, length_bytes, device};
    bus->count++;
    return 0;
}

/* The range that holds all of the access: one that straddles a range's end is nobody's. */
static const struct bus_range *find(const struct bus *bus, uint64_t address, unsigned size_bytes)
{
    unsigned low = 0, high = bus->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (bus->ranges[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    const struct bus_range *range = &bus->ranges[low - 1];
    return checked_inside(address - range->base, size_bytes, range->length_bytes) ? range : NULL;
}

static void tell_unhandled(const struct bus *bus, const char *what, uint64_t address,
                           unsigned size_bytes)
{
    static struct log_limit limit;
    if (log_enabled(LOG_DEBUG) && log_limit_allows(&limit))
        log_debug("%s: %s of %u bytes at 0x%llx: nobody is there", bus->name, what, size_bytes,
                  (unsigned long long)address);
}

enum verdict bus_read(struct bus *bus, uint64_t address, unsigned size_bytes, uint64_t *value)
{
    const struct bus_range *range = find(bus, address, size_bytes);
    enum verdict verdict = DEVICE_UNHANDLED;
    if (range && range->device->ops->read)
        verdict = range->device->ops->read(range->device, address - range->base, size_bytes, value);
    if (verdict == DEVICE_UNHANDLED) {
        *value = UINT64_MAX;
        tell_unhandled(bus, "read", address, size_bytes);
    }
    return verdict;
}

enum verdict bus_write(struct bus *bus, uint64_t address, unsigned size_bytes, uint64_t value)
{
    const struct bus_range *range = find(bus, address, size_bytes);
    enum verdict verdict = DEVICE_UNHANDLED;
    if (range && range->device->ops->write)
        verdict =
            range->device->ops->write(range->device, address - range->base, size_bytes, value);
    if (verdict == DEVICE_UNHANDLED)
        tell_unhandled(bus, "write", address, size_bytes);
    return verdict;
}
