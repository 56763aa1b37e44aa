/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_ROOT_CACHE_H
#define NIDO_CLI_ROOT_CACHE_H

/*
 * Roots that were made of archives, kept for the next machine: one squashfs image each, in
 * ${XDG_CACHE_HOME:-~/.cache}/nido/roots, named after the digest of what it was made from.
 *
 * An image has no name until it is whole, so nothing is left of one that was not finished, however nido
 * ended; two that make the same one at once both succeed, and one stays. Removing an image does no harm
 * to a machine that runs on it. Those that no machine was started from for ROOT_CACHE_UNUSED_S go when
 * another one is kept; the time of the file is that of its last use, to a day.
 *
 * A symbolic link named after a file's device, inode, size and times leads to the digest that it had:
 * gigabytes are not read again to learn it. Who replaces or edits the file makes another name.
 */

#include "base/error.h"

#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>

#define ROOT_CACHE_UNUSED_S (14 * 24 * 3600)

#define ROOT_KEY_BYTES 160u /* a digest as a file name: sha256-... */

struct root_cache {
    int directory_fd;
    char directory[PATH_MAX];
};

/* Makes the directory, which must be the user's own and nobody else's to write. */
int root_cache_open(struct root_cache *cache, struct nido_error *err);
void root_cache_close(struct root_cache *cache);

#define own_root_cache __attribute__((cleanup(root_cache_close)))

/* `path` is the image's, which counts as used: it stays. False: it is not there. */
bool root_cache_find(const struct root_cache *cache, const char *key, char path[PATH_MAX]);

/* An image in the making. */
struct root_making {
    int fd;
    char temporary[64]; /* its name where a file needs one; else empty */
};

int root_cache_begin(const struct root_cache *cache, struct root_making *making,
                     struct nido_error *err);
/* Keeps it as `key`, on the disk, and removes what is unused. */
int root_cache_keep(const struct root_cache *cache, struct root_making *making, const char *key,
                    char path[PATH_MAX], struct nido_error *err);
void root_cache_end(const struct root_cache *cache, struct root_making *making); /* kept or not */

/* The digest of a file, by what stat says of it. */
bool root_cache_recall(const struct root_cache *cache, const struct stat *file,
                       char key[ROOT_KEY_BYTES]);
void root_cache_remember(const struct root_cache *cache, const struct stat *file, const char *key);

#endif
