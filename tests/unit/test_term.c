/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "host/term.h"

#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Escape keys */

static struct term_escape escape;
static unsigned keys;

/* What remains of `text`, and in `keys` what was pressed. */
static const char *filtered(const char *text)
{
    static char bytes[64];
    size_t count = strlen(text);
    memcpy(bytes, text, count);
    count = term_escape_filter(&escape, (uint8_t *)bytes, count, &keys);
    bytes[count] = 0;
    return bytes;
}

static int forget_escape(void **state)
{
    escape = (struct term_escape){0};
    return 0;
}

static void escape_lets_plain_bytes_pass(void **state)
{
    assert_string_equal(filtered("xch\003\032\377a"), "xch\003\032\377a");
    assert_int_equal(keys, 0);
}

static void escape_takes_commands_out(void **state)
{
    assert_string_equal(filtered("a\001xb"), "ab");
    assert_int_equal(keys, TERM_KEY_QUIT);
    assert_string_equal(filtered("\001c\001h"), "");
    assert_int_equal(keys, TERM_KEY_STATUS | TERM_KEY_HELP);
}

static void escape_sends_itself_when_doubled(void **state)
{
    assert_string_equal(filtered("\001\001x"), "\001x");
    assert_string_equal(filtered("\001ax"), "\001x");
    assert_string_equal(filtered("\001\001\001\001"), "\001\001");
    assert_int_equal(keys, 0);
}

static void escape_swallows_what_it_does_not_know(void **state)
{
    assert_string_equal(filtered("a\001zb"), "ab");
    assert_int_equal(keys, 0);
}

static void escape_lasts_from_one_read_to_the_next(void **state)
{
    assert_string_equal(filtered("a\001"), "a");
    assert_int_equal(keys, 0);
    assert_string_equal(filtered(""), "");
    assert_string_equal(filtered("xx"), "x");
    assert_int_equal(keys, TERM_KEY_QUIT);
    assert_string_equal(filtered("\001"), "");
    assert_string_equal(filtered("\001"), "\001");
    assert_string_equal(filtered("x"), "x");
    assert_int_equal(keys, 0);
}

/* The terminal */

static int master, slave;

static int open_terminal(void **state)
{
    return openpty(&master, &slave, NULL, NULL, NULL);
}

static int close_terminal(void **state)
{
    close(master);
    close(slave);
    return 0;
}

static struct termios modes(void)
{
    struct termios now;
    memset(&now, 0, sizeof(now));
    assert_int_equal(tcgetattr(slave, &now), 0);
    return now;
}

static bool is_raw(void)
{
    struct termios now = modes();
    return !(now.c_lflag & (ICANON | ECHO | ISIG | IEXTEN)) && !(now.c_oflag & OPOST) &&
           !(now.c_iflag & (ICRNL | IXON | ISTRIP)) && now.c_cc[VMIN] == 1;
}

static bool same(const struct termios *a, const struct termios *b)
{
    return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
           a->c_lflag == b->c_lflag && memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc)) == 0;
}

static unsigned quits, statuses;

static void count_quit(struct term_actions *actions)
{
    quits++;
}

static void count_status(struct term_actions *actions)
{
    statuses++;
}

static struct term_actions actions = {.quit = count_quit, .status = count_status};

static void term_is_raw_until_destroyed(void **state)
{
    struct termios before = modes();
    struct term *term;
    assert_int_equal(term_create(&term, slave, &actions, NULL), 0);
    assert_true(is_raw());
    term_destroy(term);
    struct termios after = modes();
    assert_true(same(&before, &after));
}

static void term_is_one_in_a_process(void **state)
{
    struct term *term, *second;
    struct nido_error err;
    assert_int_equal(term_create(&term, slave, &actions, NULL), 0);
    assert_int_equal(term_create(&second, slave, &actions, &err), -EBUSY);
    term_destroy(term);
    assert_int_equal(term_create(&term, slave, &actions, NULL), 0);
    term_destroy(term);
}

static void term_refuses_what_is_no_terminal(void **state)
{
    struct term *term;
    struct nido_error err;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(term_create(&term, ends[0], &actions, &err), -ENOTTY);
    close(ends[0]);
    close(ends[1]);
}

