/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which kind of disk a configuration asks for, and overlays.
 *
 * An overlay takes the writes instead of the disk that is named, which is opened read-only with a
 * shared lock: many machines can stand on one image. It is a qcow2 image, either thrown away with
 * the machine (a file without a name in $TMPDIR, or /var/tmp: nothing is left of it, however the
 * machine ends) or kept in a file that is made when it is not there.
 */
#include "base/own.h"
#include "host/disk_qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *temporary_directory(void)
{
    const char *directory = getenv("TMPDIR");
    return directory && *directory ? directory : "/var/tmp";
}

/* O_TMPFILE is not for every file system. */
static int make_nameless(const char *directory)
{
    char path[PATH_MAX];
    int fd = open(directory, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    if (snprintf(path, sizeof(path), "%s/nido-XXXXXX", directory) >= (int)sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static int open_base(struct disk **out, const struct disk_config *config, struct loop *loop,
                     struct nido_error *err)
{
    struct disk_config base = *config;
    base.read_only = true;
    base.overlay = false;
    base.overlay_path = NULL;
    return disk_open(out, &base, loop, err);
}

static int open_throw_away(struct disk **out, const struct disk_config *config, struct loop *loop,
                           struct nido_error *err)
{
    const char *directory = temporary_directory();
    struct disk *base = NULL;
    int ret = open_base(&base, config, loop, err);
    if (ret < 0)
        return ret;
    own_fd int fd = make_nameless(directory);
    if (fd < 0)
        ret = error_errno(err, errno,
                          "disk %s: cannot make its overlay in %s; name another "
                          "directory in TMPDIR",
                          config->path, directory);
    if (ret == 0)
        ret = qcow2_create(fd, config->path, base->size_bytes, NULL, NULL, err);
    struct disk_config overlay = {.path = config->path, .format = DISK_QCOW2};
    if (ret == 0) {
        const struct qcow2_open wanted = {
            .config = &overlay, .fd = own_take_fd(&fd), .base = base, .throw_away = true};
        ret = qcow2_open(out, &wanted, loop, err);
    }
    if (ret < 0)
        disk_close(base);
    return ret;
}

/* Made under its own name, so what fails half-way is removed. */
static int make_kept(const struct disk_config *config, uint64_t size_bytes, struct nido_error *err)
{
    const char *path = config->overlay_path;
    own_mem char *base = realpath(config->path, NULL);
    own_fd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return 0;
    if (fd < 0 || !base)
        return error_errno(err, errno, "disk %s: cannot make this overlay", path);
    int ret =
        qcow2_create(fd, path, size_bytes, base, config->format == DISK_RAW ? "raw" : "qcow2", err);
    if (ret < 0)
        unlink(path);
    return ret;
}

static int open_kept(struct disk **out, const struct disk_config *config, struct loop *loop,
                     struct nido_error *err)
{
    struct disk *base = NULL;
    int ret = open_base(&base, config, loop, err);
    if (ret < 0)
        return ret;
    ret = make_kept(config, base->size_bytes, err);
    disk_close(base);
    const struct disk_config overlay = {
        .path = config->overlay_path, .format = DISK_QCOW2, .unsafe = config->unsafe};
    const struct qcow2_open wanted = {.config = &overlay, .fd = -1, .expected_base = config};
    return ret < 0 ? ret : qcow2_open(out, &wanted, loop, err);
}

int disk_open(struct disk **out, const struct disk_config *config, struct loop *loop,
              struct nido_error *err)
{
    if (config->overlay && config->read_only)
        return error_set(err, EINVAL, "disk %s: ro and overlay contradict each other; say one",
                         config->path);
    if (config->overlay && config->direct)
        return error_set(err, EINVAL, "disk %s: direct goes with raw disks, not with an overlay",
                         config->path);
    if (config->overlay)
        return config->overlay_path ? open_kept(out, config, loop, err)
                                    : open_throw_away(out, config, loop, err);
    return config->format == DISK_QCOW2 ? disk_open_qcow2(out, config, loop, err)
                                        : disk_open_raw(out, config, loop, err);
}
