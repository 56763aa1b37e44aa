/* SPDX-License-Identifier: Apache-2.0 */
/* Raw disks on real files, once for each I/O engine, on a host that does what it is asked. */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/disk_bench.h"
#include "tests/unit/loop_device.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- data ---- */

/* More than a ring has entries and completions. */
static void disk_reads_back_what_was_written_with_many_requests_at_once(void **state)
{
    enum { COUNT = 1000, BYTES = 4096 };
    struct disk_bench *bench = *state;
    own_mem struct disk_bench_op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *out = malloc(COUNT * BYTES), *in = calloc(COUNT, BYTES);
    disk_bench_fill(out, COUNT * BYTES, 1);
    for (unsigned i = 0; i < COUNT; i++)
        disk_bench_op(&ops[i], DISK_WRITE, (uint64_t)i * BYTES, out + i * BYTES, BYTES);
    disk_bench_run(bench, ops, COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(ops[i].result, 0);

    for (unsigned i = 0; i < COUNT; i++)
        disk_bench_op(&ops[i], DISK_READ, (uint64_t)i * BYTES, in + i * BYTES, BYTES);
    disk_bench_run(bench, ops, COUNT);
    assert_memory_equal(in, out, COUNT * BYTES);
    assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
}

static void disk_gathers_and_scatters(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t out[4096], in[4096] = {0};
    struct disk_bench_op op;
    disk_bench_fill(out, sizeof(out), 9);
    disk_bench_op(&op, DISK_WRITE_THROUGH, 512, out, sizeof(out));
    op.iov[0].iov_len = 100;
    op.iov[1] = (struct iovec){out + 100, 2900};
    op.iov[2] = (struct iovec){out + 3000, 1096};
    op.request.iov_count = 3;
    disk_bench_run(bench, &op, 1);
    assert_int_equal(op.result, 0);

    disk_bench_op(&op, DISK_READ, 512, in, 4000);
    op.iov[1] = (struct iovec){in + 4000, 96};
    op.request.length_bytes = 4096;
    op.request.iov_count = 2;
    disk_bench_run(bench, &op, 1);
    assert_int_equal(op.result, 0);
    assert_memory_equal(in, out, sizeof(out));
}

static void disk_fails_to_read_beyond_the_end_of_a_shrunk_image(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t bytes[8192];
    assert_int_equal(truncate(bench->path, 4096), 0);
    assert_int_equal(disk_bench_one(bench, DISK_READ, 0, bytes, sizeof(bytes)), -EIO);
    assert_int_equal(disk_bench_one(bench, DISK_READ, MIB, bytes, sizeof(bytes)), -EIO);
    assert_int_equal(disk_bench_one(bench, DISK_READ, 0, bytes, 4096), 0);
}

static void disk_never_grows_its_file(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t bytes[1024] = {0};
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, DISK_BENCH_BYTES - 512, bytes, 1024),
                     -EINVAL);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, UINT64_MAX - 511, bytes, 1024), -EINVAL);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, DISK_BENCH_BYTES, NULL, 512),
                     -EINVAL);
    struct stat st;
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_size, DISK_BENCH_BYTES);
}

static void disk_takes_no_write_when_read_only(void **state)
{
    struct disk_bench *bench = *state;
    uint8_t bytes[512] = {1};
    disk_bench_reopen(bench, true, false);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, bytes, 512), -EROFS);
    assert_int_equal(disk_bench_one(bench, DISK_DISCARD, 0, NULL, 512), -EROFS);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
    assert_int_equal(disk_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    disk_bench_expect_zeroes(bench, 0, 512);
}

/* ---- holes and zeroes ---- */

static void disk_discard_gives_storage_back(void **state)
{
    struct disk_bench *bench = *state;
    own_mem uint8_t *image = disk_bench_written_image(bench);
    uint64_t before = disk_bench_stored(bench);
    assert_true(bench->disk->discard_bytes > 0);
    assert_int_equal(disk_bench_one(bench, DISK_DISCARD, MIB, NULL, MIB), 0);
    disk_bench_expect_stored(bench, before - MIB);
    disk_bench_expect(bench, 0, image, MIB);
    disk_bench_expect(bench, 2 * MIB, image + 2 * MIB, MIB);
}

