/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/agent.h"

#include "base/checked.h"
#include "base/own.h"
#include "firmware/guest/protocol.h"
#include "host/unix_listener.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#define FIRST_FRAME_BYTES (FRAME_HEADER_BYTES + 4u) /* of HELLO and STREAM, exactly */
#define CALLERS_MAX       16u
#define UNSENT_BYTES_MAX  (4u << 20)
#define WHY_BYTES         320u
#define SETUP_BYTES       (64u << 10)
#define TEXT_SHOWN_BYTES  200

enum agent_state { AGENT_WAITING, AGENT_GREETED, AGENT_READY, AGENT_BROKEN };
enum job_state { JOB_FREE, JOB_ASKED, JOB_RUNNING };

struct job {
    enum job_state state;
    const struct agent_job_ops *ops; /* NULL: abandoned */
    void *self;
    unsigned wanted_streams; /* bits that have not come yet */
};

/* Who has called, and not said yet what for. */
struct caller {
    struct agent *agent;
    struct loop_source source; /* fd -1: free */
    size_t count;
    uint8_t bytes[FIRST_FRAME_BYTES];
};

struct agent {
    struct loop *loop;
    const struct agent_setup *setup;
    const struct agent_ops *ops;
    void *self;
    enum agent_state state;
    bool hung_up, paused;
    struct unix_listener listener;
    struct loop_source listening, control, patience;
    struct caller callers[CALLERS_MAX];
    unsigned next_caller; /* to make room for the next one */
    struct job jobs[AGENT_JOBS_MAX];
    size_t count; /* of the frame that comes */
    uint8_t bytes[FRAME_HEADER_BYTES + FRAME_TO_HOST_BYTES];
    uint8_t *unsent; /* from malloc() */
    size_t unsent_start, unsent_end, unsent_room;
};

static void break_off(struct agent *agent, const char *fmt, ...) PRINTF(2, 3);
static void take_all_calls(struct agent *agent);

static void close_source(struct agent *agent, struct loop_source *source)
{
    if (source->fd < 0)
        return;
    loop_remove(agent->loop, source);
    close(source->fd);
    source->fd = -1;
}

static void break_off(struct agent *agent, const char *fmt, ...)
{
    char why[WHY_BYTES];
    va_list args;
    if (agent->state == AGENT_BROKEN)
        return;
    agent->state = AGENT_BROKEN;
    close_source(agent, &agent->control);
    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    agent->ops->broken(agent->self, why, agent->hung_up);
}

/* ---- patience ---- */

static bool is_awaited(const struct agent *agent)
{
    if (agent->state != AGENT_READY)
        return agent->state != AGENT_BROKEN;
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++)
        if (agent->jobs[i].state == JOB_ASKED)
            return true;
    return false;
}

/* Begins anew with each thing that was waited for, and ends when there is none, or nobody who could answer. */
static void set_patience(struct agent *agent)
{
    bool runs = is_awaited(agent) && !agent->paused;
    const struct itimerspec in = {.it_value.tv_sec = runs ? AGENT_PATIENCE_S : 0};
    timerfd_settime(agent->patience.fd, 0, &in, NULL);
}

static void on_patience(struct loop_source *source, uint32_t events)
{
    struct agent *agent = container_of(source, struct agent, patience);
    static const char *const late[] = {
        [AGENT_WAITING] = "call nido; does its kernel start, and has it vsock?",
        [AGENT_GREETED] = "put its root in place",
        [AGENT_READY] = "start a command",
    };
    uint64_t times;
    if (read(source->fd, &times, sizeof(times)) == (ssize_t)sizeof(times) &&
        agent->state != AGENT_BROKEN)
        break_off(agent, "within %u s the guest did not %s", AGENT_PATIENCE_S, late[agent->state]);
}

/* ---- what is said to the guest ---- */

