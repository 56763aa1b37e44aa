/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES (128u << 10)

void copy_name(const char *path, char name[COPY_NAME_BYTES])
{
    size_t end = strlen(path), start;
    while (end && path[end - 1] == '/')
        end--;
    for (start = end; start && path[start - 1] != '/';)
        start--;
    snprintf(name, COPY_NAME_BYTES, "%.*s", (int)(end - start), path + start);
    if (!*name || strcmp(name, "..") == 0)
        snprintf(name, COPY_NAME_BYTES, ".");
}

/* ---- what is written ---- */

static bool flush(struct packer *packer)
{
    if (packer->error == 0 && packer->count)
        packer->error = packer->write(packer->self, packer->buffer, packer->count);
    packer->count = 0;
    return packer->error == 0;
}

static bool put(struct packer *packer, const void *bytes, size_t count)
{
    while (count && packer->error == 0) {
        size_t room = BUFFER_BYTES - packer->count, n = count < room ? count : room;
        memcpy(packer->buffer + packer->count, bytes, n);
        packer->count += n;
        bytes = (const char *)bytes + n;
        count -= n;
        if (packer->count == BUFFER_BYTES)
            flush(packer);
    }
    return packer->error == 0;
}

static void put_zeros(struct packer *packer, uint64_t count)
{
    static const uint8_t zeros[TAR_BLOCK_BYTES];
    for (; count && packer->error == 0; count -= count < sizeof(zeros) ? count : sizeof(zeros))
        put(packer, zeros, count < sizeof(zeros) ? (size_t)count : sizeof(zeros));
}

static void complain(struct packer *packer, const char *text)
{
    tar_explain(packer->why, packer->path, text);
    packer->complaints++;
    packer->complain(packer->self, packer->why);
}

/* ---- what is read ---- */

/* A file may shrink or grow meanwhile; its header has promised a size. */
static void put_content(struct packer *packer, int fd, uint64_t size)
{
    uint64_t left = size;
    while (left && flush(packer)) {
        size_t want = left < BUFFER_BYTES ? (size_t)left : BUFFER_BYTES;
        ssize_t n = read(fd, packer->buffer, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            complain(packer, n < 0 ? strerror(errno) : "it has become shorter while it was read");
            break;
        }
        packer->count = (size_t)n;
        left -= (uint64_t)n;
    }
    /* Those of /proc say that they are empty, whatever is in them. */
    if (size == 0 && read(fd, packer->header, 1) == 1)
        complain(packer, "it does not say how long it is, and is copied as an empty file");
    put_zeros(packer, left + -size % TAR_BLOCK_BYTES);
}

static void put_entry(struct packer *packer, struct tar_entry *entry, const struct stat *st)
{
    entry->mode = st->st_mode & 07777;
    entry->uid = st->st_uid;
    entry->gid = st->st_gid;
    entry->size = entry->kind == TAR_FILE ? (uint64_t)st->st_size : 0;
    entry->mtime_s = st->st_mtim.tv_sec;
    entry->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
    put(packer, packer->header, tar_put(entry, packer->header));
}

static void pack_one(struct packer *packer, struct tar_entry *entry, int directory,
                     const char *name, bool top);

/* A name behind the path and behind the entry's, which are as they were afterwards. */
static void pack_inside(struct packer *packer, struct tar_entry *entry, int directory,
                        const char *name)
{
    size_t path = strlen(packer->path), entry_path = strlen(entry->path);
    const char *slash = path && packer->path[path - 1] == '/' ? "" : "/";
    if (path + strlen(name) + 2 > TAR_PATH_BYTES ||
        entry_path + strlen(name) + 2 > TAR_PATH_BYTES) {
        complain(packer, "what is in there has names too long to copy");
        return;
    }
    sprintf(packer->path + path, "%s%s", slash, name);
    sprintf(entry->path + entry_path, "/%s", name);
    pack_one(packer, entry, directory, name, false);
    packer->path[path] = '\0';
    entry->path[entry_path] = '\0';
}

static void pack_directory(struct packer *packer, struct tar_entry *entry, int fd)
{
    DIR *directory = fdopendir(fd);
    struct dirent *inside;
    if (!directory) {
        complain(packer, strerror(errno));
        close(fd);
        return;
    }
    while (packer->error == 0 && (errno = 0, inside = readdir(directory)))
        if (strcmp(inside->d_name, ".") != 0 && strcmp(inside->d_name, "..") != 0)
            pack_inside(packer, entry, dirfd(directory), inside->d_name);
    if (packer->error == 0 && errno)
        complain(packer, strerror(errno));
    closedir(directory);
}

static void pack_link(struct packer *packer, struct tar_entry *entry, int directory,
                      const char *name, const struct stat *st)
{
    ssize_t n = readlinkat(directory, name, entry->link, sizeof(entry->link));
    if (n < 0 || n == sizeof(entry->link)) {
        complain(packer, strerror(n < 0 ? errno : ENAMETOOLONG));
        return;
    }
    entry->link[n] = '\0';
    entry->kind = TAR_SYMLINK;
    put_entry(packer, entry, st);
}

/* `follow`: 0, or O_NOFOLLOW where the name could have become a symbolic link meanwhile. */
static void pack_opened(struct packer *packer, struct tar_entry *entry, int directory,
                        const char *name, int follow)
{
    struct stat st;
    int fd = openat(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | follow);
    if (fd < 0 || fstat(fd, &st) < 0) {
        complain(packer, strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
        entry->kind = TAR_DIRECTORY;
        put_entry(packer, entry, &st);
        pack_directory(packer, entry, fd);
        return;
    } else if (S_ISREG(st.st_mode)) {
        entry->kind = TAR_FILE;
        put_entry(packer, entry, &st);
        put_content(packer, fd, (uint64_t)st.st_size);
    }
    if (fd >= 0)
        close(fd);
}

/* `top`: the name is a path that somebody gave, and a slash at its end follows a link. */
static void pack_one(struct packer *packer, struct tar_entry *entry, int directory,
                     const char *name, bool top)
{
    struct stat st;
    if (fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        complain(packer, strerror(errno));
    else if (S_ISLNK(st.st_mode))
        pack_link(packer, entry, directory, name, &st);
    else if (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode))
        pack_opened(packer, entry, directory, name, top ? 0 : O_NOFOLLOW);
    else
        complain(packer, "neither a file, a directory nor a symbolic link; it is left out");
}

int pack_trees(struct packer *packer, char *const *paths)
{
    struct tar_entry *entry = calloc(1, sizeof(*entry));
    packer->buffer = malloc(BUFFER_BYTES);
    packer->error = entry && packer->buffer ? 0 : -ENOMEM;
    for (; *paths && packer->error == 0; paths++) {
        snprintf(packer->path, sizeof(packer->path), "%s", *paths);
        copy_name(*paths, entry->path);
        if (strlen(*paths) >= sizeof(packer->path))
            complain(packer, strerror(ENAMETOOLONG));
        else
            pack_one(packer, entry, AT_FDCWD, *paths, true);
    }
    put_zeros(packer, TAR_END_BYTES);
    flush(packer);
    free(packer->buffer);
    packer->buffer = NULL;
    free(entry);
    return packer->error;
}
