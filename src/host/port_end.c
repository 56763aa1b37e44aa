/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket's life: `listening` is watched while nobody is connected. A client's descriptor is
 * watched a second time, for its hang-up alone, because the stream looks at its input only when the
 * guest wants some. Gone is a client that has hung up and of whom nothing is left to read; one that
 * has shut down its sending side still reads.
 *
 * The stream's callbacks may not change its descriptors, so they post `leave_task`.
 */
#include "host/port_end.h"

#include "base/checked.h"
#include "base/own.h"
#include "host/unix_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct port_end {
    struct loop *loop;
    struct port_end_config config;
    struct stream *stream;
    int in_fd, out_fd; /* of a file or pipes: ours; else -1 */
    struct unix_listener listener;

    /* Loop thread. */
    struct loop_source listening;
    struct loop_source hang_up; /* a duplicate of client_fd; -1: not watched */
    struct loop_task leave_task;
    int client_fd; /* -1: none */
    bool hung_up, input_ended;
};

static void tell(struct port_end *end, bool connected)
{
    end->config.connected(end->config.self, connected);
}

/* ---- a socket's client ---- */

static void stop_watching(struct port_end *end)
{
    if (end->hang_up.fd < 0)
        return;
    loop_remove(end->loop, &end->hang_up);
    close(end->hang_up.fd);
    end->hang_up.fd = -1;
}

static void forget_client(struct port_end *end)
{
    stop_watching(end);
    stream_connect(end->stream, -1, -1);
    close(end->client_fd);
    end->client_fd = -1;
    tell(end, false);
    loop_modify(end->loop, &end->listening, EPOLLIN);
}

static void run_leave(struct loop_task *task)
{
    struct port_end *end = container_of(task, struct port_end, leave_task);
    if (end->client_fd >= 0 && end->hung_up && end->input_ended)
        forget_client(end);
}

static void on_input_ended(void *self)
{
    struct port_end *end = self;
    end->input_ended = true;
    loop_post(end->loop, &end->leave_task);
}

/* What the client has sent before it went is the guest's; the stream finds the end behind it. */
static void on_hang_up(struct loop_source *source, uint32_t events)
{
    struct port_end *end = container_of(source, struct port_end, hang_up);
    char byte;
    stop_watching(end);
    end->hung_up = true;
    if (recv(end->client_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0 &&
        !stream_holds_input(end->stream))
        end->input_ended = true;
    run_leave(&end->leave_task);
}

static int watch_client(struct port_end *end, int fd)
{
    end->hang_up.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (end->hang_up.fd < 0)
        return -errno;
    int ret = loop_add(end->loop, &end->hang_up, NULL);
    if (ret < 0) {
        close(end->hang_up.fd);
        end->hang_up.fd = -1;
    }
    return ret;
}

/* Told first: what the guest sends from now on is for this client. */
static void on_call(struct loop_source *source, uint32_t events)
{
    struct port_end *end = container_of(source, struct port_end, listening);
    own_fd int fd = unix_listener_accept(&end->listener);
    if (fd < 0 || end->client_fd >= 0)
        return;
    end->hung_up = end->input_ended = false;
    if (watch_client(end, fd) < 0)
        return;
    if (stream_connect(end->stream, fd, fd) < 0) {
        stop_watching(end);
        return;
    }
    end->client_fd = own_take_fd(&fd);
    loop_modify(end->loop, &end->listening, 0);
    tell(end, true);
}

/* ---- opening ---- */

/* For reading and writing, so that opening waits for nobody and nobody's leaving ends it. */
static int open_fifo(int *fd, const char *path, const char *suffix, struct nido_error *err)
{
    char name[PATH_MAX];
    struct stat file;
    if (snprintf(name, sizeof(name), "%s%s", path, suffix) >= (int)sizeof(name))
        return error_set(err, ENAMETOOLONG, "%s%s: too long a path", path, suffix);
    *fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (*fd < 0)
        return error_errno(err, errno, "%s: cannot open it; make it with mkfifo", name);
    if (fstat(*fd, &file) < 0 || !S_ISFIFO(file.st_mode))
        return error_set(err, EINVAL, "%s: not a pipe; make one with mkfifo", name);
    return 0;
}

static int open_pipes(struct port_end *end, struct nido_error *err)
{
    int ret = open_fifo(&end->in_fd, end->config.path, ".in", err);
    return ret < 0 ? ret : open_fifo(&end->out_fd, end->config.path, ".out", err);
}

static int open_socket(struct port_end *end, struct nido_error *err)
{
    int ret = unix_listener_init(&end->listener, end->config.path, err);
    if (ret < 0)
        return ret;
    end->listening =
        (struct loop_source){.fd = end->listener.fd, .events = EPOLLIN, .ready = on_call};
    return loop_add(end->loop, &end->listening, err);
}

static int open_end(struct port_end *end, struct nido_error *err)
{
    switch (end->config.kind) {
    case PORT_END_DESCRIPTORS:
        return 0;
    case PORT_END_FILE:
        end->out_fd = end->config.out_fd;
        return 0;
    case PORT_END_PIPE:
        return open_pipes(end, err);
    case PORT_END_SOCKET:
        return open_socket(end, err);
    }
    return error_set(err, EINVAL, "unknown kind %d", (int)end->config.kind);
}

static int start_stream(struct port_end *end, struct stream_guest *guest, struct nido_error *err)
{
    bool given = end->config.kind == PORT_END_DESCRIPTORS;
    const struct stream_config config = {
        .name = end->config.name,
        .in_fd = given ? end->config.in_fd : end->in_fd,
        .out_fd = given ? end->config.out_fd : end->out_fd,
        .input_ended = end->config.kind == PORT_END_SOCKET ? on_input_ended : NULL,
        .self = end,
    };
    return stream_create(&end->stream, end->loop, guest, &config, err);
}

int port_end_create(struct port_end **out, struct loop *loop, struct stream_guest *guest,
                    const struct port_end_config *config, struct nido_error *err)
{
    struct port_end *end = calloc(1, sizeof(*end));
    if (!end) {
        if (config->kind == PORT_END_FILE)
            close(config->out_fd);
        return error_set(err, ENOMEM, "%s: out of memory", config->name);
    }
    end->loop = loop;
    end->config = *config;
    end->in_fd = end->out_fd = end->client_fd = end->listener.fd = -1;
    end->hang_up = (struct loop_source){.fd = -1, .ready = on_hang_up};
    end->leave_task.run = run_leave;
    int ret = open_end(end, err);
    if (ret < 0)
        error_prefix(err, "%s", config->name);
    else
        ret = start_stream(end, guest, err);
    if (ret < 0) {
        port_end_destroy(end);
        return ret;
    }
    if (config->kind != PORT_END_SOCKET)
        tell(end, true);
    *out = end;
    return 0;
}

void port_end_destroy(struct port_end *end)
{
    if (!end)
        return;
    stream_destroy(end->stream);
    stop_watching(end);
    if (end->listener.fd >= 0)
        loop_remove(end->loop, &end->listening);
    unix_listener_finish(&end->listener);
    own_close_fd(&end->client_fd);
    own_close_fd(&end->in_fd);
    own_close_fd(&end->out_fd);
    free(end);
}

int port_end_drain(struct port_end *end, int stop_fd)
{
    return stream_drain(end->stream, stop_fd);
}

uint64_t port_end_sent_bytes(const struct port_end *end)
{
    return stream_sent_bytes(end->stream);
}
