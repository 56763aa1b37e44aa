/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_INITRD_H
#define NIDO_FIRMWARE_GUEST_INITRD_H

/*
 * What nido's own program in the guest starts from, in two archives that follow each other: a
 * kernel's modules, unpacked, with the list of what to load for each; and the program itself.
 *
 *     init            the program
 *     dev/console     for what it says before there is a devtmpfs
 *     modules/list    "NAME FILE...": load these, in this order, for NAME
 *     modules/FILE    without its signature, which is modules/FILE.sig
 */

#include "base/error.h"

#include <stdio.h>

/* `directory` is a kernel's /lib/modules/VERSION. What is built into the kernel is left out, and so
 * is what only some guests need and this kernel has not; without a way to disks and to nido it is an
 * error (-ENOENT) that tells which module is missing. */
int guest_initrd_modules(FILE *to, const char *directory, struct nido_error *err);
int guest_initrd_program(FILE *to, struct nido_error *err);

#endif
