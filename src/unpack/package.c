/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/package.h"

#include "base/own.h"
#include "firmware/kernel_name.h"
#include "unpack/source.h"
#include "unpack/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CONTROL_BYTES_MAX (1u << 20)
#define KERNEL            "boot/vmlinuz-"

static const char *const module_places[] = {"lib/modules/", "usr/lib/modules/"};

/* ---- the control file ---- */

/* The value of a field, which begins a line (deb-control(5)). */
static void field(const char *control, const char *name, char *value, size_t value_bytes)
{
    size_t length = strlen(name);
    *value = '\0';
    for (const char *line = control; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncasecmp(line, name, length) != 0 || line[length] != ':')
            continue;
        line += length + 1 + strspn(line + length + 1, " \t");
        snprintf(value, value_bytes, "%.*s", (int)strcspn(line, " \t\r\n"), line);
        return;
    }
}

static int read_control(struct package *package, struct source *source, const struct member *member,
                        struct nido_error *err)
{
    char architecture[32];
    const void *bytes;
    size_t length = 0, count = 1;
    if (member->size_bytes > CONTROL_BYTES_MAX)
        return error_set(err, EFBIG, "its control file is too long");
    own_mem char *text = calloc(1, (size_t)member->size_bytes + 1);
    int ret = text ? 0 : error_set(err, ENOMEM, "out of memory");
    while (ret == 0 && count) {
        ret = source_data(source, member, &bytes, &count, err);
        if (ret == 0)
            memcpy(text + length, bytes, count);
        length += count;
    }
    if (ret < 0)
        return ret;
    field(text, "Package", package->name, sizeof(package->name));
    field(text, "Architecture", architecture, sizeof(architecture));
    if (strcmp(architecture, package->architecture) == 0 || strcmp(architecture, "all") == 0)
        return 0;
    return error_set(err, ENOEXEC, "the package %s is for %s, and this host runs %s", package->name,
                     architecture, package->architecture);
}

static int take_control(struct package *package, struct source *source, struct nido_error *err)
{
    char path[TREE_PATH_BYTES];
    struct member member;
    int got = source_begin(source, false, DIGEST_SHA256, err);
    if (got == 0)
        got = 1;
    while (got > 0) {
        got = source_next(source, &member, err);
        if (got > 0 && S_ISREG(member.mode) && tree_clean(member.path, path, NULL) == 0 &&
            strcmp(path, "control") == 0) {
            got = read_control(package, source, &member, err);
            return got < 0 ? got : source_end(source, NULL, false, err);
        }
    }
    return got < 0 ? got : error_set(err, EBADMSG, "it has no control file");
}

/* ---- the files ---- */

/* Makes what is missing of the directories on the way. All of them are of this program's making, and
 * so lead nowhere else. */
static int open_for_writing(const struct package *package, char *path, struct nido_error *err)
{
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int failed = mkdirat(package->fd, path, 0700) < 0 && errno != EEXIST;
        *slash = '/';
        if (failed)
            return error_errno(err, errno, "%s cannot be written", path);
    }
    int fd = openat(package->fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd >= 0 ? fd : error_errno(err, errno, "%s cannot be written", path);
}

static int write_all(int fd, const uint8_t *bytes, size_t count, struct nido_error *err)
{
    while (count) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_errno(err, n < 0 ? errno : EIO, "what is in it cannot be written");
        bytes += n;
        count -= (size_t)n;
    }
    return 0;
}

static int write_file(struct package *package, struct source *source, const struct member *member,
                      char *path, struct nido_error *err)
{
    const void *bytes;
    size_t count = 1;
    package->files++;
    package->bytes += member->size_bytes;
    if (package->files > PACKAGE_FILES_MAX || member->size_bytes > PACKAGE_BYTES_MAX ||
        package->bytes > PACKAGE_BYTES_MAX)
        return error_set(err, EFBIG, "it has more in it than a kernel and its modules");
    own_fd int fd = open_for_writing(package, path, err);
    int ret = fd < 0 ? fd : 0;
    while (ret == 0 && count) {
        ret = source_data(source, member, &bytes, &count, err);
        if (ret == 0)
            ret = write_all(fd, bytes, count, err);
    }
    return ret;
}

