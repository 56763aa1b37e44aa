/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_IMAGE_CONFIG_H
#define NIDO_CLI_IMAGE_CONFIG_H

/* What an image says of the command to run on it, where the flags do not say otherwise (OCI image-spec,
 * config.md): Entrypoint and Cmd, Env, User, WorkingDir. */

#include "base/error.h"
#include "cli/job.h"

/* `config` is nido-unpack's, and is taken over. -EINVAL: there is nothing to run. */
int image_config_apply(struct job_flags *flags, json_t *config, struct nido_error *err);
void image_config_finish(struct job_flags *flags);

#endif
