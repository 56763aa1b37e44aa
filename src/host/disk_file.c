/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a disk's file: what it is, whether it is free, how large it is and what it needs.
 *
 * The lock is of the open-file-description kind: it belongs to the descriptor, so two disks in one
 * process collide too, and no close() of another descriptor drops it. QEMU and qemu-img mark single
 * bytes of an image with such locks (block/file-posix.c there); nido speaks the same language:
 *
 *     byte 100 + p  read-locked by who uses permission p
 *     byte 200 + p  read-locked by who does not let others use p
 *     p: 0 consistent read, 1 write, 3 resize
 *
 * A writer write-locks the whole file and so collides with everyone. A reader locks what QEMU's
 * readers lock, then looks whether anyone writes.
 */
#include "host/disk_file.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PAGE_CACHE_BYTES   4096u
#define TRIES              50u
#define PAUSE_NS           10000000
#define LOCK_USES_READ     100
#define LOCK_USES_WRITE    101
#define LOCK_DENIES_WRITE  201
#define LOCK_DENIES_RESIZE 203

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISCHR(mode))
        return "a character device";
    if (S_ISFIFO(mode))
        return "a pipe";
    return S_ISSOCK(mode) ? "a socket" : NULL;
}

static int check_kind(const struct stat *st, const char *path, struct nido_error *err)
{
    const char *kind = kind_of(st->st_mode);
    if (!kind)
        return 0;
    return error_set(err, S_ISDIR(st->st_mode) ? EISDIR : EINVAL,
                     "disk %s: this is %s; name an image file or a block device", path, kind);
}

static int tell_no_access(const char *path, bool read_only, struct nido_error *err)
{
    if (!read_only && faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0)
        return error_set(err, EACCES,
                         "disk %s: no permission to write it; attach it read-only with ,ro, or "
                         "change its owner or mode",
                         path);
    return error_set(err, EACCES, "disk %s: no permission to read it; change its owner or mode",
                     path);
}

static int tell_open_failed(const struct disk_config *config, int code, struct nido_error *err)
{
    const char *path = config->path;
    switch (code) {
    case ENOENT:
        return error_set(err, code,
                         "disk %s: there is no such file; check the path, or make an empty disk "
                         "with truncate -s 10G %s",
                         path, path);
    case EACCES:
        return tell_no_access(path, config->read_only, err);
    case EROFS:
        return error_set(
            err, code, "disk %s: its file system is read-only; attach it read-only with ,ro", path);
    case EBUSY:
        return error_set(err, code,
                         "disk %s: it is mounted or in use; unmount it, or attach it read-only "
                         "with ,ro",
                         path);
    case EINVAL:
        if (config->direct)
            return error_set(err, code,
                             "disk %s: its file system cannot bypass the page cache; leave out "
                             "direct",
                             path);
        break;
    }
    return error_errno(err, code, "disk %s: cannot open it", path);
}

/* O_EXCL on a block device refuses what is mounted, or claimed by md, dm and others. */
static int open_flags(const struct disk_config *config, bool block_device)
{
    int flags = O_CLOEXEC | O_NOCTTY | (config->read_only ? O_RDONLY : O_RDWR);
    if (config->direct)
        flags |= O_DIRECT;
    if (block_device && !config->read_only)
        flags |= O_EXCL;
    return flags;
}

/* A process that was killed keeps its files, with their locks and claims, until the kernel has
 * ended its io_uring requests: up to 90 ms were seen. Whoever starts the next machine at once
 * should not be told that the last one runs. False: that was long enough. */
static bool pause_before_try(unsigned tries_done)
{
    if (tries_done == TRIES)
        return false;
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    return true;
}

static int open_patiently(const char *path, int flags)
{
    unsigned tries = 0;
    int fd;
    do
        fd = open(path, flags);
    while (fd < 0 && errno == EBUSY && pause_before_try(tries++));
    return fd;
}

/* Looks before it opens: opening a pipe waits for its other end, opening a tape rewinds it. */
static int open_checked(struct disk_file *file, const struct disk_config *config, struct stat *st,
                        struct nido_error *err)
{
    if (stat(config->path, st) < 0)
        return tell_open_failed(config, errno, err);
    int ret = check_kind(st, config->path, err);
    if (ret < 0)
        return ret;
    file->block_device = S_ISBLK(st->st_mode);
    own_fd int fd = open_patiently(config->path, open_flags(config, file->block_device));
    if (fd < 0 || fstat(fd, st) < 0)
        return tell_open_failed(config, errno, err);
    if (S_ISBLK(st->st_mode) != file->block_device || kind_of(st->st_mode))
        return error_set(err, EAGAIN, "disk %s: it was replaced while it was opened", config->path);
    file->fd = own_take_fd(&fd);
    return 0;
}

