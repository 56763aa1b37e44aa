/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CONFIG_SHARE_H
#define NIDO_CONFIG_SHARE_H

/* --share HOST:GUEST[,ro][,tag=NAME][,cache=MODE] */

#include "config/config.h"

#define CONFIG_SHARE_OPTIONS 3

extern const struct config_option config_share_options[CONFIG_SHARE_OPTIONS];

int config_add_share(struct config *config, char *value, struct nido_error *err);

/* No two shares have the same tag, or the same place in the guest. */
int config_check_shares(const struct nido_config *machine, struct nido_error *err);

#endif
