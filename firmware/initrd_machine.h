/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_INITRD_MACHINE_H
#define NIDO_FIRMWARE_INITRD_MACHINE_H

/* Which architecture an initrd is for, by the first ELF file in it. */

#include "base/error.h"
#include "firmware/bootfile.h"

#include <stdint.h>

/* Refuses one whose programs do not run on `machine`, an EM_ number. The sentence leaves the path to
 * the caller's prefix. Only the start is looked at: an initrd whose first MiB has no ELF file, or that
 * nido does not understand, is let in, since the kernel is the judge. */
int initrd_machine_check(const struct bootfile *file, uint16_t machine, struct nido_error *err);

#endif
