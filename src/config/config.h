/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CONFIG_CONFIG_H
#define NIDO_CONFIG_CONFIG_H

/*
 * One schema for all ways to configure a machine. A key has a name, a value's form, a range, a
 * default and a line of help; the command line, --help and the manual come from the same table.
 */

#include "base/error.h"

#include <nido/config.h>
#include <stdbool.h>
#include <stddef.h>

#define CONFIG_STRINGS_MAX 64

/* A configuration under construction and the strings it points to. Zero-initialised. */
struct config {
    struct nido_config machine;
    bool net_none;           /* "--net none" was given */
    bool kernel_cache_given;
    unsigned seen_count[32]; /* how often each key of the schema was given */
    unsigned string_count;
    char *strings[CONFIG_STRINGS_MAX];
};

struct config_key {
    const char *name;  /* "disk": the flag is --disk */
    const char *value; /* "FILE[,ro]...": what --help shows; NULL: a switch that takes no value */
    const char *help;
    bool repeatable;
    int (*set)(struct config *config, char *value, struct nido_error *err);
};

extern const struct config_key config_keys[];
extern const unsigned config_key_count;

const struct config_key *config_find(const char *name, size_t length);

/* Parses and range-checks one value; refuses a second one for a key that is not repeatable. Errors
 * begin with the flag: "--mem 12X: ...". `value` is NULL for a switch. */
int config_set(struct config *config, const struct config_key *key, const char *value,
               struct nido_error *err);

/* What no single key can see: what is missing, or contradicts. */
int config_check(const struct config *config, struct nido_error *err);

/* Checks, then fills in the defaults that depend on the user's environment. */
int config_finalise(struct config *config, struct nido_error *err);

void config_finish(struct config *config);

/* "512", "64K", "256M", "4G" (powers of 1024, either case, "MiB" and "MB" too): bytes. */
int config_parse_size(const char *text, uint64_t *bytes, struct nido_error *err);
/* A decimal number in [low, high]. */
int config_parse_number(const char *text, unsigned long low, unsigned long high,
                        unsigned long *number, struct nido_error *err);
/* "8080:80", "127.0.0.1:8080:80", "[::1]:53:53/udp". */
int config_parse_publish(const char *text, struct nido_publish *publish, struct nido_error *err);
/* No two networks publish the same port, nor does one twice. */
int config_check_ports(const struct nido_config *machine, struct nido_error *err);

#endif
