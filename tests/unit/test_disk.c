/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw disks on real files, once for each I/O engine. What a healthy host never does (fail a flush,
 * stop half-way, refuse a ring) is done to us by the functions of the C library and of liburing
 * that this program puts in front of the real ones.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "host/disk.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/loop_device.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_BYTES (4 * MIB)

/* ---- a host that misbehaves on demand ---- */

static struct {
    _Atomic int fdatasync_calls, fdatasync_error;
    _Atomic int fallocate_error; /* for every mode */
    _Atomic int short_transfers; /* so many calls move at most 1000 bytes */
    _Atomic int interruptions;   /* so many calls fail with EINTR */
    _Atomic int write_error;
    _Atomic int ring_error;   /* io_uring_queue_init_params() */
    _Atomic int submit_error; /* io_uring_submit(), after so many good calls */
    _Atomic int good_submits;
} host;

static bool take_one(_Atomic int *count)
{
    return atomic_load(count) > 0 && atomic_fetch_sub(count, 1) > 0;
}

int fdatasync(int fd)
{
    atomic_fetch_add(&host.fdatasync_calls, 1);
    errno = host.fdatasync_error;
    return errno ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    errno = host.fallocate_error;
    return errno ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

static bool misbehaves(const struct iovec **iov, int *count, struct iovec *first)
{
    if (take_one(&host.interruptions)) {
        errno = EINTR;
        return true;
    }
    if (take_one(&host.short_transfers)) {
        *first = (struct iovec){(*iov)->iov_base, MIN((*iov)->iov_len, (size_t)1000)};
        *iov = first;
        *count = 1;
    }
    return false;
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec first;
    if (misbehaves(&iov, &count, &first))
        return -1;
    return syscall(SYS_preadv, fd, iov, count, offset, 0);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec first;
    if (misbehaves(&iov, &count, &first))
        return -1;
    errno = host.write_error;
    return errno ? -1 : syscall(SYS_pwritev, fd, iov, count, offset, 0);
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                               struct io_uring_params *params)
{
    int (*real)(unsigned, struct io_uring *, struct io_uring_params *);
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_queue_init_params");
    return host.ring_error ? -host.ring_error : real(entries, ring, params);
}

int io_uring_submit(struct io_uring *ring)
{
    int (*real)(struct io_uring *);
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
    if (host.submit_error && !take_one(&host.good_submits))
        return -host.submit_error;
    return real(ring);
}

/* ---- a disk and its loop ---- */

struct bench {
    char path[256];
    struct loop *loop;
    struct disk *disk;
};

struct op {
    struct disk_request request;
    struct iovec iov[4];
    int result;
    sem_t *done;
};

static void make_image(char *path, size_t room, uint64_t bytes)
{
    const char *directory = getenv("TMPDIR");
    snprintf(path, room, "%s/nido-disk-XXXXXX", directory ? directory : ".");
    own_fd int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
}

static void open_disk(struct bench *bench, bool read_only, bool direct)
{
    struct nido_error err;
    struct disk_config config = {.path = bench->path, .read_only = read_only, .direct = direct};
    if (disk_open_raw(&bench->disk, &config, bench->loop, &err) < 0)
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    memset(&host, 0, sizeof(host));
    make_image(bench->path, sizeof(bench->path), IMAGE_BYTES);
    assert_int_equal(loop_create(&bench->loop, "loop/test", NULL), 0);
    open_disk(bench, false, false);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
    *state = bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    loop_stop(bench->loop);
    disk_close(bench->disk);
    loop_destroy(bench->loop);
    unlink(bench->path);
    free(bench);
    return 0;
}

/* The same image, opened another way. */
static void reopen(struct bench *bench, bool read_only, bool direct)
{
    loop_stop(bench->loop);
    disk_close(bench->disk);
    open_disk(bench, read_only, direct);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

static void swap_paths(char *a, char *b)
{
    char old[sizeof(((struct bench *)0)->path)];
    strcpy(old, a);
    strcpy(a, b);
    strcpy(b, old);
}

static void on_done(struct disk_request *request, int result)
{
    struct op *op = container_of(request, struct op, request);
    op->result = result;
    sem_post(op->done);
}

struct submission {
    struct loop_task task;
    struct disk *disk;
    struct op *ops;
    unsigned count;
};

static void submit_all(struct loop_task *task)
{
    struct submission *submission = container_of(task, struct submission, task);
    for (unsigned i = 0; i < submission->count; i++)
        disk_submit(submission->disk, &submission->ops[i].request);
    disk_commit(submission->disk);
}

static void start(struct bench *bench, struct op *ops, unsigned count, sem_t *done)
{
    struct submission submission = {{.run = submit_all}, bench->disk, ops, count};
    for (unsigned i = 0; i < count; i++) {
        ops[i].done = done;
        ops[i].request.done = on_done;
    }
    loop_call(bench->loop, &submission.task);
}

static void run_all(struct bench *bench, struct op *ops, unsigned count)
{
    sem_t done;
    sem_init(&done, 0, 0);
    start(bench, ops, count, &done);
    for (unsigned i = 0; i < count; i++)
        sem_wait(&done);
    sem_destroy(&done);
}

static struct op *op_init(struct op *op, enum disk_op code, uint64_t offset, void *data,
                          uint64_t length)
{
    *op = (struct op){.request = {.op = code, .offset_bytes = offset, .length_bytes = length}};
    op->iov[0] = (struct iovec){data, length};
    op->request.iov = op->iov;
    op->request.iov_count = 1;
    return op;
}

static int run_one(struct bench *bench, enum disk_op code, uint64_t offset, void *data,
                   uint64_t length)
{
    struct op op;
    run_all(bench, op_init(&op, code, offset, data, length), 1);
    return op.result;
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

static uint64_t stored_bytes(const struct bench *bench)
{
    struct stat st;
    own_fd int fd = open(bench->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fsync(fd), 0); /* delayed allocation counts nothing */
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* A file system may need some more or less for its own books. */
static void expect_stored(const struct bench *bench, uint64_t bytes)
{
    assert_in_range(stored_bytes(bench), bytes - 64 * KIB, bytes + 64 * KIB);
}

/* The whole image, filled. */
static uint8_t *written_image(struct bench *bench)
{
    uint8_t *image = malloc(IMAGE_BYTES);
    fill(image, IMAGE_BYTES, 3);
    assert_int_equal(run_one(bench, DISK_WRITE, 0, image, IMAGE_BYTES), 0);
    return image;
}

static void expect_range(struct bench *bench, uint64_t offset, const uint8_t *bytes, size_t length)
{
    own_mem uint8_t *got = malloc(length);
    assert_int_equal(run_one(bench, DISK_READ, offset, got, length), 0);
    assert_memory_equal(got, bytes, length);
}

static void expect_zeroes(struct bench *bench, uint64_t offset, size_t length)
{
    own_mem uint8_t *zeroes = calloc(1, length);
    expect_range(bench, offset, zeroes, length);
}

/* ---- data ---- */

/* More than a ring has entries and completions. */
static void disk_reads_back_what_was_written_with_many_requests_at_once(void **state)
{
    enum { COUNT = 1000, BYTES = 4096 };
    struct bench *bench = *state;
    own_mem struct op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *out = malloc(COUNT * BYTES), *in = calloc(COUNT, BYTES);
    fill(out, COUNT * BYTES, 1);
    for (unsigned i = 0; i < COUNT; i++)
        op_init(&ops[i], DISK_WRITE, (uint64_t)i * BYTES, out + i * BYTES, BYTES);
    run_all(bench, ops, COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(ops[i].result, 0);

    for (unsigned i = 0; i < COUNT; i++)
        op_init(&ops[i], DISK_READ, (uint64_t)i * BYTES, in + i * BYTES, BYTES);
    run_all(bench, ops, COUNT);
    assert_memory_equal(in, out, COUNT * BYTES);
    assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
}

static void disk_gathers_and_scatters(void **state)
{
    struct bench *bench = *state;
    uint8_t out[4096], in[4096] = {0};
    struct op op;
    fill(out, sizeof(out), 9);
    op_init(&op, DISK_WRITE_THROUGH, 512, out, sizeof(out));
    op.iov[0].iov_len = 100;
    op.iov[1] = (struct iovec){out + 100, 2900};
    op.iov[2] = (struct iovec){out + 3000, 1096};
    op.request.iov_count = 3;
    run_all(bench, &op, 1);
    assert_int_equal(op.result, 0);

    op_init(&op, DISK_READ, 512, in, 4000);
    op.iov[1] = (struct iovec){in + 4000, 96};
    op.request.length_bytes = 4096;
    op.request.iov_count = 2;
    run_all(bench, &op, 1);
    assert_int_equal(op.result, 0);
    assert_memory_equal(in, out, sizeof(out));
}

static void disk_fails_to_read_beyond_the_end_of_a_shrunk_image(void **state)
{
    struct bench *bench = *state;
    uint8_t bytes[8192];
    assert_int_equal(truncate(bench->path, 4096), 0);
    assert_int_equal(run_one(bench, DISK_READ, 0, bytes, sizeof(bytes)), -EIO);
    assert_int_equal(run_one(bench, DISK_READ, MIB, bytes, sizeof(bytes)), -EIO);
    assert_int_equal(run_one(bench, DISK_READ, 0, bytes, 4096), 0);
}

static void disk_never_grows_its_file(void **state)
{
    struct bench *bench = *state;
    uint8_t bytes[1024] = {0};
    assert_int_equal(run_one(bench, DISK_WRITE, IMAGE_BYTES - 512, bytes, 1024), -EINVAL);
    assert_int_equal(run_one(bench, DISK_WRITE, UINT64_MAX - 511, bytes, 1024), -EINVAL);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, IMAGE_BYTES, NULL, 512), -EINVAL);
    struct stat st;
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_size, IMAGE_BYTES);
}

static void disk_takes_no_write_when_read_only(void **state)
{
    struct bench *bench = *state;
    uint8_t bytes[512] = {1};
    reopen(bench, true, false);
    assert_int_equal(run_one(bench, DISK_WRITE, 0, bytes, 512), -EROFS);
    assert_int_equal(run_one(bench, DISK_DISCARD, 0, NULL, 512), -EROFS);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
    assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    expect_zeroes(bench, 0, 512);
}

/* ---- holes and zeroes ---- */

static void disk_discard_gives_storage_back(void **state)
{
    struct bench *bench = *state;
    own_mem uint8_t *image = written_image(bench);
    uint64_t before = stored_bytes(bench);
    assert_true(bench->disk->discard_bytes > 0);
    assert_int_equal(run_one(bench, DISK_DISCARD, MIB, NULL, MIB), 0);
    expect_stored(bench, before - MIB);
    expect_range(bench, 0, image, MIB);
    expect_range(bench, 2 * MIB, image + 2 * MIB, MIB);
}

static void disk_write_zeroes_keeps_storage_and_unmap_gives_it_back(void **state)
{
    struct bench *bench = *state;
    own_mem uint8_t *image = written_image(bench);
    uint64_t before = stored_bytes(bench);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, MIB, NULL, MIB), 0);
    expect_stored(bench, before);
    expect_zeroes(bench, MIB, MIB);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES_UNMAP, 2 * MIB, NULL, MIB), 0);
    expect_stored(bench, before - MIB);
    expect_zeroes(bench, 2 * MIB, MIB);
    expect_range(bench, 3 * MIB, image + 3 * MIB, MIB);
}

