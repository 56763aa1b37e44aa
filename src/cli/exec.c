/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/exec.h"

#include "base/checked.h"
#include "base/own.h"
#include "cli/environment.h"
#include "firmware/guest/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define WORDS_MAX 256u

struct session {
    struct exec_sessions *sessions;
    struct loop_source client; /* fd -1: free */
    unsigned job;
};

struct exec_sessions {
    struct loop *loop;
    struct agent *agent;
    const struct job_flags *flags;
    struct session all[AGENT_JOBS_MAX];
};

/* ---- records ---- */

union control_bytes {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

bool exec_send(int socket, const struct exec_record *record, int fd)
{
    union control_bytes control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)record, .iov_len = sizeof(*record)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(*record);
}

/* There is room for two, and none may stay open. */
static void take_only(const struct cmsghdr *header, int *fd)
{
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(*fd);
    for (size_t i = 0; i < count; i++) {
        memcpy(fd, CMSG_DATA(header) + i * sizeof(*fd), sizeof(*fd));
        if (count == 1)
            return;
        close(*fd);
    }
    *fd = -1;
}

int exec_receive(int socket, struct exec_record *record, int *fd)
{
    union control_bytes control;
    struct iovec iov = {.iov_base = record, .iov_len = sizeof(*record)};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    *fd = -1;
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        take_only(header, fd);
    if (n == (ssize_t)sizeof(*record))
        return 1;
    if (*fd >= 0)
        close(*fd);
    return -1;
}

const char *exec_trouble(uint32_t value)
{
    if (value == ESRCH)
        return "there is no such user";
    if (value == ELIBACC)
        return "it is there, but the loader or interpreter that it needs is not";
    if (value == EDOTDOT)
        return "the directory that it is to start in is not there, or not for its user";
    return strerror((int)value);
}

/* ---- sessions ---- */

static void end_session(struct session *session)
{
    loop_remove(session->sessions->loop, &session->client);
    close(session->client.fd);
    session->client.fd = -1;
}

static void on_stream(void *self, unsigned stream, int fd)
{
    struct session *session = self;
    own_fd int socket = fd;
    const struct exec_record record = {.kind = EXEC_STREAM, .small = (uint16_t)stream};
    /* A client that does not even take that is dealt with when it has gone. */
    exec_send(session->client.fd, &record, socket);
}

static void on_ended(void *self, const struct agent_exit *how)
{
    struct session *session = self;
    const struct exec_record record = {
        .kind = EXEC_ENDED, .small = (uint16_t)how->outcome, .value = how->value};
    exec_send(session->client.fd, &record, -1);
    end_session(session);
}

static const struct agent_job_ops job_ops = {.stream = on_stream, .ended = on_ended};

static void on_client(struct loop_source *source, uint32_t events)
{
    struct session *session = container_of(source, struct session, client);
    struct agent *agent = session->sessions->agent;
    struct exec_record record;
    own_fd int fd = -1;
    int got = exec_receive(source->fd, &record, &fd);
    if (got > 0 && record.kind == EXEC_SIGNAL && record.value >= 1 && record.value <= 64) {
        agent_signal(agent, session->job, (int)record.value);
    } else if (got > 0 && record.kind == EXEC_RESIZE) {
        agent_resize(agent, session->job, record.small, record.value);
    } else if (got != 0) {
        agent_abandon(agent, session->job);
        end_session(session);
    }
}

/* Texts of an array, which must be nothing else; the request keeps owning them. */
static bool take_texts(const json_t *array, char *texts[WORDS_MAX + 1])
{
    size_t count = json_array_size(array);
    if ((array && !json_is_array(array)) || count > WORDS_MAX)
        return false;
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text)
            return false;
        texts[i] = (char *)(uintptr_t)text;
    }
    texts[count] = NULL;
    return true;
}

static const char *text_or(const json_t *request, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(request, key));
    return text ? text : otherwise;
}

/* Another command in an image's machine is as much the image's as the first. */
static const char *image_user(const struct job_flags *flags)
{
    const char *user = json_string_value(json_object_get(flags->made.config, "user"));
    return user ? user : "";
}

