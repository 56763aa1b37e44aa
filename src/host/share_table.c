/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes by number and by file, handles by number. */
#include "host/share_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOT_INDEX   1u
#define FIRST_SLOTS  64u
#define FIRST_BUCKET 64u

int share_table_stat(int fd, struct statx *attr)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_STATX_SYNC_AS_STAT;
    return statx(fd, "", flags, STATX_BASIC_STATS | STATX_MNT_ID, attr) < 0 ? -errno : 0;
}

void share_table_show_owner(const struct share *share, struct statx *attr)
{
    if (share->keeps_ids)
        return;
    attr->stx_uid = attr->stx_uid == share->uid ? 0 : SHARE_NOBODY;
    attr->stx_gid = attr->stx_gid == share->gid ? 0 : SHARE_NOBODY;
}

static struct share_key key_of(const struct statx *attr)
{
    return (struct share_key){
        .ino = attr->stx_ino,
        .mount = attr->stx_mask & STATX_MNT_ID ? attr->stx_mnt_id : 0,
        .major = attr->stx_dev_major,
        .minor = attr->stx_dev_minor,
    };
}

static bool same_key(const struct share_key *a, const struct share_key *b)
{
    return a->ino == b->ino && a->mount == b->mount && a->major == b->major && a->minor == b->minor;
}

static uint32_t *bucket_of(const struct share *share, const struct share_key *key)
{
    uint64_t mixed = (key->ino ^ key->mount << 40 ^ (uint64_t)key->minor << 20 ^ key->major) *
                     0x9e3779b97f4a7c15ull;
    return &share->buckets[(mixed >> 32) & (share->bucket_count - 1)];
}

/* ---- room ---- */

static uint64_t number_of(uint32_t generation, uint32_t index)
{
    return (uint64_t)generation << 32 | index;
}

int share_check_room(const struct share *share, unsigned count)
{
    unsigned used = share->node_count + share->handle_count;
    return used + count > share->descriptors_max ? -ENFILE : 0;
}

static void hash_all(struct share *share)
{
    memset(share->buckets, 0, share->bucket_count * sizeof(*share->buckets));
    for (uint32_t i = ROOT_INDEX; i < share->nodes_size; i++) {
        struct share_node *node = &share->nodes[i];
        if (node->fd < 0)
            continue;
        uint32_t *bucket = bucket_of(share, &node->key);
        node->next = *bucket;
        *bucket = i;
    }
}

static int grow_buckets(struct share *share, uint32_t count)
{
    uint32_t *buckets = reallocarray(share->buckets, count, sizeof(*buckets));
    if (!buckets)
        return -ENOMEM;
    share->buckets = buckets;
    share->bucket_count = count;
    hash_all(share);
    return 0;
}