static void disk_clears_ranges_that_no_block_begins_or_ends(void **state)
{
    struct bench *bench = *state;
    own_mem uint8_t *image = written_image(bench);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES_UNMAP, 512, NULL, 9216), 0);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, MIB + 1536, NULL, 512), 0);
    expect_range(bench, 0, image, 512);
    expect_zeroes(bench, 512, 9216);
    expect_range(bench, 9728, image + 9728, MIB + 1536 - 9728);
    expect_zeroes(bench, MIB + 1536, 512);
    expect_range(bench, MIB + 2048, image + MIB + 2048, 4096);
}

/* The engine's threads do what io_uring has no operation for. */
static void disk_clears_ranges_of_a_block_device(void **state)
{
    struct bench *bench = *state;
    char device[sizeof(bench->path)];
    own_mem uint8_t *image = written_image(bench);
    const uint64_t before = stored_bytes(bench);
    loop_stop(bench->loop);
    disk_close(bench->disk);
    int loop = loop_device_attach(bench->path, device, sizeof(device));
    if (loop >= 0)
        swap_paths(bench->path, device);
    open_disk(bench, false, false);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
    if (loop < 0) {
        print_message("no loop device: %s\n", strerror(errno));
        skip();
    }

    struct op ops[4];
    op_init(&ops[0], DISK_DISCARD, 0, NULL, MIB);
    op_init(&ops[1], DISK_WRITE_ZEROES_UNMAP, MIB, NULL, MIB);
    op_init(&ops[2], DISK_WRITE_ZEROES, 2 * MIB, NULL, MIB);
    op_init(&ops[3], DISK_FLUSH, 0, NULL, 0);
    run_all(bench, ops, ARRAY_SIZE(ops));
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, 0);
    expect_zeroes(bench, MIB, 2 * MIB);
    expect_range(bench, 3 * MIB, image + 3 * MIB, MIB);
    loop_device_detach(loop);
    swap_paths(bench->path, device);
    expect_stored(bench, before - 2 * MIB);
}

