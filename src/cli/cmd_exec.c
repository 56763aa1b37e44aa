/* SPDX-License-Identifier: Apache-2.0 */
/* nido exec NAME -- COMMAND: one more command in a machine of nido run --root. */
#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/exec.h"
#include "cli/result.h"
#include "cli/streams.h"
#include "host/term.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#define EXEC_ASKS_MAX 3u

/* It has no part in what the machine's guest can write to: that is for whoever names the record to know. */
static const struct nido_config no_machine;

struct exec {
    const char *name, *result;
    const char *directory, *user; /* NULL: none was given */
    char **command;
    bool tty;
    json_t *env;
    bool is_no_text; /* some of it */
    struct loop *loop;
    struct term *term;
    struct term_actions actions;
    struct loop_source machine, signals;
    struct streams streams;
    bool ended, output_ended;
    unsigned asks; /* to end, by signals that were passed on */
    int status;
    const char *reason; /* a word of --result */
    int killed_by;      /* the command; 0: no signal */
};

static int usage(void)
{
    log_error("usage: nido exec [--env NAME[=VALUE]]... [--workdir DIR] [--user USER] [--tty] "
              "[--result FILE] NAME -- COMMAND [ARGUMENT]...");
    return EXIT_NIDO_FAILED;
}

/* A name alone is a variable of this process, not of the one that runs the machine. */
static void add_variable(struct exec *exec, const char *text)
{
    const char *value = getenv(text);
    if (strchr(text, '='))
        exec->is_no_text |= json_array_append_new(exec->env, json_string(text)) < 0;
    else if (value)
        exec->is_no_text |=
            json_array_append_new(exec->env, json_sprintf("%s=%s", text, value)) < 0;
}

/* False: it is not said as it should be. */
static bool parse(struct exec *exec, int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *value;
        if (strcmp(argv[i], "--tty") == 0)
            exec->tty = true;
        else if ((value = cli_flag_value("--env", argc, argv, &i)))
            add_variable(exec, value);
        else if ((value = cli_flag_value("--workdir", argc, argv, &i)))
            exec->directory = value;
        else if ((value = cli_flag_value("--user", argc, argv, &i)))
            exec->user = value;
        else if ((value = cli_flag_value("--result", argc, argv, &i)))
            exec->result = value;
        else if (argv[i][0] != '-' && !exec->name)
            exec->name = argv[i];
        else
            return false;
    }
    exec->command = argv + i + 1;
    return exec->name && i + 1 < argc;
}

/* NULL: out of memory, or words that are no UTF-8 text. */
static json_t *request_of(struct exec *exec)
{
    struct winsize size = {0};
    json_t *argv = json_array();
    for (char **word = exec->command; *word; word++)
        exec->is_no_text |= json_array_append_new(argv, json_string(*word)) < 0;
    if (exec->is_no_text) {
        json_decref(argv);
        return NULL;
    }
    if (exec->tty)
        ioctl(STDIN_FILENO, TIOCGWINSZ, &size);
    if (exec->tty && getenv("TERM"))
        json_array_insert_new(exec->env, 0, json_sprintf("TERM=%s", getenv("TERM")));
    /* What is not said is the machine's to say. */
    return json_pack("{s:s, s:o, s:O, s:s*, s:s*, s:b, s:i, s:i}", "do", "exec", "argv", argv,
                     "env", exec->env, "dir", exec->directory, "user", exec->user, "tty", exec->tty,
                     "rows", size.ws_row, "columns", size.ws_col);
}

static int send_request(struct exec *exec, json_t **reply, int *fd, struct nido_error *err)
{
    json_t *request = request_of(exec);
    if (!request)
        return error_set(err, EINVAL, "the command and its environment must be UTF-8 text");
    if (json_dumpb(request, NULL, 0, JSON_COMPACT) >= CONTROL_LINE_BYTES - 1) {
        json_decref(request);
        return error_set(err, E2BIG,
                         "the command and its environment are longer than %u bytes of JSON; put "
                         "some of it into a file, with nido cp",
                         CONTROL_LINE_BYTES - 2u);
    }
    return control_send(exec->name, request, reply, fd, err);
}

static void check_over(struct exec *exec)
{
    if (exec->ended && exec->output_ended)
        loop_quit(exec->loop);
}

static void on_output_ended(void *self)
{
    ((struct exec *)self)->output_ended = true;
    check_over(self);
}

static void conclude(struct exec *exec, const char *reason, int status)
{
    exec->reason = reason;
    exec->status = status;
}

static void command_ended(struct exec *exec, enum agent_outcome outcome, uint32_t value)
{
    switch (outcome) {
    case AGENT_EXITED:
        conclude(exec, "exited", (int)value);
        return;
    case AGENT_KILLED:
        exec->killed_by = (int)value;
        conclude(exec, "killed", EXIT_SIGNAL_BASE + (int)value);
        return;
    default:
        log_error("%s: cannot be run: %s", exec->command[0], exec_trouble(value));
        if (outcome == AGENT_NOT_FOUND)
            conclude(exec, "not-found", EXIT_COMMAND_NOT_FOUND);
        else
            conclude(exec, "not-runnable", EXIT_COMMAND_NOT_RUNNABLE);
    }
}

