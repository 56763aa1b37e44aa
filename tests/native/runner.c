/* SPDX-License-Identifier: Apache-2.0 */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void child(const char *const *arguments, const int *in, const int *out, const int *err)
{
    char *argv[RUNNER_ARGS_MAX + 4];
    int count = 0;
    argv[count++] = getenv("NIDO");
    while (*arguments && count < RUNNER_ARGS_MAX)
        argv[count++] = strdup(*arguments++);
    argv[count] = NULL;
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execv(argv[0], argv);
    perror(argv[0]);
    _exit(126);
}

void runner_start_command(struct runner *runner, const char *const *arguments)
{
    int in[2], out[2], err[2];
    memset(runner, 0, sizeof(*runner));
    if (!getenv("NIDO") || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        abort();
    signal(SIGPIPE, SIG_IGN);
    runner->pid = fork();
    if (runner->pid == 0)
        child(arguments, in, out, err);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    runner->in = in[1];
    runner->out = out[0];
    runner->err = err[0];
}

void runner_start(struct runner *runner, const char *guest, const char *const *arguments)
{
    char path[512];
    const char *all[RUNNER_ARGS_MAX + 4] = {"run"};
    int count = 1;
    if (guest) {
        snprintf(path, sizeof(path), "--kernel=%s/%s.elf", getenv("NIDO_GUESTS"), guest);
        all[count++] = path;
    }
    while (*arguments && count < RUNNER_ARGS_MAX)
        all[count++] = *arguments++;
    runner_start_command(runner, all);
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void take(int *fd, char *text, size_t *length)
{
    char scratch[4096];
    ssize_t n = read(*fd, scratch, sizeof(scratch));
    if (n <= 0) {
        close_end(fd);
        return;
    }
    size_t room = RUNNER_TEXT_MAX - 1 - *length;
    size_t kept = (size_t)n < room ? (size_t)n : room;
    memcpy(text + *length, scratch, kept);
    *length += kept;
}

/* False: both streams have ended. */
static bool take_some(struct runner *runner)
{
    struct pollfd fds[] = {{.fd = runner->out, .events = POLLIN},
                           {.fd = runner->err, .events = POLLIN}};
    if (runner->out < 0 && runner->err < 0)
        return false;
    if (poll(fds, 2, RUNNER_TIMEOUT_S * 1000) == 0) {
        fprintf(stderr, "nido hangs; so far it said: %s%s\n", runner->out_text, runner->err_text);
        kill(runner->pid, SIGKILL);
        return false;
    }
    if (fds[0].revents)
        take(&runner->out, runner->out_text, &runner->out_length);
    if (fds[1].revents)
        take(&runner->err, runner->err_text, &runner->err_length);
    return true;
}

void runner_send(struct runner *runner, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count) {
        struct pollfd in = {.fd = runner->in, .events = POLLOUT};
        size_t piece = count < 512 ? count : 512;
        ssize_t n = poll(&in, 1, 10) > 0 ? write(runner->in, at, piece) : 0;
        if (n < 0)
            return;
        at += n;
        count -= (size_t)n;
        /* Its output must not fill up meanwhile. */
        struct pollfd out = {.fd = runner->out, .events = POLLIN};
        while (runner->out >= 0 && poll(&out, 1, 0) > 0)
            if (!take_some(runner) || runner->out < 0)
                break;
    }
}

void runner_close_input(struct runner *runner)
{
    close_end(&runner->in);
}

bool runner_wait_for(struct runner *runner, const char *text)
{
    while (!strstr(runner->out_text, text))
        if (!take_some(runner))
            return false;
    return true;
}

void runner_finish(struct runner *runner)
{
    close_end(&runner->in);
    while (take_some(runner))
        ;
    int status;
    while (waitpid(runner->pid, &status, 0) < 0 && errno == EINTR)
        ;
    runner->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void runner_run(struct runner *runner, const char *guest, const char *const *arguments)
{
    runner_start(runner, guest, arguments);
    runner_finish(runner);
}

void runner_command(struct runner *runner, const char *const *arguments)
{
    runner_start_command(runner, arguments);
    runner_finish(runner);
}