/* ---- O_DIRECT ---- */

static bool reopen_direct(struct bench *bench)
{
    own_fd int fd = open(bench->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        print_message("this file system has no O_DIRECT\n");
        return false;
    }
    reopen(bench, false, true);
    return true;
}

static void disk_direct_takes_any_buffer(void **state)
{
    struct bench *bench = *state;
    if (!reopen_direct(bench))
        skip();
    /* Longer than the slow lane's buffer, and nothing in it is aligned. */
    const size_t length = 96 * 4096;
    own_mem uint8_t *room = malloc(length + 3), *back = malloc(length + 1);
    fill(room, length + 3, 5);
    struct op ops[3];
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        op_init(&ops[i], i ? DISK_WRITE_THROUGH : DISK_WRITE, i * length, room + i + 1, length);
    ops[1].iov[0].iov_len = 7;
    ops[1].iov[1] = (struct iovec){room + 2 + 7, length - 7};
    ops[1].request.iov_count = 2;
    run_all(bench, ops, 3);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        assert_int_equal(ops[i].result, 0);
        assert_int_equal(run_one(bench, DISK_READ, i * length, back + 1, length), 0);
        assert_memory_equal(back + 1, room + (i == 2 ? 3 : i + 1), length);
    }
}

static void disk_direct_goes_straight_from_aligned_buffers(void **state)
{
    struct bench *bench = *state;
    if (!reopen_direct(bench))
        skip();
    own_mem uint8_t *out = aligned_alloc(4096, MIB), *in = aligned_alloc(4096, MIB);
    fill(out, MIB, 8);
    assert_int_equal(run_one(bench, DISK_WRITE, MIB, out, MIB), 0);
    assert_int_equal(run_one(bench, DISK_READ, MIB, in, MIB), 0);
    assert_memory_equal(in, out, MIB);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, MIB, NULL, MIB / 2), 0);
    expect_zeroes(bench, MIB, MIB / 2);
}

