/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nido run: flags to a configuration, a configuration to a machine, and the main thread's wait for
 * its end. Main owns the signals, the terminal and the control socket; what other threads see
 * (escape keys, a console that nobody reads any more) is posted to its loop.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "base/trace.h"
#include "cli/answers.h"
#include "cli/chores.h"
#include "cli/cli.h"
#include "cli/console_hub.h"
#include "cli/control.h"
#include "cli/detach.h"
#include "cli/job_flags.h"
#include "cli/result.h"
#include "cli/roots.h"
#include "cli/run_flags.h"
#include "cli/traffic.h"
#include "host/loop.h"
#include "host/term.h"
#include "lib/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Enough for a reader that is there; one that is not shall not keep nido. */
#define LAST_WORDS_S 1ul

#define INTERRUPTS_MAX 3u

struct run {
    struct run_flags flags;
    struct detach detach;
    uint64_t start_ns, guest_start_ns;

    struct loop *loop;
    struct nido_machine *machine; /* made anew for each restart */
    struct control *control;
    struct job *job;            /* NULL: there is no command */
    struct job_outcome outcome; /* its, once it is known */
    unsigned interrupts;        /* passed on to it */
    struct console_hub *hub;    /* of a detached machine */
    int hub_guest_fd;
    struct term *term;
    struct term_actions actions;
    struct loop_source signals, ended, grace, timeout;
    unsigned long grace_s;      /* that the timer was set to */
    struct loop_source resized; /* SIGWINCH, where the guest can be told */
    struct loop_task quit_task, output_closed_task;
    int stopped_by;   /* the signal that asked for the end; 0: none */
    const char *plug; /* why it was pulled, in a word of --result; NULL: it was not */
    bool has_pidfile; /* written, and ours to remove */
    unsigned restarts;
    struct nido_traffic traffic; /* of machines that were */
    struct answers answers;      /* on the control socket */
};

/* ---- what may end it ---- */

static void set_timer(const struct loop_source *timer, unsigned long seconds)
{
    const struct itimerspec in = {
        .it_value = {.tv_sec = (time_t)seconds, .tv_nsec = seconds ? 0 : 1}};
    timerfd_settime(timer->fd, 0, &in, NULL);
}

static void start_grace(struct run *run, unsigned long seconds)
{
    run->grace_s = seconds;
    set_timer(&run->grace, seconds);
}

static void pull_plug(struct run *run, const char *why)
{
    if (!run->plug)
        run->plug = why;
    nido_machine_stop(run->machine);
}

/* The first asks the guest, through its power button; a second one, or the grace time, insists. A guest
 * that is paused has to wake up to hear it. */
static void ask_to_end(struct run *run, int signal_number)
{
    if (run->stopped_by) {
        pull_plug(run, "signal");
        return;
    }
    run->stopped_by = signal_number;
    run->answers.stopping = true;
    answers_set_paused(&run->answers, false);
    nido_machine_press_power_button(run->machine);
    start_grace(run, run->flags.grace_s);
}

/* A signal is the command's, where one runs. SIGTERM is a request to end, and SIGHUP: its terminal is gone; of SIGINT,
 * the third is. Such a one wakes a guest that is paused. */
static bool pass_on(struct run *run, int signal_number)
{
    if (!run->job || run->stopped_by || !job_signal(run->job, signal_number))
        return false;
    run->interrupts += signal_number == SIGINT;
    if (signal_number == SIGTERM || signal_number == SIGHUP || run->interrupts == INTERRUPTS_MAX) {
        run->stopped_by = signal_number;
        answers_set_paused(&run->answers, false);
        start_grace(run, run->flags.grace_s);
    }
    return true;
}

