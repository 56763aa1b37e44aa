/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/rundir.h"

#include "base/own.h"
#include "firmware/guest/protocol.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX       ".sock"
#define VSOCK_SUFFIX ".vsock"

int rundir_check_name(const char *name, struct nido_error *err)
{
    size_t length = strlen(name);
    bool fine = length > 0 && length < RUNDIR_NAME_BYTES && isalnum((unsigned char)name[0]);
    for (size_t i = 0; fine && i < length; i++)
        fine = isalnum((unsigned char)name[i]) || strchr("-_.", name[i]);
    if (!fine)
        return error_set(
            err, EINVAL,
            "'%s' cannot be a name; use letters, digits, '-', '_' and '.', at most %d, "
            "and begin with a letter or digit",
            name, RUNDIR_NAME_BYTES - 1);
    return 0;
}

/* In /tmp somebody else may have been faster with the name. */
static int make_private(const char *path, struct nido_error *err)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_errno(
            err, errno, "%s: cannot make the directory; set XDG_RUNTIME_DIR to one of yours", path);
    if (lstat(path, &st) < 0)
        return error_errno(err, errno, "%s: cannot look at it", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return error_set(err, EPERM,
                         "%s: not a directory that only you can write; remove it, or set "
                         "XDG_RUNTIME_DIR",
                         path);
    return 0;
}

int rundir_path(char *path, size_t path_bytes, struct nido_error *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n = runtime && runtime[0] == '/'
                ? snprintf(path, path_bytes, "%s/nido", runtime)
                : snprintf(path, path_bytes, "/tmp/nido-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= path_bytes)
        return error_set(err, ENAMETOOLONG, "XDG_RUNTIME_DIR is too long");
    return make_private(path, err);
}

static int path_of(const char *name, const char *suffix, char path[UNIX_PATH_BYTES],
                   struct nido_error *err)
{
    char directory[PATH_MAX];
    int ret = rundir_check_name(name, err);
    if (ret == 0)
        ret = rundir_path(directory, sizeof(directory), err);
    if (ret < 0)
        return ret;
    int n = snprintf(path, UNIX_PATH_BYTES, "%s/%s%s", directory, name, suffix);
    if (n < 0 || (size_t)n >= UNIX_PATH_BYTES)
        return error_set(err, ENAMETOOLONG, "%s/%s%s: too long for a socket; use a shorter name",
                         directory, name, suffix);
    return 0;
}

int rundir_socket_path(const char *name, char path[UNIX_PATH_BYTES], struct nido_error *err)
{
    return path_of(name, SUFFIX, path, err);
}

int rundir_vsock_path(const char *name, char path[UNIX_PATH_BYTES], struct nido_error *err)
{
    return path_of(name, VSOCK_SUFFIX, path, err);
}

void rundir_forget(const char *name)
{
    char path[UNIX_PATH_BYTES], call[UNIX_PATH_BYTES + 16];
    if (rundir_vsock_path(name, path, NULL) == 0) {
        snprintf(call, sizeof(call), "%s_%u", path, AGENT_PORT);
        unlink(call);
        unlink(path);
    }
    if (rundir_socket_path(name, path, NULL) == 0)
        unlink(path);
}

int rundir_lock(struct nido_error *err)
{
    char directory[PATH_MAX];
    int ret = rundir_path(directory, sizeof(directory), err);
    if (ret < 0)
        return ret;
    own_fd int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "%s: cannot open it", directory);
    do
        ret = flock(fd, LOCK_EX);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? error_errno(err, errno, "%s: cannot lock it", directory) : own_take_fd(&fd);
}

static int is_socket_name(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name), suffix = strlen(SUFFIX);
    return length > suffix && strcmp(entry->d_name + length - suffix, SUFFIX) == 0;
}

int rundir_each(bool (*visit)(const char *name, void *self), void *self, struct nido_error *err)
{
    char directory[PATH_MAX];
    struct dirent **entries;
    int ret = rundir_path(directory, sizeof(directory), err);
    if (ret < 0)
        return ret;
    int count = scandir(directory, &entries, is_socket_name, alphasort);
    if (count < 0)
        return error_errno(err, errno, "%s: cannot list it", directory);
    bool go_on = true;
    for (int i = 0; i < count; i++) {
        entries[i]->d_name[strlen(entries[i]->d_name) - strlen(SUFFIX)] = '\0';
        go_on = go_on && visit(entries[i]->d_name, self);
        free(entries[i]);
    }
    free(entries);
    return 0;
}
