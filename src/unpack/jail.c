/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/jail.h"

#include "base/checked.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
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
    __NR_close,
    __NR_read,
    __NR_pread64,
    __NR_write,
    __NR_writev,
    __NR_lseek,
    __NR_fstat,
    __NR_newfstatat,
    __NR_fcntl,
    __NR_getdents64,
    /* Memory. */
    __NR_brk,
    __NR_mmap,
    __NR_mremap,
    __NR_munmap,
    __NR_mprotect,
    __NR_madvise,
    /* The C library: locks, its clock, its end. */
    __NR_futex,
    __NR_clock_gettime,
    __NR_getrandom,
    __NR_uname,
    __NR_rt_sigaction,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_exit,
    __NR_exit_group,
};

/* What a package lends, and its end. */
static const uint32_t laying_out[] = {__NR_openat, __NR_mkdirat, __NR_unlinkat};

/* A file that is opened so can be changed, or is made. */
#define CHANGING (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))

/* Others fail as if this Linux did not have them, and the libraries cope or say so. A call of another
 * architecture's numbers ends the process. */
#define REFUSED (SECCOMP_RET_ERRNO | ENOSYS)

/* Both architectures are little-endian, and Linux takes 32 bits of these arguments. */
#define LOAD(field)           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF_IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(action)        BPF_STMT(BPF_RET | BPF_K, action)

static const struct sock_filter head[] = {
    LOAD(arch),
    IF_IS(NIDO_AUDIT_ARCH, 1, 0),
    RETURN(SECCOMP_RET_KILL_PROCESS),
    LOAD(nr),
    /* stdio's question whether this is a terminal, and no word to one. */
    IF_IS(__NR_ioctl, 0, 4),
    LOAD(args[1]),
    IF_IS(TCGETS, 0, 1),
    RETURN(SECCOMP_RET_ALLOW),
    RETURN(REFUSED),
};

static const struct sock_filter opening_to_read[] = {
    IF_IS(__NR_openat, 0, 4),
    LOAD(args[2]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CHANGING, 1, 0),
    RETURN(SECCOMP_RET_ALLOW),
    RETURN(REFUSED),
};

#define FILTER_MAX 128u

struct filter {
    struct sock_filter code[FILTER_MAX];
    unsigned short length;
};

static void add(struct filter *filter, const struct sock_filter *code, size_t count)
{
    for (size_t i = 0; i < count; i++)
        filter->code[filter->length++] = code[i];
}

static void add_allowed(struct filter *filter, const uint32_t *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct sock_filter code[] = {IF_IS(calls[i], 0, 1), RETURN(SECCOMP_RET_ALLOW)};
        add(filter, code, ARRAY_SIZE(code));
    }
}

int jail_seal(enum jail_files files, struct nido_error *err)
{
    static const struct sock_filter others[] = {RETURN(REFUSED)};
    struct filter filter = {.length = 0};
    add(&filter, head, ARRAY_SIZE(head));
    if (files == JAIL_LAYS_OUT)
        add_allowed(&filter, laying_out, ARRAY_SIZE(laying_out));
    else
        add(&filter, opening_to_read, ARRAY_SIZE(opening_to_read));
    add_allowed(&filter, allowed, ARRAY_SIZE(allowed));
    add(&filter, others, ARRAY_SIZE(others));
    struct sock_fprog program = {.len = filter.length, .filter = filter.code};
    if (!IS_SEALED || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0)
        return 0;
    /* A kernel that was built without filters. */
    return errno == EINVAL ? 0 : error_errno(err, errno, "system calls cannot be given up");
}