/* 0, or a negative errno; -EAGAIN: somebody else holds a lock that excludes it. */
static int lock_bytes(int fd, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

static int lock_for_reading(int fd)
{
    static const off_t bytes[] = {LOCK_USES_READ, LOCK_DENIES_WRITE, LOCK_DENIES_RESIZE};
    for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
        int ret = lock_bytes(fd, F_RDLCK, bytes[i], 1);
        if (ret < 0)
            return ret;
    }
    struct flock writer = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_USES_WRITE, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &writer) == 0 && writer.l_type != F_UNLCK)
        return -EAGAIN;
    return 0;
}

static int try_lock(int fd, bool read_only)
{
    return read_only ? lock_for_reading(fd) : lock_bytes(fd, F_WRLCK, 0, 0);
}

static int lock_patiently(int fd, bool read_only)
{
    unsigned tries = 0;
    int ret;
    do
        ret = try_lock(fd, read_only);
    while (ret == -EAGAIN && pause_before_try(tries++));
    return ret;
}

static int lock_file(int fd, const struct disk_config *config, struct nido_error *err)
{
    int ret = lock_patiently(fd, config->read_only);
    if (ret == -EAGAIN)
        return error_set(err, EAGAIN,
                         "disk %s: another process is using it (%s lock); stop it, or attach it "
                         "read-only with ,ro in both",
                         config->path, config->read_only ? "read" : "write");
    if (ret < 0)
        log_warn("disk %s: its file system cannot lock (%s); see to it that no other machine "
                 "writes it",
                 config->path, strerror(-ret));
    return 0;
}

static int measure_size(struct disk_file *file, const struct stat *st,
                        const struct disk_config *config, struct nido_error *err)
{
    const char *path = config->path;
    file->size_bytes = (uint64_t)st->st_size;
    if (file->block_device && ioctl(file->fd, BLKGETSIZE64, &file->size_bytes) < 0)
        return error_errno(err, errno, "disk %s: cannot learn its size", path);
    return 0;
}

/* A file that accepts a hole beyond its end, where there is nothing, accepts one anywhere. */
static bool can_punch(const struct disk_file *file)
{
    return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)align_up(file->size_bytes, PAGE_CACHE_BYTES), PAGE_CACHE_BYTES) == 0;
}

static void measure_regular(struct disk_file *file, const struct stat *st, bool read_only)
{
    uint64_t unit = (uint64_t)st->st_blksize;
    if (!is_power_of_two(unit) || unit < DISK_SECTOR_BYTES || unit > MIB)
        unit = PAGE_CACHE_BYTES;
    file->block_bytes = DISK_SECTOR_BYTES;
    file->physical_bytes = PAGE_CACHE_BYTES;
    if (!read_only && can_punch(file))
        file->discard_bytes = (uint32_t)unit;
}

/* 0 where it cannot discard. A partition's queue is its disk's. */
static uint32_t discard_granularity(const struct stat *st)
{
    static const char *const places[] = {"", "../"};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        char path[96];
        unsigned bytes;
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/discard_granularity",
                 major(st->st_rdev), minor(st->st_rdev), places[i]);
        own_file FILE *attribute = fopen(path, "re");
        if (attribute && fscanf(attribute, "%u", &bytes) == 1)
            return bytes;
    }
    return 0;
}

static int measure_block_device(struct disk_file *file, const struct stat *st, const char *path,
                                bool read_only, struct nido_error *err)
{
    int logical = 0;
    unsigned physical = 0;
    if (ioctl(file->fd, BLKSSZGET, &logical) < 0 || ioctl(file->fd, BLKPBSZGET, &physical) < 0)
        return error_errno(err, errno, "disk %s: cannot learn its block size", path);
    file->block_bytes = MAX((uint32_t)logical, DISK_SECTOR_BYTES);
    file->physical_bytes = MAX(physical, file->block_bytes);
    if (!read_only)
        file->discard_bytes = discard_granularity(st);
    return 0;
}

/* Kernels before 6.1 do not tell; then one read of 512 bytes does. */
static void measure_direct(struct disk_file *file)
{
    struct statx stx;
    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align) {
        file->block_bytes = MAX(stx.stx_dio_offset_align, DISK_SECTOR_BYTES);
        file->memory_align_bytes = MAX(stx.stx_dio_mem_align, 1u);
    } else {
        char room[2 * PAGE_CACHE_BYTES];
        char *page = room + (-(uintptr_t)room & (PAGE_CACHE_BYTES - 1));
        bool sectors = pread(file->fd, page, DISK_SECTOR_BYTES, 0) == (ssize_t)DISK_SECTOR_BYTES;
        file->block_bytes = MAX(file->block_bytes, sectors ? DISK_SECTOR_BYTES : PAGE_CACHE_BYTES);
        file->memory_align_bytes = file->block_bytes;
    }
    file->physical_bytes = MAX(file->physical_bytes, file->block_bytes);
}