/* `why`: a word of --result, where there is nobody to ask yet, or no more. */
static void end_by_signal(struct run *run, int signal_number, const char *why)
{
    if (pass_on(run, signal_number))
        return;
    if (run->job && !run->stopped_by) {
        run->stopped_by = signal_number;
        pull_plug(run, why);
    } else {
        ask_to_end(run, signal_number);
    }
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct run *run = container_of(source, struct run, signals);
    struct signalfd_siginfo info;
    if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        end_by_signal(run, (int)info.ssi_signo, "signal");
}

static void tell_size(struct run *run)
{
    struct winsize size;
    if (run->job && run->resized.fd >= 0)
        job_resize(run->job);
    if (run->machine && run->resized.fd >= 0 && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
        machine_resize_console(run->machine, size.ws_col, size.ws_row);
}

static void on_resized(struct loop_source *source, uint32_t events)
{
    struct signalfd_siginfo info;
    if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        tell_size(container_of(source, struct run, resized));
}

static bool timer_fired(const struct loop_source *source)
{
    uint64_t times;
    return read(source->fd, &times, sizeof(times)) == (ssize_t)sizeof(times);
}

static void on_grace_over(struct loop_source *source, uint32_t events)
{
    struct run *run = container_of(source, struct run, grace);
    if (!timer_fired(source))
        return;
    log_warn("the guest did not power off within %lu s; stopping it", run->grace_s);
    pull_plug(run, "grace");
}

static void on_timeout(struct loop_source *source, uint32_t events)
{
    struct run *run = container_of(source, struct run, timeout);
    if (!timer_fired(source))
        return;
    log_warn("the machine ran for %lu s, its time limit; stopping it", run->flags.timeout_s);
    pull_plug(run, RESULT_TIMEOUT);
}

static void on_ended(struct loop_source *source, uint32_t events)
{
    loop_quit(container_of(source, struct run, ended)->loop);
}

static void on_job_started(void *self)
{
    struct run *run = self;
    detach_started(&run->detach, run->flags.name);
}

static void on_job_over(void *self)
{
    loop_quit(((struct run *)self)->loop);
}

static const struct job_ops job_ops = {.started = on_job_started, .over = on_job_over};

static void on_quit(struct loop_task *task)
{
    pull_plug(container_of(task, struct run, quit_task), "stopped");
}

static void on_output_closed(struct loop_task *task)
{
    struct run *run = container_of(task, struct run, output_closed_task);
    if (!run->stopped_by)
        ask_to_end(run, SIGPIPE);
}

/* ---- the terminal ---- */

static void key_quit(struct term_actions *actions)
{
    struct run *run = container_of(actions, struct run, actions);
    loop_post(run->loop, &run->quit_task);
}

static void key_status(struct term_actions *actions)
{
    struct run *run = container_of(actions, struct run, actions);
    chores_print_status(run->flags.name, run->machine);
}

static void console_closed(void *self)
{
    struct run *run = self;
    loop_post(run->loop, &run->output_closed_task);
}

/* ---- the control socket's requests ---- */

static void answer_stop(struct answers *answers, long grace_s)
{
    struct run *run = container_of(answers, struct run, answers);
    if (!run->stopped_by)
        end_by_signal(run, SIGTERM, "stopped");
    if (grace_s >= 0)
        start_grace(run, (unsigned long)grace_s);
}

static void answer_kill(struct answers *answers)
{
    struct run *run = container_of(answers, struct run, answers);
    run->stopped_by = SIGKILL;
    pull_plug(run, "stopped");
}

/* ---- from flags to a machine that runs ---- */

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
    cli_add_hangup(&set);
    if (run->flags.job.root) {
        sigaddset(&set, SIGQUIT);
        sigaddset(&set, SIGUSR1);
        sigaddset(&set, SIGUSR2);
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    int ret =
        watch(run, &run->signals, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), on_signal, err);
    if (ret == 0)
        ret = watch(run, &run->grace, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), on_grace_over,
                    err);
    if (ret == 0 && run->flags.timeout_s) {
        ret = watch(run, &run->timeout, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), on_timeout,
                    err);
        set_timer(&run->timeout, run->flags.timeout_s);
    }
    return ret;
}

