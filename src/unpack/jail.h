/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_JAIL_H
#define NIDO_UNPACK_JAIL_H

/* What nido-unpack gives up before it looks at an archive. */

#include "base/error.h"

/* New privileges; more memory and descriptors than it takes. */
int jail_limit(struct nido_error *err);

enum jail_files {
    JAIL_READS,    /* opens files to read, and writes to what is open already */
    JAIL_LAYS_OUT, /* makes and removes files and directories as well */
};

/* From here on: files, as said, memory, and nothing else that Linux has to offer. No program is started,
 * nothing is sent, no terminal is spoken to but through a descriptor that is there, and no other process is in
 * reach. */
int jail_seal(enum jail_files files, struct nido_error *err);

#endif
