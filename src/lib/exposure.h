/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_EXPOSURE_H
#define NIDO_LIB_EXPOSURE_H

/*
 * A guest that can write to a directory of this host (a share without "ro", or a root with --write) can put a
 * symbolic link in the place of any name there, and of any directory on the way to one. Whatever this process opens
 * by such a name must be opened with that in mind, in this run and in the next.
 *
 * Any thread; nothing is kept between calls.
 */

#include "base/error.h"

#include <nido/config.h>
#include <stdbool.h>
#include <sys/types.h>

/* Whether a part of the path lies in a directory that the machine's guest can write to. */
bool exposure_is_exposed(const struct nido_config *config, const char *path);

/* As open(2) with O_CLOEXEC, to write. Of a path that is exposed, what lies in the share is opened only where it leads
 * through no symbolic link and ends in a regular file. The descriptor is the caller's; a negative errno: -ELOOP, a
 * link is there, -EINVAL, what is there is no regular file, -EXDEV, it leads out of the share. */
int exposure_open(const struct nido_config *config, const char *path, int flags, mode_t mode);

/* An O_PATH descriptor of what is there, of any kind. Of a path that is exposed, as above: what lies in the share is
 * found through no symbolic link, and is none. */
int exposure_find(const struct nido_config *config, const char *path);

/* The same of the directory that has, or shall have, what the path names; `*name`, a part of `path`, is its name there. */
int exposure_find_directory(const struct nido_config *config, const char *path, const char **name);

#endif
