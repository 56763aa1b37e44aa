/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/control.h"

#include "base/checked.h"
#include "base/own.h"
#include "cli/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define ASK_TIMEOUT_MS 10000

struct client {
    struct control *control;
    struct loop_source source; /* fd -1: free */
    uint64_t number;           /* later ones have higher ones */
    size_t length;
    char line[CONTROL_LINE_BYTES];
};

struct control {
    struct loop *loop;
    const struct control_ops *ops;
    void *self;
    struct unix_listener listener;
    struct loop_source source;
    uint64_t client_count; /* so far */
    struct client clients[CONTROL_CLIENTS_MAX];
};

/* ---- serving ---- */

static void drop_client(struct client *client)
{
    loop_remove(client->control->loop, &client->source);
    close(client->source.fd);
    client->source.fd = -1;
}

/* A reply fits into an empty socket's buffer; a client that closed loses it. */
static void send_line(int fd, json_t *reply)
{
    char *text = json_dumps(reply, JSON_COMPACT);
    if (!text)
        return;
    size_t length = strlen(text);
    text[length] = '\n';
    ssize_t ignored = send(fd, text, length + 1, MSG_NOSIGNAL);
    (void)ignored;
    free(text);
}

static json_t *make_reply(struct control *control, const char *line, int *fd)
{
    struct nido_error err = {0};
    json_t *reply = NULL;
    json_t *request = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    const char *what = json_string_value(json_object_get(request, "do"));
    int ret = what ? control->ops->answer(control->self, what, request, &reply, fd, &err)
                   : error_set(&err, EINVAL, "a request is a line like {\"do\": \"status\"}");
    json_decref(request);
    if (ret < 0) {
        json_decref(reply);
        return json_pack("{s:b, s:s}", "ok", 0, "error", err.text);
    }
    if (!reply)
        reply = json_object();
    json_object_set_new(reply, "ok", json_true());
    return reply;
}

static void serve_line(struct client *client)
{
    int fd = client->source.fd;
    json_t *reply = make_reply(client->control, client->line, &fd);
    send_line(client->source.fd, reply);
    json_decref(reply);
    if (fd >= 0) {
        drop_client(client);
        return;
    }
    /* The answer has a descriptor of its own for the connection. */
    loop_remove(client->control->loop, &client->source);
    close(client->source.fd);
    client->source.fd = -1;
}

static void on_client(struct loop_source *source, uint32_t events)
{
    struct client *client = container_of(source, struct client, source);
    size_t room = sizeof(client->line) - 1 - client->length;
    ssize_t n = room ? read(source->fd, client->line + client->length, room) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop_client(client);
        return;
    }
    client->length += (size_t)n;
    client->line[client->length] = '\0';
    char *end = strchr(client->line, '\n');
    if (end) {
        *end = '\0';
        serve_line(client);
    }
}

static struct client *free_client(struct control *control)
{
    struct client *oldest = &control->clients[0];
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        struct client *client = &control->clients[i];
        if (client->source.fd < 0)
            return client;
        if (client->number < oldest->number)
            oldest = client;
    }
    drop_client(oldest);
    return oldest;
}

static void on_connection(struct loop_source *source, uint32_t events)
{
    struct control *control = container_of(source, struct control, source);
    own_fd int fd = unix_listener_accept(&control->listener);
    if (fd < 0)
        return;
    struct client *client = free_client(control);
    client->length = 0;
    client->number = control->client_count++;
    client->source = (struct loop_source){.fd = fd, .events = EPOLLIN, .ready = on_client};
    if (loop_add(control->loop, &client->source, NULL) < 0)
        client->source.fd = -1;
    else
        own_take_fd(&fd);
}

/* One that was killed has left it. A machine that is about to start holds the lock between making its socket and
 * listening to it, and so does whoever calls this. */
static bool remove_if_stale(const char *name, void *self)
{
    char path[UNIX_PATH_BYTES];
    own_fd int fd = unix_socket();
    if (fd >= 0 && rundir_socket_path(name, path, NULL) == 0 &&
        unix_connect(fd, path) == -ECONNREFUSED)
        rundir_forget(name);
    return true;
}

static int listen_as(struct control *control, const char *name, struct nido_error *err)
{
    char path[UNIX_PATH_BYTES];
    int ret = rundir_socket_path(name, path, err);
    if (ret < 0)
        return ret;
    own_fd int lock_fd = rundir_lock(err);
    if (lock_fd < 0)
        return lock_fd;
    rundir_each(remove_if_stale, NULL, NULL);
    ret = unix_listener_init(&control->listener, path, err);
    if (ret == -EADDRINUSE)
        return error_set(err, EADDRINUSE,
                         "--name %s: a running machine has this name; choose another, or end it "
                         "with 'nido stop %s'",
                         name, name);
    if (ret < 0)
        return ret;
    control->source =
        (struct loop_source){.fd = control->listener.fd, .events = EPOLLIN, .ready = on_connection};
    return loop_add(control->loop, &control->source, err);
}

