/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/result.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/traffic.h"
#include "lib/exposure.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int result_code(enum nido_end end, const char *plug, int stopped_by)
{
    if (end == NIDO_STOPPED && plug && strcmp(plug, RESULT_TIMEOUT) == 0)
        return EXIT_TIME_LIMIT;
    switch (end) {
    case NIDO_POWERED_OFF:
    case NIDO_RESET:
        return 0;
    case NIDO_CRASHED:
    case NIDO_PANICKED:
        return EXIT_GUEST_CRASHED;
    case NIDO_STOPPED:
        return stopped_by ? EXIT_SIGNAL_BASE + stopped_by : 0;
    default:
        return EXIT_NIDO_FAILED;
    }
}

const char *result_reason(enum nido_end end, const char *plug)
{
    static const char *const reasons[] = {
        [NIDO_RUNNING] = "failed",    [NIDO_POWERED_OFF] = "powered-off",
        [NIDO_RESET] = "reset",       [NIDO_CRASHED] = "crashed",
        [NIDO_FAILED] = "failed",     [NIDO_STOPPED] = "stopped",
        [NIDO_PANICKED] = "panicked",
    };
    if (end == NIDO_STOPPED && plug)
        return plug;
    return end < ARRAY_SIZE(reasons) ? reasons[end] : "failed";
}

static double seconds(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

/* Not getrusage's: that knows what the program that started us had, too. */
static json_int_t peak_memory_bytes(void)
{
    char line[128];
    long long kib = 0;
    own_file FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1)
            break;
    return (json_int_t)kib * 1024;
}

/* Where the time went: each step lasts until the next one begins, and the one that was under way until now. */
static json_t *steps_json(const struct result *result, uint64_t now_ns)
{
    static const char *const names[] = {"start", "boot", "ready", "command", "end"};
    const struct job_times *times = job_times(result->job);
    const uint64_t ends[] = {result->guest_start_ns, times->called_ns, times->ready_ns,
                             times->ended_ns, 0};
    uint64_t since_ns = result->start_ns;
    json_t *json = json_object();
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        uint64_t end_ns = ends[i] ? ends[i] : now_ns;
        json_object_set_new(json, names[i],
                            since_ns ? json_real((double)(end_ns - since_ns) / 1e9) : json_null());
        since_ns = ends[i];
    }
    return json;
}

/* A name in it may be anything but the UTF-8 text that JSON is made of. */
static json_t *report_json(const char *report)
{
    if (!report)
        return json_null();
    json_t *json = json_string(report);
    own_mem char *copy = json ? NULL : strdup(report);
    for (char *at = copy; at && *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    return copy ? json_string(copy) : json;
}

static json_t *record(const struct result *result)
{
    const struct nido_traffic *moved = &result->traffic;
    struct rusage usage;
    uint64_t now_ns = clock_now_ns();
    getrusage(RUSAGE_SELF, &usage);
    json_t *json = json_pack(
        "{s:s, s:i, s:o, s:b, s:i, s:f, s:f, s:I, s:o}", "reason", result->reason, "code",
        result->code, "signal", result->signal ? json_integer(result->signal) : json_null(), "oom",
        result->oom, "restarts", (int)result->restarts, "wall_s",
        (double)(now_ns - result->start_ns) / 1e9, "cpu_s",
        seconds(&usage.ru_utime) + seconds(&usage.ru_stime), "peak_memory_bytes",
        peak_memory_bytes(), "report", report_json(result->report));
    traffic_add_json(json, moved);
    if (result->job)
        json_object_set_new(json, "steps_s", steps_json(result, now_ns));
    return json;
}

/* Where a record is put. */
struct place {
    int directory_fd;
    const char *name;
    char temporary[NAME_MAX + 1]; /* beside it */
};

static int place_find(struct place *place, const struct nido_config *machine, const char *path,
                      struct nido_error *err)
{
    place->directory_fd = exposure_find_directory(machine, path, &place->name);
    if (place->directory_fd < 0)
        return error_errno(err, -place->directory_fd, "result %s: cannot be written", path);
    if (snprintf(place->temporary, sizeof(place->temporary), "%s.%ld", place->name,
                 (long)getpid()) < (int)sizeof(place->temporary))
        return 0;
    close(place->directory_fd);
    return error_set(err, ENAMETOOLONG, "result %s: too long a name", path);
}

/* Made anew: its directory may be one that a guest can write to, which knows the name and puts a link there. */
static int open_temporary(const struct place *place)
{
    unlinkat(place->directory_fd, place->temporary, 0);
    return openat(place->directory_fd, place->temporary,
                  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
}

static int check(const struct place *place, const char *path, struct nido_error *err)
{
    struct stat there;
    /* A file takes its place: a device, or a FIFO that somebody reads, would be gone. */
    if (!*place->name ||
        (fstatat(place->directory_fd, place->name, &there, 0) == 0 && !S_ISREG(there.st_mode)))
        return error_set(err, EINVAL, "result %s: is no regular file, and one would replace it",
                         path);
    own_fd int fd = open_temporary(place);
    if (fd < 0)
        return error_errno(err, errno, "result %s: cannot be written", path);
    unlinkat(place->directory_fd, place->temporary, 0);
    return 0;
}

int result_check(const struct nido_config *machine, const char *path, struct nido_error *err)
{
    struct place place;
    int ret = place_find(&place, machine, path, err);
    if (ret < 0)
        return ret;
    ret = check(&place, path, err);
    close(place.directory_fd);
    return ret;
}

static int dump(const json_t *json, const struct place *place)
{
    own_fd int fd = open_temporary(place);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file)
        return -1;
    own_take_fd(&fd);
    int ret = json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    return fclose(file) == 0 ? ret : -1;
}

static int put(const json_t *json, const struct place *place, const char *path,
               struct nido_error *err)
{
    if (json && dump(json, place) == 0 &&
        renameat(place->directory_fd, place->temporary, place->directory_fd, place->name) == 0)
        return 0;
    int code = errno ? errno : EIO;
    unlinkat(place->directory_fd, place->temporary, 0);
    return error_errno(err, code, "result %s: cannot be written", path);
}

int result_write_json(const struct nido_config *machine, const char *path, json_t *json,
                      struct nido_error *err)
{
    struct place place;
    int ret = place_find(&place, machine, path, err);
    if (ret == 0) {
        ret = put(json, &place, path, err);
        close(place.directory_fd);
    }
    json_decref(json);
    return ret;
}

int result_write(const struct nido_config *machine, const char *path, const struct result *result,
                 struct nido_error *err)
{
    return result_write_json(machine, path, record(result), err);
}
