/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES_MAX    (512u << 10)
#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What the new process tells when it cannot become the command. */
struct trouble {
    int code;
    bool lookup; /* of the command itself */
};

/* A command's descriptors, in the process that becomes it. */
struct ends {
    int fds[3];
};

uint32_t job_oom_kills(void)
{
    char line[128];
    unsigned count = 0;
    FILE *file = fopen("/proc/vmstat", "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "oom_kill %u", &count) == 1)
            break;
    if (file)
        fclose(file);
    return count;
}

static void tell_exit(int control, uint16_t id, enum exit_kind kind, uint32_t value)
{
    uint8_t bytes[64];
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_EXIT, id);
    frame_put_number(&writer, kind);
    frame_put_number(&writer, value);
    frame_put_number(&writer, job_oom_kills());
    link_send_frame(control, &writer);
}

/* ---- the process that becomes the command ---- */

static bool has_variable(char *const *env, const char *name)
{
    size_t length = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
            return true;
    return false;
}

static bool become(const struct user *user)
{
    return setgroups(user->group_count, user->groups) == 0 &&
           setresgid(user->gid, user->gid, user->gid) == 0 &&
           setresuid(user->uid, user->uid, user->uid) == 0;
}

static void set_environment(const struct command *command, const struct user *user)
{
    static char path[] = DEFAULT_PATH;
    environ = command->env;
    if (!has_variable(command->env, "PATH"))
        putenv(path);
    if (!has_variable(command->env, "HOME"))
        setenv("HOME", user->home, 1);
}

/* Linux starts the first process with 4096, which only root may raise; systemd has that raised to this. */
static void allow_many_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_max = FILES_MAX;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* They were made by root: whoever has one of them open may not open it again, as /dev/stdout or by the terminal's name. */
static void give_streams(const struct command *command, const struct user *user)
{
    bool has_input = command->flags & (COMMAND_TTY | COMMAND_STDIN);
    for (int i = has_input ? STDIN_FILENO : STDOUT_FILENO; i <= STDERR_FILENO; i++)
        if (fchown(i, user->uid, (gid_t)-1) < 0)
            return;
}

static struct trouble prepare(const struct command *command, const struct ends *ends)
{
    struct user user;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(ends->fds[i], i) < 0)
            return (struct trouble){.code = errno};
    if (command->flags & COMMAND_TTY)
        ioctl(STDIN_FILENO, TIOCSCTTY, 0);
    allow_many_files();
    if (user_find(command->user, &user) < 0)
        return (struct trouble){.code = ESRCH};
    give_streams(command, &user);
    set_environment(command, &user);
    if (command->flags & COMMAND_MAKE_DIRECTORY)
        root_make_directories(command->directory);
    /* Before it becomes the user, and again after: one of them may look into it. */
    int entered = chdir(command->directory);
    if (!become(&user))
        return (struct trouble){.code = errno};
    if (entered < 0 && chdir(command->directory) < 0)
        return (struct trouble){.code = EDOTDOT};
    return (struct trouble){0};
}

/* The command is there, where the kernel says that it is not: what is not is its loader, or the interpreter of
 * its first line. */
static bool is_there(const char *name)
{
    char part[512];
    const char *path = getenv("PATH");
    if (strchr(name, '/'))
        return access(name, X_OK) == 0;
    for (size_t length; path && *path; path += length + (path[length] == ':')) {
        length = strcspn(path, ":");
        snprintf(part, sizeof(part), "%.*s/%s", (int)length, path, name);
        if (access(part, X_OK) == 0)
            return true;
    }
    return false;
}

static void __attribute__((noreturn))
run_child(const struct command *command, const struct ends *ends, int report)
{
    struct trouble trouble = prepare(command, ends);
    if (trouble.code == 0 && command->flags & (COMMAND_PACK | COMMAND_UNPACK)) {
        close(report);
        _exit(copy_run(command));
    }
    if (trouble.code == 0) {
        execvp(command->argv[0], command->argv);
        trouble = (struct trouble){.code = errno, .lookup = true};
        if (errno == ENOENT && is_there(command->argv[0]))
            trouble = (struct trouble){.code = ELIBACC};
    }
    ssize_t ignored = write(report, &trouble, sizeof(trouble));
    (void)ignored;
    _exit(127);
}

/* ---- its descriptors ---- */

