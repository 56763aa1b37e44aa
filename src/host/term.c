/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw mode is a promise to a process that may be dead by then, the shell, so putting the terminal
 * back is done by one function that is safe in a signal handler, restore(), and hangs on every way
 * out. What it needs is in `the`, the one global: signal handlers get no other argument.
 *
 * All of raw mode is the guest's: signals, echo and lines are made by its own terminal driver. That
 * goes for output too: OPOST is off, because a guest that has switched its newline translation off
 * (an editor) means a bare line feed as "one down, same column". The guest's own \n are \r\n by
 * then, and nido's lines end in \r\n on a terminal.
 */
#include "host/term.h"

#include "base/checked.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE_KEY 0x01 /* Ctrl-A */

static const char help_text[] = "\r\n"
                                "Ctrl-A x  end the machine\r\n"
                                "Ctrl-A c  show its status\r\n"
                                "Ctrl-A a  send Ctrl-A (Ctrl-A Ctrl-A does, too)\r\n"
                                "Ctrl-A h  this help\r\n";

struct term {
    struct stream_keys keys;
    struct term_actions *actions;
    struct term_escape escape; /* loop thread */
};

/* Written while `open` is false, and read by handlers on any thread after. */
static struct {
    _Atomic bool open;
    _Atomic bool raw; /* what we believe the terminal to be */
    int fd;
    struct termios saved, wanted;
} the;

/* Signals that end a process. `crash`: a handler that somebody else installed runs after ours. */
static struct deadly {
    int number;
    bool crash;
    bool taken;
    struct sigaction old;
} deadly[] = {
    {.number = SIGSEGV, .crash = true},
    {.number = SIGBUS, .crash = true},
    {.number = SIGILL, .crash = true},
    {.number = SIGFPE, .crash = true},
    {.number = SIGABRT, .crash = true},
    {.number = SIGSYS, .crash = true},
    {.number = SIGTRAP, .crash = true},
    {.number = SIGQUIT},
    {.number = SIGHUP},
    {.number = SIGINT},
    {.number = SIGTERM},
    {.number = SIGPIPE},
    {.number = SIGALRM},
    {.number = SIGXCPU},
    {.number = SIGXFSZ},
};

/* The functions up to the next heading are async-signal-safe. */

/* Where this is not our controlling terminal there is no job control to respect. */
static bool in_foreground(int fd)
{
    pid_t group = tcgetpgrp(fd);
    return group < 0 || group == getpgrp();
}

/* From the background, a change of modes would stop us with SIGTTOU or, worse, work. TCSANOW: a
 * terminal that takes no output must not hold us here. */
static void switch_to(const struct termios *modes, bool raw)
{
    int saved_errno = errno;
    if (atomic_load(&the.open) && in_foreground(the.fd) && tcsetattr(the.fd, TCSANOW, modes) == 0)
        atomic_store(&the.raw, raw);
    errno = saved_errno;
}

static void restore(void)
{
    if (atomic_load(&the.raw))
        switch_to(&the.saved, false);
}

/* Puts the action back that was there, and dies by it. A fault happens again on return, with its
 * address for the core dump; what was sent by kill() or raise() is sent again. */
static void on_deadly(int number, siginfo_t *info, void *context)
{
    restore();
    for (unsigned i = 0; i < ARRAY_SIZE(deadly); i++)
        if (deadly[i].number == number)
            sigaction(number, &deadly[i].old, NULL);
    if (info->si_code <= 0 ||
        !(number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE))
        raise(number);
}

static void install_stop_handler(void);

/* Stops for real, in the middle of this handler, and comes back when continued. */
static void on_stop(int number)
{
    int saved_errno = errno;
    sigset_t stop, old;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);

    restore();
    signal(SIGTSTP, SIG_DFL);
    raise(SIGTSTP);
    pthread_sigmask(SIG_UNBLOCK, &stop, &old);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    install_stop_handler();
    switch_to(&the.wanted, true);
    errno = saved_errno;
}

/* After a SIGSTOP the shell may have put its own modes in place. */
static void on_continue(int number)
{
    switch_to(&the.wanted, true);
}

static void install_stop_handler(void)
{
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    sigaction(SIGTSTP, &action, NULL);
}

/* Setting up and taking down */

