/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/job_flags.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SCRATCH_MIN_BYTES (16 * MIB)
#define SCRATCH_MAX_BYTES (1024 * GIB)

static struct job_flags *flags_of(struct config *config)
{
    return &container_of(config, struct run_flags, config)->job;
}

bool job_root_is_oci(const char *root)
{
    return strncmp(root, JOB_OCI, strlen(JOB_OCI)) == 0;
}

int job_set_root(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->root = value;
    config->kernel_is_optional = true;
    return 0;
}

int job_set_env(struct config *config, char *value, struct nido_error *err)
{
    struct job_flags *flags = flags_of(config);
    if (flags->env_count == JOB_ENV_MAX)
        return error_set(err, E2BIG, "at most %u variables", JOB_ENV_MAX);
    if (value[0] == '=')
        return error_set(err, EINVAL, "say NAME=VALUE, or NAME");
    flags->env[flags->env_count++] = value;
    return 0;
}

int job_set_directory(struct config *config, char *value, struct nido_error *err)
{
    if (value[0] != '/')
        return error_set(err, EINVAL, "say it from the guest's root: /...");
    flags_of(config)->directory = value;
    return 0;
}

int job_set_user(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->user = value;
    return 0;
}

int job_set_scratch(struct config *config, char *value, struct nido_error *err)
{
    uint64_t *bytes = &flags_of(config)->scratch_bytes;
    int ret = config_parse_size(value, bytes, err);
    if (ret < 0)
        return ret;
    if (*bytes < SCRATCH_MIN_BYTES || *bytes > SCRATCH_MAX_BYTES || !is_aligned(*bytes, MIB))
        return error_set(err, ERANGE, "say 16M to 1024G, in whole MiB");
    return 0;
}

int job_set_write(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->write = true;
    return 0;
}

int job_set_tty(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->tty = true;
    return 0;
}

static int check_without_root(const struct job_flags *job, struct nido_error *err)
{
    if (job->command)
        return error_set(err, EINVAL, "-- %.100s: a command needs a root to run on; say --root",
                         job->command[0] ? job->command[0] : "");
    if (job->env_count || job->directory || job->user || job->tty || job->write ||
        job->scratch_bytes)
        return error_set(
            err, EINVAL,
            "--env, --workdir, --user, --tty, --write and --scratch are for a command on a --root");
    return 0;
}

int job_check_flags(const struct run_flags *flags, struct nido_error *err)
{
    const struct job_flags *job = &flags->job;
    if (!job->root)
        return check_without_root(job, err);
    if (!job_root_is_oci(job->root) && (!job->command || !job->command[0]))
        return error_set(err, EINVAL, "--root %s: say what to run there: -- COMMAND [ARGUMENT]...",
                         job->root);
    if (flags->restart_on_reboot || flags->restart_on_panic)
        return error_set(err, EINVAL, "--root: a command runs once; leave out the restart");
    if (job->write && job->scratch_bytes)
        return error_set(err, EINVAL,
                         "--write: what is written goes to the root, and not to --scratch");
    if (job->tty && !flags->detach && !isatty(STDIN_FILENO))
        return error_set(err, EINVAL, "--tty: standard input is no terminal");
    if (job->tty && flags->detach)
        return error_set(err, EINVAL, "--tty: with --detach there is no terminal");
    return 0;
}
