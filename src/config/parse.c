/* SPDX-License-Identifier: Apache-2.0 */
/* Values in the forms that people type: sizes and numbers. */
#include "config/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* strtoull takes signs and leading blanks; a size has neither. */
static bool parse_digits(const char *text, unsigned long long *number, const char **rest)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    *rest = end;
    return errno == 0;
}

static int unit_shift(const char *unit)
{
    static const struct {
        const char *name;
        int shift;
    } units[] = {
        {"", 0},     {"b", 0},  {"k", 10},  {"kb", 10},  {"kib", 10}, {"m", 20},  {"mb", 20},
        {"mib", 20}, {"g", 30}, {"gb", 30}, {"gib", 30}, {"t", 40},   {"tb", 40}, {"tib", 40},
    };
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcasecmp(unit, units[i].name) == 0)
            return units[i].shift;
    return -1;
}

int config_parse_size(const char *text, uint64_t *bytes, struct nido_error *err)
{
    unsigned long long number;
    const char *unit;
    if (!parse_digits(text, &number, &unit))
        return error_set(err, EINVAL, "not a size; say a number and K, M or G, like 256M");
    int shift = unit_shift(unit);
    if (shift < 0)
        return error_set(err, EINVAL, "'%s' is no unit; say K, M or G, like 256M", unit);
    if (number > (UINT64_MAX >> shift))
        return error_set(err, ERANGE, "too large for any machine");
    *bytes = (uint64_t)number << shift;
    return 0;
}

int config_parse_number(const char *text, unsigned long low, unsigned long high,
                        unsigned long *number, struct nido_error *err)
{
    unsigned long long value;
    const char *rest;
    if (!parse_digits(text, &value, &rest) || *rest)
        return error_set(err, EINVAL, "not a number; say one from %lu to %lu", low, high);
    if (value < low || value > high)
        return error_set(err, ERANGE, "out of range; say one from %lu to %lu", low, high);
    *number = (unsigned long)value;
    return 0;
}
