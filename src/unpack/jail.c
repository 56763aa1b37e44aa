/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/jail.h"

#include <errno.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* An address sanitizer maps far more than it uses. */
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_BYTES RLIM_INFINITY
#else
#define MEMORY_BYTES (6ull << 30)
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

int jail_enter(struct nido_error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "new privileges cannot be given up");
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        struct rlimit limit;
        if (getrlimit(limits[i].resource, &limit) < 0 || limit.rlim_cur <= limits[i].most)
            continue;
        limit.rlim_cur = limits[i].most;
        if (setrlimit(limits[i].resource, &limit) < 0)
            return error_errno(err, errno, "%s cannot be limited", limits[i].name);
    }
    return 0;
}
