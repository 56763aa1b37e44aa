/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes by number and by file, handles by number. */
#include "host/share_table.h"

#include "base/own.h"

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
    const unsigned wanted = STATX_BASIC_STATS | STATX_MNT_ID | STATX_BTIME;
    return statx(fd, "", flags, wanted, attr) < 0 ? -errno : 0;
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

/* ---- descriptors ---- */

static bool is_lost(const struct share_node *node)
{
    return node->name && !node->directory;
}

/* What could not be told from a later file of its number, were it closed, is never idle. */
static bool is_idle(const struct share_node *node)
{
    return node->fd >= 0 && node->name && node->born_ns && !node->handles;
}

/* What is idle may change between these two. */
static void leave_idle(struct share *share, struct share_node *node)
{
    if (!is_idle(node))
        return;
    *(node->older ? &share->nodes[node->older].newer : &share->oldest) = node->newer;
    *(node->newer ? &share->nodes[node->newer].older : &share->newest) = node->older;
    share->idle_count--;
}

static void enter_idle(struct share *share, struct share_node *node)
{
    const uint32_t index = (uint32_t)(node - share->nodes);
    if (!is_idle(node))
        return;
    node->older = share->newest;
    node->newer = 0;
    *(share->newest ? &share->nodes[share->newest].newer : &share->oldest) = index;
    share->newest = index;
    share->idle_count++;
}

static void set_node(struct share *share, struct share_node *node, int fd, uint32_t handles)
{
    leave_idle(share, node);
    share->open_count -= node->fd >= 0;
    node->fd = fd;
    node->handles = handles;
    share->open_count += node->fd >= 0;
    enter_idle(share, node);
}

static void close_oldest(struct share *share)
{
    struct share_node *node = &share->nodes[share->oldest];
    close(node->fd);
    set_node(share, node, -1, 0);
}

int share_check_room(struct share *share, unsigned nodes, unsigned handles)
{
    if (share->node_count + nodes > share->nodes_max)
        return -ENFILE;
    while (share->open_count + share->handle_count + nodes + handles > share->descriptors_max) {
        if (!share->oldest)
            return -ENFILE;
        close_oldest(share);
    }
    return 0;
}

static uint64_t born_ns(const struct statx *attr)
{
    return (uint64_t)attr->stx_btime.tv_sec * 1000000000u + attr->stx_btime.tv_nsec;
}

/* What has its number is another file, if it was born at another time: numbers are given out again
 * once a file is gone. */
static bool is_same_file(const struct share_node *node, const struct statx *attr)
{
    const struct share_key key = key_of(attr);
    return same_key(&node->key, &key) && node->type == (attr->stx_mode & S_IFMT) &&
           node->born_ns == born_ns(attr);
}