/* Keeps the version that `name` begins with; there is to be one. */
static int note_version(const struct package *package, char version[PACKAGE_VERSION_BYTES],
                        const char *name, const char *what, struct nido_error *err)
{
    size_t length = strcspn(name, "/");
    if (length >= PACKAGE_VERSION_BYTES || !kernel_name_is_good(name, length))
        return error_set(err, EBADMSG, "%.100s is no version of a kernel", name);
    if (*version && (strncmp(version, name, length) != 0 || version[length]))
        return error_set(err, EEXIST, "there are %s of several kernels in it, such as %s and %.*s",
                         what, version, (int)length, name);
    snprintf(version, PACKAGE_VERSION_BYTES, "%.*s", (int)length, name);
    return 0;
}

/* Where a file goes, "" for nowhere. */
static int place(struct package *package, const char *path, char to[TREE_PATH_BYTES],
                 struct nido_error *err)
{
    *to = '\0';
    if (strncmp(path, KERNEL, strlen(KERNEL)) == 0 && !strchr(path + strlen(KERNEL), '/')) {
        snprintf(to, TREE_PATH_BYTES, "%s", path + strlen("boot/"));
        return note_version(package, package->kernel, path + strlen(KERNEL), "images", err);
    }
    for (unsigned i = 0; i < sizeof(module_places) / sizeof(module_places[0]); i++) {
        size_t length = strlen(module_places[i]);
        if (strncmp(path, module_places[i], length) != 0 || !strchr(path + length, '/'))
            continue;
        if (snprintf(to, TREE_PATH_BYTES, "%s%s", module_places[0], path + length) >=
            (int)TREE_PATH_BYTES)
            return error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
        return note_version(package, package->modules, path + length, "modules", err);
    }
    return 0;
}

static int take_data(struct package *package, struct source *source, struct nido_error *err)
{
    char path[TREE_PATH_BYTES], to[TREE_PATH_BYTES];
    struct member member;
    int ret = source_begin(source, false, DIGEST_SHA256, err), got = 1;
    while (ret == 0) {
        got = source_next(source, &member, err);
        if (got <= 0)
            return got < 0 ? got : source_end(source, NULL, false, err);
        if (!S_ISREG(member.mode) || member.is_hard_link)
            continue;
        ret = tree_clean(member.path, path, err);
        if (ret == 0)
            ret = place(package, path, to, err);
        if (ret == 0 && *to)
            ret = write_file(package, source, &member, to, err);
    }
    return ret;
}

/* ---- the package ---- */

static int take_parts(struct package *package, struct archive *parts, struct nido_error *err)
{
    struct archive_entry *entry;
    bool has_control = false, has_data = false;
    int got;
    while ((got = archive_read_next_header(parts, &entry)) == ARCHIVE_OK) {
        own_source struct source source = {.fd = -1};
        const char *name = archive_entry_pathname(entry);
        bool is_control = name && strncmp(name, "control.tar", 11) == 0;
        bool is_data = name && strncmp(name, "data.tar", 8) == 0;
        if (!is_control && !is_data)
            continue;
        if (is_data && !has_control)
            return error_set(err, EBADMSG, "its data come before its control file");
        int ret = source_open_inside(&source, parts, err);
        if (ret == 0)
            ret =
                is_control ? take_control(package, &source, err) : take_data(package, &source, err);
        if (ret < 0)
            return ret;
        has_control |= is_control;
        has_data |= is_data;
    }
    if (got != ARCHIVE_EOF)
        return error_set(err, EBADMSG, "it is cut off or damaged");
    return has_data ? 0 : error_set(err, EINVAL, "this is no Debian package");
}

int package_unpack(struct package *package, const char *path, struct nido_error *err)
{
    own_source struct source source = {.fd = -1};
    int ret = source_open(&source, AT_FDCWD, path, err);
    if (ret == 0)
        ret = source_begin_parts(&source, err);
    return ret < 0 ? ret : take_parts(package, source.archive, err);
}

int package_check(const struct package *package, struct nido_error *err)
{
    if (!*package->kernel)
        return error_set(err, ENOENT,
                         "there is no kernel in it%s; the package that has one is called "
                         "linux-image-VERSION",
                         *package->modules ? ", only modules" : "");
    if (!*package->modules)
        return error_set(
            err, ENOENT,
            "there are no modules in it; where they are in a package of their own "
            "(linux-modules-VERSION), say both: nido kernel add IMAGE.deb MODULES.deb");
    if (strcmp(package->kernel, package->modules) == 0)
        return 0;
    return error_set(err, EINVAL, "the kernel is %s, and the modules are for %s", package->kernel,
                     package->modules);
}