static void send_unsent(struct agent *agent)
{
    while (agent->unsent_start < agent->unsent_end) {
        ssize_t n = send(agent->control.fd, agent->unsent + agent->unsent_start,
                         agent->unsent_end - agent->unsent_start, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            agent->hung_up = true; /* or it hears no more, and the socket would be ready for ever */
            break_off(agent, "the guest's agent has hung up");
            return;
        }
        if (n < 0)
            break;
        agent->unsent_start += (size_t)n;
    }
    if (agent->unsent_start == agent->unsent_end)
        agent->unsent_start = agent->unsent_end = 0;
    loop_modify(agent->loop, &agent->control, EPOLLIN | (agent->unsent_end ? EPOLLOUT : 0));
}

/* Takes over `writer->bytes`, from malloc(). */
static int send_frame(struct agent *agent, struct frame_writer *writer)
{
    own_mem uint8_t *bytes = writer->bytes;
    size_t length = frame_end(writer);
    if (!length)
        return -E2BIG;
    if (agent->unsent_end + length > UNSENT_BYTES_MAX) {
        break_off(agent, "the guest's agent does not read what nido says");
        return -EPIPE;
    }
    if (agent->unsent_end + length > agent->unsent_room) {
        size_t room = 2 * (agent->unsent_end + length);
        uint8_t *more = realloc(agent->unsent, room);
        if (!more)
            return -ENOMEM;
        agent->unsent = more;
        agent->unsent_room = room;
    }
    memcpy(agent->unsent + agent->unsent_end, bytes, length);
    agent->unsent_end += length;
    send_unsent(agent);
    return agent->state == AGENT_BROKEN ? -EPIPE : 0;
}

static struct frame_writer begin(enum frame_kind kind, unsigned job, size_t payload_bytes)
{
    size_t room = FRAME_HEADER_BYTES + payload_bytes;
    void *bytes = malloc(room);
    struct frame_writer writer = frame_begin(bytes, bytes ? room : 0, kind, job);
    return writer;
}

static void send_setup(struct agent *agent)
{
    const struct agent_setup *setup = agent->setup;
    struct frame_writer writer = begin(FRAME_SETUP, 0, SETUP_BYTES);
    frame_put_number(&writer, setup->flags);
    frame_put_text(&writer, setup->source);
    frame_put_text(&writer, setup->fstype);
    frame_put_text(&writer, setup->scratch);
    frame_put_text(&writer, setup->hostname);
    frame_put_text(&writer, setup->resolver);
    frame_put_texts(&writer, setup->shares);
    if (send_frame(agent, &writer) < 0)
        break_off(agent, "the guest cannot be told of its root");
}

/* ---- what the guest says ---- */

static void break_protocol(struct agent *agent, const char *what)
{
    break_off(agent, "the guest's agent broke the protocol: %s", what);
}

