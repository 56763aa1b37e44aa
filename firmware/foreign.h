/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_FOREIGN_H
#define NIDO_FIRMWARE_FOREIGN_H

/* Files that were given as a kernel and are none, or one for another machine. */

#include "base/error.h"
#include "firmware/bootfile.h"

#include <stddef.h>
#include <stdint.h>

#define FOREIGN_HEAD_BYTES 0x290u

/* Sets the sentence that says what a file with these first bytes is. `wanted` is what this
 * architecture boots, with its article; `file` is where a packed file's content is looked for, or
 * NULL. Returns a negative errno, always. */
int foreign_error(const uint8_t *head, size_t length, const struct bootfile *file,
                  const char *wanted, struct nido_error *err);

#endif
