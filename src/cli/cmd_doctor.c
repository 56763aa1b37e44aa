/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nido doctor: one line for each thing that a machine may need, and for each that is missing, what
 * to do. The exit status is 0 when Linux guests can run here.
 */
#include "arch/probe.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "host/kvm.h"
#include "host/net_passt.h"
#include "vm/arch.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>

struct finding {
    bool ok;
    bool needed; /* no Linux guest without it */
    char text[NIDO_ERROR_TEXT_BYTES];
};

static void found(struct finding *finding, const char *text)
{
    finding->ok = true;
    snprintf(finding->text, sizeof(finding->text), "%s", text);
}

static void missing(struct finding *finding, const char *text)
{
    finding->ok = false;
    snprintf(finding->text, sizeof(finding->text), "%s", text);
}

static void check_kvm(struct finding *finding)
{
    struct nido_error err;
    own_fd int fd = -1;
    finding->needed = true;
    int ret = kvm_open(&fd, &err);
    if (ret == 0)
        ret = kvm_check_needs(fd, arch_needs, arch_needs_count, &err);
    if (ret < 0)
        missing(finding, err.text);
    else
        found(finding, "/dev/kvm opens and has what nido needs");
}

static void check_linux(struct finding *finding)
{
    struct nido_error err;
    finding->needed = true;
    if (arch_probe_kernel_mode(&err) < 0)
        missing(finding, err.text);
    else
        found(finding, "guest kernels run here");
}

static void check_tun(struct finding *finding)
{
    own_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        found(finding, "/dev/net/tun opens (--net tap=NAME)");
    else if (errno == ENOENT || errno == ENODEV)
        missing(finding, "/dev/net/tun is not there; 'sudo modprobe tun' (for --net tap=NAME)");
    else
        missing(finding, "/dev/net/tun cannot be opened; 'sudo chmod 666 /dev/net/tun' is the "
                         "usual mode (for --net tap=NAME)");
}

static void check_passt(struct finding *finding)
{
    if (net_passt_installed())
        found(finding, "passt is installed (--net user)");
    else
        missing(finding, "passt is not installed; 'sudo apt install passt' (for --net user)");
}

static void check_io_uring(struct finding *finding)
{
    struct io_uring ring;
    int ret = io_uring_queue_init(2, &ring, 0);
    if (ret == 0) {
        io_uring_queue_exit(&ring);
        found(finding, "io_uring works (fast disks)");
        return;
    }
    missing(finding, ret == -EPERM || ret == -ENOSYS
                         ? "io_uring is forbidden or not there, so disks use threads; see 'sysctl "
                           "kernel.io_uring_disabled' and the container's seccomp profile"
                         : "io_uring cannot be set up, so disks use threads; see 'ulimit -l'");
}

static void read_line(const char *path, char *line, int line_bytes)
{
    own_file FILE *file = fopen(path, "re");
    if (!file || !fgets(line, line_bytes, file))
        line[0] = '\0';
    line[strcspn(line, "\n")] = '\0';
}

static void check_huge_pages(struct finding *finding)
{
    char transparent[128], reserved[32], text[256];
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", transparent, sizeof(transparent));
    read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", reserved,
              sizeof(reserved));
    bool off = !transparent[0] || strstr(transparent, "[never]");
    if (off && strcmp(reserved, "0") == 0) {
        missing(finding, "no huge pages: 'echo madvise | sudo tee "
                         "/sys/kernel/mm/transparent_hugepage/enabled' makes guest RAM faster");
        return;
    }
    snprintf(text, sizeof(text),
             "huge pages: transparent %s; %s reserved ones are free "
             "(--hugepages)",
             off ? "off" : "on", reserved[0] ? reserved : "no");
    found(finding, text);
}

static void check_merging(struct finding *finding)
{
    char run[8];
    read_line("/sys/kernel/mm/ksm/run", run, sizeof(run));
    if (strcmp(run, "1") == 0)
        found(finding, "alike pages of guests are merged (--mem-merge)");
    else if (run[0])
        missing(finding,
                "alike pages of guests are not merged; 'echo 1 | sudo tee /sys/kernel/mm/ksm/run' "
                "(for --mem-merge)");
    else
        missing(finding, "this host's kernel has no KSM (for --mem-merge)");
}

static const struct {
    const char *name;
    void (*check)(struct finding *finding);
} checks[] = {
    {"kvm", check_kvm},     {"linux", check_linux},       {"tun", check_tun},
    {"passt", check_passt}, {"io_uring", check_io_uring}, {"hugepages", check_huge_pages},
    {"ksm", check_merging},
};

int cmd_doctor(int argc, char **argv)
{
    if (argc > 1) {
        log_error("doctor: '%s': it takes no arguments", argv[1]);
        return EXIT_NIDO_FAILED;
    }
    bool can_run = true;
    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        struct finding finding = {0};
        checks[i].check(&finding);
        const char *mark = finding.ok ? "ok" : finding.needed ? "FAIL" : "note";
        printf("%-5s %-10s %s\n", mark, checks[i].name, finding.text);
        can_run &= finding.ok || !finding.needed;
    }
    puts(can_run ? "Linux guests can run here." : "Linux guests cannot run here.");
    return can_run ? 0 : EXIT_NIDO_FAILED;
}