int control_start(struct control **out, struct loop *loop, const char *name,
                  const struct control_ops *ops, void *self, struct nido_error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control)
        return error_set(err, ENOMEM, "out of memory");
    control->loop = loop;
    control->ops = ops;
    control->self = self;
    control->listener.fd = -1;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        control->clients[i].control = control;
        control->clients[i].source.fd = -1;
    }
    int ret = listen_as(control, name, err);
    if (ret < 0) {
        control_stop(control);
        return ret;
    }
    *out = control;
    return 0;
}

void control_stop(struct control *control)
{
    if (!control)
        return;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0)
            drop_client(&control->clients[i]);
    loop_remove(control->loop, &control->source);
    int lock_fd = rundir_lock(NULL);
    unix_listener_finish(&control->listener);
    if (lock_fd >= 0)
        close(lock_fd);
    free(control);
}

/* ---- asking ---- */

static int no_such_machine(const char *name, struct nido_error *err)
{
    return error_set(err, ESRCH, "no machine '%s' is running; 'nido ps' lists them", name);
}

static void remove_stale(const char *name)
{
    own_fd int lock_fd = rundir_lock(NULL);
    if (lock_fd >= 0)
        remove_if_stale(name, NULL);
}

static int connect_to(const char *name, int *out, struct nido_error *err)
{
    char path[UNIX_PATH_BYTES];
    int ret = rundir_socket_path(name, path, err);
    if (ret < 0)
        return ret;
    own_fd int fd = unix_socket();
    if (fd < 0)
        return error_errno(err, -fd, "cannot make a socket");
    ret = unix_connect(fd, path);
    if (ret == -ECONNREFUSED)
        remove_stale(name);
    if (ret == -ECONNREFUSED || ret == -ENOENT)
        return no_such_machine(name, err);
    if (ret < 0)
        return error_errno(err, -ret, "machine '%s': cannot connect", name);
    *out = own_take_fd(&fd);
    return 0;
}

/* Byte by byte, so that nothing behind the line is taken. */
static int read_line(int fd, char *line, size_t line_bytes, int timeout_ms)
{
    size_t length = 0;
    while (length + 1 < line_bytes) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (poll(&readable, 1, timeout_ms) <= 0)
            return -ETIMEDOUT;
        ssize_t n = read(fd, line + length, 1);
        if (n <= 0)
            return -ECONNRESET;
        if (line[length] == '\n')
            break;
        length++;
    }
    line[length] = '\0';
    return 0;
}

static int exchange(int fd, json_t *request, json_t **reply)
{
    char line[4 * CONTROL_LINE_BYTES];
    send_line(fd, request);
    int ret = read_line(fd, line, sizeof(line), ASK_TIMEOUT_MS);
    if (ret < 0)
        return ret;
    *reply = json_loads(line, 0, NULL);
    return *reply ? 0 : -EPROTO;
}

static int send_to(const char *name, json_t *request, json_t **reply, int *keep_fd,
                   struct nido_error *err)
{
    own_fd int fd = -1;
    int ret = connect_to(name, &fd, err);
    if (ret < 0)
        return ret;
    ret = exchange(fd, request, reply);
    if (ret == -ECONNRESET)
        return error_set(err, ECONNRESET, "machine '%s' has just ended", name);
    if (ret < 0)
        return error_errno(err, -ret, "machine '%s' does not answer", name);
    if (!json_is_true(json_object_get(*reply, "ok"))) {
        const char *why = json_string_value(json_object_get(*reply, "error"));
        ret = error_set(err, EREMOTEIO, "machine '%s': %s", name, why ? why : "it refuses");
        json_decref(*reply);
        return ret;
    }
    if (keep_fd) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        *keep_fd = own_take_fd(&fd);
    }
    return 0;
}

int control_send(const char *name, json_t *request, json_t **reply, int *keep_fd,
                 struct nido_error *err)
{
    int ret = send_to(name, request, reply, keep_fd, err);
    json_decref(request);
    return ret;
}

int control_ask(const char *name, const char *what, json_t **reply, int *keep_fd,
                struct nido_error *err)
{
    return control_send(name, json_pack("{s:s}", "do", what), reply, keep_fd, err);
}

json_t *control_read(int fd)
{
    char line[CONTROL_LINE_BYTES];
    return read_line(fd, line, sizeof(line), -1) == 0 ? json_loads(line, 0, NULL) : NULL;
}
