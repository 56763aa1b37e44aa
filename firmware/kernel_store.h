/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_KERNEL_STORE_H
#define NIDO_FIRMWARE_KERNEL_STORE_H

/*
 * Kernels that guests can start with at once, in $XDG_DATA_HOME/nido/kernels (~/.local/share where
 * that is not set; data and no cache: what a machine runs with must not vanish by itself):
 *
 *     NAME/vmlinuz         a copy: the distribution removes its own after an update
 *     NAME/modules.cpio    of guest_initrd_modules()
 *     NAME/initrd-X.img    with nido's program; a nido that has another program makes its own
 *     default              a symbolic link to NAME
 *
 * An entry appears whole or not at all.
 */

#include "base/error.h"
#include "firmware/kernel_name.h"

#include <limits.h>
#include <stdbool.h>

struct stored_kernel {
    char name[KERNEL_NAME_BYTES];
    char kernel_path[PATH_MAX], initrd_path[PATH_MAX];
};

/* The store's directory, which need not exist. */
int kernel_store_path(char path[PATH_MAX], struct nido_error *err);

/* Whoever changes the store holds this: nobody else does meanwhile, and what one that was killed has left is removed.
 * A descriptor: closing it lets go. */
int kernel_store_lock(struct nido_error *err);

/* Under the lock. Takes in a kernel file and its /lib/modules/VERSION, and makes it the default where there is none.
 * One of that name is replaced. A file that is no kernel for this host is refused. */
int kernel_store_add(const char *name, const char *kernel_path, const char *modules_path,
                     struct nido_error *err);

/* Calls `visit` for each, in order of their names. */
int kernel_store_each(void (*visit)(const char *name, bool is_default, void *self), void *self,
                      struct nido_error *err);
/* -ENOENT: there is no such kernel, or no default. */
int kernel_store_default(char name[KERNEL_NAME_BYTES], struct nido_error *err);
/* Under the lock, as the next. */
int kernel_store_set_default(const char *name, struct nido_error *err);
int kernel_store_remove(const char *name, struct nido_error *err);

/* Where to find it, with an initrd of this nido's. */
int kernel_store_find(const char *name, struct stored_kernel *kernel, struct nido_error *err);

#endif
