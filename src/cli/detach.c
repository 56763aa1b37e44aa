/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/detach.h"

#include "base/checked.h"
#include "base/own.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

void detach_init(struct detach *detach)
{
    *detach = (struct detach){.child = -1, .socket = -1};
}

int detach_begin(struct detach *detach, struct nido_error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_errno(err, errno, "--detach: cannot make a socket");
    detach->child = fork();
    if (detach->child < 0)
        return error_errno(err, errno, "--detach: cannot make a process");
    if (detach->child == 0)
        setsid();
    detach->socket = ends[detach->child == 0];
    close(ends[detach->child != 0]);
    return 0;
}

bool detach_is_parent(const struct detach *detach)
{
    return detach->child > 0;
}

static bool pass_on(const struct detach *detach, const char *name, size_t length)
{
    if (fwrite(name, 1, length, stdout) != length || fflush(stdout) != 0)
        return false;
    /* The child hears of it, unless its machine is over already. */
    send(detach->socket, "", 1, MSG_NOSIGNAL);
    return true;
}

int detach_wait(struct detach *detach)
{
    char name[256];
    ssize_t n = recv(detach->socket, name, sizeof(name), 0);
    bool passed_on = n > 0 && pass_on(detach, name, (size_t)n);
    close(detach->socket);
    if (passed_on)
        return 0;
    /* It has said why on standard error, which it shares. */
    int status;
    if (waitpid(detach->child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) == 0)
        return EXIT_NIDO_FAILED;
    return WEXITSTATUS(status);
}

static void on_parent(struct loop_source *source, uint32_t events)
{
    struct detach *detach = container_of(source, struct detach, parent);
    char passed_on;
    bool may_go = recv(detach->socket, &passed_on, 1, MSG_DONTWAIT) == 1;
    loop_remove(detach->loop, source);
    close(own_take_fd(&detach->socket));
    /* Nobody would know of the machine. */
    if (!may_go)
        loop_post(detach->loop, detach->deserted);
}

int detach_watch(struct detach *detach, struct loop *loop, struct loop_task *deserted,
                 struct nido_error *err)
{
    if (detach->socket < 0)
        return 0;
    detach->loop = loop;
    detach->deserted = deserted;
    detach->parent =
        (struct loop_source){.fd = detach->socket, .events = EPOLLIN, .ready = on_parent};
    return loop_add(loop, &detach->parent, err);
}

void detach_started(struct detach *detach, const char *name)
{
    if (detach->socket < 0 || detach->told)
        return;
    detach->told = true;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd >= 0) {
        dup2(null_fd, STDIN_FILENO);
        dup2(null_fd, STDOUT_FILENO);
        dup2(null_fd, STDERR_FILENO);
        close(null_fd);
    }
    char line[256];
    int n = snprintf(line, sizeof(line), "%s\n", name);
    /* One that is gone is heard of on the loop. */
    send(detach->socket, line, (size_t)n, MSG_NOSIGNAL);
}