static void disk_write_zeroes_keeps_storage_and_unmap_gives_it_back(void **state)
{
    struct disk_bench *bench = *state;
    own_mem uint8_t *image = disk_bench_written_image(bench);
    uint64_t before = disk_bench_stored(bench);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, MIB, NULL, MIB), 0);
    disk_bench_expect_stored(bench, before);
    disk_bench_expect_zeroes(bench, MIB, MIB);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES_UNMAP, 2 * MIB, NULL, MIB), 0);
    disk_bench_expect_stored(bench, before - MIB);
    disk_bench_expect_zeroes(bench, 2 * MIB, MIB);
    disk_bench_expect(bench, 3 * MIB, image + 3 * MIB, MIB);
}

static void disk_clears_ranges_that_no_block_begins_or_ends(void **state)
{
    struct disk_bench *bench = *state;
    own_mem uint8_t *image = disk_bench_written_image(bench);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES_UNMAP, 512, NULL, 9216), 0);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, MIB + 1536, NULL, 512), 0);
    disk_bench_expect(bench, 0, image, 512);
    disk_bench_expect_zeroes(bench, 512, 9216);
    disk_bench_expect(bench, 9728, image + 9728, MIB + 1536 - 9728);
    disk_bench_expect_zeroes(bench, MIB + 1536, 512);
    disk_bench_expect(bench, MIB + 2048, image + MIB + 2048, 4096);
}

static void swap_paths(char *a, char *b)
{
    char old[sizeof(((struct disk_bench *)0)->path)];
    strcpy(old, a);
    strcpy(a, b);
    strcpy(b, old);
}

/* The engine's threads do what io_uring has no operation for. */
static void disk_clears_ranges_of_a_block_device(void **state)
{
    struct disk_bench *bench = *state;
    char device[sizeof(bench->path)];
    own_mem uint8_t *image = disk_bench_written_image(bench);
    const uint64_t before = disk_bench_stored(bench);
    loop_stop(bench->loop);
    disk_close(bench->disk);
    int loop = loop_device_attach(bench->path, device, sizeof(device));
    if (loop >= 0)
        swap_paths(bench->path, device);
    disk_bench_open(bench, false, false);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
    if (loop < 0) {
        print_message("no loop device: %s\n", strerror(errno));
        skip();
    }

    struct disk_bench_op ops[4];
    disk_bench_op(&ops[0], DISK_DISCARD, 0, NULL, MIB);
    disk_bench_op(&ops[1], DISK_WRITE_ZEROES_UNMAP, MIB, NULL, MIB);
    disk_bench_op(&ops[2], DISK_WRITE_ZEROES, 2 * MIB, NULL, MIB);
    disk_bench_op(&ops[3], DISK_FLUSH, 0, NULL, 0);
    disk_bench_run(bench, ops, ARRAY_SIZE(ops));
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        assert_int_equal(ops[i].result, 0);
    disk_bench_expect_zeroes(bench, MIB, 2 * MIB);
    disk_bench_expect(bench, 3 * MIB, image + 3 * MIB, MIB);
    loop_device_detach(loop);
    swap_paths(bench->path, device);
    disk_bench_expect_stored(bench, before - 2 * MIB);
}

/* ---- O_DIRECT ---- */

static bool reopen_direct(struct disk_bench *bench)
{
    own_fd int fd = open(bench->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        print_message("this file system has no O_DIRECT\n");
        return false;
    }
    disk_bench_reopen(bench, false, true);
    return true;
}

static void disk_direct_takes_any_buffer(void **state)
{
    struct disk_bench *bench = *state;
    if (!reopen_direct(bench))
        skip();
    /* Longer than the slow lane's buffer, and nothing in it is aligned. */
    const size_t length = 96 * 4096;
    own_mem uint8_t *room = malloc(length + 3), *back = malloc(length + 1);
    disk_bench_fill(room, length + 3, 5);
    struct disk_bench_op ops[3];
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        disk_bench_op(&ops[i], i ? DISK_WRITE_THROUGH : DISK_WRITE, i * length, room + i + 1,
                      length);
    ops[1].iov[0].iov_len = 7;
    ops[1].iov[1] = (struct iovec){room + 2 + 7, length - 7};
    ops[1].request.iov_count = 2;
    disk_bench_run(bench, ops, 3);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        assert_int_equal(ops[i].result, 0);
        assert_int_equal(disk_bench_one(bench, DISK_READ, i * length, back + 1, length), 0);
        assert_memory_equal(back + 1, room + (i == 2 ? 3 : i + 1), length);
    }
}