static void close_all(int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* A pipe between the command's descriptor `stream` and nido. */
static bool connect_pipe(struct job *job, unsigned stream, int *end)
{
    int fds[2];
    int link = link_open_stream(job->id, stream);
    if (link < 0)
        return false;
    if (pipe2(fds, O_CLOEXEC) < 0) {
        close(link);
        return false;
    }
    bool input = stream == STDIN_FILENO;
    *end = fds[input ? 0 : 1];
    return input ? pump_open(&job->pumps[stream], link, fds[1])
                 : pump_open(&job->pumps[stream], fds[0], link);
}

static bool connect_pipes(struct job *job, const struct command *command, struct ends *ends)
{
    if (command->flags & COMMAND_STDIN) {
        if (!connect_pipe(job, STDIN_FILENO, &ends->fds[0]))
            return false;
    } else {
        ends->fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
    }
    return ends->fds[0] >= 0 && connect_pipe(job, STDOUT_FILENO, &ends->fds[1]) &&
           connect_pipe(job, STDERR_FILENO, &ends->fds[2]);
}

static bool connect_terminal(struct job *job, const struct command *command, struct ends *ends)
{
    char name[32];
    int number = 0, unlocked = 0;
    int link = link_open_stream(job->id, STREAM_TTY);
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (link < 0 || master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0 ||
        ioctl(master, TIOCGPTN, &number) < 0) {
        close_all((int[]){link, master}, 2);
        return false;
    }
    job->terminal = master;
    job_resize(job, command->rows, command->columns);
    snprintf(name, sizeof(name), "/dev/pts/%d", number);
    for (unsigned i = 0; i < 3; i++)
        ends->fds[i] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    return pump_open(&job->pumps[0], dup(link), dup(master)) &&
           pump_open(&job->pumps[1], dup(master), link) && ends->fds[2] >= 0;
}

/* ---- its life ---- */

static void tell_started(int control, uint16_t id)
{
    uint8_t bytes[64];
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_STARTED, id);
    link_send_frame(control, &writer);
}

static void forget(struct job *job)
{
    for (unsigned i = 0; i < JOB_PUMPS; i++)
        pump_close(&job->pumps[i]);
    if (job->terminal >= 0)
        close(job->terminal);
    job->id = 0;
}

/* Returns once the process is the command, or has said why not. */
static struct trouble spawn(struct job *job, const struct command *command, struct ends *ends)
{
    int report[2];
    struct trouble trouble = {0};
    if (pipe2(report, O_CLOEXEC) < 0)
        return (struct trouble){.code = errno};
    job->pid = fork();
    if (job->pid == 0)
        run_child(command, ends, report[1]);
    if (job->pid < 0)
        trouble.code = errno;
    close(report[1]);
    if (job->pid > 0 && read(report[0], &trouble, sizeof(trouble)) != sizeof(trouble))
        trouble = (struct trouble){0};
    close(report[0]);
    return trouble;
}

void job_start(struct job *job, uint16_t id, const struct command *command, int control)
{
    struct ends ends = {{-1, -1, -1}};
    struct trouble trouble = {.code = EIO};
    *job = (struct job){.id = id, .terminal = -1};
    for (unsigned i = 0; i < JOB_PUMPS; i++)
        job->pumps[i].from = job->pumps[i].to = -1;
    errno = 0;
    bool connected = command->flags & COMMAND_TTY ? connect_terminal(job, command, &ends)
                                                  : connect_pipes(job, command, &ends);
    if (connected)
        trouble = spawn(job, command, &ends);
    else if (errno)
        trouble.code = errno;
    close_all(ends.fds, 3);
    if (trouble.code == 0) {
        tell_started(control, id);
        return;
    }
    bool missing = trouble.lookup && (trouble.code == ENOENT || trouble.code == ENOTDIR);
    forget(job);
    tell_exit(control, id, missing ? EXIT_NOT_FOUND : EXIT_NOT_STARTED, (uint32_t)trouble.code);
}

/* The command and what it has started: a shell may not pass a signal on. */
void job_signal(const struct job *job, int number)
{
    if (!job->dead && kill(-job->pid, number) < 0)
        kill(job->pid, number);
}

void job_resize(const struct job *job, uint32_t rows, uint32_t columns)
{
    const struct winsize size = {.ws_row = (uint16_t)rows, .ws_col = (uint16_t)columns};
    if (job->terminal >= 0)
        ioctl(job->terminal, TIOCSWINSZ, &size);
}

void job_died(struct job *job, int status)
{
    job->dead = true;
    job->status = status;
    pump_close(&job->pumps[0]);
    for (unsigned i = 1; i < JOB_PUMPS; i++)
        job->pumps[i].last = true;
}

bool job_is_over(const struct job *job)
{
    return job->dead && !pump_is_open(&job->pumps[1]) && !pump_is_open(&job->pumps[2]);
}

void job_finish(struct job *job, int control)
{
    bool killed = WIFSIGNALED(job->status);
    uint16_t id = job->id;
    forget(job);
    tell_exit(control, id, killed ? EXIT_SIGNAL : EXIT_CODE,
              (uint32_t)(killed ? WTERMSIG(job->status) : WEXITSTATUS(job->status)));
}