/* ---- a full storage ---- */

/* In a child: a tmpfs of 64 KiB in namespaces of its own. 77: this host does not let us. */
static int fill_small_file_system(void)
{
    struct bench bench = {.path = "/tmp/nido-small"};
    own_mem uint8_t *bytes = calloc(1, MIB);
    if ((geteuid() ? unshare(CLONE_NEWUSER | CLONE_NEWNS) : unshare(CLONE_NEWNS)) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/tmp", "tmpfs", 0, "size=64k") < 0)
        return 77;
    own_fd int fd = open(bench.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, MIB) < 0 || loop_create(&bench.loop, "loop/child", NULL) < 0)
        return 1;
    open_disk(&bench, false, false);
    if (loop_start(bench.loop, NULL) < 0)
        return 2;
    if (run_one(&bench, DISK_WRITE, 0, bytes, MIB) != -ENOSPC)
        return 3;
    return run_one(&bench, DISK_READ, 0, bytes, 4096) == 0 ? 0 : 4;
}

static void disk_says_when_the_storage_is_full(void **state)
{
    pid_t child = fork();
    if (child == 0)
        _exit(fill_small_file_system());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("this host gives us no mount namespace\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void disk_says_when_a_resource_limit_stops_it(void **state)
{
    struct bench *bench = *state;
    struct rlimit old, low;
    uint8_t bytes[512] = {0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){MIB, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int result = run_one(bench, DISK_WRITE, 2 * MIB, bytes, 512);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(result, -EFBIG);
}

/* ---- done ---- */

struct chained {
    struct op first, second;
    struct disk *disk;
    sem_t done;
};

static void submit_second(struct disk_request *request, int result)
{
    struct chained *chained = container_of(request, struct chained, first.request);
    chained->first.result = result;
    disk_submit(chained->disk, &chained->second.request);
}

static void disk_starts_what_done_submits(void **state)
{
    static const enum disk_op codes[] = {DISK_READ, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES};
    struct bench *bench = *state;
    uint8_t bytes[512];
    for (unsigned i = 0; i < ARRAY_SIZE(codes) * ARRAY_SIZE(codes); i++) {
        struct chained chained = {.disk = bench->disk};
        sem_init(&chained.done, 0, 0);
        op_init(&chained.first, codes[i / ARRAY_SIZE(codes)], 0, bytes, 512);
        op_init(&chained.second, codes[i % ARRAY_SIZE(codes)], 0, bytes, 512);
        chained.first.request.done = submit_second;
        chained.second.request.done = on_done;
        chained.second.done = &chained.done;
        struct submission submission = {{.run = submit_all}, bench->disk, &chained.first, 1};
        loop_call(bench->loop, &submission.task);
        sem_wait(&chained.done);
        assert_int_equal(chained.first.result, 0);
        assert_int_equal(chained.second.result, 0);
    }
}

static unsigned batches;

static void count_batch(void *user)
{
    assert_ptr_equal(user, &batches);
    batches++;
}

static void disk_drain_ends_everything_without_the_loop(void **state)
{
    enum { COUNT = 300, BYTES = 4096 };
    struct bench *bench = *state;
    own_mem struct op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *bytes = calloc(1, BYTES);
    sem_t done;
    int count;
    loop_stop(bench->loop);
    bench->disk->batch_done = count_batch;
    bench->disk->user = &batches;
    batches = 0;
    sem_init(&done, 0, 0);
    for (unsigned i = 0; i < COUNT; i++)
        op_init(&ops[i], i % 3 ? DISK_READ : DISK_FLUSH, (uint64_t)i * BYTES, bytes, BYTES);
    start(bench, ops, COUNT, &done);
    disk_drain(bench->disk);
    sem_getvalue(&done, &count);
    assert_int_equal(count, COUNT);
    assert_in_range(batches, 1, COUNT);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

/* ---- an unhealthy host; the thread engine, whose calls we can get at ---- */

static void disk_takes_no_write_after_a_failed_flush(void **state)
{
    struct bench *bench = *state;
    uint8_t bytes[512] = {0};
    assert_int_equal(run_one(bench, DISK_WRITE, 0, bytes, 512), 0);
    host.fdatasync_error = EIO;
    assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), -EIO);
    host.fdatasync_error = 0;
    assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), -EIO);
    assert_int_equal(run_one(bench, DISK_WRITE, 0, bytes, 512), -EIO);
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -EIO);
    assert_int_equal(run_one(bench, DISK_READ, 0, bytes, 512), 0);
}