static void disk_direct_goes_straight_from_aligned_buffers(void **state)
{
    struct disk_bench *bench = *state;
    if (!reopen_direct(bench))
        skip();
    own_mem uint8_t *out = aligned_alloc(4096, MIB), *in = aligned_alloc(4096, MIB);
    disk_bench_fill(out, MIB, 8);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, MIB, out, MIB), 0);
    assert_int_equal(disk_bench_one(bench, DISK_READ, MIB, in, MIB), 0);
    assert_memory_equal(in, out, MIB);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE_ZEROES, MIB, NULL, MIB / 2), 0);
    disk_bench_expect_zeroes(bench, MIB, MIB / 2);
}

/* ---- a full storage ---- */

static bool tell_kernel(const char *path, const char *text)
{
    own_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* Mounts of our own. Somebody who is not root needs a user namespace for them, and names in it: a
 * file system takes no files from nobody. */
static bool enter_own_namespaces(void)
{
    char uid_map[32], gid_map[32];
    snprintf(uid_map, sizeof(uid_map), "0 %u 1", geteuid());
    snprintf(gid_map, sizeof(gid_map), "0 %u 1", getegid());
    if (geteuid() == 0)
        return unshare(CLONE_NEWNS) == 0;
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           tell_kernel("/proc/self/setgroups", "deny") &&
           tell_kernel("/proc/self/uid_map", uid_map) && tell_kernel("/proc/self/gid_map", gid_map);
}

/* In a child: a tmpfs of 64 KiB. 77: this host does not let us. */
static int fill_small_file_system(void)
{
    struct disk_bench bench = {.path = "/tmp/nido-small"};
    own_mem uint8_t *bytes = calloc(1, MIB);
    if (!enter_own_namespaces() || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/tmp", "tmpfs", 0, "size=64k") < 0)
        return 77;
    own_fd int fd = open(bench.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, MIB) < 0 || loop_create(&bench.loop, "loop/child", NULL) < 0)
        return 1;
    disk_bench_open(&bench, false, false);
    if (loop_start(bench.loop, NULL) < 0)
        return 2;
    if (disk_bench_one(&bench, DISK_WRITE, 0, bytes, MIB) != -ENOSPC)
        return 3;
    return disk_bench_one(&bench, DISK_READ, 0, bytes, 4096) == 0 ? 0 : 4;
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
    struct disk_bench *bench = *state;
    struct rlimit old, low;
    uint8_t bytes[512] = {0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){MIB, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int result = disk_bench_one(bench, DISK_WRITE, 2 * MIB, bytes, 512);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(result, -EFBIG);
}

/* ---- done ---- */

static void disk_starts_what_done_submits(void **state)
{
    static const enum disk_op codes[] = {DISK_READ, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES};
    struct disk_bench *bench = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(codes) * ARRAY_SIZE(codes); i++)
        disk_bench_chain(bench, codes[i / ARRAY_SIZE(codes)], codes[i % ARRAY_SIZE(codes)]);
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
    struct disk_bench *bench = *state;
    own_mem struct disk_bench_op *ops = calloc(COUNT, sizeof(*ops));
    own_mem uint8_t *bytes = calloc(COUNT, BYTES);
    sem_t done;
    int count;
    loop_stop(bench->loop);
    bench->disk->batch_done = count_batch;
    bench->disk->user = &batches;
    batches = 0;
    sem_init(&done, 0, 0);
    for (unsigned i = 0; i < COUNT; i++)
        disk_bench_op(&ops[i], i % 3 ? DISK_READ : DISK_FLUSH, (uint64_t)i * BYTES,
                      bytes + i * BYTES, BYTES);
    disk_bench_start(bench, ops, COUNT, &done);
    disk_drain(bench->disk);
    sem_getvalue(&done, &count);
    assert_int_equal(count, COUNT);
    assert_in_range(batches, 1, COUNT);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, disk_bench_set_up, disk_bench_tear_down)

static const struct CMUnitTest tests[] = {
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
    cmocka_unit_test(disk_says_when_the_storage_is_full),
    TEST(disk_says_when_a_resource_limit_stops_it),
    TEST(disk_starts_what_done_submits),
    TEST(disk_drain_ends_everything_without_the_loop),
};

int main(void)
{
    signal(SIGXFSZ, SIG_IGN);
    log_set_level(LOG_ERROR);
    unsetenv("NIDO_AIO");
    int failed = cmocka_run_group_tests_name("disk, io_uring", tests, NULL, NULL);
    setenv("NIDO_AIO", "threads", 1);
    failed += cmocka_run_group_tests_name("disk, threads", tests, NULL, NULL);
    return failed != 0;
}
