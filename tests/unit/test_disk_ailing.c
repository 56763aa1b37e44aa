/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw disks on a host that fails, stops half-way or refuses. What a healthy host never does is done
 * to us by functions of the C library and of liburing that this program puts in front of the real
 * ones. Most of it happens to the thread engine, whose calls can be got at.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/disk_bench.h"

#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the host ---- */

static struct {
    _Atomic int fdatasync_calls, fdatasync_error;
    _Atomic int fallocate_error; /* for every mode */
    _Atomic int short_transfers; /* so many calls move at most 1000 bytes */
    _Atomic int interruptions;   /* so many calls fail with EINTR */
    _Atomic int write_error;
    _Atomic int ring_error;   /* io_uring_queue_init_params(); EINVAL: with flags only */
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
    bool refused = host.ring_error && (host.ring_error != EINVAL || params->flags);
    return refused ? -host.ring_error : real(entries, ring, params);
}

int io_uring_submit(struct io_uring *ring)
{
    int (*real)(struct io_uring *);
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
    if (host.submit_error && !take_one(&host.good_submits))
        return -host.submit_error;
    return real(ring);
}

static int set_up(void **state)
{
    memset(&host, 0, sizeof(host));
    return disk_bench_set_up(state);
}

/* ---- the thread engine ---- */

static void disk_takes_no_write_after_a_failed_flush(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t bytes[512] = {0};
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, bytes, 512), 0);
    host.fdatasync_error = EIO;
    assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), -EIO);
    host.fdatasync_error = 0;
    assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), -EIO);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, bytes, 512), -EIO);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -EIO);
    assert_int_equal(disk_bench_one(bench, DISK_READ, 0, bytes, 512), 0);
}

static void disk_flushes_once_for_all_that_ask_together(void **state)
{
    struct disk_bench *bench = *state;
    struct disk_bench_op ops[20];
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        disk_bench_op(&ops[i], DISK_FLUSH, 0, NULL, 0);
    disk_bench_run(bench, ops, ARRAY_SIZE(ops));
    assert_int_equal(host.fdatasync_calls, 1);
    host.fdatasync_error = ENOSPC;
    disk_bench_run(bench, ops, ARRAY_SIZE(ops));
    assert_int_equal(host.fdatasync_calls, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, -EIO);
}

static void disk_goes_on_after_short_and_interrupted_transfers(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t out[8192], in[8192] = {0};
    struct disk_bench_op op;
    disk_bench_fill(out, sizeof(out), 2);
    disk_bench_op(&op, DISK_WRITE, 4096, out, sizeof(out));
    op.iov[0].iov_len = 1000;
    op.iov[1] = (struct iovec){out + 1000, sizeof(out) - 1000};
    op.request.iov_count = 2;
    host.short_transfers = 3;
    host.interruptions = 2;
    disk_bench_run(bench, &op, 1);
    assert_int_equal(op.result, 0);
    assert_int_equal(host.short_transfers + host.interruptions, 0);
    host.short_transfers = 5;
    assert_int_equal(disk_bench_one(bench, DISK_READ, 4096, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(out));
}

static void disk_writes_the_zeroes_that_the_host_cannot(void **state)
{
    struct disk_bench *bench = *state;
    own_mem uint8_t *image = disk_bench_written_image(bench);
    host.fallocate_error = EOPNOTSUPP;
    struct disk_bench_op ops[3];
    disk_bench_op(&ops[0], DISK_WRITE_ZEROES, 512, NULL, MIB - 512);
    disk_bench_op(&ops[1], DISK_WRITE_ZEROES_UNMAP, 2 * MIB, NULL, 1024);
    disk_bench_op(&ops[2], DISK_DISCARD, 3 * MIB, NULL, MIB);
    disk_bench_run(bench, ops, ARRAY_SIZE(ops));
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, 0);
    disk_bench_expect(bench, 0, image, 512);
    disk_bench_expect_zeroes(bench, 512, MIB - 512);
    disk_bench_expect_zeroes(bench, 2 * MIB, 1024);
    disk_bench_expect(bench, 2 * MIB + 1024, image + 2 * MIB + 1024, 2 * MIB - 1024);
}

