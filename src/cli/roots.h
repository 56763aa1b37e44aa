/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_ROOTS_H
#define NIDO_CLI_ROOTS_H

/*
 * What --root may name besides directories and images of file systems: a tar archive, plain or packed,
 * and oci:DIR[:TAG], an image in an OCI image layout. It becomes a squashfs image, once
 * (cli/root_cache.h), which the machine boots from. nido-unpack reads the archives, sqfstar writes the
 * image; owners, modes, attributes and devices are kept, and no privilege is needed.
 */

#include "base/error.h"
#include "cli/job.h"

/* Before there are signals to be taken: one that ends nido ends what it has started. Puts what the root
 * has become into `flags`. */
int roots_prepare(struct job_flags *flags, struct nido_error *err);

#endif