/* A guest's words, made harmless for a terminal. */
static void print_harmless(char *to, size_t to_bytes, const char *text)
{
    size_t i = 0;
    for (; text[i] && i + 1 < to_bytes; i++)
        to[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    to[i] = '\0';
}

static struct job *job_of(struct agent *agent, unsigned number)
{
    bool known = number >= 1 && number <= AGENT_JOBS_MAX;
    struct job *job = known ? &agent->jobs[number - 1] : NULL;
    return job && job->state != JOB_FREE ? job : NULL;
}

static void take_failed(struct agent *agent, struct frame_reader *reader)
{
    char text[TEXT_SHOWN_BYTES];
    print_harmless(text, sizeof(text), frame_text(reader));
    if (agent->state != AGENT_GREETED || !frame_done(reader))
        break_protocol(agent, "a failure out of place");
    else
        break_off(agent, "the guest: %s", text);
}

static bool exit_makes_sense(const struct job *job, uint32_t kind, uint32_t value)
{
    if (job->state == JOB_ASKED)
        return (kind == EXIT_NOT_FOUND || kind == EXIT_NOT_STARTED) && value >= 1 && value < 4096;
    return (kind == EXIT_CODE && value <= 255) ||
           (kind == EXIT_SIGNAL && value >= 1 && value <= 64);
}

static void take_exit(struct agent *agent, struct job *job, struct frame_reader *reader)
{
    static const enum agent_outcome outcomes[] = {[EXIT_CODE] = AGENT_EXITED,
                                                  [EXIT_SIGNAL] = AGENT_KILLED,
                                                  [EXIT_NOT_FOUND] = AGENT_NOT_FOUND,
                                                  [EXIT_NOT_STARTED] = AGENT_NOT_STARTED};
    uint32_t kind = frame_number(reader), value = frame_number(reader);
    uint32_t oom_kills = frame_number(reader);
    if (!job || !frame_done(reader) || !exit_makes_sense(job, kind, value)) {
        break_protocol(agent, "the end of a command that makes no sense");
        return;
    }
    take_all_calls(agent);
    const struct agent_exit how = {
        .outcome = outcomes[kind], .value = value, .oom_kills = oom_kills};
    const struct job ended = *job;
    *job = (struct job){0};
    set_patience(agent);
    if (ended.ops)
        ended.ops->ended(ended.self, &how);
}

static void take_ready(struct agent *agent, const struct frame_reader *reader)
{
    if (agent->state != AGENT_GREETED || !frame_done(reader)) {
        break_protocol(agent, "ready out of place");
        return;
    }
    agent->state = AGENT_READY;
    set_patience(agent);
    agent->ops->ready(agent->self);
}

static void take_started(struct agent *agent, struct job *job, const struct frame_reader *reader)
{
    if (!job || job->state != JOB_ASKED || !frame_done(reader)) {
        break_protocol(agent, "the start of a command that nobody asked for");
        return;
    }
    job->state = JOB_RUNNING;
    set_patience(agent);
    if (job->ops && job->ops->started)
        job->ops->started(job->self);
}

static void take(struct agent *agent, const struct frame *frame)
{
    struct frame_reader reader = {.at = frame->payload, .left = frame->length};
    struct job *job = job_of(agent, frame->job);
    switch (frame->kind) {
    case FRAME_READY:
        take_ready(agent, &reader);
        break;
    case FRAME_FAILED:
        take_failed(agent, &reader);
        break;
    case FRAME_STARTED:
        take_started(agent, job, &reader);
        break;
    case FRAME_EXIT:
        take_exit(agent, job, &reader);
        break;
    default:
        break_protocol(agent, "a kind of frame that it must not send");
    }
}

/* One frame a turn at most is handled with the buffer as it is; then the rest moves up. */
static void take_frames(struct agent *agent)
{
    struct frame frame;
    int64_t length = 0;
    while (agent->state != AGENT_BROKEN &&
           (length = frame_take(agent->bytes, agent->count, FRAME_TO_HOST_BYTES, &frame)) > 0) {
        take(agent, &frame);
        agent->count -= (size_t)length;
        memmove(agent->bytes, agent->bytes + length, agent->count);
    }
    if (length < 0)
        break_protocol(agent, "a frame that is too long");
}

static void on_control(struct loop_source *source, uint32_t events)
{
    struct agent *agent = container_of(source, struct agent, control);
    if (events & EPOLLOUT)
        send_unsent(agent);
    if (!(events & ~(uint32_t)EPOLLOUT) || agent->state == AGENT_BROKEN)
        return;
    ssize_t n = read(source->fd, agent->bytes + agent->count, sizeof(agent->bytes) - agent->count);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        agent->hung_up = true;
        break_off(agent, "the guest's agent has hung up");
        return;
    }
    agent->count += (size_t)n;
    take_frames(agent);
}

/* ---- who calls ---- */

static bool take_control(struct agent *agent, int fd, uint32_t version)
{
    if (agent->state != AGENT_WAITING)
        return false;
    agent->control = (struct loop_source){.fd = fd, .events = EPOLLIN, .ready = on_control};
    if (loop_add(agent->loop, &agent->control, NULL) < 0) {
        agent->control.fd = -1;
        return false;
    }
    if (version != AGENT_VERSION) {
        break_off(agent, "the guest's agent speaks version %u of the protocol, and nido %u",
                  version, AGENT_VERSION);
        return true;
    }
    agent->state = AGENT_GREETED;
    agent->ops->called(agent->self);
    set_patience(agent);
    send_setup(agent);
    return true;
}