/* Twice the slots, and as many buckets as slots. The free ones are handed out in order. */
static int grow_nodes(struct share *share)
{
    uint32_t size = share->nodes_size ? 2 * share->nodes_size : FIRST_SLOTS;
    struct share_node *nodes = reallocarray(share->nodes, size, sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    share->nodes = nodes;
    for (uint32_t i = size - 1; i >= share->nodes_size && i >= ROOT_INDEX; i--) {
        nodes[i] = (struct share_node){.fd = -1, .next = share->nodes_free};
        share->nodes_free = i;
    }
    share->nodes_size = size;
    return grow_buckets(share, size);
}

static int grow_handles(struct share *share)
{
    uint32_t size = share->handles_size ? 2 * share->handles_size : FIRST_SLOTS;
    struct share_handle *handles = reallocarray(share->handles, size, sizeof(*handles));
    if (!handles)
        return -ENOMEM;
    share->handles = handles;
    for (uint32_t i = size - 1; i >= share->handles_size && i >= 1; i--) {
        handles[i] = (struct share_handle){.fd = -1, .next_free = share->handles_free};
        share->handles_free = i;
    }
    share->handles_size = size;
    return 0;
}

/* ---- nodes ---- */

struct share_node *share_find(struct share *share, uint64_t number)
{
    uint32_t index = (uint32_t)number;
    if (index < ROOT_INDEX || index >= share->nodes_size)
        return NULL;
    struct share_node *node = &share->nodes[index];
    return node->fd >= 0 && node->generation == number >> 32 ? node : NULL;
}

static struct share_node *find_key(struct share *share, const struct share_key *key)
{
    for (uint32_t i = *bucket_of(share, key); i; i = share->nodes[i].next)
        if (same_key(&share->nodes[i].key, key))
            return &share->nodes[i];
    return NULL;
}

static int take_slot(struct share *share, struct share_node **node)
{
    if (share_check_room(share, 1) < 0)
        return -ENFILE;
    if (!share->nodes_free && grow_nodes(share) < 0)
        return -ENOMEM;
    *node = &share->nodes[share->nodes_free];
    share->nodes_free = (*node)->next;
    return 0;
}

static int insert(struct share *share, int fd, const struct statx *attr, struct share_node **out)
{
    struct share_node *node;
    int ret = take_slot(share, &node);
    if (ret < 0)
        return ret;
    node->fd = fd;
    node->key = key_of(attr);
    node->type = attr->stx_mode & S_IFMT;
    node->lookups = 0;
    uint32_t *bucket = bucket_of(share, &node->key);
    node->next = *bucket;
    *bucket = (uint32_t)(node - share->nodes);
    share->node_count++;
    *out = node;
    return 0;
}

int share_add_node(struct share *share, int fd, struct share_entry *entry)
{
    int ret = share_table_stat(fd, &entry->attr);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    const struct share_key key = key_of(&entry->attr);
    struct share_node *node = find_key(share, &key);
    if (!node)
        ret = insert(share, fd, &entry->attr, &node);
    if (ret < 0 || node->fd != fd)
        close(fd);
    if (ret < 0)
        return ret;
    node->lookups++;
    entry->node = number_of(node->generation, (uint32_t)(node - share->nodes));
    share_table_show_owner(share, &entry->attr);
    return 0;
}

static void remove_node(struct share *share, struct share_node *node)
{
    const uint32_t index = (uint32_t)(node - share->nodes);
    uint32_t *link = bucket_of(share, &node->key);
    while (*link != index)
        link = &share->nodes[*link].next;
    *link = node->next;
    close(node->fd);
    node->fd = -1;
    node->generation++;
    node->next = share->nodes_free;
    share->nodes_free = index;
    share->node_count--;
}

void share_forget(struct share *share, uint64_t number, uint64_t count)
{
    struct share_node *node = share_find(share, number);
    if (!node || node == &share->nodes[ROOT_INDEX])
        return;
    node->lookups -= node->lookups < count ? node->lookups : count;
    if (!node->lookups)
        remove_node(share, node);
}

/* ---- handles ---- */

struct share_handle *share_find_handle(struct share *share, uint64_t number)
{
    uint32_t index = (uint32_t)number;
    if (index < 1 || index >= share->handles_size)
        return NULL;
    struct share_handle *handle = &share->handles[index];
    return handle->fd >= 0 && handle->generation == number >> 32 ? handle : NULL;
}

int share_add_handle(struct share *share, int fd, uint64_t node, bool is_directory,
                     uint64_t *number)
{
    int ret = share_check_room(share, 1);
    if (ret == 0 && !share->handles_free)
        ret = grow_handles(share);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    uint32_t index = share->handles_free;
    struct share_handle *handle = &share->handles[index];
    share->handles_free = handle->next_free;
    handle->fd = fd;
    handle->is_directory = is_directory;
    handle->is_root = node == SHARE_ROOT;
    handle->appends = false;
    share->handle_count++;
    *number = number_of(handle->generation, index);
    return 0;
}

void share_release(struct share *share, uint64_t number)
{
    struct share_handle *handle = share_find_handle(share, number);
    if (!handle)
        return;
    if (share->listing.handle == number)
        share->listing.handle = 0;
    close(handle->fd);
    handle->fd = -1;
    handle->generation++;
    handle->next_free = share->handles_free;
    share->handles_free = (uint32_t)(handle - share->handles);
    share->handle_count--;
}

/* ---- all of them ---- */

int share_table_init(struct share *share, int root_fd)
{
    struct statx attr;
    struct share_node *root;
    int ret = grow_nodes(share);
    if (ret == 0)
        ret = grow_handles(share);
    if (ret == 0)
        ret = share_table_stat(root_fd, &attr);
    if (ret == 0)
        ret = insert(share, root_fd, &attr, &root);
    if (ret < 0)
        close(root_fd);
    return ret;
}

void share_reset(struct share *share)
{
    for (uint32_t i = ROOT_INDEX + 1; i < share->nodes_size; i++)
        if (share->nodes[i].fd >= 0)
            remove_node(share, &share->nodes[i]);
    for (uint32_t i = 1; i < share->handles_size; i++)
        if (share->handles[i].fd >= 0)
            share_release(share, number_of(share->handles[i].generation, i));
}

void share_table_finish(struct share *share)
{
    share_reset(share);
    if (share->nodes_size && share->nodes[ROOT_INDEX].fd >= 0)
        remove_node(share, &share->nodes[ROOT_INDEX]);
    free(share->nodes);
    free(share->buckets);
    free(share->handles);
}

bool share_has_plenty(const struct share *share)
{
    return share->node_count + share->handle_count < share->descriptors_max / 4 * 3;
}

struct share_counts share_count(const struct share *share)
{
    return (struct share_counts){.nodes = share->node_count, .handles = share->handle_count};
}
