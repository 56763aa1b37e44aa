/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that talk to machines which run already. */
#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/control.h"
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
    if (rundir_each(list_one, machines, &err) < 0)
        return fail(&err);
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

/* Returns once the machine has ended: it keeps the connection until then. */
int cmd_stop(int argc, char **argv)
{
    bool force = false;
    const char *name = take_name(argc, argv, "--force", &force);
    struct nido_error err;
    json_t *reply;
    int fd = -1;
    if (!name)
        return EXIT_NIDO_FAILED;
    if (control_ask(name, force ? "kill" : "stop", &reply, &fd, &err) < 0)
        return fail(&err);
    json_decref(reply);
    char byte;
    while (read(fd, &byte, 1) > 0)
        ;
    close(fd);
    return 0;
}
