/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings. Entries are read ahead into one buffer, which belongs to the listing that was read
 * last: whoever goes on where it stopped costs no system call, and anybody else reads anew from the
 * offset that he names. So nothing is kept for directories that are open but not read.
 */
#include "base/checked.h"
#include "host/share_table.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int share_open_directory(struct share *share, uint64_t number, uint64_t *handle)
{
    const struct share_node *node = share_find(share, number);
    if (!node)
        return -ESTALE;
    if (node->type != S_IFDIR)
        return -ENOTDIR;
    int fd = share_reopen(share, node->fd, O_RDONLY | O_DIRECTORY);
    return fd < 0 ? fd : share_add_handle(share, fd, number, true, handle);
}

/* Goes on, or one entry back: whoever had no room for an entry asks for it once more. To find a place
 * anew takes some file systems a walk through all of the directory. */
static bool goes_on(struct share_listing *listing, uint64_t number, uint64_t offset)
{
    if (listing->handle != number || !offset)
        return false;
    if (listing->offset == offset)
        return true;
    if (listing->last_offset != offset)
        return false;
    listing->at = listing->last_at;
    listing->offset = offset;
    return true;
}

/* Somebody else's listing, or another place, or from the start: what is there now is wanted. */
static int start_at(struct share *share, int fd, uint64_t number, uint64_t offset)
{
    struct share_listing *listing = &share->listing;
    if (goes_on(listing, number, offset))
        return 0;
    listing->handle = 0;
    if (offset > INT64_MAX || lseek(fd, (off_t)offset, SEEK_SET) < 0)
        return -EINVAL;
    listing->handle = number;
    listing->offset = listing->last_offset = offset;
    listing->at = listing->last_at = listing->end = 0;
    return 0;
}

/* The bytes come from the host's kernel. */
static int next_entry(struct share *share, int fd, struct dirent64 **entry)
{
    struct share_listing *listing = &share->listing;
    if (listing->at == listing->end) {
        ssize_t got = getdents64(fd, listing->bytes, sizeof(listing->bytes));
        if (got <= 0) {
            listing->handle = 0;
            return got < 0 ? -errno : 0;
        }
        listing->at = 0;
        listing->end = (size_t)got;
    }
    *entry = (struct dirent64 *)(void *)(listing->bytes + listing->at);
    listing->last_at = listing->at;
    listing->last_offset = listing->offset;
    listing->at += (*entry)->d_reclen;
    listing->offset = (uint64_t)(*entry)->d_off;
    return 1;
}

/* What lies above the root is nobody's business, and neither is what lies beside the one file. */
static bool is_hidden(const struct share *share, const struct share_handle *handle,
                      const char *name)
{
    return handle->node == SHARE_ROOT && share->only && strcmp(name, share->only) != 0 &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static uint64_t shown_ino(struct share *share, const struct share_handle *handle,
                          const struct dirent64 *entry)
{
    /* An overlay's listing has numbers of its own for both, too. */
    if (handle->node == SHARE_ROOT &&
        (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0))
        return share_find(share, SHARE_ROOT)->key.ino;
    return entry->d_ino;
}

int share_read_directory(struct share *share, uint64_t number, uint64_t offset,
                         struct share_dirent *out)
{
    const struct share_handle *handle = share_find_handle(share, number);
    struct dirent64 *entry = NULL;
    if (!handle)
        return -EBADF;
    if (!handle->is_directory)
        return -ENOTDIR;
    int ret = start_at(share, handle->fd, number, offset);
    if (ret < 0)
        return ret;
    do
        ret = next_entry(share, handle->fd, &entry);
    while (ret == 1 && is_hidden(share, handle, entry->d_name));
    if (ret != 1)
        return ret;
    *out = (struct share_dirent){
        .ino = shown_ino(share, handle, entry),
        .next_offset = (uint64_t)entry->d_off,
        .type = entry->d_type,
        .name = entry->d_name,
    };
    return 1;
}