static int find_again(struct share *share, const struct share_node *node)
{
    struct statx attr;
    const struct share_node *directory = share_find(share, node->directory);
    if (!directory)
        return -ESTALE;
    own_fd int fd = openat(directory->fd, node->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESTALE : -errno;
    int ret = share_table_stat(fd, &attr);
    if (ret < 0)
        return ret;
    return is_same_file(node, &attr) ? own_take_fd(&fd) : -ESTALE;
}

int share_node_fd(struct share *share, struct share_node *node)
{
    int ret = node->fd < 0 ? share_check_room(share, 0, 1) : 0;
    if (ret < 0)
        return ret;
    int fd = node->fd < 0 ? find_again(share, node) : node->fd;
    if (fd >= 0)
        set_node(share, node, fd, node->handles);
    return fd;
}

int share_fd(struct share *share, uint64_t number)
{
    struct share_node *node = share_find(share, number);
    return node ? share_node_fd(share, node) : -ESTALE;
}

/* ---- room ---- */

static uint64_t number_of(uint32_t generation, uint32_t index)
{
    return (uint64_t)generation << 32 | index;
}

static void hash(struct share *share, struct share_node *node)
{
    uint32_t *bucket = bucket_of(share, &node->key);
    node->next = *bucket;
    *bucket = (uint32_t)(node - share->nodes);
}

static void hash_all(struct share *share)
{
    memset(share->buckets, 0, share->bucket_count * sizeof(*share->buckets));
    for (uint32_t i = ROOT_INDEX; i < share->nodes_size; i++)
        if (share->nodes[i].type && !is_lost(&share->nodes[i]))
            hash(share, &share->nodes[i]);
}

/* One that is lost is in no bucket. */
static void unhash(struct share *share, struct share_node *node)
{
    const uint32_t index = (uint32_t)(node - share->nodes);
    uint32_t *link = bucket_of(share, &node->key);
    while (*link && *link != index)
        link = &share->nodes[*link].next;
    if (*link)
        *link = node->next;
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
    return node->type && node->generation == number >> 32 ? node : NULL;
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
    if (share_check_room(share, 1, 0) < 0)
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
    node->key = key_of(attr);
    node->type = attr->stx_mode & S_IFMT;
    node->lookups = 0;
    node->born_ns = born_ns(attr);
    set_node(share, node, fd, 0);
    hash(share, node);
    share->node_count++;
    *out = node;
    return 0;
}

/* The node of that file, if it is known. One that is closed holds no inode: what has its number may
 * be another file by now. */
static struct share_node *find_known(struct share *share, const struct statx *attr)
{
    const struct share_key key = key_of(attr);
    struct share_node *node = find_key(share, &key);
    if (!node || node->fd >= 0 || is_same_file(node, attr))
        return node;
    unhash(share, node);
    node->directory = 0;
    return NULL;
}

/* Where it was last found; takes `name`. */
static void set_place(struct share *share, struct share_node *node, uint64_t directory, char *name)
{
    if (node->type == S_IFDIR) {
        free(name);
        return;
    }
    leave_idle(share, node);
    free(node->name);
    node->name = name;
    node->directory = directory;
    enter_idle(share, node);
}

/* The node behind `fd`, of which it has taken possession where that is the node's descriptor. */
static int node_of(struct share *share, int fd, const struct statx *attr, struct share_node **out)
{
    struct share_node *node = find_known(share, attr);
    *out = node;
    if (!node)
        return insert(share, fd, attr, out);
    int ret = node->fd < 0 ? share_check_room(share, 0, 1) : 0;
    if (ret == 0 && node->fd < 0)
        set_node(share, node, fd, node->handles);
    return ret;
}

int share_add_node(struct share *share, int fd, uint64_t directory, const char *name,
                   struct share_entry *entry)
{
    struct share_node *node = NULL;
    char *copy = strdup(name);
    int ret = copy ? share_table_stat(fd, &entry->attr) : -ENOMEM;
    if (ret == 0)
        ret = node_of(share, fd, &entry->attr, &node);
    if (ret < 0 || node->fd != fd)
        close(fd);
    if (ret < 0) {
        free(copy);
        return ret;
    }
    set_place(share, node, directory, copy);
    node->lookups++;
    entry->node = number_of(node->generation, (uint32_t)(node - share->nodes));
    share_table_show_owner(share, &entry->attr);
    return 0;
}

static void remove_node(struct share *share, struct share_node *node)
{
    unhash(share, node);
    if (node->fd >= 0)
        close(node->fd);
    set_node(share, node, -1, 0);
    free(node->name);
    *node = (struct share_node){
        .fd = -1,
        .generation = node->generation + 1,
        .next = share->nodes_free,
    };
    share->nodes_free = (uint32_t)(node - share->nodes);
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

static void count_handle(struct share *share, uint64_t number, int by)
{
    struct share_node *node = share_find(share, number);
    if (node)
        set_node(share, node, node->fd, node->handles + (uint32_t)by);
}

/* The node counts it first, so as not to be closed for it. */
int share_add_handle(struct share *share, int fd, uint64_t node, bool is_directory,
                     uint64_t *number)
{
    count_handle(share, node, 1);
    int ret = share_check_room(share, 0, 1);
    if (ret == 0 && !share->handles_free)
        ret = grow_handles(share);
    if (ret < 0) {
        count_handle(share, node, -1);
        close(fd);
        return ret;
    }
    uint32_t index = share->handles_free;
    struct share_handle *handle = &share->handles[index];
    share->handles_free = handle->next_free;
    handle->fd = fd;
    handle->is_directory = is_directory;
    handle->node = node;
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
    count_handle(share, handle->node, -1);
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
        if (share->nodes[i].type)
            remove_node(share, &share->nodes[i]);
    for (uint32_t i = 1; i < share->handles_size; i++)
        if (share->handles[i].fd >= 0)
            share_release(share, number_of(share->handles[i].generation, i));
}

void share_table_finish(struct share *share)
{
    share_reset(share);
    if (share->nodes_size && share->nodes[ROOT_INDEX].type)
        remove_node(share, &share->nodes[ROOT_INDEX]);
    free(share->nodes);
    free(share->buckets);
    free(share->handles);
}

bool share_has_plenty(const struct share *share)
{
    const unsigned held = share->open_count - share->idle_count + share->handle_count;
    return share->node_count < share->nodes_max / 4 * 3 && held < share->descriptors_max / 4 * 3;
}

struct share_counts share_count(const struct share *share)
{
    return (struct share_counts){
        .nodes = share->node_count,
        .handles = share->handle_count,
        .descriptors = share->open_count + share->handle_count,
    };
}
