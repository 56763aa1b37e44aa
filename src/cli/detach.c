/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/detach.h"

#include "base/checked.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void detach_init(struct detach *detach)
{
    *detach = (struct detach){.child = -1, .pipe_fd = -1};
}

int detach_begin(struct detach *detach, struct nido_error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "--detach: cannot make a pipe");
    detach->child = fork();
    if (detach->child < 0)
        return error_errno(err, errno, "--detach: cannot make a process");
    if (detach->child == 0)
        setsid();
    detach->pipe_fd = ends[detach->child == 0];
    close(ends[detach->child != 0]);
    return 0;
}

bool detach_is_parent(const struct detach *detach)
{
    return detach->child > 0;
}

int detach_wait(struct detach *detach)
{
    char name[256];
    ssize_t n = read(detach->pipe_fd, name, sizeof(name));
    close(detach->pipe_fd);
    if (n > 0) {
        fwrite(name, 1, (size_t)n, stdout);
        return 0;
    }
    /* It has said why on standard error, which it shares. */
    int status;
    if (waitpid(detach->child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) == 0)
        return EXIT_NIDO_FAILED;
    return WEXITSTATUS(status);
}

static void on_parent(struct loop_source *source, uint32_t events)
{
    struct detach *detach = container_of(source, struct detach, parent);
    loop_remove(detach->loop, source);
    loop_post(detach->loop, detach->deserted);
}

int detach_watch(struct detach *detach, struct loop *loop, struct loop_task *deserted,
                 struct nido_error *err)
{
    if (detach->pipe_fd < 0)
        return 0;
    detach->loop = loop;
    detach->deserted = deserted;
    /* A pipe that has no reader any more is an error to epoll, asked or not. */
    detach->parent = (struct loop_source){.fd = detach->pipe_fd, .ready = on_parent};
    return loop_add(loop, &detach->parent, err);
}

void detach_started(struct detach *detach, const char *name)
{
    if (detach->pipe_fd < 0)
        return;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd >= 0) {
        dup2(null_fd, STDIN_FILENO);
        dup2(null_fd, STDOUT_FILENO);
        dup2(null_fd, STDERR_FILENO);
        close(null_fd);
    }
    loop_remove(detach->loop, &detach->parent);
    char line[256];
    int n = snprintf(line, sizeof(line), "%s\n", name);
    ssize_t ignored = write(detach->pipe_fd, line, (size_t)n);
    (void)ignored;
    close(detach->pipe_fd);
    detach->pipe_fd = -1;
}
