/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_JAIL_H
#define NIDO_UNPACK_JAIL_H

/* What nido-unpack gives up before it looks at anything. */

#include "base/error.h"

int jail_enter(struct nido_error *err);

#endif
