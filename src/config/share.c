/* SPDX-License-Identifier: Apache-2.0 */
#include "config/share.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int share_ro(void *target, const char *value, struct nido_error *err)
{
    ((struct nido_share *)target)->read_only = true;
    return 0;
}

static int share_tag(void *target, const char *value, struct nido_error *err)
{
    if (strlen(value) > NIDO_SHARE_TAG_BYTES)
        return error_set(err, EINVAL, "'%s' is longer than %u bytes", value, NIDO_SHARE_TAG_BYTES);
    if (strcmp(value, "root") == 0)
        return error_set(err, EINVAL, "'root' is kept for the guest's root directory");
    ((struct nido_share *)target)->tag = value;
    return 0;
}

static int share_cache(void *target, const char *value, struct nido_error *err)
{
    enum nido_share_cache *cache = &((struct nido_share *)target)->cache;
    if (strcmp(value, "auto") == 0)
        *cache = NIDO_SHARE_CACHE_AUTO;
    else if (strcmp(value, "always") == 0)
        *cache = NIDO_SHARE_CACHE_ALWAYS;
    else if (strcmp(value, "none") == 0)
        *cache = NIDO_SHARE_CACHE_NONE;
    else
        return error_set(err, EINVAL, "'%s' is not a mode; say auto, always or none", value);
    return 0;
}

const struct config_option config_share_options[CONFIG_SHARE_OPTIONS] = {
    {"ro", CONFIG_SWITCH, share_ro},
    {"tag", CONFIG_TEXT, share_tag},
    {"cache", CONFIG_TEXT, share_cache},
};

/* A mount on the guest's root would hide nothing and be seen by nobody; with ".." it could come to lie there. */
static int check_guest_path(const char *path, struct nido_error *err)
{
    bool names_a_place = false;
    for (const char *part = path; *part; part += strcspn(part, "/")) {
        part += strspn(part, "/");
        size_t length = strcspn(part, "/");
        if ((length == 1 && part[0] == '.') || (length == 2 && strncmp(part, "..", 2) == 0))
            return error_set(err, EINVAL, "the guest's path '%s' has a '.' or '..' in it", path);
        names_a_place |= length > 0;
    }
    if (!names_a_place)
        return error_set(err, EINVAL,
                         "a share cannot be the guest's '/'; name a directory below it, or say "
                         "--root for a root directory");
    return 0;
}

/* The guest's path has no colon, so the host's may have some. */
int config_add_share(struct config *config, char *value, struct nido_error *err)
{
    if (config->machine.share_count == NIDO_SHARES_MAX)
        return error_set(err, E2BIG, "a machine has at most %u shares", NIDO_SHARES_MAX);
    struct nido_share share = {.path = config_next_word(&value)};
    char *colon = strrchr(share.path, ':');
    if (!colon || colon == share.path || colon[1] != '/')
        return error_set(err, EINVAL,
                         "say HOST:GUEST, a directory or file of this host and where the guest "
                         "mounts it, from / on");
    *colon = '\0';
    share.guest_path = colon + 1;
    int ret = check_guest_path(share.guest_path, err);
    if (ret == 0)
        ret = config_set_options(config_share_options, CONFIG_SHARE_OPTIONS, &share, value, err);
    if (ret == 0)
        config->machine.shares[config->machine.share_count++] = share;
    return ret;
}

/* However many slashes stand between their parts, and behind them. */
static bool same_place(const char *a, const char *b)
{
    for (;;) {
        a += strspn(a, "/");
        b += strspn(b, "/");
        size_t length = strcspn(a, "/");
        if (length != strcspn(b, "/") || strncmp(a, b, length) != 0)
            return false;
        if (length == 0)
            return true;
        a += length;
        b += length;
    }
}

/* The names that are given to shares without one count too. */
int config_check_shares(const struct nido_config *machine, struct nido_error *err)
{
    char tags[NIDO_SHARES_MAX][NIDO_SHARE_TAG_BYTES + 1];
    for (unsigned i = 0; i < machine->share_count; i++) {
        const struct nido_share *share = &machine->shares[i];
        if (share->tag)
            snprintf(tags[i], sizeof(tags[i]), "%s", share->tag);
        else
            snprintf(tags[i], sizeof(tags[i]), "share%u", i);
        for (unsigned j = 0; j < i; j++) {
            const struct nido_share *other = &machine->shares[j];
            if (strcmp(tags[i], tags[j]) == 0)
                return error_set(err, EINVAL, "--share %s: tag=%s is taken by %s", share->path,
                                 tags[i], other->path);
            if (same_place(share->guest_path, other->guest_path))
                return error_set(err, EINVAL,
                                 "--share %s: %s is already the place of %s in the guest",
                                 share->path, share->guest_path, other->path);
        }
    }
    return 0;
}
