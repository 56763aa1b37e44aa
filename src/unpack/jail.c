/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/jail.h"

#include "base/checked.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* An address sanitizer maps far more than it uses, and starts a process to look for leaks. */
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_BYTES RLIM_INFINITY
#define IS_SEALED    false
#else
#define MEMORY_BYTES (6ull << 30)
#define IS_SEALED    true
#endif

static const struct {
    __rlimit_resource_t resource;
    rlim_t most;
    const char *name;
} limits[] = {
    /* Names of millions of files, and what the packers of today want; no more for a bomb. */
    {RLIMIT_AS, MEMORY_BYTES, "memory"},
    /* The layers of an image are all open at once. */
    {RLIMIT_NOFILE, 1024, "files"},
    {RLIMIT_CORE, 0, "core dumps"},
};

int jail_limit(struct nido_error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "new privileges cannot be given up");
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        struct rlimit limit;
        if (getrlimit(limits[i].resource, &limit) < 0 || limit.rlim_cur <= limits[i].most)
            continue;
        limit.rlim_cur = limits[i].most;
        if (setrlimit(limits[i].resource, &limit) < 0)
            return error_errno(err, errno, "%s cannot be limited", limits[i].name);
    }
    return 0;
}

/* ---- system calls ---- */

static const uint32_t allowed[] = {
    /* The archive, and what is made of it. */
    __NR_openat,
    __NR_close,
    __NR_read,
    __NR_pread64,
    __NR_write,
    __NR_writev,
    __NR_lseek,
    __NR_fstat,
    __NR_newfstatat,
    __NR_fcntl,
    /* What a package lends, and its end. */
    __NR_mkdirat,
    __NR_unlinkat,
    __NR_getdents64,
    /* Memory. */
    __NR_brk,
    __NR_mmap,
    __NR_mremap,
    __NR_munmap,
    __NR_mprotect,
    __NR_madvise,
    /* The C library: locks, stdio's question whether this is a terminal, its clock, its end. */
    __NR_futex,
    __NR_ioctl,
    __NR_clock_gettime,
    __NR_getrandom,
    __NR_uname,
    __NR_rt_sigaction,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_exit,
    __NR_exit_group,
};

/* Others fail as if this Linux did not have them, and the libraries cope or say so. A call of another
 * architecture's numbers ends the process. */
#define REFUSED (SECCOMP_RET_ERRNO | ENOSYS)

static const struct sock_filter head[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NIDO_AUDIT_ARCH, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
};

int jail_seal(struct nido_error *err)
{
    struct sock_filter filter[ARRAY_SIZE(head) + ARRAY_SIZE(allowed) + 2];
    struct sock_fprog program = {.len = ARRAY_SIZE(filter), .filter = filter};
    unsigned at = 0;
    for (; at < ARRAY_SIZE(head); at++)
        filter[at] = head[at];
    for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++)
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i],
                                                    (uint8_t)(ARRAY_SIZE(allowed) - i), 0);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, REFUSED);
    filter[at] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (!IS_SEALED || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0)
        return 0;
    /* A kernel that was built without filters. */
    return errno == EINVAL ? 0 : error_errno(err, errno, "system calls cannot be given up");
}