static int measure(struct disk_file *file, const struct stat *st, const struct disk_config *config,
                   struct nido_error *err)
{
    int ret = measure_size(file, st, config, err);
    if (ret < 0)
        return ret;
    if (file->block_device)
        ret = measure_block_device(file, st, config->path, config->read_only, err);
    else
        measure_regular(file, st, config->read_only);
    if (ret < 0)
        return ret;
    file->memory_align_bytes = 1;
    if (config->direct)
        measure_direct(file);
    return 0;
}

int disk_file_open(struct disk_file *file, const struct disk_config *config, struct nido_error *err)
{
    struct stat st;
    *file = (struct disk_file){.fd = -1, .direct = config->direct};
    int ret = open_checked(file, config, &st, err);
    if (ret == 0)
        ret = lock_file(file->fd, config, err);
    if (ret == 0 && fstat(file->fd, &st) < 0)
        ret = tell_open_failed(config, errno, err);
    if (ret == 0)
        ret = measure(file, &st, config, err);
    if (ret < 0)
        disk_file_close(file);
    return ret;
}

int disk_file_adopt(struct disk_file *file, int fd, const struct disk_config *config,
                    struct nido_error *err)
{
    struct stat st;
    *file = (struct disk_file){.fd = fd};
    int ret =
        fstat(fd, &st) < 0 ? tell_open_failed(config, errno, err) : measure(file, &st, config, err);
    if (ret < 0)
        disk_file_close(file);
    return ret;
}

/* A request that io_uring still finishes somewhere would keep the file open, and the lock with it:
 * let go of the lock first. */
void disk_file_close(struct disk_file *file)
{
    if (file->fd < 0)
        return;
    lock_bytes(file->fd, F_UNLCK, 0, 0);
    close(own_take_fd(&file->fd));
}

static const struct {
    const char *name; /* for people, and for qemu-img -f */
    const char *magic;
    size_t magic_bytes;
    size_t offset;
} formats[] = {
    {"qcow2", "QFI\xfb", 4, 0},
    {"qed", "QED\0", 4, 0},
    {"vmdk", "KDMV", 4, 0},
    {"vmdk", "COWD", 4, 0},
    {"vmdk", "# Disk DescriptorFile", 21, 0},
    {"vdi", "\x7f\x10\xda\xbe", 4, 64},
    {"vhdx", "vhdxfile", 8, 0},
    {"vpc", "conectix", 8, 0},
    {"parallels", "WithoutFreeSpace", 16, 0},
    {"parallels", "WithouFreSpacExt", 16, 0},
};

static int expect_no_format(const struct disk_file *file, const char *path, struct nido_error *err)
{
    const size_t wanted = file->block_bytes; /* the least that O_DIRECT reads */
    const size_t room = MAX(wanted, (size_t)PAGE_CACHE_BYTES);
    own_mem char *start = aligned_alloc(room, room);
    if (!start)
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    memset(start, 0, room);
    if (pread(file->fd, start, wanted, 0) < 0)
        return error_errno(err, errno, "disk %s: cannot read its start", path);
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (memcmp(start + formats[i].offset, formats[i].magic, formats[i].magic_bytes) == 0)
            return error_set(
                err, EINVAL,
                "disk %s: this is a %s image; %sconvert it with qemu-img convert -f %s "
                "-O raw %s disk.raw, and attach disk.raw; or say format=raw if a guest "
                "wrote that to a raw disk",
                path, formats[i].name, i == 0 ? "say format=qcow2, or " : "", formats[i].name,
                path);
    return 0;
}

int disk_file_expect_raw(const struct disk_file *file, const struct disk_config *config,
                         struct nido_error *err)
{
    const char *path = config->path;
    int ret = config->raw_for_sure ? 0 : expect_no_format(file, path, err);
    if (ret < 0)
        return ret;
    if (file->size_bytes == 0)
        return error_set(err, EINVAL,
                         "disk %s: it is empty; give it a size with truncate -s 10G %s", path,
                         path);
    if (file->size_bytes % DISK_SECTOR_BYTES)
        return error_set(err, EINVAL,
                         "disk %s: its size of %llu bytes is not a multiple of 512; round it up "
                         "with truncate -s %%512 %s",
                         path, (unsigned long long)file->size_bytes, path);
    if (file->size_bytes % file->block_bytes)
        return error_set(err, EINVAL,
                         "disk %s: its size is not a multiple of the %u bytes that direct needs "
                         "here; leave out direct, or round it up with truncate -s %%%u %s",
                         path, file->block_bytes, file->block_bytes, path);
    return 0;
}
