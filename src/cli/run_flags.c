/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run_flags.h"

#include "base/checked.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define GRACE_DEFAULT_S 10ul
#define SECONDS_MAX     (365ul * 86400ul)

static int set_grace(struct run_flags *flags, const char *value, struct nido_error *err)
{
    return config_parse_number(value, 0, SECONDS_MAX, &flags->grace_s, err);
}

static int set_timeout(struct run_flags *flags, const char *value, struct nido_error *err)
{
    return config_parse_number(value, 1, SECONDS_MAX, &flags->timeout_s, err);
}

static int set_name(struct run_flags *flags, const char *value, struct nido_error *err)
{
    int ret = rundir_check_name(value, err);
    if (ret == 0)
        strcpy(flags->name, value);
    return ret;
}

static int set_pidfile(struct run_flags *flags, const char *value, struct nido_error *err)
{
    flags->pidfile = value;
    return 0;
}

static int set_result(struct run_flags *flags, const char *value, struct nido_error *err)
{
    flags->result = value;
    return 0;
}

static int set_detach(struct run_flags *flags, const char *value, struct nido_error *err)
{
    flags->detach = true;
    return 0;
}

static int set_on_reboot(struct run_flags *flags, const char *value, struct nido_error *err)
{
    if (strcmp(value, "exit") == 0)
        flags->on_reboot = ON_REBOOT_EXIT;
    else if (strcmp(value, "restart") == 0)
        flags->on_reboot = ON_REBOOT_RESTART;
    else
        return error_set(err, EINVAL, "say exit or restart");
    return 0;
}

/* "debug", or "debug,FILE": what is said, and where to. */
static int set_log(struct run_flags *flags, const char *value, struct nido_error *err)
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

static const struct own_flag {
    const char *name, *value, *help; /* value NULL: a switch */
    int (*set)(struct run_flags *flags, const char *value, struct nido_error *err);
} own_flags[] = {
    {"name", "NAME", "what ps, stop and the others call it (default: nido-PID)", set_name},
    {"detach", NULL, "returns once the machine runs; 'nido console NAME' shows it", set_detach},
    {"on-reboot", "exit|restart", "what a reboot of the guest does (default: exit)", set_on_reboot},
    {"timeout", "SECONDS", "stops the machine after that time, with status 124", set_timeout},
    {"grace", "SECONDS", "from SIGTERM (the power button) to a hard stop (default: 10)", set_grace},
    {"result", "FILE", "writes a JSON record of how the machine ended", set_result},
    {"pidfile", "FILE", "writes the process id", set_pidfile},
    {"log", "LEVEL[,FILE]", "error, warn, info or debug (default: warn, to stderr)", set_log},
};

static const struct own_flag *find_own(const char *name, size_t length)
{
    for (unsigned i = 0; i < ARRAY_SIZE(own_flags); i++)
        if (strlen(own_flags[i].name) == length && strncmp(own_flags[i].name, name, length) == 0)
            return &own_flags[i];
    return NULL;
}

static int set_own(struct run_flags *flags, const struct own_flag *flag, const char *value,
                   struct nido_error *err)
{
    if (!flag->value && value)
        return error_set(err, EINVAL, "--%s: it takes no value", flag->name);
    if (flag->value && (!value || !*value))
        return error_set(err, EINVAL, "--%s: needs a value: --%s %s", flag->name, flag->name,
                         flag->value);
    int ret = flag->set(flags, value, err);
    return ret < 0 ? error_prefix(err, "--%s %s", flag->name, value) : 0;
}

static int set_flag(struct run_flags *flags, const char *name, size_t length, const char *value,
                    struct nido_error *err)
{
    const struct config_key *key = config_find(name, length);
    if (key)
        return config_set(&flags->config, key, value, err);
    const struct own_flag *own = find_own(name, length);
    if (own)
        return set_own(flags, own, value, err);
    return error_set(err, EINVAL, "--%.*s is not a flag; 'nido help run' lists them", (int)length,
                     name);
}

/* An unknown flag takes none, so that its name is what the message is about. */
static bool takes_value(const char *name, size_t length)
{
    const struct config_key *key = config_find(name, length);
    const struct own_flag *own = find_own(name, length);
    return (key && key->value) || (own && own->value);
}

static bool is_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

/* "--flag value" and "--flag=value". */
static int parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err)
{
    for (int i = 1; i < argc; i++) {
        if (is_help(argv[i])) {
            flags->help = true;
            return 0;
        }
        if (strncmp(argv[i], "--", 2) != 0 || !argv[i][2])
            return error_set(err, EINVAL, "'%s' is not a flag; 'nido help run' lists them",
                             argv[i]);
        const char *name = argv[i] + 2;
        size_t length = strcspn(name, "=");
        const char *value = name[length] ? name + length + 1 : NULL;
        if (!value && takes_value(name, length) && i + 1 < argc)
            value = argv[++i];
        int ret = set_flag(flags, name, length, value, err);
        if (ret < 0)
            return ret;
    }
    return config_finalise(&flags->config, err);
}

int run_flags_parse(struct run_flags *flags, int argc, char **argv, struct nido_error *err)
{
    *flags = (struct run_flags){.grace_s = GRACE_DEFAULT_S};
    return parse(flags, argc, argv, err);
}

void run_flags_finish(struct run_flags *flags)
{
    config_finish(&flags->config);
}

void run_flags_help(FILE *to, int column)
{
    for (unsigned i = 0; i < ARRAY_SIZE(own_flags); i++) {
        const struct own_flag *flag = &own_flags[i];
        int width = fprintf(to, "  --%s %s", flag->name, flag->value ? flag->value : "");
        fprintf(to, "%*s%s\n", MAX(column - width, 1), "", flag->help);
    }
}
