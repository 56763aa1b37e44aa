/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/chores.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "base/trace.h"
#include "lib/exposure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int chores_write_pidfile(const struct nido_config *machine, const char *path,
                         struct nido_error *err)
{
    if (!path)
        return 0;
    own_fd int fd = exposure_open(machine, path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0)
        return error_errno(err, -fd, "pidfile %s: cannot be written", path);
    return dprintf(fd, "%ld\n", (long)getpid()) < 0
               ? error_errno(err, errno, "pidfile %s: cannot be written", path)
               : 0;
}

void chores_remove_pidfile(const struct nido_config *machine, const char *path)
{
    const char *name;
    own_fd int directory = exposure_find_directory(machine, path, &name);
    if (directory >= 0)
        unlinkat(directory, name, 0);
}

int chores_lend_descriptors(struct nido_config *config, struct nido_error *err)
{
    for (unsigned i = 0; i < config->net_count; i++) {
        struct nido_net *net = &config->nets[i];
        if (net->kind != NIDO_NET_FD)
            continue;
        net->fd = fcntl(net->fd, F_DUPFD_CLOEXEC, 3);
        if (net->fd < 0)
            return error_errno(err, errno, "--net fd: cannot copy the descriptor");
    }
    return 0;
}

void chores_print_report(const char *report)
{
    while (report && *report) {
        int length = (int)strcspn(report, "\n");
        log_error("%.*s", length, report);
        report += length + (report[length] == '\n');
    }
}

int chores_check_trace(const struct nido_config *machine, const char *path, struct nido_error *err)
{
    own_fd int fd = exposure_open(machine, path, O_WRONLY | O_CREAT | O_NONBLOCK, 0666);
    return fd < 0 ? error_errno(err, -fd, "trace %s: cannot be written", path) : 0;
}

static void write_trace(const struct nido_config *machine, const char *path)
{
    own_fd int fd = exposure_open(machine, path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    errno = fd < 0 ? -fd : 0;
    own_file FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (file)
        own_take_fd(&fd);
    if (!file || !trace_write(file))
        log_error("trace %s: cannot be written: %s", path, strerror(errno));
}

void chores_show_trace(const struct nido_config *machine, const char *path, bool timeline,
                       uint64_t guest_start_ns)
{
    if (!trace_enabled)
        return;
    trace_span("runs", TRACE_ROW_GUEST, guest_start_ns);
    if (timeline)
        trace_print_bars(stderr);
    if (path)
        write_trace(machine, path);
}

void chores_print_status(const char *name, struct nido_machine *machine)
{
    struct nido_status status;
    nido_machine_status(machine, &status);
    fprintf(stderr, "\r\nnido: %s: %u vCPU%s, %llu MiB, up %.1f s, %llu exits%s\r\n", name,
            status.cpus, status.cpus == 1 ? "" : "s", (unsigned long long)(status.mem_bytes / MIB),
            (double)status.uptime_ns / 1e9, (unsigned long long)status.exits,
            status.paused ? ", paused" : "");
}

void chores_allow_many_files(const struct nido_config *machine)
{
    struct rlimit limit;
    if (!machine->share_count || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}
