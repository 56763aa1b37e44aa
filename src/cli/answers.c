/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/answers.h"

#include "base/error.h"
#include "cli/traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

/* The connection is kept until the machine has ended. */
static void keep_waiter(struct answers *answers, int *fd)
{
    if (answers->waiter_count == ANSWERS_WAITERS_MAX)
        return;
    int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return;
    answers->waiters[answers->waiter_count++] = copy;
    *fd = -1;
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
        answers->stop(answers);
        keep_waiter(answers, fd);
    } else if (strcmp(what, "kill") == 0) {
        answers->kill(answers);
        keep_waiter(answers, fd);
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

void answers_finish(struct answers *answers)
{
    for (unsigned i = 0; i < answers->waiter_count; i++)
        close(answers->waiters[i]);
    answers->waiter_count = 0;
}
