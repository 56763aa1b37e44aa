/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_SCRATCH_H
#define NIDO_CLI_SCRATCH_H

/* --scratch: a disk for what a command writes, with an empty ext4 file system, in $TMPDIR or /var/tmp.
 * It has no name there: nothing is left of it, however the machine ends. */

#include "base/error.h"

#include <stdint.h>

/* A descriptor of the caller's. The file system is mke2fs's work. */
int scratch_create(uint64_t size_bytes, int *fd, struct nido_error *err);

#endif
