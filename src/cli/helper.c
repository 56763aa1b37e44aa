/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/helper.h"

#include "base/checked.h"
#include "base/own.h"
#include "firmware/guest/tar.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define NOT_STARTED  127
#define OTHER_PLACES "/usr/sbin:/sbin"

static bool is_program(const char *path)
{
    return access(path, X_OK) == 0;
}

static bool find_along(const char *places, const char *program, char path[PATH_MAX])
{
    while (places && *places) {
        int length = (int)strcspn(places, ":");
        int n = snprintf(path, PATH_MAX, "%.*s/%s", length, places, program);
        if (*places == '/' && n < PATH_MAX && is_program(path))
            return true;
        places += length + (places[length] == ':');
    }
    return false;
}

int helper_find(const char *program, const char *package, char path[PATH_MAX],
                struct nido_error *err)
{
    if (find_along(getenv("PATH"), program, path) || find_along(OTHER_PLACES, program, path))
        return 0;
    return error_set(err, ENOENT, "%s is not installed; apt install %s", program, package);
}

/* Beside nido's own program, as in a build directory, or where it is installed. */
int helper_find_unpack(char path[PATH_MAX], struct nido_error *err)
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    size_t room = slash ? (size_t)(path + PATH_MAX - slash) : 0;
    if (slash && snprintf(slash, room, "/nido-unpack") < (int)room && is_program(path))
        return 0;
    snprintf(path, PATH_MAX, "%s", NIDO_LIBEXEC "/nido-unpack");
    if (is_program(path))
        return 0;
    return error_set(err, ENOENT,
                     "this nido was built without nido-unpack, which reads archives; build it with "
                     "libarchive-dev and nettle-dev, and -Darchives=enabled");
}

/* ---- a process ---- */

static void __attribute__((noreturn))
become(const struct helper *helper, const char *path, char *const argv[], const int *fds)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    for (int i = 0; i < (int)HELPER_FDS; i++) {
        int from = i == STDERR_FILENO ? helper->words_fd : fds[i];
        if (from < 0 && i <= STDERR_FILENO)
            from = open("/dev/null", O_RDWR | O_CLOEXEC);
        /* One that is in its place already only has to survive. */
        if (from == i ? fcntl(i, F_SETFD, 0) < 0 : from >= 0 && dup2(from, i) < 0)
            _exit(NOT_STARTED);
    }
    execv(path, argv);
    dprintf(STDERR_FILENO, "%s cannot be started: %s\n", path, strerror(errno));
    _exit(NOT_STARTED);
}

int helper_start(struct helper *helper, const char *path, char *const argv[],
                 const int fds[HELPER_FDS], bool dies_with_us, struct nido_error *err)
{
    const char *slash = strrchr(path, '/');
    pid_t parent = getpid();
    *helper = (struct helper){.name = slash ? slash + 1 : path, .words_fd = -1};
    helper->words_fd = memfd_create("words", MFD_CLOEXEC);
    if (helper->words_fd < 0)
        return error_errno(err, errno, "%s cannot be started", path);
    helper->pid = fork();
    if (helper->pid == 0) {
        if (dies_with_us && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
            _exit(NOT_STARTED);
        become(helper, path, argv, fds);
    }
    if (helper->pid > 0)
        return 0;
    int code = errno;
    close(helper->words_fd);
    helper->pid = 0;
    return error_errno(err, code, "%s cannot be started", path);
}

/* The end of what it said, in one line that is harmless for a terminal. */
static void keep_last_words(struct helper *helper)
{
    char *text = helper->last_words;
    off_t most = sizeof(helper->last_words) - 1, end = lseek(helper->words_fd, 0, SEEK_END);
    ssize_t n = end < 0 ? -1 : pread(helper->words_fd, text, (size_t)most, MAX(end - most, 0));
    close(helper->words_fd);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    text[n > 0 ? n : 0] = '\0';
    for (char *at = text; *at; at++)
        if (*at == '\n')
            *at = ';';
    tar_harmless(text);
}

bool helper_succeeds(struct helper *helper)
{
    int status;
    if (!helper->pid)
        return false;
    while (waitpid(helper->pid, &status, 0) < 0)
        if (errno != EINTR)
            return false;
    helper->pid = 0;
    helper->killed = WIFSIGNALED(status);
    helper->status = helper->killed ? WTERMSIG(status) : WEXITSTATUS(status);
    keep_last_words(helper);
    return status == 0;
}

int helper_error(const struct helper *helper, struct nido_error *err)
{
    if (helper->killed)
        return error_set(err, EIO, "%s was killed by signal %d (%s)", helper->name, helper->status,
                         strsignal(helper->status));
    if (helper->last_words[0])
        return error_set(err, EIO, "%s", helper->last_words);
    return error_set(err, EIO, "%s failed, with exit status %d and no word why", helper->name,
                     helper->status);
}

int helper_read_answer(int fd, char *answer, size_t answer_bytes, struct nido_error *err)
{
    size_t length = 0;
    ssize_t n;
    do {
        n = read(fd, answer + length, answer_bytes - length);
        length += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && length < answer_bytes) || (n < 0 && errno == EINTR));
    if (n < 0)
        return error_errno(err, errno, "the answer cannot be read");
    if (length == answer_bytes)
        return error_set(err, E2BIG, "the answer is longer than %zu bytes", answer_bytes - 1);
    answer[length] = '\0';
    return 0;
}

int helper_ask(const char *path, char *const argv[], char *answer, size_t answer_bytes,
               struct nido_error *err)
{
    struct helper helper;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe can be made");
    own_fd int read_end = ends[0];
    const int fds[HELPER_FDS] = {-1, ends[1], -1, -1};
    int ret = helper_start(&helper, path, argv, fds, true, err);
    close(ends[1]);
    if (ret < 0)
        return ret;
    ret = helper_read_answer(read_end, answer, answer_bytes, err);
    /* What it may still have to say ends it. */
    close(own_take_fd(&read_end));
    bool succeeded = helper_succeeds(&helper);
    return ret < 0 || succeeded ? ret : helper_error(&helper, err);
}
