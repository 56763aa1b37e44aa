/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CONFIG_CONFIG_H
#define NIDO_CONFIG_CONFIG_H

/*
 * One schema for all ways to configure a machine (schema.c). The command line, the JSON file of
 * --config, --dump-config, --help, the manual and shell completion come from the same table or are
 * tested against it.
 *
 * There is one way to read a value: the text that a flag takes. JSON is turned into that text first
 * (json_load.c), so a file can say nothing that a flag cannot, and both are refused alike.
 *
 * Life of a configuration: zero; config_set() for each flag, in order; config_finalise() adds the
 * file's keys where no flag stands and the defaults where neither does; config_finish().
 */

#include "base/error.h"

#include <nido/config.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define CONFIG_ENTRIES_MAX 128

/* What a value looks like in JSON. On the command line all are text. */
enum config_type {
    CONFIG_SWITCH,         /* true or false; a flag without a value */
    CONFIG_TEXT,           /* a string */
    CONFIG_NUMBER,         /* a whole number, or a string that holds one */
    CONFIG_SIZE,           /* bytes as a number, or a string such as "512M" */
    CONFIG_TEXTS,          /* of options only: one that may be repeated; an array of strings */
    CONFIG_SWITCH_OR_TEXT, /* of options only: with a value or without; true, false or a string */
};

struct config;

/* One word of a value such as "root.img,ro,id=root". */
struct config_option {
    const char *name;
    enum config_type type;
    int (*set)(void *target, const char *value, struct nido_error *err);
};

struct config_key {
    const char *name; /* "disk": the flag is --disk */
    enum config_type type;
    const char *value;          /* "FILE[,ro]...": what --help shows; NULL: a switch */
    const char *initial;        /* the value where none is given, in a flag's words; NULL: none */
    const char *initial_on_hvc; /* the same where the console is virtio's; NULL: no other */
    const char *help;
    bool repeatable; /* in JSON: an array */
    bool common;     /* in the --help that fits a screen */
    bool flag_only;  /* not in a file */

    /* Values that are words between commas, and objects in JSON. */
    const char *first; /* the name of the word that stands first and has none: "file" */
    const struct config_option *options;
    unsigned option_count;

    int (*set)(struct config *config, char *value, struct nido_error *err);
};

/* A value that was given, or is the default. */
struct config_entry {
    const struct config_key *key;
    bool from_file;
    bool applied;
    char *text;  /* as a flag would say it; NULL: a switch that is on */
    char *words; /* a copy that set() has cut up and the machine points into */
};

/* A configuration under construction and the strings it points to. Zero-initialised but for
 * more_keys. */
struct config {
    struct nido_config machine;
    /* Keys that do not describe the machine, from whoever has them: their set() finds its own
     * struct around this one. */
    const struct config_key *more_keys;
    unsigned more_count;
    bool kernel_is_optional; /* somebody else will choose one */
    bool net_none;           /* "--net none" was given */
    bool dump;               /* --dump-config */
    const char *file;        /* of --config */
    unsigned entry_count;
    struct config_entry entries[CONFIG_ENTRIES_MAX];
};

extern const struct config_key config_keys[];
extern const unsigned config_key_count;

/* The schema's keys, then more_keys; NULL behind the last. */
const struct config_key *config_key_at(const struct config *config, unsigned i);

/* NULL: there is none of that name. */
const struct config_key *config_find(const struct config *config, const char *name, size_t length);
const struct config_option *config_find_option(const struct config_key *key, const char *name);

/* A flag: parses and range-checks one value; refuses a second one for a key that is not repeatable.
 * Errors begin with the flag: "--mem 12X: ...". `value` is NULL for a switch. */
int config_set(struct config *config, const struct config_key *key, const char *value,
               struct nido_error *err);

/* The same for a value that stands in the file; parsed by config_finalise(), unless a flag of the
 * same key makes it void. */
int config_set_from_file(struct config *config, const struct config_key *key, const char *value,
                         struct nido_error *err);

/* What no single key can see: what is missing, or contradicts. */
int config_check(const struct config *config, struct nido_error *err);

/* The file's values, the defaults, then config_check(). */
int config_finalise(struct config *config, struct nido_error *err);

void config_finish(struct config *config);

/* Adds the keys of a JSON file. Errors begin with "config FILE: ". */
int config_load(struct config *config, const char *path, struct nido_error *err);

/* Writes what is in force, as JSON that config_load() takes back to the same. */
int config_dump(const struct config *config, FILE *to, struct nido_error *err);

/* Cuts off the text before the next comma, in place; a doubled comma stands for one. NULL: there is
 * nothing left. */
char *config_next_word(char **rest);

/* Sets what the words in `rest` say on `target`, an option at most once unless it is CONFIG_TEXTS.
 * `rest` may be NULL. */
int config_set_options(const struct config_option *options, unsigned count, void *target,
                       char *rest, struct nido_error *err);

/* The key or option that `wrong` may have been meant for; NULL: none is close. */
const char *config_nearest_key(const struct config *config, const char *wrong);
const char *config_nearest_option(const struct config_key *key, const char *wrong);

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
