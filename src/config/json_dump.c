/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --dump-config: what is in force, as JSON that --config takes. Values are written in the words they
 * were given in ("512M"); those made of words become objects.
 */
#include "config/config.h"

#include "base/checked.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *scalar_json(enum config_type type, const char *text)
{
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (type == CONFIG_NUMBER && errno == 0 && end != text && !*end)
        return json_integer(number);
    return json_string(text);
}

/* Takes over `value`, which may be NULL: then it fails, as it does for lack of memory. */
static bool add_option(json_t *object, const struct config_option *option, json_t *value)
{
    if (option->type != CONFIG_TEXTS)
        return json_object_set_new(object, option->name, value) == 0;
    json_t *list = json_object_get(object, option->name);
    if (!list) {
        list = json_array();
        if (json_object_set_new(object, option->name, list) < 0) {
            json_decref(value);
            return false;
        }
    }
    return json_array_append_new(list, value) == 0;
}

/* The word has been through the same parser before, so its option is there. */
static bool add_word(json_t *object, const struct config_key *key, char *word)
{
    char *value = strchr(word, '=');
    if (value)
        *value++ = '\0';
    const struct config_option *option = config_find_option(key, word);
    if (!option)
        return false;
    return add_option(object, option, value ? scalar_json(option->type, value) : json_true());
}

static json_t *object_json(const struct config_key *key, char *words)
{
    json_t *object = json_object();
    char *word;
    bool ok = object;
    if (ok && key->first)
        ok = json_object_set_new(object, key->first, json_string(config_next_word(&words))) == 0;
    while (ok && (word = config_next_word(&words)))
        ok = add_word(object, key, word);
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *entry_json(const struct config_entry *entry)
{
    if (!entry->text)
        return json_true();
    if (!entry->key->options)
        return scalar_json(entry->key->type, entry->text);
    char *words = strdup(entry->text);
    json_t *object = words ? object_json(entry->key, words) : NULL;
    free(words);
    return object;
}

static int not_json(const struct config_entry *entry, struct nido_error *err)
{
    return error_set(err, EILSEQ, "--dump-config: %s %s is not UTF-8, and JSON is nothing else",
                     entry->key->name, entry->text ? entry->text : "");
}

static bool is_overlay(const struct config_key *key)
{
    return strcmp(key->name, "overlay") == 0;
}

/* Disks are numbered in the order of their flags, and JSON has none between two keys: what --overlay says is dumped as
 * the --disk that it is. */
static bool goes_into(const struct config_entry *entry, const struct config_key *key)
{
    return is_overlay(entry->key) ? strcmp(key->name, "disk") == 0 : entry->key == key;
}

static json_t *overlay_as_disk(json_t *object)
{
    json_t *keep = json_object_get(object, "keep");
    json_object_set_new(object, "overlay", keep ? json_incref(keep) : json_true());
    json_object_del(object, "keep");
    return object;
}

static int add_entries(json_t *root, const struct config *config, const struct config_key *key,
                       struct nido_error *err)
{
    for (unsigned i = 0; i < config->entry_count; i++) {
        const struct config_entry *entry = &config->entries[i];
        if (!goes_into(entry, key) || !entry->applied)
            continue;
        json_t *value = entry_json(entry);
        if (is_overlay(entry->key))
            value = overlay_as_disk(value);
        json_t *list = key->repeatable ? json_object_get(root, key->name) : NULL;
        if (list ? json_array_append_new(list, value) : json_object_set_new(root, key->name, value))
            return not_json(entry, err);
    }
    return 0;
}

/* What no value says: an empty list, a switch that is off. The rest is left out. */
static json_t *nothing_json(const struct config_key *key)
{
    if (key->repeatable)
        return json_array();
    return key->type == CONFIG_SWITCH ? json_false() : NULL;
}

static int add_key(json_t *root, const struct config *config, const struct config_key *key,
                   struct nido_error *err)
{
    json_t *nothing = key->flag_only ? NULL : nothing_json(key);
    if (key->flag_only)
        return 0;
    if (nothing && json_object_set_new(root, key->name, nothing) < 0)
        return error_set(err, ENOMEM, "--dump-config: out of memory");
    return add_entries(root, config, key, err);
}

static int write_json(const json_t *root, FILE *to, struct nido_error *err)
{
    errno = 0;
    if (json_dumpf(root, to, JSON_INDENT(2)) < 0 || putc('\n', to) == EOF || fflush(to) == EOF)
        return error_errno(err, errno ? errno : EIO, "--dump-config: cannot be written");
    return 0;
}

int config_dump(const struct config *config, FILE *to, struct nido_error *err)
{
    json_t *root = json_object();
    const struct config_key *key;
    int ret = root ? 0 : error_set(err, ENOMEM, "--dump-config: out of memory");
    for (unsigned i = 0; ret == 0 && (key = config_key_at(config, i)); i++)
        ret = add_key(root, config, key, err);
    if (ret == 0)
        ret = write_json(root, to, err);
    json_decref(root);
    return ret;
}
