/* SPDX-License-Identifier: Apache-2.0 */
/* Values that are words between commas ("root.img,ro,id=root"), and words that are nearly right. */
#include "config/config.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

#define OPTIONS_MAX 32u
#define NAME_BYTES  32u
#define FAR         3u /* letters that make another word */

char *config_next_word(char **rest)
{
    char *start = *rest, *to = start;
    if (!start)
        return NULL;
    for (char *from = start;; from++) {
        if (from[0] == ',' && from[1] == ',') {
            from++;
        } else if (from[0] == ',' || from[0] == '\0') {
            *rest = from[0] ? from + 1 : NULL;
            *to = '\0';
            return start;
        }
        *to++ = *from;
    }
}

static int set_option(const struct config_option *option, void *target, const char *value,
                      struct nido_error *err)
{
    const bool may_lack = option->type == CONFIG_SWITCH || option->type == CONFIG_SWITCH_OR_TEXT;
    if (value ? !*value && option->type != CONFIG_SWITCH : !may_lack)
        return error_set(err, EINVAL, "'%s' needs a value: %s=...", option->name, option->name);
    if (option->type == CONFIG_SWITCH && value)
        return error_set(err, EINVAL, "'%s' takes no value", option->name);
    int ret = option->set(target, value, err);
    return ret < 0 ? error_prefix(err, "%s", option->name) : 0;
}

/* `seen` has a bit for each option that was there already. */
static int set_word(const struct config_option *options, unsigned count, uint32_t *seen,
                    void *target, char *word, struct nido_error *err)
{
    char *value = strchr(word, '=');
    if (value)
        *value++ = '\0';
    for (unsigned i = 0; i < count && i < OPTIONS_MAX; i++) {
        if (strcmp(options[i].name, word) != 0)
            continue;
        if (*seen & 1u << i && options[i].type != CONFIG_TEXTS)
            return error_set(err, EINVAL, "'%s' is given twice", word);
        *seen |= 1u << i;
        return set_option(&options[i], target, value, err);
    }
    return error_set(err, EINVAL, "'%s' is not an option here; 'nido help run all' lists them",
                     word);
}

int config_set_options(const struct config_option *options, unsigned count, void *target,
                       char *rest, struct nido_error *err)
{
    uint32_t seen = 0;
    int ret = 0;
    char *word;
    while (ret == 0 && (word = config_next_word(&rest)))
        ret = set_word(options, count, &seen, target, word, err);
    return ret;
}

/* ---- words that are nearly right ---- */

/* How many letters have to be changed, added or removed to get from one to the other (Levenshtein);
 * `row` is a line of the usual table. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[NAME_BYTES + 1];
    size_t length = strlen(b);
    if (strlen(a) > NAME_BYTES || length > NAME_BYTES)
        return NAME_BYTES;
    for (unsigned j = 0; j <= length; j++)
        row[j] = j;
    for (unsigned i = 1; *a; i++, a++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            unsigned changed = diagonal + (*a != b[j - 1]);
            unsigned longer = MIN(row[j], row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = MIN(changed, longer);
        }
    }
    return row[length];
}

/* Keeps the better one. `least` is the best one's distance, so far. */
static void consider(const char *wrong, const char *name, const char **best, unsigned *least)
{
    unsigned d = distance(wrong, name);
    if (d >= *least || 2 * d > strlen(wrong))
        return;
    *least = d;
    *best = name;
}

const char *config_nearest_key(const struct config *config, const char *wrong)
{
    const char *best = NULL;
    const struct config_key *key;
    unsigned least = FAR;
    for (unsigned i = 0; (key = config_key_at(config, i)); i++)
        consider(wrong, key->name, &best, &least);
    return best;
}

const char *config_nearest_option(const struct config_key *key, const char *wrong)
{
    const char *best = NULL;
    unsigned least = FAR;
    if (key->first)
        consider(wrong, key->first, &best, &least);
    for (unsigned i = 0; i < key->option_count; i++)
        consider(wrong, key->options[i].name, &best, &least);
    return best;
}