static void take_signals(void)
{
    struct sigaction ours = {.sa_sigaction = on_deadly, .sa_flags = SA_SIGINFO};
    sigfillset(&ours.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(deadly); i++) {
        struct sigaction *old = &deadly[i].old;
        sigaction(deadly[i].number, NULL, old);
        bool has_handler = old->sa_flags & SA_SIGINFO || old->sa_handler != SIG_DFL;
        bool ignored = !(old->sa_flags & SA_SIGINFO) && old->sa_handler == SIG_IGN;
        deadly[i].taken = !ignored && (deadly[i].crash || !has_handler);
        if (deadly[i].taken)
            sigaction(deadly[i].number, &ours, NULL);
    }
}

static bool stop_taken, continue_taken;

static bool is_default(int number)
{
    struct sigaction now;
    sigaction(number, NULL, &now);
    return !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
}

static void take_job_signals(void)
{
    struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    stop_taken = is_default(SIGTSTP);
    continue_taken = is_default(SIGCONT);
    if (stop_taken)
        install_stop_handler();
    if (continue_taken)
        sigaction(SIGCONT, &action, NULL);
}

static void give_signals_back(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(deadly); i++)
        if (deadly[i].taken)
            sigaction(deadly[i].number, &deadly[i].old, NULL);
    if (stop_taken)
        signal(SIGTSTP, SIG_DFL);
    if (continue_taken)
        signal(SIGCONT, SIG_DFL);
}

static struct termios raw_modes(struct termios modes)
{
    modes.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    modes.c_oflag &= ~(tcflag_t)OPOST;
    modes.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    return modes;
}

/* The stream asks before each read: raw mode is made up for here after a start in the
 * background. */
static bool keys_ready(struct stream_keys *keys)
{
    if (!in_foreground(the.fd))
        return false;
    if (!atomic_load(&the.raw))
        switch_to(&the.wanted, true);
    return atomic_load(&the.raw);
}

static void act_on(struct term *term, unsigned keys)
{
    if (keys & TERM_KEY_HELP) {
        ssize_t ignored = write(STDERR_FILENO, help_text, sizeof(help_text) - 1);
        (void)ignored;
    }
    if (keys & TERM_KEY_STATUS)
        term->actions->status(term->actions);
    if (keys & TERM_KEY_QUIT)
        term->actions->quit(term->actions);
}

static size_t keys_filter(struct stream_keys *keys, uint8_t *bytes, size_t count)
{
    struct term *term = container_of(keys, struct term, keys);
    unsigned pressed;
    size_t kept = term_escape_filter(&term->escape, bytes, count, &pressed);
    act_on(term, pressed);
    return kept;
}

int term_create(struct term **out, int fd, struct term_actions *actions, struct nido_error *err)
{
    static _Atomic bool at_exit;

    if (atomic_load(&the.open))
        return error_set(err, EBUSY, "the terminal: another machine of this process has it");
    if (tcgetattr(fd, &the.saved) < 0)
        return error_errno(err, errno, "the terminal: cannot read its modes");
    struct term *term = calloc(1, sizeof(*term));
    if (!term)
        return error_set(err, ENOMEM, "the terminal: out of memory");
    term->keys = (struct stream_keys){.ready = keys_ready, .filter = keys_filter};
    term->actions = actions;
    the.fd = fd;
    the.wanted = raw_modes(the.saved);
    if (!atomic_exchange(&at_exit, true))
        atexit(restore);
    atomic_store(&the.open, true);
    take_signals();
    take_job_signals();
    switch_to(&the.wanted, true);
    *out = term;
    return 0;
}

void term_destroy(struct term *term)
{
    if (!term)
        return;
    restore();
    give_signals_back();
    atomic_store(&the.open, false);
    atomic_store(&the.raw, false);
    free(term);
}

struct stream_keys *term_keys(struct term *term)
{
    return &term->keys;
}

/* Escape keys */

static unsigned key_for(uint8_t byte)
{
    switch (byte) {
    case 'x':
        return TERM_KEY_QUIT;
    case 'c':
        return TERM_KEY_STATUS;
    case 'h':
        return TERM_KEY_HELP;
    default:
        return 0;
    }
}

size_t term_escape_filter(struct term_escape *escape, uint8_t *bytes, size_t count, unsigned *keys)
{
    size_t kept = 0;
    *keys = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t byte = bytes[i];
        if (!escape->seen && byte == ESCAPE_KEY) {
            escape->seen = true;
        } else if (!escape->seen) {
            bytes[kept++] = byte;
        } else {
            escape->seen = false;
            if (byte == ESCAPE_KEY || byte == 'a')
                bytes[kept++] = ESCAPE_KEY;
            *keys |= key_for(byte); /* any other is swallowed, as a mistyped command */
        }
    }
    return kept;
}