static void disk_drain_cuts_long_zeroes_short(void **state)
{
    struct disk_bench *bench = *state;
    struct disk_bench_op ops[2];
    sem_t done;
    sem_init(&done, 0, 0);
    loop_stop(bench->loop);
    host.fallocate_error = EOPNOTSUPP;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        disk_bench_op(&ops[i], DISK_WRITE_ZEROES, 0, NULL, DISK_BENCH_BYTES);
    disk_bench_start(bench, ops, ARRAY_SIZE(ops), &done);
    disk_drain(bench->disk);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, -ECANCELED);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

static void disk_tells_what_the_host_told(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t bytes[512] = {0};
    host.write_error = EDQUOT;
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, bytes, 512), -EDQUOT);
    host.fallocate_error = ENOSPC;
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -ENOSPC);
    host.write_error = host.fallocate_error = 0;
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, bytes, 512), 0);
}

/* ---- io_uring ---- */

static void disk_uses_threads_where_io_uring_is_forbidden(void **state)
{
    static const int codes[] = {ENOSYS, EPERM, EMFILE, ENOMEM};
    struct disk_bench *bench = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        host.ring_error = codes[i];
        disk_bench_reopen(bench, false, false);
        int before = host.fdatasync_calls;
        assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(host.fdatasync_calls, before + 1);
    }
}

/* Linux 5.15 knows neither of the flags that we would like. */
static void disk_uses_an_io_uring_without_newer_flags(void **state)
{
    struct disk_bench *bench = *state;
    host.ring_error = EINVAL;
    disk_bench_reopen(bench, false, false);
    assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(host.fdatasync_calls, 0);
}

static void disk_loses_no_request_when_io_uring_stops_working(void **state)
{
    enum { COUNT = 900, BYTES = 4096 };
    static const int codes[] = {ENOMEM, EAGAIN, EPERM};
    struct disk_bench *bench = *state;
    own_mem struct disk_bench_op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *image = disk_bench_written_image(bench), *in = malloc(COUNT * BYTES);
    for (unsigned turn = 0; turn < ARRAY_SIZE(codes) * 3; turn++) {
        disk_bench_reopen(bench, false, false);
        memset(in, 0, COUNT * BYTES);
        host.submit_error = codes[turn / 3];
        host.good_submits = (int)turn % 3;
        for (unsigned i = 0; i < COUNT; i++)
            disk_bench_op(&ops[i], DISK_READ, (uint64_t)i * BYTES, in + i * BYTES, BYTES);
        disk_bench_run(bench, ops, COUNT);
        assert_memory_equal(in, image, COUNT * BYTES);
        assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
        assert_true(host.fdatasync_calls > 0);
        disk_bench_chain(bench, DISK_READ, DISK_READ);
        disk_bench_chain(bench, DISK_FLUSH, DISK_READ);
        host.submit_error = 0;
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, disk_bench_tear_down)

static const struct CMUnitTest on_threads[] = {
    TEST(disk_takes_no_write_after_a_failed_flush),
    TEST(disk_flushes_once_for_all_that_ask_together),
    TEST(disk_goes_on_after_short_and_interrupted_transfers),
    TEST(disk_writes_the_zeroes_that_the_host_cannot),
    TEST(disk_drain_cuts_long_zeroes_short),
    TEST(disk_tells_what_the_host_told),
};

static const struct CMUnitTest on_io_uring[] = {
    TEST(disk_uses_an_io_uring_without_newer_flags),
    TEST(disk_uses_threads_where_io_uring_is_forbidden),
    TEST(disk_loses_no_request_when_io_uring_stops_working),
};

int main(void)
{
    log_set_level(LOG_ERROR);
    unsetenv("NIDO_AIO");
    int failed = cmocka_run_group_tests_name("disk, io_uring ails", on_io_uring, NULL, NULL);
    setenv("NIDO_AIO", "threads", 1);
    failed += cmocka_run_group_tests_name("disk, the host ails", on_threads, NULL, NULL);
    return failed != 0;
}