static void disk_flushes_once_for_all_that_ask_together(void **state)
{
    struct bench *bench = *state;
    struct op ops[20];
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        op_init(&ops[i], DISK_FLUSH, 0, NULL, 0);
    run_all(bench, ops, ARRAY_SIZE(ops));
    assert_int_equal(host.fdatasync_calls, 1);
    host.fdatasync_error = ENOSPC;
    run_all(bench, ops, ARRAY_SIZE(ops));
    assert_int_equal(host.fdatasync_calls, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, -EIO);
}

static void disk_goes_on_after_short_and_interrupted_transfers(void **state)
{
    struct bench *bench = *state;
    uint8_t out[8192], in[8192] = {0};
    struct op op;
    fill(out, sizeof(out), 2);
    op_init(&op, DISK_WRITE, 4096, out, sizeof(out));
    op.iov[0].iov_len = 1000;
    op.iov[1] = (struct iovec){out + 1000, sizeof(out) - 1000};
    op.request.iov_count = 2;
    host.short_transfers = 3;
    host.interruptions = 2;
    run_all(bench, &op, 1);
    assert_int_equal(op.result, 0);
    assert_int_equal(host.short_transfers + host.interruptions, 0);
    host.short_transfers = 5;
    assert_int_equal(run_one(bench, DISK_READ, 4096, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(out));
}

static void disk_writes_the_zeroes_that_the_host_cannot(void **state)
{
    struct bench *bench = *state;
    own_mem uint8_t *image = written_image(bench);
    host.fallocate_error = EOPNOTSUPP;
    struct op ops[3];
    op_init(&ops[0], DISK_WRITE_ZEROES, 512, NULL, MIB - 512);
    op_init(&ops[1], DISK_WRITE_ZEROES_UNMAP, 2 * MIB, NULL, 1024);
    op_init(&ops[2], DISK_DISCARD, 3 * MIB, NULL, MIB);
    run_all(bench, ops, ARRAY_SIZE(ops));
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, 0);
    expect_range(bench, 0, image, 512);
    expect_zeroes(bench, 512, MIB - 512);
    expect_zeroes(bench, 2 * MIB, 1024);
    expect_range(bench, 2 * MIB + 1024, image + 2 * MIB + 1024, 2 * MIB - 1024);
}

