/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_KERNELS_H
#define NIDO_CLI_KERNELS_H

/* Where kernels for the store come from. */

#include "base/error.h"
#include "firmware/kernel_store.h"

/* Takes in the host's own kernel; `name` becomes what it is called. */
int kernels_add_host(char name[KERNEL_NAME_BYTES], struct nido_error *err);
/* Takes in a kernel file. Its name, vmlinuz-VERSION, tells which modules are its own, unless
 * `modules` (a /lib/modules/VERSION) is not NULL. */
int kernels_add_file(const char *path, const char *modules, char name[KERNEL_NAME_BYTES],
                     struct nido_error *err);

/* The kernel for a machine of which nothing is said (`wanted` NULL): the default one; where there
 * are no kernels at all, the host's, which becomes it. Else the one of that name. */
int kernels_choose(const char *wanted, struct stored_kernel *kernel, struct nido_error *err);

#endif
