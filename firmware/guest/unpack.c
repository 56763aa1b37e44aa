/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tar stream becomes a tree. Each entry is walked to from the place's directory, one name at a time, with
 * O_NOFOLLOW: neither a link in the stream nor one that somebody puts there meanwhile leads outside.
 * Files are made anew, so nothing is written through a link of any kind that was there before.
 */
#include "firmware/guest/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES (128u << 10)

/* A directory that was made, and gets its mode and its time once nothing more comes into it. */
struct made {
    struct made *outer;
    mode_t mode;
    struct timespec mtime;
    char path[]; /* as clean_path() makes it */
};

struct unpacking {
    struct tar_reader *reader;
    const struct unpack_place *place;
    const struct unpack_rules *rules;
    struct made *made;                           /* innermost first */
    char path[TAR_PATH_BYTES + COPY_NAME_BYTES]; /* of the entry */
    char *why;
    uint8_t *buffer;
};

static int fail(struct unpacking *unpacking, const char *text)
{
    tar_explain(unpacking->why, unpacking->path, text);
    return -1;
}

static int fail_errno(struct unpacking *unpacking)
{
    if (errno == ENOTDIR || errno == ELOOP)
        return fail(unpacking, "on its way is a symbolic link, which is not followed, or a file");
    return fail(unpacking, strerror(errno));
}

/* ---- names ---- */

/* The next part of a path: where it starts; *length 0 at the end. Parts that say nothing are left out. */
static const char *next_part(const char *at, size_t *length)
{
    for (;; at += *length) {
        at += strspn(at, "/");
        *length = strcspn(at, "/");
        if (*length != 1 || *at != '.')
            return at;
    }
}

static bool is_dots(const char *part, size_t length)
{
    return length == 2 && part[0] == '.' && part[1] == '.';
}

/* Whether nobody asked for what has this first part. */
static bool is_uninvited(const struct unpacking *unpacking, const char *part, size_t length)
{
    char *const *names = unpacking->rules->names;
    bool found = !names;
    for (; !found && *names; names++)
        found = strcmp(*names, ".") == 0 ||
                (strlen(*names) == length && memcmp(*names, part, length) == 0);
    return length && !found;
}

/* The entry's path below the place's directory, in its plainest form: "a/b"; "" is the directory itself. */
static int clean_path(struct unpacking *unpacking, const char *path, char *clean)
{
    size_t length, used = 0;
    const char *part = next_part(path, &length), *as = unpacking->place->as;
    if (is_uninvited(unpacking, part, length))
        return fail(unpacking, "nobody asked for that");
    if (*as) {
        used = (size_t)sprintf(clean, "%s", as);
        /* What is inside of "." comes in there; anything else has that name. */
        if (length && (path[0] != '.' || path[1] != '/'))
            part = next_part(part + length, &length);
    }
    for (; length; part = next_part(part + length, &length)) {
        if (is_dots(part, length))
            return fail(unpacking, "a name with .. in it is refused");
        used += (size_t)sprintf(clean + used, "%s%.*s", used ? "/" : "", (int)length, part);
    }
    clean[used] = '\0';
    return 0;
}

/* The directory that `path` is in, and its last part. What lacks is made. -1: errno tells. */
static int open_parent(const struct unpacking *unpacking, const char *path, const char **last)
{
    char name[COPY_NAME_BYTES];
    int at = fcntl(unpacking->place->directory, F_DUPFD_CLOEXEC, 3);
    for (const char *slash; at >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
        int next = -1;
        if ((size_t)(slash - path) >= sizeof(name)) {
            errno = ENAMETOOLONG;
        } else {
            snprintf(name, sizeof(name), "%.*s", (int)(slash - path), path);
            if (mkdirat(at, name, 0777) == 0 || errno == EEXIST)
                next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        }
        int code = errno;
        close(at);
        errno = code;
        at = next;
    }
    *last = path;
    return at;
}

/* ---- directories ---- */

