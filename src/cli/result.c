/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/result.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static double seconds(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static json_t *record(const struct result *result)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return json_pack(
        "{s:s, s:i, s:o, s:f, s:f, s:I, s:o}", "reason", result->reason, "code", result->code,
        "signal", result->signal ? json_integer(result->signal) : json_null(), "wall_s",
        (double)result->wall_ns / 1e9, "cpu_s", seconds(&usage.ru_utime) + seconds(&usage.ru_stime),
        "peak_memory_bytes", (json_int_t)usage.ru_maxrss * 1024, "report",
        result->report ? json_string(result->report) : json_null());
}

int result_write(const char *path, const struct result *result, struct nido_error *err)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)getpid()) >=
        (int)sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "result %s: too long a path", path);
    json_t *json = record(result);
    int ret = json ? json_dump_file(json, temporary, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : -1;
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
