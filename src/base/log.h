/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_LOG_H
#define NIDO_BASE_LOG_H

/*
 * Lines for a person, on standard error: "nido: warning: disk vda: ...". Any thread may log; a line
 * is one write(). What a guest can cause goes through a log_limit, so that it cannot fill the
 * host's disk.
 */

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Set once before threads start. The default is LOG_WARN. */
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

/* Lines go to the end of this file from now on. Before threads start. */
int log_open(const char *path, struct nido_error *err);

void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* Lets through at most LOG_LIMIT_BURST lines in LOG_LIMIT_WINDOW_NS. Zero-initialised; any
 * thread. */
struct log_limit {
    _Atomic uint64_t window_start_ns;
    _Atomic uint32_t in_window;
    _Atomic uint32_t held_back;
};

#define LOG_LIMIT_BURST     5u
#define LOG_LIMIT_WINDOW_NS 5000000000ull

bool log_limit_allows(struct log_limit *limit);

#define log_warn_limited(limit, ...)                                                               \
    do {                                                                                           \
        if (log_limit_allows(limit))                                                               \
            log_warn(__VA_ARGS__);                                                                 \
    } while (0)

#endif
