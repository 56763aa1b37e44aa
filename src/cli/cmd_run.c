/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nido run: flags to a configuration, a configuration to a machine, and the main thread's wait for
 * its end. Main owns the signals and the terminal; what other threads see (escape keys, a console
 * that nobody reads any more) is posted to its loop.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "config/config.h"
#include "host/loop.h"
#include "host/term.h"
#include "lib/machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define GRACE_DEFAULT_S 10ul
#define GRACE_MAX_S     86400ul

struct run {
    struct config config;
    unsigned long grace_s;
    bool help;

    struct loop *loop;
    struct nido_machine *machine;
    struct term *term;
    struct term_actions actions;
    struct loop_source signals, ended, grace;
    struct loop_task quit_task, output_closed_task;
    int stopped_by; /* the signal that asked for the end; 0: none */
};

static int set_grace(struct run *run, const char *value, struct nido_error *err)
{
    int ret = config_parse_number(value, 0, GRACE_MAX_S, &run->grace_s, err);
    return ret < 0 ? error_prefix(err, "--grace %s", value) : 0;
}

static int set_log(struct run *run, const char *value, struct nido_error *err)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
        if (strcmp(value, levels[i]) == 0) {
            log_set_level((enum log_level)i);
            return 0;
        }
    }
    return error_set(err, EINVAL, "--log %s: say error, warn, info or debug", value);
}

/* Flags that steer nido itself rather than describe the machine. */
static const struct {
    const char *name;
    int (*set)(struct run *run, const char *value, struct nido_error *err);
} own_flags[] = {{"grace", set_grace}, {"log", set_log}};

static int set_flag(struct run *run, const char *name, size_t length, const char *value,
                    struct nido_error *err)
{
    const struct config_key *key = config_find(name, length);
    if (key)
        return config_set(&run->config, key, value, err);
    for (unsigned i = 0; i < ARRAY_SIZE(own_flags); i++) {
        if (strlen(own_flags[i].name) != length || strncmp(own_flags[i].name, name, length) != 0)
            continue;
        if (!value || !*value)
            return error_set(err, EINVAL, "--%s: needs a value", own_flags[i].name);
        return own_flags[i].set(run, value, err);
    }
    return error_set(err, EINVAL, "--%.*s is not a flag; 'nido help run' lists them", (int)length,
                     name);
}

static bool takes_value(const char *name, size_t length)
{
    const struct config_key *key = config_find(name, length);
    return !key || key->value;
}

static bool is_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

/* "--flag value" and "--flag=value". */
static int parse(struct run *run, int argc, char **argv, struct nido_error *err)
{
    for (int i = 1; i < argc; i++) {
        if (is_help(argv[i])) {
            run->help = true;
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
        int ret = set_flag(run, name, length, value, err);
        if (ret < 0)
            return ret;
    }
    return config_finalise(&run->config, err);
}

/* The first asks the guest, through its power button; a second one, or the grace time, insists. */
static void ask_to_end(struct run *run, int signal_number)
{
    if (run->stopped_by) {
        nido_machine_stop(run->machine);
        return;
    }
    run->stopped_by = signal_number;
    nido_machine_press_power_button(run->machine);
    const struct itimerspec grace = {
        .it_value = {.tv_sec = (time_t)run->grace_s, .tv_nsec = run->grace_s ? 0 : 1}};
    timerfd_settime(run->grace.fd, 0, &grace, NULL);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct run *run = container_of(source, struct run, signals);
    struct signalfd_siginfo info;
    if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        ask_to_end(run, (int)info.ssi_signo);
}

static void on_grace_over(struct loop_source *source, uint32_t events)
{
    struct run *run = container_of(source, struct run, grace);
    uint64_t times;
    if (read(source->fd, &times, sizeof(times)) != (ssize_t)sizeof(times))
        return;
    log_warn("the guest did not power off within %lu s; stopping it", run->grace_s);
    nido_machine_stop(run->machine);
}

static void on_ended(struct loop_source *source, uint32_t events)
{
    loop_quit(container_of(source, struct run, ended)->loop);
}

static void on_quit(struct loop_task *task)
{
    nido_machine_stop(container_of(task, struct run, quit_task)->machine);
}

static void on_output_closed(struct loop_task *task)
{
    struct run *run = container_of(task, struct run, output_closed_task);
    if (!run->stopped_by)
        ask_to_end(run, SIGPIPE);
}

static void key_quit(struct term_actions *actions)
{
    struct run *run = container_of(actions, struct run, actions);
    loop_post(run->loop, &run->quit_task);
}

static void key_status(struct term_actions *actions)
{
    struct run *run = container_of(actions, struct run, actions);
    struct nido_status status;
    nido_machine_status(run->machine, &status);
    fprintf(stderr, "\r\nnido: %u vCPU%s, %llu MiB, up %.1f s, %llu exits\r\n", status.cpus,
            status.cpus == 1 ? "" : "s", (unsigned long long)(status.mem_bytes / MIB),
            (double)status.uptime_ns / 1e9, (unsigned long long)status.exits);
}

static void console_closed(void *self)
{
    struct run *run = self;
    loop_post(run->loop, &run->output_closed_task);
}

static int watch(struct run *run, struct loop_source *source, int fd,
                 void (*ready)(struct loop_source *, uint32_t), struct nido_error *err)
{
    *source = (struct loop_source){.fd = fd, .events = EPOLLIN, .ready = ready};
    if (fd < 0)
        return error_errno(err, errno, "cannot watch for signals");
    return loop_add(run->loop, source, err);
}

/* A write past a file size limit, or to a pipe nobody reads, is an error to handle, not a death. */
static int take_signals(struct run *run, struct nido_error *err)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int ret =
        watch(run, &run->signals, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), on_signal, err);
    if (ret < 0)
        return ret;
    return watch(run, &run->grace, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), on_grace_over,
                 err);
}

