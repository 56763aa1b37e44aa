/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run_flags.h"

#include "base/checked.h"
#include "base/log.h"
#include "cli/image_config.h"
#include "cli/job_flags.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static struct run_flags *flags_of(struct config *config)
{
    return container_of(config, struct run_flags, config);
}

static int set_grace(struct config *config, char *value, struct nido_error *err)
{
    return config_parse_number(value, 0, RUN_SECONDS_MAX, &flags_of(config)->grace_s, err);
}

static int set_timeout(struct config *config, char *value, struct nido_error *err)
{
    return config_parse_number(value, 1, RUN_SECONDS_MAX, &flags_of(config)->timeout_s, err);
}

static int set_name(struct config *config, char *value, struct nido_error *err)
{
    struct run_flags *flags = flags_of(config);
    int ret = rundir_check_name(value, err);
    if (ret == 0)
        strcpy(flags->name, value);
    return ret;
}

static int set_pidfile(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->pidfile = value;
    return 0;
}

static int set_result(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->result = value;
    return 0;
}

static int set_trace(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->trace = value;
    return 0;
}

static int set_timeline(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->timeline = true;
    return 0;
}

static int set_detach(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->detach = true;
    return 0;
}

static int set_on_reboot(struct config *config, char *value, struct nido_error *err)
{
    flags_of(config)->restart_on_reboot = strcmp(value, "restart") == 0;
    if (strcmp(value, "restart") != 0 && strcmp(value, "exit") != 0)
        return error_set(err, EINVAL, "say exit or restart");
    return 0;
}

/* A restart is an end, as far as the machine can tell. */
static int set_on_panic(struct config *config, char *value, struct nido_error *err)
{
    bool goes_on = strcmp(value, "continue") == 0, restarts = strcmp(value, "restart") == 0;
    config->machine.on_panic = goes_on ? NIDO_ON_PANIC_CONTINUE : NIDO_ON_PANIC_EXIT;
    flags_of(config)->restart_on_panic = restarts;
    if (!goes_on && !restarts && strcmp(value, "exit") != 0)
        return error_set(err, EINVAL, "say exit, restart or continue");
    return 0;
}

/* "debug", or "debug,FILE": what is said, and where to. */
static int set_log(struct config *config, char *value, struct nido_error *err)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    size_t length = strcspn(value, ",");
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
        if (strlen(levels[i]) != length || strncmp(value, levels[i], length) != 0)
            continue;
        log_set_level((enum log_level)i);
        return value[length] ? log_open(value + length + 1, err) : 0;
    }
    return error_set(err, EINVAL, "say error, warn, info or debug, and maybe ,FILE");
}

const struct config_key run_keys[] = {
    {.name = "root",
     .type = CONFIG_TEXT,
     .value = "DIR|FILE|oci:DIR[:TAG]",
     .help = "runs the command behind -- on this root",
     .common = true,
     .set = job_set_root},
    {.name = "env",
     .type = CONFIG_TEXT,
     .value = "NAME[=VALUE]",
     .help = "of the command's environment; without =VALUE, as it is here",
     .repeatable = true,
     .set = job_set_env},
    {.name = "workdir",
     .type = CONFIG_TEXT,
     .value = "DIR",
     .help = "where the command starts, in the guest",
     .set = job_set_directory},
    {.name = "user",
     .type = CONFIG_TEXT,
     .value = "NAME|UID[:GROUP|GID]",
     .help = "whom the command runs as, by the guest's own files",
     .set = job_set_user},
    {.name = "write",
     .type = CONFIG_SWITCH,
     .help = "what the command writes goes to the root itself, and stays",
     .set = job_set_write},
    {.name = "scratch",
     .type = CONFIG_SIZE,
     .value = "SIZE",
     .help = "what the command writes goes to a disk of that size",
     .set = job_set_scratch},
    {.name = "tty",
     .type = CONFIG_SWITCH,
     .help = "gives the command a terminal: this one",
     .set = job_set_tty},
    {.name = "name",
     .type = CONFIG_TEXT,
     .value = "NAME",
     .help = "what ps, stop and the others call it (nido-PID)",
     .common = true,
     .set = set_name},
    {.name = "detach",
     .type = CONFIG_SWITCH,
     .help = "returns once the machine runs; see 'nido console'",
     .common = true,
     .set = set_detach},
    {.name = "on-reboot",
     .type = CONFIG_TEXT,
     .value = "exit|restart",
     .initial = "exit",
     .help = "what a reboot of the guest does",
     .set = set_on_reboot},
    {.name = "on-panic",
     .type = CONFIG_TEXT,
     .value = "exit|restart|continue",
     .initial = "exit",
     .help = "what a panic of the guest's kernel does",
     .set = set_on_panic},
    {.name = "timeout",
     .type = CONFIG_NUMBER,
     .value = "SECONDS",
     .help = "stops the machine after that time, with status 124",
     .common = true,
     .set = set_timeout},
    {.name = "grace",
     .type = CONFIG_NUMBER,
     .value = "SECONDS",
     .initial = "30",
     .help = "from SIGTERM (the power button) to a hard stop",
     .set = set_grace},
    {.name = "result",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "writes a JSON record of how the machine ended",
     .common = true,
     .set = set_result},
    {.name = "timeline",
     .type = CONFIG_SWITCH,
     .help = "shows at the end where the time went",
     .set = set_timeline},
    {.name = "trace",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "writes steps and exits for Perfetto (Chrome trace format)",
     .set = set_trace},
    {.name = "pidfile",
     .type = CONFIG_TEXT,
     .value = "FILE",
     .help = "writes the process id",
     .set = set_pidfile},
    {.name = "log",
     .type = CONFIG_TEXT,
     .value = "LEVEL[,FILE]",
     .initial = "warn",
     .help = "error, warn, info or debug; to standard error",
     .set = set_log},
};
const unsigned run_key_count = ARRAY_SIZE(run_keys);