static bool take_stream(struct job *job, unsigned stream, int fd)
{
    if (!job || !job->ops || stream >= STREAM_KINDS || !(job->wanted_streams & 1u << stream))
        return false;
    job->wanted_streams &= ~(1u << stream);
    job->ops->stream(job->self, stream, fd);
    return true;
}

/* The caller has said what it wants. A stranger's nonsense ends its own connection. */
static void connect_caller(struct agent *agent, struct caller *caller)
{
    struct frame frame;
    own_fd int fd = caller->source.fd;
    bool taken = false;
    loop_remove(agent->loop, &caller->source);
    caller->source.fd = -1;
    if (frame_take(caller->bytes, caller->count, FRAME_TO_HOST_BYTES, &frame) !=
        (int64_t)FIRST_FRAME_BYTES)
        return;
    struct frame_reader reader = {.at = frame.payload, .left = frame.length};
    uint32_t number = frame_number(&reader);
    if (frame.kind == FRAME_HELLO)
        taken = take_control(agent, fd, number);
    else if (frame.kind == FRAME_STREAM)
        taken = take_stream(job_of(agent, frame.job), number, fd);
    if (taken)
        own_take_fd(&fd);
}

static void on_caller(struct loop_source *source, uint32_t events)
{
    struct caller *caller = container_of(source, struct caller, source);
    ssize_t n =
        read(source->fd, caller->bytes + caller->count, sizeof(caller->bytes) - caller->count);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close_source(caller->agent, source);
        return;
    }
    caller->count += (size_t)n;
    if (caller->count == sizeof(caller->bytes))
        connect_caller(caller->agent, caller);
}

/* The one that has said nothing for longest makes room. */
static struct caller *next_caller(struct agent *agent)
{
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        if (agent->callers[i].source.fd < 0)
            return &agent->callers[i];
    struct caller *caller = &agent->callers[agent->next_caller++ % CALLERS_MAX];
    close_source(agent, &caller->source);
    return caller;
}

/* False: nobody waits. */
static bool take_call(struct agent *agent)
{
    int fd = unix_listener_accept(&agent->listener);
    if (fd < 0)
        return false;
    struct caller *caller = next_caller(agent);
    *caller = (struct caller){.agent = agent,
                              .source = {.fd = fd, .events = EPOLLIN, .ready = on_caller}};
    if (loop_add(agent->loop, &caller->source, NULL) < 0) {
        close(fd);
        caller->source.fd = -1;
        return true;
    }
    on_caller(&caller->source, EPOLLIN);
    return true;
}

static void on_call(struct loop_source *source, uint32_t events)
{
    take_call(container_of(source, struct agent, listening));
}

/* A command's streams called, and said so, before the guest told of its end: they are here, if only in the
 * queue, which has no more than SOMAXCONN places. */
static void take_all_calls(struct agent *agent)
{
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        if (agent->callers[i].source.fd >= 0)
            on_caller(&agent->callers[i].source, EPOLLIN);
    for (unsigned i = 0; i <= SOMAXCONN; i++)
        if (!take_call(agent))
            return;
}

/* ---- for nido ---- */

