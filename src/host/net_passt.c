/* SPDX-License-Identifier: Apache-2.0 */

/*
 * passt as a child process: how it starts, how it tells that it is ready, how it ends.
 *
 * It has three descriptors of ours and no others: /dev/null, one end of a socket pair with the
 * frames, and a pipe for its standard output and standard error. `-P` makes it write its process
 * id once all ports are bound, and /proc/self/fd/1 makes the pipe that file; so a line that is a
 * number says "ready", and the end of the pipe before it says "did not start", with the reason in
 * the line before. (As root, passt changes to the user nobody, who must be able to open the pipe.)
 *
 * Who ends it: a socket given with --fd is its only one, and it leaves when the far end is closed,
 * be it by net_close() or by the death of this process. PR_SET_PDEATHSIG would add nothing to that:
 * it is forgotten when passt changes its user, and it follows the thread that started passt, which
 * in a program that uses the library may end long before the machine.
 *
 * When it dies while the machine runs, the device sees the socket hang up and takes the guest's
 * link down; here it is only reaped, on the loop's thread.
 */

#include "host/net_passt.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "host/net_stream.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* It takes 50 ms; this is for a host in trouble. */
#define START_PATIENCE_NS 30000000000ull

#define SOCKET_FD  "3" /* in passt */
#define FIXED_ARGS 7u

/* Of no network that this host could lead to: link-local. */
#define RESOLVER_FOR_GUEST "169.254.1.1"

struct passt {
    struct net_stream stream; /* first: net_stream_*() take &stream.net */
    struct loop *loop;
    pid_t pid;                 /* 0: there is none, or it is reaped */
    struct loop_source exited; /* its pidfd */
    struct loop_source said;   /* the pipe */
    bool ready;
    unsigned line_bytes;
    char line[160]; /* what has come of a line, cut */
    char last[160]; /* the last line that says something, "" for none */
};

/* ---- what it says ---- */

/* Without /dev/log, each line is followed by a complaint about that. */
static bool says_something(const char *line)
{
    return line[0] && strncmp(line, "Failed to send ", 15) != 0;
}

static void line_ended(struct passt *self)
{
    self->line[self->line_bytes] = '\0';
    self->line_bytes = 0;
    if (self->line[0] && strspn(self->line, "0123456789") == strlen(self->line)) {
        self->ready = true;
    } else if (says_something(self->line)) {
        memcpy(self->last, self->line, sizeof(self->last));
        log_debug("%s: %s", self->stream.net.name, self->last);
    }
}

static void take_text(struct passt *self, const char *text, size_t bytes)
{
    for (; bytes; bytes--, text++) {
        if (*text == '\n')
            line_ended(self);
        else if (self->line_bytes < sizeof(self->line) - 1)
            self->line[self->line_bytes++] = isprint((unsigned char)*text) ? *text : '?';
    }
}

/* False: it has closed the pipe, which means that it has ended. */
static bool read_said(struct passt *self)
{
    char text[512];
    for (;;) {
        ssize_t got = read(self->said.fd, text, sizeof(text));
        if (got > 0)
            take_text(self, text, (size_t)got);
        else if (got == 0)
            return false;
        else if (errno != EINTR)
            return errno == EAGAIN;
    }
}

static void said_ready(struct loop_source *source, uint32_t events)
{
    struct passt *self = container_of(source, struct passt, said);
    if (!read_said(self))
        loop_remove(self->loop, source);
}

/* ---- how it ends ---- */

static void reap(struct passt *self, int flags)
{
    int status = 0;
    pid_t got;
    do {
        got = waitpid(self->pid, &status, flags);
    } while (got < 0 && errno == EINTR);
    if (got == 0)
        return;
    self->pid = 0; /* ECHILD too: a program that uses the library may reap every child */
    if (got > 0 && WIFSIGNALED(status))
        log_info("%s was killed by signal %d", self->stream.net.name, WTERMSIG(status));
    else if (got > 0)
        log_info("%s ended with status %d; it said last: %s", self->stream.net.name,
                 WEXITSTATUS(status), self->last);
}

static void exited_ready(struct loop_source *source, uint32_t events)
{
    struct passt *self = container_of(source, struct passt, exited);
    reap(self, WNOHANG);
    loop_remove(self->loop, source);
}

/* By its pidfd: the number may be another's by now. It has nothing to tidy up. */
static void end_process(struct passt *self)
{
    if (!self->pid)
        return;
    if (self->exited.fd >= 0)
        syscall(SYS_pidfd_send_signal, self->exited.fd, SIGKILL, NULL, 0);
    reap(self, 0);
}

static void passt_close(struct net *net)
{
    struct passt *self = container_of(net, struct passt, stream.net);
    if (self->stream.loop)
        net_stream_finish(&self->stream);
    end_process(self);
    loop_remove(self->loop, &self->exited);
    loop_remove(self->loop, &self->said);
    own_close_fd(&self->exited.fd);
    own_close_fd(&self->said.fd);
    free(self);
}

