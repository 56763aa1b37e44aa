/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that talk to machines which run already. */
#include "base/checked.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/run_flags.h"
#include "cli/rundir.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int fail(const struct nido_error *err)
{
    log_error("%s", err->text);
    return EXIT_NIDO_FAILED;
}

static const char *text_of(const json_t *reply, const char *key)
{
    const char *text = json_string_value(json_object_get(reply, key));
    return text ? text : "";
}

static long long number_of(const json_t *reply, const char *key)
{
    return (long long)json_integer_value(json_object_get(reply, key));
}

static void print_row(const json_t *reply)
{
    printf("%-20s %8lld %-8s %4lld %9lldM %9.0fs\n", text_of(reply, "name"),
           number_of(reply, "pid"), text_of(reply, "state"), number_of(reply, "cpus"),
           number_of(reply, "mem_bytes") / (long long)MIB,
           json_real_value(json_object_get(reply, "uptime_s")));
}

static bool list_one(const char *name, void *self)
{
    json_t *machines = self, *reply;
    struct nido_error err;
    int ret = control_ask(name, "status", &reply, NULL, &err);
    if (ret == 0)
        json_array_append_new(machines, reply);
    else if (ret != -ESRCH &&
             ret != -ECONNRESET) /* one that was killed, or is just about to be gone */
        log_warn("%s", err.text);
    return true;
}

int cmd_ps(int argc, char **argv)
{
    bool as_json = argc == 2 && strcmp(argv[1], "--json") == 0;
    struct nido_error err;
    if (argc > 1 && !as_json) {
        log_error("ps: '%s': it takes --json, or nothing", argv[1]);
        return EXIT_NIDO_FAILED;
    }
    json_t *machines = json_array(), *machine;
    size_t index;
    if (rundir_each(list_one, machines, &err) < 0) {
        json_decref(machines);
        return fail(&err);
    }
    if (as_json) {
        json_dumpf(machines, stdout, JSON_INDENT(2));
        puts("");
    } else {
        printf("%-20s %8s %-8s %4s %10s %10s\n", "NAME", "PID", "STATE", "CPUS", "MEM", "UPTIME");
        json_array_foreach(machines, index, machine) print_row(machine);
    }
    json_decref(machines);
    return 0;
}

static void print_pairs(const json_t *reply)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)reply, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("%-24s %s\n", key, json_is_string(value) ? json_string_value(value) : text);
        free(text);
    }
}

/* The one argument that is no flag; NULL after a complaint. `flag` may be NULL. */
static const char *take_name(int argc, char **argv, const char *flag, bool *flag_given)
{
    const char *name = NULL;
    bool fine = true;
    for (int i = 1; i < argc; i++) {
        if (flag && strcmp(argv[i], flag) == 0)
            *flag_given = true;
        else if (!name && argv[i][0] != '-')
            name = argv[i];
        else
            fine = false;
    }
    if (name && fine)
        return name;
    log_error("usage: nido %s NAME%s%s%s", argv[0], flag ? " [" : "", flag ? flag : "",
              flag ? "]" : "");
    return NULL;
}

static void print_reply(json_t *reply, bool as_json)
{
    json_object_del(reply, "ok");
    if (!as_json) {
        print_pairs(reply);
        return;
    }
    json_dumpf(reply, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    puts("");
}

static int ask(int argc, char **argv, const char *what, bool print)
{
    bool as_json = false;
    const char *name = take_name(argc, argv, print ? "--json" : NULL, &as_json);
    struct nido_error err;
    json_t *reply;
    if (!name)
        return EXIT_NIDO_FAILED;
    if (control_ask(name, what, &reply, NULL, &err) < 0)
        return fail(&err);
    if (print)
        print_reply(reply, as_json);
    json_decref(reply);
    return 0;
}

int cmd_status(int argc, char **argv)
{
    return ask(argc, argv, "status", true);
}

int cmd_stats(int argc, char **argv)
{
    return ask(argc, argv, "stats", true);
}

int cmd_pause(int argc, char **argv)
{
    return ask(argc, argv, "pause", false);
}

int cmd_resume(int argc, char **argv)
{
    return ask(argc, argv, "resume", false);
}

/* Of the guest's memory, given in a flag's words: how much it is to give up. */
static int balloon_request(const char *size, json_t **request, struct nido_error *err)
{
    uint64_t bytes = 0;
    int ret = size ? config_parse_size(size, &bytes, err) : 0;
    if (ret < 0)
        return error_prefix(err, "balloon %s", size);
    *request = json_pack("{s:s}", "do", "balloon");
    if (size)
        json_object_set_new(*request, "target_bytes", json_integer((json_int_t)bytes));
    return 0;
}

int cmd_balloon(int argc, char **argv)
{
    const char *words[2] = {NULL, NULL};
    bool as_json = false, fine = true;
    struct nido_error err;
    json_t *request = NULL, *reply;
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            as_json = true;
        else if (argv[i][0] != '-' && count < 2)
            words[count++] = argv[i];
        else
            fine = false;
    }
    if (!count || !fine) {
        log_error("usage: nido balloon NAME [SIZE] [--json]");
        return EXIT_NIDO_FAILED;
    }
    if (balloon_request(words[1], &request, &err) < 0 ||
        control_send(words[0], request, &reply, NULL, &err) < 0)
        return fail(&err);
    print_reply(reply, as_json);
    json_decref(reply);
    return 0;
}