int agent_run(struct agent *agent, const struct agent_command *command,
              const struct agent_job_ops *ops, void *self, unsigned *number, struct nido_error *err)
{
    unsigned i = 0;
    if (agent->state != AGENT_READY)
        return error_set(err, EAGAIN, "the guest is not ready for commands");
    while (i < AGENT_JOBS_MAX && agent->jobs[i].state != JOB_FREE)
        i++;
    if (i == AGENT_JOBS_MAX)
        return error_set(err, EBUSY, "the guest runs %u commands, as many as it can",
                         AGENT_JOBS_MAX);
    unsigned streams = command->flags & COMMAND_TTY     ? 1u << STREAM_TTY
                       : command->flags & COMMAND_STDIN ? 7u
                                                        : 6u;
    struct frame_writer writer = begin(FRAME_RUN, i + 1, FRAME_TO_GUEST_BYTES);
    frame_put_number(&writer, command->flags);
    frame_put_number(&writer, command->rows);
    frame_put_number(&writer, command->columns);
    frame_put_texts(&writer, command->argv);
    frame_put_texts(&writer, command->env);
    frame_put_text(&writer, command->directory);
    frame_put_text(&writer, command->user);
    agent->jobs[i] =
        (struct job){.state = JOB_ASKED, .ops = ops, .self = self, .wanted_streams = streams};
    int ret = send_frame(agent, &writer);
    if (ret < 0) {
        agent->jobs[i] = (struct job){0};
        return error_errno(err, -ret, "the command and its environment cannot be sent");
    }
    set_patience(agent);
    *number = i + 1;
    return 0;
}

void agent_signal(struct agent *agent, unsigned job, int number)
{
    if (agent->state != AGENT_READY || !job_of(agent, job))
        return;
    struct frame_writer writer = begin(FRAME_SIGNAL, job, 4);
    frame_put_number(&writer, (uint32_t)number);
    send_frame(agent, &writer);
}

void agent_resize(struct agent *agent, unsigned job, unsigned rows, unsigned columns)
{
    if (agent->state != AGENT_READY || !job_of(agent, job))
        return;
    struct frame_writer writer = begin(FRAME_RESIZE, job, 8);
    frame_put_number(&writer, rows);
    frame_put_number(&writer, columns);
    send_frame(agent, &writer);
}

void agent_abandon(struct agent *agent, unsigned number)
{
    struct job *job = job_of(agent, number);
    if (!job)
        return;
    job->ops = NULL;
    agent_signal(agent, number, SIGKILL);
}

void agent_set_paused(struct agent *agent, bool paused)
{
    if (agent->paused == paused)
        return;
    agent->paused = paused;
    set_patience(agent);
}

static int listen_beside(struct agent *agent, const char *vsock_path, struct nido_error *err)
{
    char path[UNIX_PATH_BYTES + 16];
    snprintf(path, sizeof(path), "%s_%u", vsock_path, AGENT_PORT);
    int ret = unix_listener_init(&agent->listener, path, err);
    if (ret < 0)
        return ret;
    agent->listening =
        (struct loop_source){.fd = agent->listener.fd, .events = EPOLLIN, .ready = on_call};
    ret = loop_add(agent->loop, &agent->listening, err);
    if (ret < 0)
        return ret;
    agent->patience =
        (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
                             .events = EPOLLIN,
                             .ready = on_patience};
    if (agent->patience.fd < 0)
        return error_errno(err, errno, "cannot make a timer");
    ret = loop_add(agent->loop, &agent->patience, err);
    if (ret == 0)
        set_patience(agent);
    return ret;
}

int agent_create(struct agent **out, struct loop *loop, const char *vsock_path,
                 const struct agent_setup *setup, const struct agent_ops *ops, void *self,
                 struct nido_error *err)
{
    struct agent *agent = calloc(1, sizeof(*agent));
    if (!agent)
        return error_set(err, ENOMEM, "out of memory");
    agent->loop = loop;
    agent->setup = setup;
    agent->ops = ops;
    agent->self = self;
    agent->listener.fd = agent->listening.fd = agent->control.fd = agent->patience.fd = -1;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        agent->callers[i].source.fd = -1;
    int ret = listen_beside(agent, vsock_path, err);
    if (ret < 0) {
        agent_destroy(agent);
        return ret;
    }
    *out = agent;
    return 0;
}

void agent_destroy(struct agent *agent)
{
    if (!agent)
        return;
    close_source(agent, &agent->control);
    close_source(agent, &agent->patience);
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        close_source(agent, &agent->callers[i].source);
    if (agent->listening.fd >= 0)
        loop_remove(agent->loop, &agent->listening);
    unix_listener_finish(&agent->listener);
    free(agent->unsent);
    free(agent);
}