static bool on_stdio(const struct run *run)
{
    return run->flags.config.machine.console == NIDO_CONSOLE_STDIO;
}

/* A signalfd of its own: the other's signals end waits. */
static int take_resizes(struct run *run, struct nido_error *err)
{
    sigset_t set;
    if (!run->flags.config.machine.console_virtio && !run->flags.job.tty)
        return 0;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return watch(run, &run->resized, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), on_resized,
                 err);
}

static int take_console(struct run *run, struct nido_error *err)
{
    struct nido_config *machine = &run->flags.config.machine;
    run->actions = (struct term_actions){.quit = key_quit, .status = key_status};
    if (!on_stdio(run))
        return 0;
    /* A command reads and writes where the console would. */
    if (run->flags.detach || run->flags.job.root) {
        machine->console = NIDO_CONSOLE_FD;
        int ret = console_hub_create(&run->hub, run->loop, &run->hub_guest_fd, err);
        machine->console_fd = run->hub_guest_fd;
        if (ret < 0 || !run->flags.job.tty)
            return ret;
    }
    if (!isatty(STDIN_FILENO))
        return 0;
    int ret = term_create(&run->term, STDIN_FILENO, &run->actions, err);
    return ret < 0 ? ret : take_resizes(run, err);
}

static int prepare_job(struct run *run, struct nido_error *err)
{
    const struct job_flags *flags = &run->flags.job;
    if (!flags->root)
        return 0;
    int ret = job_create(&run->job, flags, run->flags.name, &run->flags.config.machine, err);
    return ret < 0 ? ret
                   : job_start(run->job, run->loop, run->term ? term_keys(run->term) : NULL,
                               run->flags.detach, &job_ops, run, err);
}

static int set_up(struct run *run, struct nido_error *err)
{
    if (!run->flags.name[0])
        snprintf(run->flags.name, sizeof(run->flags.name), "nido-%ld", (long)getpid());
    int ret = loop_create(&run->loop, "main", err);
    if (ret == 0)
        ret = detach_watch(&run->detach, run->loop, &run->quit_task, err);
    if (ret == 0)
        ret = take_signals(run, err);
    if (ret == 0)
        ret = control_start(&run->control, run->loop, run->flags.name, &answers_control_ops,
                            &run->answers, err);
    if (ret == 0)
        ret = take_console(run, err);
    if (ret == 0)
        ret = prepare_job(run, err);
    chores_allow_many_files(&run->flags.config.machine);
    run->answers.name = run->flags.name;
    run->answers.hub = run->hub;
    run->answers.job = run->job;
    return ret;
}

static int build(struct run *run, struct nido_error *err)
{
    struct nido_config config = run->flags.config.machine;
    const struct machine_console console = {
        .keys = run->term ? term_keys(run->term) : NULL,
        .output_closed = on_stdio(run) ? console_closed : NULL,
        .self = run,
    };
    int ret = 0;
    if (run->flags.restart_on_reboot || run->flags.restart_on_panic)
        ret = chores_lend_descriptors(&config, err);
    if (ret == 0)
        ret = machine_build(&run->machine, &config, &console, err);
    run->answers.machine = run->machine;
    if (ret == 0)
        ret = watch(run, &run->ended, nido_machine_fd(run->machine), on_ended, err);
    if (ret == 0)
        tell_size(run);
    /* Not earlier: what cannot start leaves that of another machine alone. */
    if (ret == 0)
        ret = chores_write_pidfile(&config, run->flags.pidfile, err);
    run->has_pidfile |= ret == 0 && run->flags.pidfile;
    return ret;
}

/* ---- the end ---- */