/* ---- stop ---- */

struct stop_wish {
    const char *name;
    bool force;
    long grace_s; /* -1: the machine's own */
};

static int take_grace(const char *value, struct stop_wish *wish, struct nido_error *err)
{
    unsigned long seconds;
    if (!value)
        return error_set(err, EINVAL, "--grace: needs a value: --grace SECONDS");
    int ret = config_parse_number(value, 0, RUN_SECONDS_MAX, &seconds, err);
    if (ret < 0)
        return error_prefix(err, "--grace %s", value);
    wish->grace_s = (long)seconds;
    return 0;
}

static int parse_stop(int argc, char **argv, struct stop_wish *wish, struct nido_error *err)
{
    int ret = 0;
    for (int i = 1; ret == 0 && i < argc; i++) {
        if (strcmp(argv[i], "--force") == 0)
            wish->force = true;
        else if (strncmp(argv[i], "--grace=", 8) == 0)
            ret = take_grace(argv[i] + 8, wish, err);
        else if (strcmp(argv[i], "--grace") == 0)
            ret = take_grace(argv[++i], wish, err);
        else if (argv[i][0] == '-' || wish->name)
            ret = error_set(err, EINVAL, "stop: '%s' is not expected here", argv[i]);
        else
            wish->name = argv[i];
    }
    if (ret == 0 && !wish->name)
        ret = error_set(err, EINVAL, "usage: nido stop NAME [--force | --grace SECONDS]");
    if (ret == 0 && wish->force && wish->grace_s >= 0)
        ret = error_set(err, EINVAL, "stop: --force and --grace contradict each other");
    return ret;
}

/* What a reason of --result means to the one who stopped it. NULL: that is what was wanted. */
static const char *words_for(const char *reason)
{
    static const struct {
        const char *reason, *words;
    } ends[] = {
        {"powered-off", NULL},
        {"reset", NULL},
        {"exited", NULL}, /* its command, as the next */
        {"killed", NULL},
        {"stopped", NULL}, /* by --force, this one or another's */
        {"grace", "did not power off within its grace time; its plug was pulled"},
        {"signal", "did not power off before a signal ended it"},
        {"timeout", "did not power off before its time limit; its plug was pulled"},
        {"crashed", "crashed"},
        {"panicked", "its kernel panicked"},
        {"not-found", "its command was not there"},
        {"not-runnable", "its command could not be run"},
        {"agent", "nido's program in the guest did not do its part"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        if (strcmp(reason, ends[i].reason) == 0)
            return ends[i].words;
    return "ended without a word";
}

static int stop_status(const char *reason)
{
    if (strcmp(reason, "grace") == 0 || strcmp(reason, "timeout") == 0)
        return EXIT_TIME_LIMIT;
    bool crashed = strcmp(reason, "crashed") == 0 || strcmp(reason, "panicked") == 0;
    return crashed ? EXIT_GUEST_CRASHED : EXIT_NIDO_FAILED;
}

/* Returns once the machine has ended: it keeps the connection until then. */
int cmd_stop(int argc, char **argv)
{
    struct stop_wish wish = {.grace_s = -1};
    struct nido_error err;
    json_t *reply;
    int fd = -1;
    if (parse_stop(argc, argv, &wish, &err) < 0)
        return fail(&err);
    json_t *request = json_pack("{s:s}", "do", wish.force ? "kill" : "stop");
    if (wish.grace_s >= 0)
        json_object_set_new(request, "grace_s", json_integer(wish.grace_s));
    if (control_send(wish.name, request, &reply, &fd, &err) < 0)
        return fail(&err);
    json_decref(reply);
    json_t *end = control_read(fd);
    close(fd);
    const char *reason = text_of(end, "end"), *words = words_for(reason);
    int status = words ? stop_status(reason) : 0;
    if (words)
        log_error("machine '%s': %s", wish.name, words);
    json_decref(end);
    return status;
}
