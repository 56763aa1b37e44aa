/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_BYTES 1024

static enum log_level current_level = LOG_WARN;
static int log_fd = STDERR_FILENO;

void log_set_level(enum log_level level)
{
    current_level = level;
}

bool log_enabled(enum log_level level)
{
    return level <= current_level;
}

int log_open(const char *path, struct nido_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "log file %s: cannot be opened", path);
    log_fd = fd;
    return 0;
}

/* While the terminal is raw a bare \n would leave a staircase; \r does no harm elsewhere. */
static size_t end_line(char *line, size_t length)
{
    if (length > LINE_BYTES - 2)
        length = LINE_BYTES - 2;
    if (isatty(log_fd))
        line[length++] = '\r';
    line[length++] = '\n';
    return length;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    static const char *const prefixes[] = {"nido: ", "nido: warning: ", "nido: ", "nido: debug: "};

    if (!log_enabled(level))
        return;
    int saved_errno = errno;
    char line[LINE_BYTES];
    int prefix = snprintf(line, sizeof(line), "%s", prefixes[level]);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix, fmt, ap);
    va_end(ap);
    size_t length = end_line(line, (size_t)prefix + (n > 0 ? (size_t)n : 0));
    ssize_t ignored = write(log_fd, line, length);
    (void)ignored; /* nowhere left to say it */
    errno = saved_errno;
}

bool log_limit_allows(struct log_limit *limit)
{
    uint64_t now = clock_now_ns();
    uint64_t start = atomic_load_explicit(&limit->window_start_ns, memory_order_relaxed);
    if (now - start > LOG_LIMIT_WINDOW_NS || start == 0) {
        if (atomic_compare_exchange_strong(&limit->window_start_ns, &start, now)) {
            atomic_store(&limit->in_window, 0);
            uint32_t held_back = atomic_exchange(&limit->held_back, 0);
            if (held_back)
                log_warn("%u more messages like the next were held back", held_back);
        }
    }
    if (atomic_fetch_add(&limit->in_window, 1) < LOG_LIMIT_BURST)
        return true;
    atomic_fetch_add(&limit->held_back, 1);
    return false;
}
