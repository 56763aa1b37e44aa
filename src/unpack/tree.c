/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/tree.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS         (1u << 16)
#define LINKS_MAX       40 /* in one path, as Linux has it */
#define WHITEOUT        ".wh."
#define WHITEOUT_BYTES  4u
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define WHITEOUT_OTHER  ".wh..wh." /* marks of AUFS, which mean nothing to others */

struct tree {
    struct tree_node *root;
    struct tree_node *buckets[BUCKETS];
    struct tree_item **items;
    uint64_t item_count, item_room;
    unsigned name_count;
};

/* ---- nodes ---- */

/* FNV-1a, begun with the directory. */
static unsigned bucket_of(const struct tree_node *parent, const char *name, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325ull ^ (uintptr_t)parent;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * 0x100000001b3ull;
    return (unsigned)(hash ^ hash >> 32) % BUCKETS;
}

static struct tree_node *find(const struct tree *tree, const struct tree_node *parent,
                              const char *name, size_t length)
{
    struct tree_node *node = tree->buckets[bucket_of(parent, name, length)];
    while (node &&
           (node->parent != parent || strncmp(node->name, name, length) != 0 || node->name[length]))
        node = node->bucket_next;
    return node;
}

static struct tree_node *new_node(const char *name, size_t length)
{
    struct tree_node *node = calloc(1, sizeof(*node) + length + 1);
    if (node)
        memcpy(node->name, name, length);
    return node;
}

static void append(struct tree *tree, struct tree_node *parent, struct tree_node *node)
{
    struct tree_node **bucket = &tree->buckets[bucket_of(parent, node->name, strlen(node->name))];
    node->parent = parent;
    node->bucket_next = *bucket;
    *bucket = node;
    node->previous = parent->last;
    *(parent->last ? &parent->last->next : &parent->first) = node;
    parent->last = node;
}

static int add(struct tree *tree, struct tree_node *parent, const char *name, size_t length,
               unsigned layer, struct tree_node **out, struct nido_error *err)
{
    size_t depth_bytes = parent->depth_bytes + (parent->parent ? 1 : 0) + length;
    if (length > NAME_MAX || depth_bytes >= TREE_PATH_BYTES)
        return error_set(err, ENAMETOOLONG, "%.200s...: longer than names may be in Linux", name);
    if (tree->name_count == TREE_NAMES_MAX)
        return error_set(err, E2BIG, "there are more than %u files in it", TREE_NAMES_MAX);
    struct tree_node *node = *out = new_node(name, length);
    if (!node)
        return error_set(err, ENOMEM, "out of memory");
    node->layer = layer;
    node->depth_bytes = (unsigned)depth_bytes;
    tree->name_count++;
    append(tree, parent, node);
    return 0;
}

static void forget_item(struct tree_node *node)
{
    if (!node->item)
        return;
    *node->same_at = node->same;
    if (node->same)
        node->same->same_at = node->same_at;
    node->item = NULL;
}

static void free_node(struct tree_node *node)
{
    free(node->attributes);
    free(node);
}

/* One without anything in it. */
static void remove_node(struct tree *tree, struct tree_node *node)
{
    struct tree_node **at = &tree->buckets[bucket_of(node->parent, node->name, strlen(node->name))];
    while (*at != node)
        at = &(*at)->bucket_next;
    *at = node->bucket_next;
    *(node->previous ? &node->previous->next : &node->parent->first) = node->next;
    *(node->next ? &node->next->previous : &node->parent->last) = node->previous;
    forget_item(node);
    tree->name_count--;
    free_node(node);
}

/* Removes what is in it and came before `layer`; directories that keep something stay. */
static void prune(struct tree *tree, struct tree_node *directory, unsigned layer)
{
    for (struct tree_node *node = directory->first, *next; node; node = next) {
        next = node->next;
        prune(tree, node, layer);
        if (node->layer < layer && !node->first)
            remove_node(tree, node);
    }
}

