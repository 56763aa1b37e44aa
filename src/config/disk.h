/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CONFIG_DISK_H
#define NIDO_CONFIG_DISK_H

/* --disk FILE[,...] and --overlay FILE[,...] */

#include "config/config.h"

#define CONFIG_DISK_OPTIONS    7
#define CONFIG_OVERLAY_OPTIONS 5

extern const struct config_option config_disk_options[CONFIG_DISK_OPTIONS];
extern const struct config_option config_overlay_options[CONFIG_OVERLAY_OPTIONS];

int config_add_disk(struct config *config, char *value, struct nido_error *err);
int config_add_overlay(struct config *config, char *value, struct nido_error *err);

#endif