/* Returns the exit status. */
static int conclude(struct run *run, const char *reason, int status, const char *report)
{
    const struct nido_config *machine = &run->flags.config.machine;
    struct nido_error err;
    run->answers.end_reason = reason;
    run->answers.end_code = status;
    const struct result result = {
        .reason = reason,
        .code = status,
        .signal = run->outcome.signal ? run->outcome.signal : run->stopped_by,
        .oom = run->outcome.oom,
        .restarts = run->restarts,
        .traffic = run->traffic,
        .start_ns = run->start_ns,
        .guest_start_ns = run->guest_start_ns,
        .job = run->job,
        .report = report,
    };
    if (!run->flags.result || result_write(machine, run->flags.result, &result, &err) == 0)
        return status;
    log_error("%s", err.text);
    if (status == 0)
        run->answers.end_code = EXIT_NIDO_FAILED;
    return run->answers.end_code;
}

static bool shall_restart(const struct run *run, enum nido_end end)
{
    bool wanted = (end == NIDO_RESET && run->flags.restart_on_reboot) ||
                  (end == NIDO_PANICKED && run->flags.restart_on_panic);
    return wanted && !run->stopped_by && !run->plug;
}

/* A guest that has no panic device, or not its driver yet, resets. What its kernel wrote tells why, and only of a
 * command's machine is that known. */
static enum nido_end as_console_tells(const struct run *run, enum nido_end end)
{
    bool unclear = end == NIDO_RESET && run->job && run->hub;
    return unclear && console_hub_tells_panic(run->hub) ? NIDO_PANICKED : end;
}

/* How it ended: as its command did, unless it was cut short. */
static int conclude_end(struct run *run, enum nido_end end, const char *report)
{
    const char *reason = result_reason(end, run->plug);
    int status = result_code(end, run->plug, run->stopped_by);
    bool by_itself = end != NIDO_STOPPED && end != NIDO_RUNNING;
    bool told = run->job && !run->plug && job_outcome(run->job, by_itself, &run->outcome);
    if (run->job && !run->plug && (!told || run->outcome.broken))
        console_hub_print_end(run->hub, stderr);
    if (told)
        return conclude(run, run->outcome.reason, run->outcome.code, report);
    if (run->job && status == 0) {
        log_error("the guest %s before its command ended", reason);
        status = EXIT_GUEST_CRASHED;
    }
    return conclude(run, reason, status, report);
}

static void destroy_machine(struct run *run)
{
    loop_remove(run->loop, &run->ended);
    nido_machine_destroy(run->machine);
    run->machine = NULL;
}

/* What the guest has written still goes out, however slowly it is read: until a signal, the time
 * limit, or the rest of the grace time. A machine that had to be stopped gets no grace twice. */
static void drain_console(struct run *run, enum nido_end end)
{
    const struct loop_source *patience[] = {&run->signals, &run->grace, &run->timeout};
    own_fd int over = epoll_create1(EPOLL_CLOEXEC);
    /* Nobody reads for a hub any more: what it has taken makes room for the rest. */
    console_hub_catch_up(run->hub);
    if (end == NIDO_STOPPED || run->hub)
        set_timer(&run->grace, LAST_WORDS_S);
    for (unsigned i = 0; i < ARRAY_SIZE(patience); i++) {
        struct epoll_event readable = {.events = EPOLLIN};
        epoll_ctl(over, EPOLL_CTL_ADD, patience[i]->fd, &readable);
    }
    machine_drain_console(run->machine, over);
    /* The next machine, where there is one, is not meant. */
    timerfd_settime(run->grace.fd, 0, &(const struct itimerspec){0}, NULL);
}