static void disk_drain_cuts_long_zeroes_short(void **state)
{
    struct bench *bench = *state;
    struct op ops[2];
    sem_t done;
    sem_init(&done, 0, 0);
    loop_stop(bench->loop);
    host.fallocate_error = EOPNOTSUPP;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        op_init(&ops[i], DISK_WRITE_ZEROES, 0, NULL, IMAGE_BYTES);
    start(bench, ops, ARRAY_SIZE(ops), &done);
    disk_drain(bench->disk);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, -ECANCELED);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

static void disk_tells_what_the_host_told(void **state)
{
    struct bench *bench = *state;
    uint8_t bytes[512] = {0};
    host.write_error = EDQUOT;
    assert_int_equal(run_one(bench, DISK_WRITE, 0, bytes, 512), -EDQUOT);
    host.fallocate_error = ENOSPC;
    assert_int_equal(run_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -ENOSPC);
    host.write_error = host.fallocate_error = 0;
    assert_int_equal(run_one(bench, DISK_WRITE, 0, bytes, 512), 0);
}

/* ---- an unhealthy io_uring ---- */

static void disk_uses_threads_where_io_uring_is_forbidden(void **state)
{
    static const int codes[] = {ENOSYS, EPERM, EMFILE, ENOMEM};
    struct bench *bench = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        host.ring_error = codes[i];
        reopen(bench, false, false);
        int before = host.fdatasync_calls;
        assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(host.fdatasync_calls, before + 1);
    }
}

