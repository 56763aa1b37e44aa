/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_JOB_FLAGS_H
#define NIDO_CLI_JOB_FLAGS_H

/* The flags of nido run that are about a command in the guest: for the table in run_flags.c. */

#include "cli/run_flags.h"

#define JOB_OCI "oci:"

/* Whether it is an image, which may say itself what to run. */
bool job_root_is_oci(const char *root);

int job_set_root(struct config *config, char *value, struct nido_error *err);
int job_set_env(struct config *config, char *value, struct nido_error *err);
int job_set_directory(struct config *config, char *value, struct nido_error *err);
int job_set_user(struct config *config, char *value, struct nido_error *err);
int job_set_scratch(struct config *config, char *value, struct nido_error *err);
int job_set_write(struct config *config, char *value, struct nido_error *err);
int job_set_tty(struct config *config, char *value, struct nido_error *err);

/* Before a machine is made: what goes with what. */
int job_check_flags(const struct run_flags *flags, struct nido_error *err);

#endif
