/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --config: a JSON object whose keys are the flags. Each value becomes the text that the flag would
 * take, so this file checks names and JSON's types only; config_finalise() does the rest.
 *
 *     "mem": "512M"                               --mem 512M
 *     "disk": ["a.img,ro"]                        --disk a.img,ro
 *     "disk": [{"file": "a.img", "ro": true}]     --disk a.img,ro
 */
#include "config/config.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A value that grows. A failed allocation shows once, at the end. */
struct text {
    char *at;
    size_t length;
    FILE *stream;
};

static int text_open(struct text *text, struct nido_error *err)
{
    *text = (struct text){0};
    text->stream = open_memstream(&text->at, &text->length);
    return text->stream ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int text_close(struct text *text, struct nido_error *err)
{
    bool failed = ferror(text->stream);
    return fclose(text->stream) != 0 || failed ? error_set(err, ENOMEM, "out of memory") : 0;
}

/* A comma in a word is written twice. */
static void put_word(FILE *to, const char *word)
{
    for (; *word; word++) {
        if (*word == ',')
            putc(',', to);
        putc(*word, to);
    }
}

static const char *wanted(enum config_type type)
{
    static const char *const names[] = {
        [CONFIG_SWITCH] = "true or false",
        [CONFIG_TEXT] = "a string",
        [CONFIG_NUMBER] = "a number",
        [CONFIG_SIZE] = "a string such as \"512M\", or a number of bytes",
        [CONFIG_TEXTS] = "an array of strings",
        [CONFIG_SWITCH_OR_TEXT] = "true, false or a string",
    };
    return names[type];
}

static bool fits(enum config_type type, const json_t *value)
{
    switch (type) {
    case CONFIG_SWITCH:
        return json_is_boolean(value);
    case CONFIG_NUMBER:
    case CONFIG_SIZE:
        return json_is_string(value) || json_is_integer(value);
    case CONFIG_TEXT:
    case CONFIG_TEXTS:
        return json_is_string(value);
    case CONFIG_SWITCH_OR_TEXT:
        return json_is_boolean(value) || json_is_string(value);
    }
    return false;
}

/* The text of a string or a number; `digits` is room for the latter. */
static const char *scalar_text(const json_t *value, char digits[24])
{
    if (json_is_string(value))
        return json_string_value(value);
    snprintf(digits, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return digits;
}

/* ---- objects: {"file": "a.img", "ro": true} ---- */

static int unknown(const char *name, const char *nearest, struct nido_error *err)
{
    if (nearest)
        return error_set(err, EINVAL, "\"%s\" is not a key; did you mean \"%s\"?", name, nearest);
    return error_set(err, EINVAL, "\"%s\" is not a key; see nido-config(5)", name);
}

static int put_option(FILE *to, const struct config_option *option, const json_t *value,
                      struct nido_error *err)
{
    char digits[24];
    if (!fits(option->type, value))
        return error_set(err, EINVAL, "\"%s\" must be %s", option->name, wanted(option->type));
    if (json_is_false(value))
        return 0;
    fprintf(to, ",%s", option->name);
    if (!json_is_true(value)) {
        putc('=', to);
        put_word(to, scalar_text(value, digits));
    }
    return 0;
}

/* All values of an option that may be repeated. */
static int put_options(FILE *to, const struct config_option *option, const json_t *values,
                       struct nido_error *err)
{
    size_t i;
    json_t *value;
    int ret = 0;
    if (option->type != CONFIG_TEXTS)
        return put_option(to, option, values, err);
    if (!json_is_array(values))
        return error_set(err, EINVAL, "\"%s\" must be %s", option->name, wanted(option->type));
    json_array_foreach(values, i, value)
    {
        if (ret == 0)
            ret = put_option(to, option, value, err);
    }
    return ret;
}

static int put_first(FILE *to, const struct config_key *key, const json_t *object,
                     struct nido_error *err)
{
    if (!key->first)
        return 0;
    const json_t *value = json_object_get(object, key->first);
    if (!json_is_string(value))
        return error_set(err, EINVAL, "\"%s\" %s a string", key->first,
                         value ? "must be" : "is needed:");
    put_word(to, json_string_value(value));
    return 0;
}

static int put_object(FILE *to, const struct config_key *key, json_t *object,
                      struct nido_error *err)
{
    const char *name;
    json_t *value;
    int ret = put_first(to, key, object, err);
    json_object_foreach(object, name, value)
    {
        const struct config_option *option = config_find_option(key, name);
        if (ret < 0 || (key->first && strcmp(name, key->first) == 0))
            continue;
        ret = option ? put_options(to, option, value, err)
                     : unknown(name, config_nearest_option(key, name), err);
    }
    return ret;
}

static int set_object(struct config *config, const struct config_key *key, json_t *object,
                      struct nido_error *err)
{
    struct text text;
    int ret = text_open(&text, err);
    if (ret < 0)
        return ret;
    ret = put_object(text.stream, key, object, err);
    int closed = text_close(&text, ret < 0 ? NULL : err);
    if (ret == 0)
        ret = closed;
    /* Each option brought a comma; without a first word there is one too many. */
    if (ret == 0)
        ret = config_set_from_file(config, key, text.at + (!key->first && text.length), err);
    free(text.at);
    return ret;
}

/* ---- keys ---- */

static int set_value(struct config *config, const struct config_key *key, json_t *value,
                     struct nido_error *err)
{
    char digits[24];
    if (key->options && json_is_object(value))
        return set_object(config, key, value, err);
    if (!fits(key->type, value))
        return error_set(err, EINVAL, "must be %s%s", wanted(key->type),
                         key->options ? " or an object" : "");
    if (json_is_boolean(value))
        return json_is_true(value) ? config_set_from_file(config, key, NULL, err) : 0;
    return config_set_from_file(config, key, scalar_text(value, digits), err);
}

static int set_items(struct config *config, const struct config_key *key, const json_t *items,
                     struct nido_error *err)
{
    size_t i;
    json_t *item;
    if (!json_is_array(items))
        return error_set(err, EINVAL, "%s: must be an array, since --%s may be repeated", key->name,
                         key->name);
    json_array_foreach(items, i, item)
    {
        int ret = set_value(config, key, item, err);
        if (ret < 0)
            return error_prefix(err, "%s, item %zu", key->name, i + 1);
    }
    return 0;
}

static int set_key(struct config *config, const char *name, json_t *value, struct nido_error *err)
{
    const struct config_key *key = config_find(config, name, strlen(name));
    if (!key)
        return unknown(name, config_nearest_key(config, name), err);
    if (key->flag_only)
        return error_set(err, EINVAL, "\"%s\" is for the command line only", name);
    if (key->repeatable)
        return set_items(config, key, value, err);
    int ret = set_value(config, key, value, err);
    return ret < 0 ? error_prefix(err, "%s", name) : 0;
}

/* ---- the file ---- */

static int open_file(const char *path, FILE **out, struct nido_error *err)
{
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) < 0)
        return error_errno(err, errno, "cannot be opened");
    if (S_ISDIR(info.st_mode))
        return error_set(err, EISDIR, "is a directory; name a JSON file");
    *out = fdopen(fd, "r");
    if (!*out)
        return error_set(err, ENOMEM, "out of memory");
    fd = -1;
    return 0;
}

static int parse_file(FILE *file, json_t **out, struct nido_error *err)
{
    json_error_t why;
    *out = json_loadf(file, JSON_REJECT_DUPLICATES, &why);
    if (!*out)
        return error_set(err, EINVAL, "line %d: %s", why.line, why.text);
    if (!json_is_object(*out))
        return error_set(err, EINVAL, "must be an object: { \"kernel\": ... }");
    return 0;
}

static int set_keys(struct config *config, json_t *root, struct nido_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        int ret = set_key(config, name, value, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int config_load(struct config *config, const char *path, struct nido_error *err)
{
    own_file FILE *file = NULL;
    json_t *root = NULL;
    int ret = open_file(path, &file, err);
    if (ret == 0)
        ret = parse_file(file, &root, err);
    if (ret == 0)
        ret = set_keys(config, root, err);
    json_decref(root);
    return ret < 0 ? error_prefix(err, "config %s", path) : 0;
}