/* A machine from its first instruction to its last. */
static int run_once(struct run *run, bool *restart, struct nido_error *err)
{
    int ret = build(run, err);
    if (ret == 0)
        ret = nido_machine_start(run->machine, err);
    if (ret < 0)
        return EXIT_NIDO_FAILED;
    run->guest_start_ns = clock_now_ns();
    if (!run->job)
        detach_started(&run->detach, run->flags.name);
    loop_run(run->loop);
    struct nido_status status;
    const char *report;
    enum nido_end end = nido_machine_end(run->machine, &report);
    nido_machine_stop(run->machine);
    drain_console(run, end);
    end = as_console_tells(run, end);
    if (run->job)
        job_drain(run->job, run->signals.fd);
    chores_show_trace(&run->flags.config.machine, run->flags.trace, run->flags.timeline,
                      run->guest_start_ns);
    *restart = shall_restart(run, end);
    chores_print_report(report);
    nido_machine_status(run->machine, &status);
    traffic_add(&run->traffic, &status.traffic);
    if (*restart) {
        destroy_machine(run);
        run->restarts++;
        return 0;
    }
    return conclude_end(run, end, report);
}

static void tear_down(struct run *run)
{
    struct loop_source *sources[] = {&run->signals, &run->grace, &run->timeout, &run->resized};
    nido_machine_destroy(run->machine);
    job_destroy(run->job);
    console_hub_destroy(run->hub);
    if (run->hub_guest_fd >= 0)
        close(run->hub_guest_fd);
    control_stop(run->control);
    term_destroy(run->term);
    loop_destroy(run->loop);
    for (unsigned i = 0; i < ARRAY_SIZE(sources); i++)
        if (sources[i]->fd >= 0)
            close(sources[i]->fd);
    if (run->has_pidfile)
        chores_remove_pidfile(&run->flags.config.machine, run->flags.pidfile);
    answers_finish(&run->answers);
    trace_disable();
    run_flags_finish(&run->flags);
}

/* What could not start, or not again, leaves a record as well, where one can be written. */
static void record_failure(struct run *run, const struct nido_error *err)
{
    const char *path = run->flags.result;
    struct nido_error unwritable;
    if (err->code && path && result_check(&run->flags.config.machine, path, &unwritable) == 0)
        conclude(run, "failed", EXIT_NIDO_FAILED, err->text);
}

static int check_outputs(const struct run_flags *flags, struct nido_error *err)
{
    const struct nido_config *machine = &flags->config.machine;
    int ret = flags->result ? result_check(machine, flags->result, err) : 0;
    return ret == 0 && flags->trace ? chores_check_trace(machine, flags->trace, err) : ret;
}

static int run_to_the_end(struct run *run, struct nido_error *err)
{
    int status = EXIT_NIDO_FAILED;
    bool restart = true;
    if (check_outputs(&run->flags, err) < 0 || job_check_flags(&run->flags, err) < 0)
        return status;
    if (run->flags.detach && detach_begin(&run->detach, err) < 0)
        return status;
    if (detach_is_parent(&run->detach))
        return detach_wait(&run->detach);
    if ((run->flags.trace || run->flags.timeline) && trace_enable(err) < 0)
        return status;
    if (roots_prepare(&run->flags.job, err) < 0)
        return status;
    if (set_up(run, err) < 0)
        return status;
    while (restart) {
        restart = false;
        status = run_once(run, &restart, err);
    }
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct run run = {
        .start_ns = clock_now_ns(),
        .hub_guest_fd = -1,
        .signals.fd = -1,
        .grace.fd = -1,
        .timeout.fd = -1,
        .resized.fd = -1,
        .answers = {.stop = answer_stop, .kill = answer_kill},
        .quit_task.run = on_quit,
        .output_closed_task.run = on_output_closed,
    };
    struct nido_error err = {0};
    int status = EXIT_NIDO_FAILED;
    detach_init(&run.detach);
    if (run_flags_parse(&run.flags, argc, argv, &err) < 0) {
        record_failure(&run, &err);
    } else if (run.flags.help) {
        help_run(stdout, run.flags.help_all);
        status = 0;
    } else if (run.flags.config.dump) {
        status = config_dump(&run.flags.config, stdout, &err) < 0 ? EXIT_NIDO_FAILED : 0;
    } else {
        status = run_to_the_end(&run, &err);
        record_failure(&run, &err);
    }
    if (err.code)
        log_error("%s", err.text);
    tear_down(&run);
    return status;
}