static bool is_inside(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

static void furnish(struct unpacking *unpacking, const struct made *made)
{
    const char *name;
    int parent = open_parent(unpacking, made->path, &name);
    int fd =
        parent < 0 ? -1 : openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const struct timespec times[2] = {made->mtime, made->mtime};
    if (fd >= 0) {
        fchmod(fd, made->mode);
        futimens(fd, times);
        close(fd);
    }
    if (parent >= 0)
        close(parent);
}

/* Those into which nothing comes any more; NULL: all. */
static void leave_directories(struct unpacking *unpacking, const char *path)
{
    struct made *made;
    while ((made = unpacking->made) && !(path && is_inside(path, made->path))) {
        furnish(unpacking, made);
        unpacking->made = made->outer;
        free(made);
    }
}

static struct timespec time_of(const struct tar_entry *entry)
{
    return (struct timespec){.tv_sec = (time_t)entry->mtime_s, .tv_nsec = (long)entry->mtime_ns};
}

static int make_directory(struct unpacking *unpacking, int parent, const char *name,
                          const char *path)
{
    const struct tar_entry *entry = &unpacking->reader->entry;
    struct stat st;
    if (mkdirat(parent, name, 0700) < 0) {
        if (errno != EEXIST)
            return fail_errno(unpacking);
        if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
            return 0;
        return fail(unpacking, "a directory is to be copied, and something else is in its place");
    }
    struct made *made = malloc(sizeof(*made) + strlen(path) + 1);
    if (!made)
        return fail(unpacking, strerror(ENOMEM));
    *made = (struct made){.outer = unpacking->made,
                          .mode = entry->mode & unpacking->rules->mode_mask,
                          .mtime = time_of(entry)};
    strcpy(made->path, path);
    unpacking->made = made;
    return 0;
}

/* ---- what is in them ---- */

/* Only a directory stays: it may have come to be one by mistake. */
static int make_room(struct unpacking *unpacking, int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno == EISDIR)
        return fail(unpacking, "a directory is in its place");
    return fail_errno(unpacking);
}

static bool write_all(int fd, const uint8_t *bytes, size_t count)
{
    while (count) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        bytes += n;
        count -= (size_t)n;
    }
    return true;
}

/* Zeros are not written: where a file has holes, so has its copy. What is at the end is the caller's. */
static bool put_piece(int fd, const uint8_t *bytes, size_t count, bool *is_hole)
{
    *is_hole = !bytes[0] && memcmp(bytes, bytes + 1, count - 1) == 0;
    return *is_hole ? lseek(fd, (off_t)count, SEEK_CUR) >= 0 : write_all(fd, bytes, count);
}

static int fill_file(struct unpacking *unpacking, int fd)
{
    const struct timespec times[2] = {time_of(&unpacking->reader->entry),
                                      time_of(&unpacking->reader->entry)};
    ssize_t n;
    bool is_hole = false;
    while ((n = tar_read(unpacking->reader, unpacking->buffer, BUFFER_BYTES)) > 0)
        if (!put_piece(fd, unpacking->buffer, (size_t)n, &is_hole))
            return fail_errno(unpacking);
    if (n < 0) {
        tar_explain(unpacking->why, "", unpacking->reader->why); /* with the path */
        return -1;
    }
    if (is_hole && ftruncate(fd, (off_t)unpacking->reader->entry.size) < 0)
        return fail_errno(unpacking);
    if (fchmod(fd, unpacking->reader->entry.mode & unpacking->rules->mode_mask) < 0)
        return fail_errno(unpacking);
    futimens(fd, times);
    return 0;
}

static int make_file(struct unpacking *unpacking, int parent, const char *name)
{
    if (make_room(unpacking, parent, name) < 0)
        return -1;
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail_errno(unpacking);
    int ret = fill_file(unpacking, fd);
    if (close(fd) < 0 && ret == 0)
        ret = fail_errno(unpacking);
    return ret;
}

static int make_symlink(struct unpacking *unpacking, int parent, const char *name)
{
    const struct tar_entry *entry = &unpacking->reader->entry;
    const struct timespec times[2] = {time_of(entry), time_of(entry)};
    if (make_room(unpacking, parent, name) < 0)
        return -1;
    if (symlinkat(entry->link, parent, name) < 0)
        return fail_errno(unpacking);
    utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
    return 0;
}

