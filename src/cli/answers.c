/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/answers.h"

#include "base/error.h"
#include "cli/run_flags.h"
#include "cli/traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static json_t *status_json(const struct answers *answers)
{
    struct nido_status status;
    nido_machine_status(answers->machine, &status);
    json_t *json =
        json_pack("{s:s, s:i, s:s, s:i, s:I, s:f, s:I}", "name", answers->name, "pid",
                  (int)getpid(), "state", status.paused ? "paused" : "running", "cpus",
                  (int)status.cpus, "mem_bytes", (json_int_t)status.mem_bytes, "uptime_s",
                  (double)status.uptime_ns / 1e9, "exits", (json_int_t)status.exits);
    traffic_add_json(json, &status.traffic);
    return json;
}

static json_t *counters_json(const struct answers *answers)
{
    struct nido_counter counters[NIDO_COUNTERS_MAX];
    unsigned count = nido_machine_counters(answers->machine, counters, NIDO_COUNTERS_MAX);
    json_t *json = json_object();
    for (unsigned i = 0; i < count; i++)
        json_object_set_new(json, counters[i].name, json_integer((json_int_t)counters[i].value));
    return json;
}

/* Those who have gone away need no telling. */
static void drop_gone_waiters(struct answers *answers)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < answers->waiter_count; i++) {
        struct pollfd waiter = {.fd = answers->waiters[i], .events = POLLRDHUP};
        if (poll(&waiter, 1, 0) == 0)
            answers->waiters[kept++] = waiter.fd;
        else
            close(waiter.fd);
    }
    answers->waiter_count = kept;
}

/* The connection is kept until the machine has ended. */
static int keep_waiter(struct answers *answers, int *fd, struct nido_error *err)
{
    drop_gone_waiters(answers);
    if (answers->waiter_count == ANSWERS_WAITERS_MAX)
        return error_set(err, EBUSY, "it was told, but %u others wait for its end already",
                         ANSWERS_WAITERS_MAX);
    int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return error_errno(err, errno, "it was told, but no descriptor is left to wait with");
    answers->waiters[answers->waiter_count++] = copy;
    *fd = -1;
    return 0;
}

static int stop(struct answers *answers, const json_t *request, int *fd, struct nido_error *err)
{
    const json_t *grace = json_object_get(request, "grace_s");
    json_int_t grace_s = grace ? json_integer_value(grace) : -1;
    if (grace && (!json_is_integer(grace) || grace_s < 0 || grace_s > RUN_SECONDS_MAX))
        return error_set(err, EINVAL, "grace_s is a number of seconds, up to %ld", RUN_SECONDS_MAX);
    answers->stop(answers, (long)grace_s);
    return keep_waiter(answers, fd, err);
}

static int show_console(struct answers *answers, int *fd, struct nido_error *err)
{
    if (!answers->hub)
        return error_set(err, ENOTSUP, "its console is not here: it was not started with --detach");
    int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return error_errno(err, errno, "no descriptor is left");
    console_hub_attach(answers->hub, copy);
    *fd = -1;
    return 0;
}

static int answer(void *self, const char *what, json_t *request, json_t **reply, int *fd,
                  struct nido_error *err)
{
    struct answers *answers = self;
    if (strcmp(what, "status") == 0) {
        *reply = status_json(answers);
    } else if (strcmp(what, "stats") == 0) {
        *reply = counters_json(answers);
    } else if (strcmp(what, "stop") == 0) {
        return stop(answers, request, fd, err);
    } else if (strcmp(what, "kill") == 0) {
        answers->kill(answers);
        return keep_waiter(answers, fd, err);
    } else if (strcmp(what, "pause") == 0) {
        nido_machine_pause(answers->machine);
    } else if (strcmp(what, "resume") == 0) {
        nido_machine_resume(answers->machine);
    } else if (strcmp(what, "console") == 0) {
        return show_console(answers, fd, err);
    } else {
        return error_set(err, EINVAL, "it does not know '%s'", what);
    }
    return 0;
}

const struct control_ops answers_control_ops = {.answer = answer};

static void tell_end(const struct answers *answers, int fd)
{
    char line[128];
    if (!answers->end_reason)
        return;
    int n = snprintf(line, sizeof(line), "{\"end\": \"%s\", \"code\": %d}\n", answers->end_reason,
                     answers->end_code);
    ssize_t ignored = send(fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)ignored; /* one that has gone away */
}

void answers_finish(struct answers *answers)
{
    for (unsigned i = 0; i < answers->waiter_count; i++) {
        tell_end(answers, answers->waiters[i]);
        close(answers->waiters[i]);
    }
    answers->waiter_count = 0;
}