static void on_machine(struct loop_source *source, uint32_t events)
{
    struct exec *exec = container_of(source, struct exec, machine);
    struct exec_record record;
    int fd, got = exec_receive(source->fd, &record, &fd);
    if (got == 0)
        return;
    if (got > 0 && record.kind == EXEC_STREAM && fd >= 0) {
        streams_connect(&exec->streams, record.small, fd);
        return;
    }
    loop_remove(exec->loop, source);
    exec->ended = true;
    if (got > 0 && record.kind == EXEC_ENDED) {
        command_ended(exec, record.small, record.value);
        exec->output_ended |= record.small > AGENT_KILLED;
        if (!exec->output_ended)
            streams_finish_soon(&exec->streams);
    } else {
        log_error("machine '%s' has ended", exec->name);
        conclude(exec, "machine-ended", EXIT_GUEST_CRASHED);
        streams_drain(&exec->streams, -1);
        exec->output_ended = true;
    }
    check_over(exec);
}

/* Some send SIGTERM or SIGHUP twice, as timeout(1) does and a shell whose terminal goes: that is one request to end, and
 * the command is to have its time for it. */
static bool has_been_asked(struct exec *exec, uint32_t number)
{
    if (exec->asks == EXEC_ASKS_MAX)
        return true;
    exec->asks += number == SIGINT || number == SIGTERM || number == SIGHUP;
    return false;
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct exec *exec = container_of(source, struct exec, signals);
    struct signalfd_siginfo info;
    struct winsize size;
    if (read(source->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    struct exec_record record = {.kind = EXEC_SIGNAL, .value = info.ssi_signo};
    if (info.ssi_signo == SIGWINCH) {
        if (!exec->tty || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
            return;
        record =
            (struct exec_record){.kind = EXEC_RESIZE, .small = size.ws_row, .value = size.ws_col};
    }
    if (info.ssi_signo != SIGWINCH && (exec->ended || has_been_asked(exec, info.ssi_signo))) {
        /* Nobody else is there to take it, and whoever sends it does not want the rest of the output. Or the
         * command did not heed it: without this connection it is killed. */
        conclude(exec, "stopped", EXIT_SIGNAL_BASE + (int)info.ssi_signo);
        loop_quit(exec->loop);
        return;
    }
    exec_send(exec->machine.fd, &record, -1);
}

static int take_signals(struct exec *exec, struct nido_error *err)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        sigaddset(&set, numbers[i]);
    cli_add_hangup(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    exec->signals = (struct loop_source){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
                                         .events = EPOLLIN,
                                         .ready = on_signal};
    return exec->signals.fd < 0 ? error_errno(err, errno, "cannot watch for signals")
                                : loop_add(exec->loop, &exec->signals, err);
}

/* Ctrl-A x: the command loses its terminal. */
static void key_quit(struct term_actions *actions)
{
    struct exec *exec = container_of(actions, struct exec, actions);
    conclude(exec, "stopped", EXIT_SIGNAL_BASE + SIGHUP);
    loop_quit(exec->loop);
}

static void key_status(struct term_actions *actions)
{
    fputs("\r\nnido: Ctrl-A x leaves, and ends the command\r\n", stderr);
}

static int run(struct exec *exec, struct nido_error *err)
{
    json_t *reply = NULL;
    int fd = -1;
    exec->actions = (struct term_actions){.quit = key_quit, .status = key_status};
    if (exec->tty && !isatty(STDIN_FILENO))
        return error_set(err, EINVAL, "--tty: standard input is no terminal");
    int ret = loop_create(&exec->loop, "main", err);
    if (ret == 0 && exec->result)
        ret = result_check(&no_machine, exec->result, err);
    if (ret == 0)
        ret = take_signals(exec, err);
    if (ret == 0)
        ret = send_request(exec, &reply, &fd, err);
    if (ret < 0)
        return ret;
    json_decref(reply);
    exec->machine = (struct loop_source){.fd = fd, .events = EPOLLIN, .ready = on_machine};
    if (exec->tty)
        ret = term_create(&exec->term, STDIN_FILENO, &exec->actions, err);
    streams_init(&exec->streams, exec->loop, exec->term ? term_keys(exec->term) : NULL, exec->tty,
                 on_output_ended, exec);
    if (ret == 0)
        ret = loop_add(exec->loop, &exec->machine, err);
    if (ret == 0)
        loop_run(exec->loop);
    streams_close(&exec->streams);
    term_destroy(exec->term);
    return ret;
}

/* False: it was asked for, and cannot be written. */
static bool write_result(const struct exec *exec)
{
    struct nido_error err;
    json_t *signal_number = exec->killed_by ? json_integer(exec->killed_by) : json_null();
    json_t *record = json_pack("{s:s, s:i, s:o}", "reason", exec->reason, "code", exec->status,
                               "signal", signal_number);
    if (result_write_json(&no_machine, exec->result, record, &err) == 0)
        return true;
    log_error("%s", err.text);
    return false;
}

int cmd_exec(int argc, char **argv)
{
    struct exec exec = {.machine.fd = -1,
                        .signals.fd = -1,
                        .status = EXIT_NIDO_FAILED,
                        .reason = "failed",
                        .env = json_array()};
    struct nido_error err;
    int ret = -EINVAL;
    if (!parse(&exec, argc, argv)) {
        usage();
    } else {
        ret = run(&exec, &err);
        if (ret < 0) {
            log_error("%s", err.text);
            conclude(&exec, "failed", EXIT_NIDO_FAILED);
        }
        if (exec.result && !write_result(&exec))
            ret = -EIO;
    }
    loop_destroy(exec.loop);
    json_decref(exec.env);
    if (exec.machine.fd >= 0)
        close(exec.machine.fd);
    if (exec.signals.fd >= 0)
        close(exec.signals.fd);
    return ret < 0 ? EXIT_NIDO_FAILED : exec.status;
}
