/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/answers.h"

#include "base/checked.h"
#include "base/error.h"
#include "cli/run_flags.h"
#include "cli/traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *state_of(const struct answers *answers, const struct nido_status *status)
{
    if (answers->stopping)
        return "stopping";
    return status->paused ? "paused" : "running";
}

static json_t *status_json(const struct answers *answers)
{
    struct nido_balloon_stats stats;
    struct nido_status status;
    nido_machine_status(answers->machine, &status);
    json_t *json =
        json_pack("{s:s, s:i, s:s, s:i, s:I, s:f, s:I}", "name", answers->name, "pid",
                  (int)getpid(), "state", state_of(answers, &status), "cpus", (int)status.cpus,
                  "mem_bytes", (json_int_t)status.mem_bytes, "uptime_s",
                  (double)status.uptime_ns / 1e9, "exits", (json_int_t)status.exits);
    traffic_add_json(json, &status.traffic);
    if (nido_machine_balloon_stats(answers->machine, &stats, NULL) == 0)
        json_object_set_new(json, "balloon_bytes", json_integer((json_int_t)stats.actual_bytes));
    return json;
}

struct named_number {
    const char *name;
    uint64_t value;
};

static void add_numbers(json_t *json, const char *prefix, const struct named_number *numbers,
                        size_t count)
{
    char name[64];
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s%s", prefix, numbers[i].name);
        json_object_set_new(json, name, json_integer((json_int_t)numbers[i].value));
    }
}

/* What the guest says of its memory is there once it has said it. */
static void add_balloon(json_t *json, const char *prefix, const struct nido_balloon_stats *stats)
{
    const struct named_number ours[] = {
        {"target_bytes", stats->target_bytes},
        {"actual_bytes", stats->actual_bytes},
        {"inflated_bytes", stats->inflated_bytes},
        {"reported_bytes", stats->reported_bytes},
    };
    const struct named_number guests[] = {
        {"guest_total_bytes", stats->total_bytes},
        {"guest_free_bytes", stats->free_bytes},
        {"guest_available_bytes", stats->available_bytes},
        {"guest_cache_bytes", stats->cache_bytes},
        {"guest_swap_in_bytes", stats->swap_in_bytes},
        {"guest_swap_out_bytes", stats->swap_out_bytes},
        {"guest_major_faults", stats->major_faults},
        {"guest_minor_faults", stats->minor_faults},
        {"guest_said_ms_ago", stats->age_ns / 1000000},
    };
    add_numbers(json, prefix, ours, ARRAY_SIZE(ours));
    if (stats->known)
        add_numbers(json, prefix, guests, ARRAY_SIZE(guests));
}

/* With "target_bytes", sets the target first. */
static int balloon(const struct answers *answers, const json_t *request, json_t **reply,
                   struct nido_error *err)
{
    const json_t *target = json_object_get(request, "target_bytes");
    json_int_t bytes = json_integer_value(target);
    struct nido_balloon_stats stats;
    if (target && (!json_is_integer(target) || bytes < 0))
        return error_set(err, EINVAL, "target_bytes is a number, from 0");
    int ret = target ? nido_machine_set_balloon(answers->machine, (uint64_t)bytes, err) : 0;
    if (ret == 0)
        ret = nido_machine_balloon_stats(answers->machine, &stats, err);
    if (ret < 0)
        return ret;
    *reply = json_object();
    add_balloon(*reply, "", &stats);
    return 0;
}

static json_t *counters_json(const struct answers *answers)
{
    struct nido_counter counters[NIDO_COUNTERS_MAX];
    struct nido_balloon_stats balloon_stats;
    unsigned count = nido_machine_counters(answers->machine, counters, NIDO_COUNTERS_MAX);
    json_t *json = json_object();
    for (unsigned i = 0; i < count; i++)
        json_object_set_new(json, counters[i].name, json_integer((json_int_t)counters[i].value));
    if (nido_machine_balloon_stats(answers->machine, &balloon_stats, NULL) == 0)
        add_balloon(json, "balloon.", &balloon_stats);
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

static int exec(struct answers *answers, const json_t *request, int *fd, struct nido_error *err)
{
    if (!answers->job)
        return error_set(err, ENOTSUP,
                         "it was not started with --root: nothing of nido's is in it");
    int ret = job_exec(answers->job, request, *fd, err);
    if (ret == 0)
        *fd = -1;
    return ret;
}

void answers_set_paused(struct answers *answers, bool paused)
{
    if (paused)
        nido_machine_pause(answers->machine);
    else
        nido_machine_resume(answers->machine);
    if (answers->job)
        job_set_paused(answers->job, paused);
}

static int answer(void *self, const char *what, json_t *request, json_t **reply, int *fd,
                  struct nido_error *err)
{
    struct answers *answers = self;
    if (strcmp(what, "status") == 0) {
        *reply = status_json(answers);
    } else if (strcmp(what, "stats") == 0) {
        *reply = counters_json(answers);
    } else if (strcmp(what, "balloon") == 0) {
        return balloon(answers, request, reply, err);
    } else if (strcmp(what, "stop") == 0) {
        return stop(answers, request, fd, err);
    } else if (strcmp(what, "kill") == 0) {
        answers->kill(answers);
        return keep_waiter(answers, fd, err);
    } else if (strcmp(what, "pause") == 0) {
        answers_set_paused(answers, true);
    } else if (strcmp(what, "resume") == 0) {
        answers_set_paused(answers, false);
    } else if (strcmp(what, "exec") == 0 || strcmp(what, "cp") == 0) {
        return exec(answers, request, fd, err);
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