static int unknown_flag(const struct config *config, const char *name, int length,
                        struct nido_error *err)
{
    char whole[64];
    snprintf(whole, sizeof(whole), "%.*s", length, name);
    const char *nearest = config_nearest_key(config, whole);
    if (nearest)
        return error_set(err, EINVAL, "--%s is not a flag; did you mean --%s?", whole, nearest);
    return error_set(err, EINVAL, "--%s is not a flag; 'nido help run all' lists them", whole);
}

static bool is_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

/* "--flag value" and "--flag=value"; *i is left at the last argument that belongs to it. An unknown
 * flag takes none, so that its name is what the message is about. */
static int parse_flag(struct config *config, char **argv, int *i, struct nido_error *err)
{
    const char *name = argv[*i] + 2;
    size_t length = strcspn(name, "=");
    const char *value = name[length] ? name + length + 1 : NULL;
    const struct config_key *key = config_find(config, name, length);
    if (!key)
        return unknown_flag(config, name, (int)length, err);
    if (!value && key->value && argv[*i + 1])
        value = argv[++*i];
    return config_set(config, key, value, err);
}

/* Standard input and output of a machine that is left to itself lead nowhere. */
static int check_detached(const struct run_flags *flags, struct nido_error *err)
{
    const struct nido_config *machine = &flags->config.machine;
    if (flags->timeline)
        return error_set(err, EINVAL,
                         "--detach: nobody would see --timeline; say --trace FILE instead");
    for (unsigned i = 0; i < machine->port_count; i++)
        if (machine->ports[i].kind == NIDO_PORT_STDIO)
            return error_set(err, EINVAL, "--detach: there is no stdio for --port %s",
                             machine->ports[i].name);
    return 0;
}

static int parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err)
{
    for (int i = 1; i < argc; i++) {
        if (is_help(argv[i])) {
            flags->help = true;
            flags->help_all = i + 1 < argc && strcmp(argv[i + 1], "all") == 0;
            return 0;
        }
        if (strcmp(argv[i], "--") == 0 && !argv[i + 1])
            return error_set(err, EINVAL, "-- is the last word; the command stands behind it");
        if (strcmp(argv[i], "--") == 0) {
            flags->job.command = argv + i + 1;
            flags->config.kernel_is_optional =
                true; /* what it needs is a root: job_check_flags() */
            break;
        }
        if (strncmp(argv[i], "--", 2) != 0)
            return error_set(err, EINVAL, "'%s' is not a flag; 'nido help run all' lists them",
                             argv[i]);
        int ret = parse_flag(&flags->config, argv, &i, err);
        if (ret < 0)
            return ret;
    }
    int ret = config_finalise(&flags->config, err);
    return ret == 0 && flags->detach ? check_detached(flags, err) : ret;
}

int run_flags_parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err)
{
    *flags = (struct run_flags){.config.more_keys = run_keys, .config.more_count = run_key_count};
    return parse(flags, argc, argv, err);
}

void run_flags_finish(struct run_flags *flags)
{
    image_config_finish(&flags->job);
    config_finish(&flags->config);
}
