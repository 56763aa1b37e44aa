/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/scratch.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <sys/wait.h>

/* Not everybody's PATH has the administrator's programs. */
static int find_mke2fs(const char **program, struct nido_error *err)
{
    static const char *const places[] = {"/sbin/mke2fs", "/usr/sbin/mke2fs", "/usr/bin/mke2fs"};
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        *program = places[i];
        if (access(*program, X_OK) == 0)
            return 0;
    }
    return error_set(err, ENOENT, "mke2fs is not installed; apt install e2fsprogs");
}

/* It has no name any more, so that a nido that is killed meanwhile leaves nothing behind. */
static int format(int fd, struct nido_error *err)
{
    const char *program;
    char path[32];
    posix_spawn_file_actions_t actions;
    int status, ret = find_mke2fs(&program, err);
    if (ret < 0)
        return ret;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    /* No journal, and tables that are zero already: it is thrown away, and it is all holes. */
    const char *const argv[] = {program,
                                "-q",
                                "-F",
                                "-t",
                                "ext4",
                                "-O",
                                "^has_journal",
                                "-E",
                                "lazy_itable_init=1,nodiscard,root_owner=0:0",
                                "-m",
                                "0",
                                path,
                                NULL};
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    /* Onto itself: it stays open over exec(). */
    posix_spawn_file_actions_adddup2(&actions, fd, fd);
    int code = posix_spawn(&pid, program, &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (code)
        return error_errno(err, code, "cannot start %s", program);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return error_errno(err, errno, "cannot wait for %s", program);
    return status == 0 ? 0 : error_set(err, EIO, "%s could not make its file system", program);
}

int scratch_create(uint64_t size_bytes, int *out, struct nido_error *err)
{
    char path[PATH_MAX];
    const char *directory = getenv("TMPDIR");
    if (snprintf(path, sizeof(path), "%s/nido-scratch.XXXXXX",
                 directory && *directory ? directory : "/var/tmp") >= (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "--scratch: TMPDIR is too long a path");
    own_fd int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "--scratch: cannot make a file like %s", path);
    unlink(path);
    int ret = ftruncate(fd, (off_t)size_bytes) < 0
                  ? error_errno(err, errno, "a file of that size cannot be made in %s", path)
                  : format(fd, err);
    if (ret < 0)
        return error_prefix(err, "--scratch");
    *out = own_take_fd(&fd);
    return 0;
}