static void term_keys_act(void **state)
{
    struct term *term;
    uint8_t bytes[] = "a\001cb\001x";
    quits = statuses = 0;
    assert_int_equal(term_create(&term, slave, &actions, NULL), 0);
    struct stream_keys *hook = term_keys(term);
    assert_true(hook->ready(hook));
    assert_int_equal(hook->filter(hook, bytes, sizeof(bytes) - 1), 2);
    assert_memory_equal(bytes, "ab", 2);
    assert_int_equal(quits, 1);
    assert_int_equal(statuses, 1);
    term_destroy(term);
}

static void term_leaves_the_handlers_of_others_in_place(void **state)
{
    struct term *term;
    struct sigaction after;
    signal(SIGTERM, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    /* nohup would have it otherwise. */
    signal(SIGHUP, SIG_DFL);
    signal(SIGTSTP, SIG_DFL);
    assert_int_equal(term_create(&term, slave, &actions, NULL), 0);
    sigaction(SIGTERM, NULL, &after);
    assert_ptr_equal(after.sa_handler, SIG_IGN);
    term_destroy(term);
    signal(SIGTERM, SIG_DFL);
    sigaction(SIGHUP, NULL, &after);
    assert_ptr_equal(after.sa_handler, SIG_DFL);
    sigaction(SIGTSTP, NULL, &after);
    assert_ptr_equal(after.sa_handler, SIG_DFL);
}

/* Children. Each is the leader of a session on the terminal; a byte in a pipe tells that it is
 * ready. They leave by _exit(), or as the test has it. */

static int to_parent[2];

static void report(char what)
{
    if (write(to_parent[1], &what, 1) != 1)
        _exit(99);
}

static char reported(void)
{
    char what;
    assert_int_equal(read(to_parent[0], &what, 1), 1);
    return what;
}

/* cmocka's and the sanitizers' handlers are not for children that are to die. */
static void become_leader(void)
{
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int number = 1; number < 32; number++)
        signal(number, SIG_DFL);
    setsid();
    if (ioctl(slave, TIOCSCTTY, 0) < 0)
        _exit(98);
    int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null_fd, STDERR_FILENO);
    alarm(20);
}

static struct term *child_term(void)
{
    static struct term *term; /* still owned when the child exits */
    if (term_create(&term, slave, &actions, NULL) < 0)
        _exit(97);
    return term;
}

static pid_t start_child(void (*run)(void))
{
    assert_int_equal(pipe(to_parent), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        become_leader();
        run();
        _exit(0);
    }
    return pid;
}

static int end_child(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(to_parent[0]);
    close(to_parent[1]);
    return status;
}

static void be_raw_and_wait(void)
{
    child_term();
    report(is_raw() ? 'r' : 'c');
    for (;;)
        pause();
}

static void assert_signal_restores(int number)
{
    struct termios before = modes();
    pid_t pid = start_child(be_raw_and_wait);
    assert_int_equal(reported(), 'r');
    assert_true(is_raw());
    kill(pid, number);
    int status = end_child(pid);
    struct termios after = modes();
    assert_true(same(&before, &after));
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), number);
}

static void term_is_restored_by_deadly_signals(void **state)
{
    static const int deadly[] = {SIGSEGV, SIGBUS,  SIGILL, SIGFPE, SIGABRT,
                                 SIGQUIT, SIGTERM, SIGHUP, SIGINT, SIGPIPE};
    for (unsigned i = 0; i < ARRAY_SIZE(deadly); i++)
        assert_signal_restores(deadly[i]);
}

static void be_raw_and_abort(void)
{
    child_term();
    report('r');
    abort();
}

