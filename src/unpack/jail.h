/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_JAIL_H
#define NIDO_UNPACK_JAIL_H

/* What nido-unpack gives up before it looks at an archive. */

#include "base/error.h"

/* New privileges; more memory and descriptors than it takes. */
int jail_limit(struct nido_error *err);

/* From here on: reading and writing files, memory, and nothing else that Linux has to offer. No program
 * is started, nothing is sent, and no other process is in reach. */
int jail_seal(struct nido_error *err);

#endif