static void disk_loses_no_request_when_io_uring_stops_working(void **state)
{
    enum { COUNT = 900, BYTES = 4096 };
    static const int codes[] = {ENOMEM, EAGAIN, EPERM};
    struct bench *bench = *state;
    own_mem struct op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *image = written_image(bench), *in = malloc(COUNT * BYTES);
    for (unsigned turn = 0; turn < ARRAY_SIZE(codes) * 3; turn++) {
        reopen(bench, false, false);
        memset(in, 0, COUNT * BYTES);
        host.submit_error = codes[turn / 3];
        host.good_submits = (int)turn % 3;
        for (unsigned i = 0; i < COUNT; i++)
            op_init(&ops[i], DISK_READ, (uint64_t)i * BYTES, in + i * BYTES, BYTES);
        run_all(bench, ops, COUNT);
        assert_memory_equal(in, image, COUNT * BYTES);
        assert_int_equal(run_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
        assert_true(host.fdatasync_calls > 0);
        host.submit_error = 0;
    }
}

/* ---- main ---- */

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static const struct CMUnitTest on_any_engine[] = {
    TEST(disk_reads_back_what_was_written_with_many_requests_at_once),
    TEST(disk_gathers_and_scatters),
    TEST(disk_fails_to_read_beyond_the_end_of_a_shrunk_image),
    TEST(disk_never_grows_its_file),
    TEST(disk_takes_no_write_when_read_only),
    TEST(disk_discard_gives_storage_back),
    TEST(disk_write_zeroes_keeps_storage_and_unmap_gives_it_back),
    TEST(disk_clears_ranges_that_no_block_begins_or_ends),
    TEST(disk_clears_ranges_of_a_block_device),
    TEST(disk_direct_takes_any_buffer),
    TEST(disk_direct_goes_straight_from_aligned_buffers),
    TEST(disk_says_when_the_storage_is_full),
    TEST(disk_says_when_a_resource_limit_stops_it),
    TEST(disk_starts_what_done_submits),
    TEST(disk_drain_ends_everything_without_the_loop),
};

static const struct CMUnitTest on_threads[] = {
    TEST(disk_takes_no_write_after_a_failed_flush),
    TEST(disk_flushes_once_for_all_that_ask_together),
    TEST(disk_goes_on_after_short_and_interrupted_transfers),
    TEST(disk_writes_the_zeroes_that_the_host_cannot),
    TEST(disk_drain_cuts_long_zeroes_short),
    TEST(disk_tells_what_the_host_told),
};

static const struct CMUnitTest on_io_uring[] = {
    TEST(disk_uses_threads_where_io_uring_is_forbidden),
    TEST(disk_loses_no_request_when_io_uring_stops_working),
};

int main(void)
{
    signal(SIGXFSZ, SIG_IGN);
    log_set_level(LOG_ERROR);
    unsetenv("NIDO_AIO");
    int failed = cmocka_run_group_tests_name("disk, io_uring", on_any_engine, NULL, NULL);
    failed += cmocka_run_group_tests_name("disk, io_uring ails", on_io_uring, NULL, NULL);
    setenv("NIDO_AIO", "threads", 1);
    failed += cmocka_run_group_tests_name("disk, threads", on_any_engine, NULL, NULL);
    failed += cmocka_run_group_tests_name("disk, threads, the host ails", on_threads, NULL, NULL);
    return failed != 0;
}
