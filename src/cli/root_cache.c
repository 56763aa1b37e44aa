/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/root_cache.h"

#include "base/own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#define SUFFIX ".squashfs"
#define MAKING "making-"
#define SEEN   "seen-"
/* What a clock of a file system may lag behind. */
#define SETTLED_S  2
#define SEEN_BYTES 128u
#define NOTED_S    (24 * 3600)

/* ---- the directory ---- */

static int directory_path(char path[PATH_MAX], struct nido_error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = -1;
    if (cache && cache[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/nido/roots", cache);
    else if (home && home[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/.cache/nido/roots", home);
    if (length < 0)
        return error_set(err, ENOENT, "there is no place for roots: set HOME, or XDG_CACHE_HOME");
    return length < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
}

static void make_directories(const char *directory)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s", directory);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    mkdir(path, 0700);
}

/* Whether only this user can have written it. */
static bool is_ours(const struct stat *st)
{
    return st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

static bool is_there(const struct root_cache *cache, const char *key, char path[PATH_MAX])
{
    struct stat st;
    char name[ROOT_KEY_BYTES + sizeof(SUFFIX)];
    snprintf(name, sizeof(name), "%s" SUFFIX, key);
    if (snprintf(path, PATH_MAX, "%s/%s", cache->directory, name) >= PATH_MAX)
        return false;
    return fstatat(cache->directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(st.st_mode) && is_ours(&st) && st.st_size > 0;
}

/* The time of a file is that of its last use. */
static bool is_unused(const struct root_cache *cache, const char *name, time_t for_s)
{
    struct stat st;
    return fstatat(cache->directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           time(NULL) - st.st_mtime > for_s;
}

/* Not each time: most starts only read what is here. */
static void note_use(const struct root_cache *cache, const char *name)
{
    /* Who cannot change its time cannot remove it either. */
    if (is_unused(cache, name, NOTED_S) &&
        utimensat(cache->directory_fd, name, NULL, AT_SYMLINK_NOFOLLOW) < 0)
        return;
}

bool root_cache_find(const struct root_cache *cache, const char *key, char path[PATH_MAX])
{
    /* Whoever removes what is unused has done so before this, or sees that it is used. */
    flock(cache->directory_fd, LOCK_SH);
    bool found = is_there(cache, key, path);
    if (found)
        note_use(cache, strrchr(path, '/') + 1);
    flock(cache->directory_fd, LOCK_UN);
    return found;
}

/* An image in the making that needs a name, and whose maker is gone: nobody holds its lock. */
static void sweep_image(const struct root_cache *cache, const char *name)
{
    own_fd int file =
        openat(cache->directory_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0)
        unlinkat(cache->directory_fd, name, 0);
}

/* The digest of a file whose image was removed, or that is not asked for any more. */
static void sweep_memory(const struct root_cache *cache, const char *name)
{
    char key[ROOT_KEY_BYTES], path[PATH_MAX];
    ssize_t n = readlinkat(cache->directory_fd, name, key, sizeof(key) - 1);
    key[n > 0 ? n : 0] = '\0';
    if (!is_there(cache, key, path) || is_unused(cache, name, ROOT_CACHE_UNUSED_S))
        unlinkat(cache->directory_fd, name, 0);
}

static void sweep(const struct root_cache *cache)
{
    int fd = openat(cache->directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        if (strncmp(entry->d_name, MAKING, strlen(MAKING)) == 0)
            sweep_image(cache, entry->d_name);
        else if (strncmp(entry->d_name, SEEN, strlen(SEEN)) == 0)
            sweep_memory(cache, entry->d_name);
    }
    if (listing)
        closedir(listing);
}

int root_cache_open(struct root_cache *cache, struct nido_error *err)
{
    struct stat st;
    cache->directory_fd = -1;
    int ret = directory_path(cache->directory, err);
    if (ret < 0)
        return ret;
    make_directories(cache->directory);
    cache->directory_fd = open(cache->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cache->directory_fd < 0 || fstat(cache->directory_fd, &st) < 0)
        return error_errno(err, errno, "%s: cannot be made", cache->directory);
    if (!is_ours(&st))
        return error_set(err, EPERM, "%s: others may write there; chmod it to 700, or remove it",
                         cache->directory);
    sweep(cache);
    return 0;
}

void root_cache_close(struct root_cache *cache)
{
    if (cache->directory_fd >= 0)
        close(cache->directory_fd);
    cache->directory_fd = -1;
}

/* ---- images ---- */

static bool is_image(const char *name)
{
    size_t length = strlen(name);
    return length > strlen(SUFFIX) && strcmp(name + length - strlen(SUFFIX), SUFFIX) == 0;
}

static void remove_unused(const struct root_cache *cache)
{
    int fd = openat(cache->directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (listing && flock(cache->directory_fd, LOCK_EX) == 0)
        for (struct dirent *entry; (entry = readdir(listing));)
            if (is_image(entry->d_name) && is_unused(cache, entry->d_name, ROOT_CACHE_UNUSED_S))
                unlinkat(cache->directory_fd, entry->d_name, 0);
    flock(cache->directory_fd, LOCK_UN);
    if (listing)
        closedir(listing);
}

static int create_named(const struct root_cache *cache, struct root_making *making)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(making->temporary, sizeof(making->temporary), MAKING "%ld-%jx-%lx", (long)getpid(),
             (uintmax_t)now.tv_sec, now.tv_nsec);
    making->fd = openat(cache->directory_fd, making->temporary,
                        O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (making->fd < 0)
        making->temporary[0] = '\0';
    return making->fd;
}

/* False: another's sweep came between, and has its name or is about to. Where there are no locks, no
 * sweep removes anything. */
static bool lock_named(const struct root_making *making)
{
    struct stat st;
    if (flock(making->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return false;
    return fstat(making->fd, &st) < 0 || st.st_nlink > 0;
}

/* Not every file system has files without a name. The lock says that the maker, or a program that it
 * started, lives. */
static int begin_named(const struct root_cache *cache, struct root_making *making)
{
    while (create_named(cache, making) >= 0 && !lock_named(making))
        close(making->fd);
    return making->fd;
}

int root_cache_begin(const struct root_cache *cache, struct root_making *making,
                     struct nido_error *err)
{
    making->temporary[0] = '\0';
    making->fd = openat(cache->directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (making->fd < 0 && begin_named(cache, making) < 0)
        return error_errno(err, errno, "%s: cannot be written", cache->directory);
    return 0;
}

int root_cache_keep(const struct root_cache *cache, struct root_making *making, const char *key,
                    char path[PATH_MAX], struct nido_error *err)
{
    char name[ROOT_KEY_BYTES + sizeof(SUFFIX)], by_fd[32];
    snprintf(name, sizeof(name), "%s" SUFFIX, key);
    snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", making->fd);
    /* Without the sync, a host that loses power could keep the name and lose the bytes. */
    if (fdatasync(making->fd) < 0)
        return error_errno(err, errno, "%s: cannot be written", cache->directory);
    const char *from = making->temporary[0] ? making->temporary : by_fd;
    if (linkat(cache->directory_fd, from, cache->directory_fd, name, AT_SYMLINK_FOLLOW) < 0 &&
        errno != EEXIST)
        return error_errno(err, errno, "%s/%s: cannot be made", cache->directory, name);
    remove_unused(cache);
    if (is_there(cache, key, path))
        return 0;
    return error_set(err, EEXIST, "%s/%s: what is there is no image of nido's; remove it",
                     cache->directory, name);
}

void root_cache_end(const struct root_cache *cache, struct root_making *making)
{
    if (making->temporary[0])
        unlinkat(cache->directory_fd, making->temporary, 0);
    if (making->fd >= 0)
        close(making->fd);
    *making = (struct root_making){.fd = -1};
}

/* ---- digests of files ---- */

static void seen_name(const struct stat *file, char name[SEEN_BYTES])
{
    snprintf(name, SEEN_BYTES, SEEN "%jx-%jx-%jx-%jx.%lx-%jx.%lx", (uintmax_t)file->st_dev,
             (uintmax_t)file->st_ino, (uintmax_t)file->st_size, (uintmax_t)file->st_mtim.tv_sec,
             (unsigned long)file->st_mtim.tv_nsec, (uintmax_t)file->st_ctim.tv_sec,
             (unsigned long)file->st_ctim.tv_nsec);
}

bool root_cache_recall(const struct root_cache *cache, const struct stat *file,
                       char key[ROOT_KEY_BYTES])
{
    char name[SEEN_BYTES], path[PATH_MAX];
    seen_name(file, name);
    ssize_t n = readlinkat(cache->directory_fd, name, key, ROOT_KEY_BYTES - 1);
    key[n > 0 ? n : 0] = '\0';
    if (!is_there(cache, key, path))
        return false;
    note_use(cache, name);
    return true;
}

/* A file that has just been written could be written again within one tick of its clock. */
void root_cache_remember(const struct root_cache *cache, const struct stat *file, const char *key)
{
    char name[SEEN_BYTES];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - file->st_ctim.tv_sec < SETTLED_S)
        return;
    seen_name(file, name);
    /* Where it cannot be remembered, it is found out again. */
    if (symlinkat(key, cache->directory_fd, name) < 0)
        return;
}
