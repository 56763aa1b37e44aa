/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/kernel_cache.h"

#include "base/log.h"
#include "base/own.h"
#include "firmware/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX ".vmlinux"
#define MAKING "making-"

static bool entry_name(const struct bootfile *packed, char *name, size_t name_bytes)
{
    struct stat st;
    if (fstat(packed->fd, &st) < 0)
        return false;
    int n = snprintf(name, name_bytes, "%jx-%jx-%jx-%jx.%09lx-%jx.%09lx" SUFFIX,
                     (uintmax_t)st.st_dev, (uintmax_t)st.st_ino, (uintmax_t)st.st_size,
                     (uintmax_t)st.st_mtim.tv_sec, (unsigned long)st.st_mtim.tv_nsec,
                     (uintmax_t)st.st_ctim.tv_sec, (unsigned long)st.st_ctim.tv_nsec);
    return n > 0 && (size_t)n < name_bytes;
}

/* Whether only this user can have written it. */
static bool is_ours(const struct stat *st)
{
    return st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

static int open_directory(const char *directory)
{
    own_fd int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !is_ours(&st))
        return -1;
    return own_take_fd(&fd);
}

bool kernel_cache_open(const char *directory, const struct bootfile *packed, uint64_t size_bytes,
                       struct bootfile *unpacked)
{
    char name[NAME_MAX];
    struct stat st;
    if (!directory || !entry_name(packed, name, sizeof(name)))
        return false;
    own_fd int directory_fd = open_directory(directory);
    own_fd int fd = directory_fd < 0 ? -1
                                     : openat(directory_fd, name,
                                              O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !is_ours(&st) || st.st_size == 0 ||
        (size_bytes && (uint64_t)st.st_size != size_bytes))
        return false;
    *unpacked = (struct bootfile){.fd = own_take_fd(&fd), .size_bytes = (uint64_t)st.st_size};
    return true;
}

/* As mkdir -p, with the last one private. */
static void make_directories(const char *directory)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s", directory) >= (int)sizeof(path))
        return;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    mkdir(path, 0700);
}

static bool write_all(int fd, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    while (count) {
        ssize_t n = write(fd, at, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool is_entry(const char *name)
{
    size_t length = strlen(name), suffix = strlen(SUFFIX);
    return length > suffix && strcmp(name + length - suffix, SUFFIX) == 0;
}

static bool is_before(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* True: `oldest` is one entry too many. */
static bool find_surplus(int directory_fd, char *oldest, size_t oldest_bytes)
{
    unsigned count = 0;
    struct timespec oldest_time = {0};
    DIR *listing = fdopendir(dup(directory_fd));
    if (!listing)
        return false;
    rewinddir(listing);
    for (struct dirent *entry = readdir(listing); entry; entry = readdir(listing)) {
        struct stat st;
        if (!is_entry(entry->d_name) || fstatat(directory_fd, entry->d_name, &st, 0) < 0)
            continue;
        if (count++ == 0 || is_before(st.st_mtim, oldest_time)) {
            oldest_time = st.st_mtim;
            snprintf(oldest, oldest_bytes, "%s", entry->d_name);
        }
    }
    closedir(listing);
    return count > KERNEL_CACHE_ENTRIES_MAX;
}

/* A process in another container may have the same number. */
static int create_temporary(int directory_fd, char name[NAME_MAX])
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(name, NAME_MAX, MAKING "%ld-%jx-%lx", (long)getpid(), (uintmax_t)now.tv_sec,
             (unsigned long)now.tv_nsec);
    return openat(directory_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

void kernel_cache_store(const char *directory, const struct bootfile *packed, const void *bytes,
                        size_t size_bytes)
{
    char name[NAME_MAX], temporary[NAME_MAX], surplus[NAME_MAX];
    if (!directory || !entry_name(packed, name, sizeof(name)))
        return;
    make_directories(directory);
    own_fd int directory_fd = open_directory(directory);
    if (directory_fd < 0)
        return;
    leftovers_sweep(directory_fd, MAKING);
    own_fd int fd = create_temporary(directory_fd, temporary);
    if (fd < 0)
        return;
    /* Without the sync, a host that loses power could keep the name and lose the bytes. */
    if (!write_all(fd, bytes, size_bytes) || fdatasync(fd) < 0 ||
        renameat(directory_fd, temporary, directory_fd, name) < 0) {
        log_info("kernel cache %s: not kept: %s", directory, strerror(errno));
        unlinkat(directory_fd, temporary, 0);
        return;
    }
    /* Another may have removed it first. */
    while (find_surplus(directory_fd, surplus, sizeof(surplus)) &&
           (unlinkat(directory_fd, surplus, 0) == 0 || errno == ENOENT))
        ;
}