/* To a file that came before, in an archive of somebody else's: nido's own have none. */
static int make_hard_link(struct unpacking *unpacking, int parent, const char *name)
{
    char target[sizeof(unpacking->path)];
    const char *last;
    if (unpacking->rules->names)
        return fail(unpacking, "a hard link is refused");
    if (clean_path(unpacking, unpacking->reader->entry.link, target) < 0)
        return -1;
    int directory = open_parent(unpacking, target, &last);
    if (directory < 0)
        return fail_errno(unpacking);
    int ret = make_room(unpacking, parent, name);
    if (ret == 0 && linkat(directory, last, parent, name, 0) < 0)
        ret = fail_errno(unpacking);
    close(directory);
    return ret;
}

/* Whether this is the directory that was asked for by the name of its contents, "DIRECTORY/.". A link in its place
 * would take the next copy to where it leads. */
static bool is_the_whole(const struct unpacking *unpacking, const char *path)
{
    char *const *names = unpacking->rules->names;
    while (names && *names && strcmp(*names, ".") != 0)
        names++;
    return names && *names && strcmp(path, unpacking->place->as) == 0;
}

static int make_entry(struct unpacking *unpacking, int parent, const char *name, const char *path)
{
    switch (unpacking->reader->entry.kind) {
    case TAR_FILE:
        return make_file(unpacking, parent, name);
    case TAR_DIRECTORY:
        return make_directory(unpacking, parent, name, path);
    case TAR_SYMLINK:
        return make_symlink(unpacking, parent, name);
    case TAR_HARD_LINK:
        return make_hard_link(unpacking, parent, name);
    default:
        return fail(unpacking, "a device, or a FIFO, is refused");
    }
}

static int take_entry(struct unpacking *unpacking)
{
    const struct tar_entry *entry = &unpacking->reader->entry;
    char path[sizeof(unpacking->path)];
    const char *name;
    snprintf(unpacking->path, sizeof(unpacking->path), "%s", entry->path);
    if (clean_path(unpacking, entry->path, path) < 0)
        return -1;
    if (!*path)
        return entry->kind == TAR_DIRECTORY ? 0 : fail(unpacking, "it has no name");
    if (is_the_whole(unpacking, path) && entry->kind != TAR_DIRECTORY)
        return fail(unpacking, "nobody asked for that");
    leave_directories(unpacking, path);
    int parent = open_parent(unpacking, path, &name);
    if (parent < 0)
        return fail_errno(unpacking);
    int ret = make_entry(unpacking, parent, name, path);
    close(parent);
    return ret;
}

int unpack_trees(struct tar_reader *reader, const struct unpack_place *place,
                 const struct unpack_rules *rules, char why[TAR_WHY_BYTES])
{
    struct unpacking *unpacking = calloc(1, sizeof(*unpacking));
    uint8_t *buffer = malloc(BUFFER_BYTES);
    int ret = unpacking && buffer ? 0 : -1;
    tar_explain(why, "", ret < 0 ? strerror(ENOMEM) : "");
    if (ret == 0)
        *unpacking = (struct unpacking){
            .reader = reader, .place = place, .rules = rules, .why = why, .buffer = buffer};
    while (ret == 0) {
        int got = tar_next(reader);
        if (got < 0)
            tar_explain(why, "", reader->why);
        if (got <= 0) {
            ret = got;
            break;
        }
        ret = take_entry(unpacking);
    }
    if (unpacking)
        leave_directories(unpacking, NULL);
    free(unpacking);
    free(buffer);
    return ret;
}

int unpack_open(struct unpack_place *place, const char *to, bool into, char why[TAR_WHY_BYTES])
{
    char parent[TAR_PATH_BYTES];
    size_t length = strlen(to);
    const char *slash = strrchr(to, '/');
    place->as[0] = '\0';
    place->directory = open(to, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (place->directory >= 0)
        return 0;
    bool nameable = length && to[length - 1] != '/' && length < sizeof(parent) && !into &&
                    (errno == ENOENT || errno == ENOTDIR);
    if (nameable) {
        copy_name(to, place->as);
        snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - to + 1) : 1,
                 slash ? to : ".");
        place->directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    if (place->directory >= 0 && strcmp(place->as, ".") != 0)
        return 0;
    tar_explain(why, to, errno == ENOTDIR ? "is no directory" : strerror(errno));
    if (place->directory >= 0)
        close(place->directory);
    return -1;
}