static int run(struct session *session, const json_t *request, struct nido_error *err)
{
    const struct job_flags *flags = session->sessions->flags;
    char *argv[WORDS_MAX + 1], *given[WORDS_MAX + 1];
    if (!take_texts(json_object_get(request, "argv"), argv) || !argv[0] ||
        !take_texts(json_object_get(request, "env"), given))
        return error_set(err, EINVAL,
                         "exec takes up to %u words of a command, and as many variables",
                         WORDS_MAX);
    char **env =
        environment_make(json_object_get(flags->made.config, "env"), (const char *const *)given,
                         json_array_size(json_object_get(request, "env")));
    if (!env)
        return error_set(err, ENOMEM, "out of memory");
    const struct agent_command command = {
        .flags = json_is_true(json_object_get(request, "tty")) ? COMMAND_TTY : COMMAND_STDIN,
        .rows = (uint32_t)json_integer_value(json_object_get(request, "rows")),
        .columns = (uint32_t)json_integer_value(json_object_get(request, "columns")),
        .argv = argv,
        .env = env,
        .directory = text_or(request, "dir", flags->made.directory ? flags->made.directory : "/"),
        .user = text_or(request, "user", image_user(flags)),
    };
    int ret = agent_run(session->sessions->agent, &command, &job_ops, session, &session->job, err);
    environment_free(env);
    return ret;
}

/* Paths in the guest, for its end of a copy: {"do": "cp", "out": true, "paths": [...]}. */
static int copy(struct session *session, const json_t *request, struct nido_error *err)
{
    static char *const no_env[] = {NULL};
    char *paths[WORDS_MAX + 1];
    bool out = json_is_true(json_object_get(request, "out"));
    if (!take_texts(json_object_get(request, "paths"), paths) || !paths[0])
        return error_set(err, EINVAL, "cp takes paths, a list of up to %u texts", WORDS_MAX);
    const struct agent_command command = {
        .flags = (out ? COMMAND_PACK : COMMAND_UNPACK | COMMAND_STDIN) |
                 (json_is_true(json_object_get(request, "into")) ? COMMAND_INTO : 0u) |
                 (json_is_true(json_object_get(request, "setuid")) ? COMMAND_SETUID : 0u),
        .argv = paths,
        .env = no_env,
        .directory = "/",
        .user = text_or(request, "user", ""),
    };
    return agent_run(session->sessions->agent, &command, &job_ops, session, &session->job, err);
}

static bool is_copy(const json_t *request)
{
    return strcmp(text_or(request, "do", ""), "cp") == 0;
}

int exec_begin(struct exec_sessions *sessions, const json_t *request, int fd,
               struct nido_error *err)
{
    struct session *session = sessions->all;
    while (session->client.fd >= 0)
        if (++session == sessions->all + AGENT_JOBS_MAX)
            return error_set(err, EBUSY, "it runs %u commands, as many as it can", AGENT_JOBS_MAX);
    session->client = (struct loop_source){
        .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), .events = EPOLLIN, .ready = on_client};
    if (session->client.fd < 0)
        return error_errno(err, errno, "no descriptor is left");
    int ret = loop_add(sessions->loop, &session->client, err);
    if (ret == 0)
        ret = is_copy(request) ? copy(session, request, err) : run(session, request, err);
    if (ret < 0)
        end_session(session);
    return ret;
}

int exec_sessions_create(struct exec_sessions **out, struct loop *loop, struct agent *agent,
                         const struct job_flags *flags, struct nido_error *err)
{
    struct exec_sessions *sessions = calloc(1, sizeof(*sessions));
    if (!sessions)
        return error_set(err, ENOMEM, "out of memory");
    sessions->loop = loop;
    sessions->agent = agent;
    sessions->flags = flags;
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++) {
        sessions->all[i].sessions = sessions;
        sessions->all[i].client.fd = -1;
    }
    *out = sessions;
    return 0;
}

void exec_sessions_destroy(struct exec_sessions *sessions)
{
    if (!sessions)
        return;
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++)
        if (sessions->all[i].client.fd >= 0)
            end_session(&sessions->all[i]);
    free(sessions);
}