static const struct net_ops passt_ops = {
    .receive = net_stream_receive,
    .send = net_stream_send,
    .set_offload = net_stream_set_offload,
    .close = passt_close,
};

/* ---- how it starts ---- */

/* The fds of the child, above those that they become: dup2() must not hit one that is to follow. */
struct child_fds {
    int null, pipe, sock;
};

static void close_child_fds(struct child_fds *fds)
{
    own_close_fd(&fds->null);
    own_close_fd(&fds->pipe);
    own_close_fd(&fds->sock);
}

static int move_up(int *fd)
{
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, 10);
    own_close_fd(fd);
    *fd = moved;
    return moved < 0 ? -1 : 0;
}

/* Leaves our ends in `sock` and `self->said.fd`. */
static int make_channels(struct passt *self, struct child_fds *fds, int *sock,
                         struct nido_error *err)
{
    int pair[2], ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return error_errno(err, errno, "cannot make a pair of sockets");
    *sock = pair[0];
    fds->sock = pair[1];
    if (pipe2(ends, O_CLOEXEC))
        return error_errno(err, errno, "cannot make a pipe");
    self->said.fd = ends[0];
    fds->pipe = ends[1];
    fds->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fds->null < 0 || fchmod(fds->pipe, 0666) || fcntl(self->said.fd, F_SETFL, O_NONBLOCK))
        return error_errno(err, errno, "cannot prepare passt's descriptors");
    if (move_up(&fds->null) || move_up(&fds->pipe) || move_up(&fds->sock))
        return error_errno(err, errno, "cannot prepare passt's descriptors");
    return 0;
}

/* Signals as a new process has them, and a session of its own: a Ctrl-C in our terminal is for us,
 * who still need passt while the guest powers off. */
static int child_manners(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    return posix_spawnattr_setsigmask(attr, &none) | posix_spawnattr_setsigdefault(attr, &all) |
           posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETSID);
}

static int child_descriptors(posix_spawn_file_actions_t *actions, const struct child_fds *fds)
{
    return posix_spawn_file_actions_adddup2(actions, fds->null, 0) |
           posix_spawn_file_actions_adddup2(actions, fds->pipe, 1) |
           posix_spawn_file_actions_adddup2(actions, fds->pipe, 2) |
           posix_spawn_file_actions_adddup2(actions, fds->sock, 3) |
           posix_spawn_file_actions_addclosefrom_np(actions, 4);
}

