/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/result.h"

#include "base/own.h"
#include "cli/traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

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

static json_t *record(const struct result *result)
{
    const struct nido_traffic *moved = &result->traffic;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    json_t *json = json_pack(
        "{s:s, s:i, s:o, s:b, s:i, s:f, s:f, s:I, s:o}", "reason", result->reason, "code",
        result->code, "signal", result->signal ? json_integer(result->signal) : json_null(), "oom",
        result->oom, "restarts", (int)result->restarts, "wall_s", (double)result->wall_ns / 1e9,
        "cpu_s", seconds(&usage.ru_utime) + seconds(&usage.ru_stime), "peak_memory_bytes",
        peak_memory_bytes(), "report", result->report ? json_string(result->report) : json_null());
    traffic_add_json(json, moved);
    return json;
}

static int name_temporary(const char *path, char temporary[PATH_MAX], struct nido_error *err)
{
    if (snprintf(temporary, PATH_MAX, "%s.%ld", path, (long)getpid()) >= PATH_MAX)
        return error_set(err, ENAMETOOLONG, "result %s: too long a path", path);
    return 0;
}

int result_check(const char *path, struct nido_error *err)
{
    char temporary[PATH_MAX];
    int ret = name_temporary(path, temporary, err);
    if (ret < 0)
        return ret;
    own_fd int fd = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "result %s: cannot be written", path);
    unlink(temporary);
    return 0;
}

int result_write(const char *path, const struct result *result, struct nido_error *err)
{
    char temporary[PATH_MAX];
    int ret = name_temporary(path, temporary, err);
    if (ret < 0)
        return ret;
    json_t *json = record(result);
    ret = json ? json_dump_file(json, temporary, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : -1;
    json_decref(json);
    if (ret == 0)
        ret = rename(temporary, path);
    if (ret < 0) {
        int code = errno ? errno : EIO;
        unlink(temporary);
        return error_errno(err, code, "result %s: cannot be written", path);
    }
    return 0;
}
