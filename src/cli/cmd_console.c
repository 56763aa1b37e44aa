/* SPDX-License-Identifier: Apache-2.0 */
/* nido console NAME: the console of a detached machine, in this terminal. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/control.h"
#include "host/term.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

struct viewer {
    struct term_actions actions;
    struct term *term;
    bool left;
};

static void key_quit(struct term_actions *actions)
{
    ((struct viewer *)(void *)actions)->left = true;
}

static void key_status(struct term_actions *actions)
{
    fputs("\r\nnido: Ctrl-A x leaves; the machine goes on\r\n", stderr);
}

static bool write_all(int fd, const char *bytes, size_t count)
{
    while (count) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        count -= (size_t)n;
    }
    return true;
}

/* False: the machine has ended, or nobody reads what we write. */
static bool show_output(int machine_fd)
{
    char buffer[4096];
    ssize_t n = read(machine_fd, buffer, sizeof(buffer));
    return n > 0 && write_all(STDOUT_FILENO, buffer, (size_t)n);
}

/* False: no more input. */
static bool send_keys(struct viewer *viewer, int machine_fd)
{
    char buffer[256];
    ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (n <= 0)
        return false;
    struct stream_keys *keys = viewer->term ? term_keys(viewer->term) : NULL;
    size_t count = keys ? keys->filter(keys, (uint8_t *)buffer, (size_t)n) : (size_t)n;
    write_all(machine_fd, buffer, count);
    return true;
}

static void relay(struct viewer *viewer, int machine_fd)
{
    struct pollfd fds[] = {{.fd = machine_fd, .events = POLLIN},
                           {.fd = STDIN_FILENO, .events = POLLIN}};
    while (!viewer->left) {
        if (poll(fds, 2, -1) < 0) {
            if (errno != EINTR)
                return;
            continue;
        }
        if (fds[0].revents && !show_output(machine_fd))
            return;
        if (fds[1].revents && !send_keys(viewer, machine_fd))
            fds[1].fd = -1;
    }
}

int cmd_console(int argc, char **argv)
{
    struct viewer viewer = {.actions = {.quit = key_quit, .status = key_status}};
    struct nido_error err;
    json_t *reply;
    int fd = -1;
    /* A machine that ends takes no keys any more, and what it has written is still read. */
    signal(SIGPIPE, SIG_IGN);
    if (argc != 2) {
        log_error("usage: nido console NAME");
        return EXIT_NIDO_FAILED;
    }
    int ret = control_ask(argv[1], "console", &reply, &fd, &err);
    if (ret == 0) {
        json_decref(reply);
        if (isatty(STDIN_FILENO))
            ret = term_create(&viewer.term, STDIN_FILENO, &viewer.actions, &err);
    }
    if (ret == 0)
        relay(&viewer, fd);
    else
        log_error("%s", err.text);
    term_destroy(viewer.term);
    if (fd >= 0)
        close(fd);
    return ret == 0 ? 0 : EXIT_NIDO_FAILED;
}
