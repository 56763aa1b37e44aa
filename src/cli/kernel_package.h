/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_KERNEL_PACKAGE_H
#define NIDO_CLI_KERNEL_PACKAGE_H

/* Kernels that come in Debian packages, which need not be installed. */

#include "firmware/kernel_store.h"

#include <stdbool.h>

/* By what it is called or begins with. */
bool kernel_is_package(const char *path);

/* Adds the kernel of one package, or of several that belong together, to the store. `name` is its
 * version. What was unpacked is gone afterwards, whatever ends nido meanwhile. */
int kernel_package_add(char *const *files, unsigned count, char name[KERNEL_NAME_BYTES],
                       struct nido_error *err);

#endif