static int take_terminal(struct run *run, struct nido_error *err)
{
    run->actions = (struct term_actions){.quit = key_quit, .status = key_status};
    if (run->config.machine.console != NIDO_CONSOLE_STDIO || !isatty(STDIN_FILENO))
        return 0;
    return term_create(&run->term, STDIN_FILENO, &run->actions, err);
}

static int set_up(struct run *run, struct nido_error *err)
{
    int ret = loop_create(&run->loop, "main", err);
    if (ret == 0)
        ret = take_signals(run, err);
    if (ret == 0)
        ret = take_terminal(run, err);
    const struct machine_console console = {
        .keys = run->term ? term_keys(run->term) : NULL,
        .output_closed = run->config.machine.console == NIDO_CONSOLE_STDIO ? console_closed : NULL,
        .self = run,
    };
    if (ret == 0)
        ret = machine_build(&run->machine, &run->config.machine, &console, err);
    if (ret == 0)
        ret = watch(run, &run->ended, nido_machine_fd(run->machine), on_ended, err);
    return ret;
}

static int exit_status(const struct run *run, enum nido_end end)
{
    switch (end) {
    case NIDO_POWERED_OFF:
    case NIDO_RESET:
        return 0;
    case NIDO_CRASHED:
        return EXIT_GUEST_CRASHED;
    case NIDO_STOPPED:
        return run->stopped_by ? EXIT_SIGNAL_BASE + run->stopped_by : 0;
    default:
        return EXIT_NIDO_FAILED;
    }
}

/* Line by line: a raw terminal needs a carriage return with each. */
static void print_report(const char *report)
{
    while (report && *report) {
        int length = (int)strcspn(report, "\n");
        log_error("%.*s", length, report);
        report += length + (report[length] == '\n');
    }
}

static int run_to_the_end(struct run *run, struct nido_error *err)
{
    int ret = nido_machine_start(run->machine, err);
    if (ret < 0)
        return EXIT_NIDO_FAILED;
    loop_run(run->loop);
    const char *report;
    enum nido_end end = nido_machine_end(run->machine, &report);
    nido_machine_stop(run->machine);
    machine_drain_console(run->machine, run->signals.fd);
    print_report(report);
    return exit_status(run, end);
}

static void tear_down(struct run *run)
{
    nido_machine_destroy(run->machine);
    term_destroy(run->term);
    loop_destroy(run->loop);
    if (run->signals.fd >= 0)
        close(run->signals.fd);
    if (run->grace.fd >= 0)
        close(run->grace.fd);
    config_finish(&run->config);
}

int cmd_run(int argc, char **argv)
{
    struct run run = {
        .grace_s = GRACE_DEFAULT_S,
        .signals.fd = -1,
        .grace.fd = -1,
        .quit_task.run = on_quit,
        .output_closed_task.run = on_output_closed,
    };
    struct nido_error err = {0};
    int status = EXIT_NIDO_FAILED;
    if (parse(&run, argc, argv, &err) == 0) {
        if (run.help) {
            help_run(stdout);
            status = 0;
        } else if (set_up(&run, &err) == 0) {
            status = run_to_the_end(&run, &err);
        }
    }
    if (err.code)
        log_error("%s", err.text);
    tear_down(&run);
    return status;
}