static void remove_all(struct tree *tree, struct tree_node *node)
{
    prune(tree, node, UINT_MAX);
    remove_node(tree, node);
}

/* ---- paths ---- */

/* Text that is still to be walked: a path, and in front of it where symbolic links lead. */
struct walk {
    struct tree_node *at;
    char text[2 * TREE_PATH_BYTES];
    const char *rest;
    unsigned links;
};

static int follow(const struct tree *tree, struct walk *walk, const char *link,
                  struct nido_error *err)
{
    char text[2 * TREE_PATH_BYTES];
    if (++walk->links > LINKS_MAX)
        return error_set(err, ELOOP, "its symbolic links lead in a circle");
    if (snprintf(text, sizeof(text), "%s/%s", link, walk->rest) >= (int)sizeof(text))
        return error_set(err, ENAMETOOLONG, "longer than paths may be in Linux");
    if (*link == '/')
        walk->at = tree->root;
    strcpy(walk->text, text);
    walk->rest = walk->text;
    return 0;
}

/* A directory in the middle of a path. With `makes`, it is there afterwards; else walk->at may be
 * NULL. */
static int enter(struct tree *tree, struct walk *walk, const char *name, size_t length,
                 unsigned layer, bool makes, struct nido_error *err)
{
    struct tree_node *node = find(tree, walk->at, name, length);
    if (node && node->item && node->item->link)
        return follow(tree, walk, node->item->link, err);
    if (node && node->item && makes) {
        remove_node(tree, node);
        node = NULL;
    }
    if (!node && makes) {
        int ret = add(tree, walk->at, name, length, layer, &node, err);
        if (ret < 0)
            return ret;
    }
    walk->at = node && !node->item ? node : NULL;
    return 0;
}

/* All but the last name of `path`, which is clean. */
static int walk_to(struct tree *tree, const char *path, const char *last, unsigned layer,
                   bool makes, struct tree_node **out, struct nido_error *err)
{
    struct walk walk = {.at = tree->root};
    int ret = 0;
    snprintf(walk.text, sizeof(walk.text), "%.*s", (int)(last - path), path);
    walk.rest = walk.text;
    while (ret == 0 && walk.at && *walk.rest) {
        char name[NAME_MAX + 1];
        size_t length = strcspn(walk.rest, "/");
        if (length > NAME_MAX)
            return error_set(err, ENAMETOOLONG, "longer than names may be in Linux");
        memcpy(name, walk.rest, length);
        name[length] = '\0';
        walk.rest += length + (walk.rest[length] == '/');
        if (length == 0 || strcmp(name, ".") == 0)
            continue;
        if (strcmp(name, "..") == 0)
            walk.at = walk.at->parent ? walk.at->parent : walk.at;
        else
            ret = enter(tree, &walk, name, length, layer, makes, err);
    }
    *out = walk.at;
    return ret;
}