/* posix_spawn() is a vfork(): it costs the same whatever RAM the guest has. */
static int spawn(struct passt *self, char *const argv[], const struct child_fds *fds)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int code = posix_spawn_file_actions_init(&actions);
    if (code)
        return code;
    code = posix_spawnattr_init(&attr);
    if (code == 0) {
        code = child_manners(&attr) | child_descriptors(&actions, fds);
        if (code == 0)
            code = posix_spawnp(&self->pid, argv[0], &actions, &attr, argv, environ);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* As passt reads it, which takes the first for what its guest asks. */
static bool has_own_resolver(FILE *file)
{
    char line[256];
    bool found = false;
    while (fgets(line, sizeof(line), file)) {
        struct in_addr address;
        line[strcspn(line, "%\n")] = '\0';
        if (strncmp(line, "nameserver ", 11) != 0 ||
            inet_pton(AF_INET, strrchr(line, ' ') + 1, &address) != 1)
            continue;
        if (ntohl(address.s_addr) >> 24 != IN_LOOPBACKNET)
            return false;
        found = true;
    }
    return found;
}

const char *net_passt_resolver(const struct nido_net *wanted)
{
    own_file FILE *file = wanted->host_loopback ? NULL : fopen("/etc/resolv.conf", "re");
    return file && has_own_resolver(file) ? RESOLVER_FOR_GUEST : "";
}

/* `specs` holds the ports' texts. */
static void fill_argv(char **argv, char (*specs)[NET_PUBLISH_SPEC_BYTES],
                      const struct nido_net *wanted)
{
    static const char *const fixed[FIXED_ARGS] = {
        "passt", "--foreground", "--quiet", "--fd", SOCKET_FD, "--pid", "/proc/self/fd/1"};
    unsigned n = 0;
    for (; n < FIXED_ARGS; n++)
        argv[n] = (char *)(uintptr_t)fixed[n];
    if (!wanted->host_loopback)
        argv[n++] = (char *)(uintptr_t) "--no-map-gw";
    const char *resolver = net_passt_resolver(wanted);
    if (*resolver) {
        argv[n++] = (char *)(uintptr_t) "--dns-forward";
        argv[n++] = (char *)(uintptr_t)resolver;
    }
    for (unsigned i = 0; i < wanted->publish_count; i++) {
        net_publish_spec(specs[i], &wanted->publish[i]);
        argv[n++] = (char *)(uintptr_t)(wanted->publish[i].udp ? "--udp-ports" : "--tcp-ports");
        argv[n++] = specs[i];
    }
    argv[n] = NULL;
}

static int start_process(struct passt *self, const struct nido_net *wanted,
                         const struct child_fds *fds, struct nido_error *err)
{
    char specs[NIDO_PUBLISH_MAX][NET_PUBLISH_SPEC_BYTES];
    char *argv[FIXED_ARGS + 3 + 2 * NIDO_PUBLISH_MAX + 1];
    fill_argv(argv, specs, wanted);
    int code = spawn(self, argv, fds);
    if (code == ENOENT)
        return error_set(err, code, "passt is not installed; apt install passt");
    if (code)
        return error_errno(err, code, "cannot start passt");
    self->exited.fd = (int)syscall(SYS_pidfd_open, self->pid, 0);
    if (self->exited.fd < 0)
        return error_errno(err, errno, "cannot watch passt");
    snprintf(self->stream.net.name, sizeof(self->stream.net.name), "passt (pid %d)", self->pid);
    return 0;
}

/* What its last line means, where that is not plain. */
static int did_not_start(struct passt *self, const struct nido_net *wanted, struct nido_error *err)
{
    unsigned lowest = net_publish_lowest_free_port(), port = lowest;
    for (unsigned i = 0; i < wanted->publish_count; i++)
        port = MIN(port, wanted->publish[i].host_port);
    if (port < lowest && strstr(self->last, "bind"))
        return error_set(err, EACCES,
                         "passt: %s; ports below %u are for root: choose another, or `sysctl "
                         "net.ipv4.ip_unprivileged_port_start=%u`",
                         self->last, lowest, port);
    if (strstr(self->last, "interface"))
        return error_set(err, ENETUNREACH,
                         "passt: %s; it needs an interface of this host with an address and a "
                         "default route: see `ip route`",
                         self->last);
    return error_set(err, EIO, "passt did not start: %s",
                     self->last[0] ? self->last : "it did not say why; try `passt --foreground`");
}

static int wait_until_ready(struct passt *self, const struct nido_net *wanted,
                            struct nido_error *err)
{
    const uint64_t give_up_ns = clock_now_ns() + START_PATIENCE_NS;
    while (!self->ready) {
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= give_up_ns)
            return error_set(err, ETIMEDOUT, "passt was not ready after %u s; its last words: %s",
                             (unsigned)(START_PATIENCE_NS / 1000000000), self->last);
        struct pollfd wait = {.fd = self->said.fd, .events = POLLIN};
        poll(&wait, 1, (int)((give_up_ns - now_ns) / 1000000) + 1);
        if (!read_said(self) && !self->ready)
            return did_not_start(self, wanted, err);
    }
    return 0;
}

static int watch(struct passt *self, struct nido_error *err)
{
    self->exited.events = self->said.events = EPOLLIN;
    self->exited.ready = exited_ready;
    self->said.ready = said_ready;
    int rc = loop_add(self->loop, &self->exited, err);
    return rc ? rc : loop_add(self->loop, &self->said, err);
}

static int start(struct passt *self, const struct nido_net *wanted, struct nido_error *err)
{
    struct child_fds fds = {-1, -1, -1};
    own_fd int sock = -1;
    int rc = make_channels(self, &fds, &sock, err);
    if (rc == 0)
        rc = start_process(self, wanted, &fds, err);
    close_child_fds(&fds);
    if (rc == 0)
        rc = wait_until_ready(self, wanted, err);
    if (rc == 0)
        rc = watch(self, err);
    if (rc == 0)
        rc = net_stream_init(&self->stream, sock, self->loop, err);
    if (rc == 0)
        own_take_fd(&sock);
    return rc;
}

int net_open_passt(struct net **out, const struct nido_net *wanted, struct loop *loop,
                   struct nido_error *err)
{
    int rc = wanted->publish_count > NIDO_PUBLISH_MAX
                 ? error_set(err, E2BIG, "at most %u ports can be published", NIDO_PUBLISH_MAX)
                 : 0;
    for (unsigned i = 0; rc == 0 && i < wanted->publish_count; i++)
        rc = net_publish_check(&wanted->publish[i], err);
    if (rc)
        return rc;
    struct passt *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "out of memory");
    self->loop = loop;
    self->exited.fd = self->said.fd = -1;
    self->stream.net =
        (struct net){.ops = &passt_ops, .fd = -1, .mtu = NET_PASST_MTU, .name = "passt"};
    rc = start(self, wanted, err);
    if (rc) {
        passt_close(&self->stream.net);
        return rc;
    }
    *out = &self->stream.net;
    return 0;
}

bool net_passt_installed(void)
{
    const char *path = getenv("PATH");
    char file[4096];
    for (path = path ? path : "/bin:/usr/bin"; *path; path += *path == ':') {
        int length = (int)strcspn(path, ":");
        snprintf(file, sizeof(file), "%.*s/passt", length, path);
        if (access(file, X_OK) == 0)
            return true;
        path += length;
    }
    return false;
}