static void term_is_restored_by_abort(void **state)
{
    struct termios before = modes();
    pid_t pid = start_child(be_raw_and_abort);
    int status = end_child(pid);
    struct termios after = modes();
    assert_true(same(&before, &after));
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void be_raw_and_fault(void)
{
    child_term();
    report('r');
    /* Not NULL, which a sanitizer would find before the processor does. */
    volatile int *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *nowhere = 1;
}

static void term_is_restored_by_a_fault(void **state)
{
    struct termios before = modes();
    pid_t pid = start_child(be_raw_and_fault);
    int status = end_child(pid);
    struct termios after = modes();
    assert_true(same(&before, &after));
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
}

static void be_raw_and_exit(void)
{
    child_term();
    report('r');
    exit(3);
}

static void term_is_restored_by_exit(void **state)
{
    struct termios before = modes();
    pid_t pid = start_child(be_raw_and_exit);
    int status = end_child(pid);
    struct termios after = modes();
    assert_true(same(&before, &after));
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

/* The shell's part: a leader with the job under test in a group of its own. */

static void run_job(void (*job)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        alarm(20);
        job();
        _exit(0);
    }
    setpgid(pid, pid);
    signal(SIGTTOU, SIG_IGN);

    int status;
    if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
        _exit(90);
    tcsetpgrp(slave, getpgrp());
    report('s');
    char go;
    if (read(slave, &go, 1) != 1) /* typed by the test */
        _exit(91);
    tcsetpgrp(slave, pid);
    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    tcsetpgrp(slave, getpgrp());
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 92);
}

/* Started in the foreground, stopped by Ctrl-Z's signal, brought back. */
static void job_that_is_stopped(void)
{
    signal(SIGTTOU, SIG_IGN);
    tcsetpgrp(slave, getpid());
    signal(SIGTTOU, SIG_DFL);
    struct term *term = child_term();
    report(is_raw() ? 'r' : 'c');
    raise(SIGTSTP);
    report(is_raw() ? 'r' : 'c');
    term_destroy(term);
    report(is_raw() ? 'r' : 'c');
}

static void lead_stopped_job(void)
{
    run_job(job_that_is_stopped);
}

static void term_is_restored_by_a_stop_and_raw_again_after(void **state)
{
    pid_t pid = start_child(lead_stopped_job);
    assert_int_equal(reported(), 'r');
    assert_int_equal(reported(), 's');
    assert_false(is_raw());
    assert_int_equal(write(master, "\n", 1), 1);
    assert_int_equal(reported(), 'r');
    assert_int_equal(reported(), 'c');
    int status = end_child(pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Started in the background. */
static void job_in_background(void)
{
    struct term *term = child_term();
    struct stream_keys *hook = term_keys(term);
    report(is_raw() ? 'r' : 'c');
    report(hook->ready(hook) ? 'y' : 'n');
    raise(SIGSTOP); /* until the test has looked, and we are in the foreground */
    report(hook->ready(hook) ? 'y' : 'n');
    report(is_raw() ? 'r' : 'c');
    term_destroy(term);
    report(is_raw() ? 'r' : 'c');
}

static void lead_background_job(void)
{
    run_job(job_in_background);
}

static void term_leaves_the_terminal_alone_in_the_background(void **state)
{
    pid_t pid = start_child(lead_background_job);
    assert_int_equal(reported(), 'c');
    assert_int_equal(reported(), 'n');
    assert_int_equal(reported(), 's');
    assert_int_equal(write(master, "\n", 1), 1);
    assert_int_equal(reported(), 'y');
    assert_int_equal(reported(), 'r');
    assert_int_equal(reported(), 'c');
    int status = end_child(pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define KEYS(name) cmocka_unit_test_setup(name, forget_escape)
#define TERM(name) cmocka_unit_test_setup_teardown(name, open_terminal, close_terminal)

int main(void)
{
    const struct CMUnitTest tests[] = {
        KEYS(escape_lets_plain_bytes_pass),
        KEYS(escape_takes_commands_out),
        KEYS(escape_sends_itself_when_doubled),
        KEYS(escape_swallows_what_it_does_not_know),
        KEYS(escape_lasts_from_one_read_to_the_next),
        TERM(term_is_raw_until_destroyed),
        TERM(term_is_one_in_a_process),
        TERM(term_refuses_what_is_no_terminal),
        TERM(term_keys_act),
        TERM(term_leaves_the_handlers_of_others_in_place),
        TERM(term_is_restored_by_deadly_signals),
        TERM(term_is_restored_by_abort),
        TERM(term_is_restored_by_a_fault),
        TERM(term_is_restored_by_exit),
        TERM(term_is_restored_by_a_stop_and_raw_again_after),
        TERM(term_leaves_the_terminal_alone_in_the_background),
    };
    return cmocka_run_group_tests_name("term", tests, NULL, NULL);
}
