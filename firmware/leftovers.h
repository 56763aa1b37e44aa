/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_LEFTOVERS_H
#define NIDO_FIRMWARE_LEFTOVERS_H

/* What processes that were killed left in a directory that others write to without a lock. */

#define LEFTOVERS_AGE_S 3600

/* Removes the files whose names begin with `prefix` and that nobody has written to for so long. */
void leftovers_sweep(int directory_fd, const char *prefix);

#endif