int tree_clean(const char *path, char to[TREE_PATH_BYTES], struct nido_error *err)
{
    size_t length = 0;
    while (*path) {
        size_t piece = strcspn(path, "/");
        if (piece == 2 && path[0] == '.' && path[1] == '.') {
            while (length && to[--length] != '/')
                ;
        } else if (piece && !(piece == 1 && path[0] == '.')) {
            if (length + piece + 2 > TREE_PATH_BYTES)
                return error_set(err, ENAMETOOLONG, "longer than paths may be in Linux");
            if (length)
                to[length++] = '/';
            memcpy(to + length, path, piece);
            length += piece;
        }
        path += piece + (path[piece] == '/');
    }
    to[length] = '\0';
    return 0;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- members ---- */

static struct member *keep_attributes(const struct member *member)
{
    size_t bytes = sizeof(*member);
    for (unsigned i = 0; i < member->xattr_count; i++)
        bytes += strlen(member->xattrs[i].name) + 1 + member->xattrs[i].value_bytes;
    struct member *kept = malloc(bytes);
    if (!kept)
        return NULL;
    *kept = *member;
    kept->path = kept->link = NULL;
    char *at = (char *)(kept + 1);
    for (unsigned i = 0; i < member->xattr_count; i++) {
        struct member_xattr *xattr = &kept->xattrs[i];
        size_t name_bytes = strlen(xattr->name) + 1;
        xattr->name = memcpy(at, xattr->name, name_bytes);
        xattr->value = memcpy(at + name_bytes, xattr->value, xattr->value_bytes);
        at += name_bytes + xattr->value_bytes;
    }
    return kept;
}

static int set_directory(struct tree_node *node, unsigned layer, const struct member *member,
                         struct nido_error *err)
{
    struct member *kept = keep_attributes(member);
    if (!kept)
        return error_set(err, ENOMEM, "out of memory");
    free(node->attributes);
    node->attributes = kept;
    node->layer = layer;
    return 0;
}

static int put_directory(struct tree *tree, struct tree_node *parent, const char *name,
                         unsigned layer, const struct member *member, struct nido_error *err)
{
    struct tree_node *node = find(tree, parent, name, strlen(name));
    int ret = 0;
    if (node && node->item) {
        remove_node(tree, node);
        node = NULL;
    }
    if (!node)
        ret = add(tree, parent, name, strlen(name), layer, &node, err);
    return ret < 0 ? ret : set_directory(node, layer, member, err);
}

static int put_name(struct tree *tree, struct tree_node *parent, const char *name, unsigned layer,
                    struct tree_item *item, struct nido_error *err)
{
    struct tree_node *node = find(tree, parent, name, strlen(name));
    if (node && node->item == item)
        return 0; /* a hard link to itself */
    if (node)
        remove_all(tree, node);
    int ret = add(tree, parent, name, strlen(name), layer, &node, err);
    if (ret < 0)
        return ret;
    node->item = item;
    node->same = item->names;
    node->same_at = &item->names;
    if (node->same)
        node->same->same_at = &node->same;
    item->names = node;
    return 0;
}

static int new_item(struct tree *tree, unsigned layer, uint64_t ordinal,
                    const struct member *member, struct tree_item **out, struct nido_error *err)
{
    if (tree->item_count == tree->item_room) {
        uint64_t room = tree->item_room ? 2 * tree->item_room : 1024;
        struct tree_item **items = realloc(tree->items, room * sizeof(struct tree_item *));
        if (!items)
            return error_set(err, ENOMEM, "out of memory");
        tree->items = items;
        tree->item_room = room;
    }
    struct tree_item *item = calloc(1, sizeof(*item));
    if (!item)
        return error_set(err, ENOMEM, "out of memory");
    *item = (struct tree_item){.layer = layer, .ordinal = ordinal};
    tree->items[tree->item_count++] = *out = item;
    if (S_ISLNK(member->mode) && !(item->link = strdup(member->link)))
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

/* What a hard link's other name stands for now, whichever archive brought it. */
static int find_target(struct tree *tree, unsigned layer, const char *link, struct tree_item **item,
                       struct nido_error *err)
{
    char path[TREE_PATH_BYTES];
    struct tree_node *parent = NULL, *node = NULL;
    int ret = tree_clean(link, path, err);
    const char *name = last_name(path);
    if (ret == 0)
        ret = walk_to(tree, path, name, layer, false, &parent, err);
    if (ret == 0 && parent && *name)
        node = find(tree, parent, name, strlen(name));
    if (ret < 0)
        return ret;
    if (!node || !node->item)
        return error_set(err, ENOENT, "it is a hard link to %.200s, which is %s", link,
                         node ? "a directory" : "not there");
    *item = node->item;
    return 0;
}

static int put_whiteout(struct tree *tree, const char *path, const char *name, unsigned layer,
                        struct nido_error *err)
{
    struct tree_node *parent;
    int ret = walk_to(tree, path, name, layer, false, &parent, err);
    if (ret < 0 || !parent)
        return ret;
    if (strcmp(name, WHITEOUT_OPAQUE) == 0) {
        prune(tree, parent, layer);
        return 0;
    }
    if (strncmp(name, WHITEOUT_OTHER, strlen(WHITEOUT_OTHER)) == 0)
        return 0;
    const char *hidden = name + WHITEOUT_BYTES;
    if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
        return error_set(err, EINVAL, "it hides nothing that has a name");
    struct tree_node *node = find(tree, parent, hidden, strlen(hidden));
    if (!node)
        return 0;
    prune(tree, node, layer);
    if (node->layer < layer && !node->first)
        remove_node(tree, node);
    return 0;
}

static int put(struct tree *tree, unsigned layer, uint64_t ordinal, const struct member *member,
               bool whiteouts, struct nido_error *err)
{
    char path[TREE_PATH_BYTES];
    struct tree_node *parent = NULL;
    struct tree_item *item = NULL;
    int ret = tree_clean(member->path, path, err);
    if (ret < 0)
        return ret;
    const char *name = last_name(path);
    bool is_directory = S_ISDIR(member->mode) && !member->is_hard_link;
    if (!*name)
        return is_directory ? set_directory(tree->root, layer, member, err)
                            : error_set(err, EINVAL, "it stands for the root, and is no directory");
    if (whiteouts && strncmp(name, WHITEOUT, WHITEOUT_BYTES) == 0)
        return put_whiteout(tree, path, name, layer, err);
    if (member->is_hard_link)
        ret = find_target(tree, layer, member->link, &item, err);
    if (ret == 0)
        ret = walk_to(tree, path, name, layer, true, &parent, err);
    if (ret < 0)
        return ret;
    if (is_directory)
        return put_directory(tree, parent, name, layer, member, err);
    if (!item)
        ret = new_item(tree, layer, ordinal, member, &item, err);
    return ret < 0 ? ret : put_name(tree, parent, name, layer, item, err);
}

int tree_put(struct tree *tree, unsigned layer, uint64_t ordinal, const struct member *member,
             bool whiteouts, struct nido_error *err)
{
    int ret = put(tree, layer, ordinal, member, whiteouts, err);
    return ret < 0 ? error_prefix(err, "%.200s", member->path) : 0;
}

/* ---- the whole ---- */

int tree_create(struct tree **out, struct nido_error *err)
{
    struct tree *tree = *out = calloc(1, sizeof(*tree));
    if (!tree)
        return error_set(err, ENOMEM, "out of memory");
    tree->root = new_node("", 0);
    if (tree->root)
        return 0;
    tree_destroy(tree);
    *out = NULL;
    return error_set(err, ENOMEM, "out of memory");
}

void tree_destroy(struct tree *tree)
{
    if (!tree)
        return;
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct tree_node *node = tree->buckets[i], *next; node; node = next) {
            next = node->bucket_next;
            free_node(node);
        }
    for (uint64_t i = 0; i < tree->item_count; i++) {
        free(tree->items[i]->link);
        free(tree->items[i]);
    }
    if (tree->root)
        free_node(tree->root);
    free(tree->items);
    free(tree);
}

const struct tree_item *tree_item(const struct tree *tree, uint64_t index)
{
    return index < tree->item_count ? tree->items[index] : NULL;
}

struct tree_node *tree_root(const struct tree *tree)
{
    return tree->root;
}

const struct tree_node *tree_after(const struct tree_node *node)
{
    if (node->first)
        return node->first;
    while (node && !node->next)
        node = node->parent;
    return node ? node->next : NULL;
}

const struct tree_node *tree_child(const struct tree *tree, const struct tree_node *directory,
                                   const char *name)
{
    return find(tree, directory, name, strlen(name));
}

void tree_path(const struct tree_node *node, char path[TREE_PATH_BYTES])
{
    size_t at = node->depth_bytes;
    path[at] = '\0';
    for (; node->parent; node = node->parent) {
        size_t length = strlen(node->name);
        at -= length;
        memcpy(path + at, node->name, length);
        if (at)
            path[--at] = '/';
    }
}
