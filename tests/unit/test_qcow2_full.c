/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A qcow2 image on a file system that is full for a moment: a commit that finds no room half-way
 * leaves no trace, neither in the file nor in what the next one does.
 *
 * The thread engine's calls can be got at: this program puts its own in front of the C library's.
 */
#include "base/checked.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/qcow2_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CLUSTER = 64 << 10, HOLE_NS = 20000000 };

/* Writes before the file system is full; below 0: it never is. */
static _Atomic int writes_left = -1;
static _Atomic unsigned holes_begun;

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (atomic_load(&writes_left) >= 0 && atomic_fetch_sub(&writes_left, 1) == 0) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwritev, fd, iov, count, offset, 0);
}

/* A hole takes its time. */
int fallocate(int fd, int mode, off_t offset, off_t length)
{
    atomic_fetch_add(&holes_begun, 1);
    nanosleep(&(struct timespec){.tv_nsec = HOLE_NS}, NULL);
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

/* A flush; once it is answered reads, until the first hole is punched; and then a write, which finds
 * its place there. */
struct writer {
    struct disk_request request;
    struct iovec iov;
    uint8_t bytes[CLUSTER];
    struct disk *disk;
    int result;
};

static void submit(struct writer *writer, enum disk_op op, uint64_t offset, uint64_t length,
                   void (*done)(struct disk_request *request, int result))
{
    writer->iov = (struct iovec){writer->bytes, length};
    writer->request = (struct disk_request){
        .op = op,
        .offset_bytes = offset,
        .length_bytes = length,
        .iov = &writer->iov,
        .iov_count = 1,
        .done = done,
    };
    disk_submit(writer->disk, &writer->request);
}

static void on_written(struct disk_request *request, int result)
{
    container_of(request, struct writer, request)->result = result;
}

static void read_or_write(struct disk_request *request, int result)
{
    struct writer *writer = container_of(request, struct writer, request);
    writer->result = result;
    if (result < 0)
        return;
    if (atomic_load(&holes_begun) < 2) {
        submit(writer, DISK_READ, 9 * CLUSTER, DISK_SECTOR_BYTES, read_or_write);
        return;
    }
    memset(writer->bytes, 'w', CLUSTER);
    submit(writer, DISK_WRITE, 20 * CLUSTER, CLUSTER, on_written);
}

static void write_clusters(struct qcow2_bench *bench, unsigned count)
{
    static uint8_t bytes[CLUSTER];
    memset(bytes, 'a', sizeof(bytes));
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, i * CLUSTER, bytes, CLUSTER), 0);
}

static void qcow2_forgets_what_a_failed_commit_would_have_freed(void **state)
{
    struct qcow2_bench *bench = *state;
    static struct writer writer;
    setenv("NIDO_AIO", "threads", 1);
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 image.qcow2 16M");
    qcow2_bench_open(bench, "image.qcow2", false);
    unsetenv("NIDO_AIO");
    write_clusters(bench, 10);
    assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(qcow2_bench_one(bench, DISK_DISCARD, 0, NULL, CLUSTER), 0);
    assert_int_equal(qcow2_bench_one(bench, DISK_DISCARD, 5 * CLUSTER, NULL, CLUSTER), 0);

    writes_left = 2; /* there is room for L2 table and refcount block, and none for the L1 table */
    assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), -ENOSPC);
    holes_begun = 0; /* not counting those that opening tried */
    writer.disk = bench->disk;
    submit(&writer, DISK_FLUSH, 0, 0, read_or_write);
    disk_drain(bench->disk);
    assert_int_equal(writer.result, 0);

    memset(writer.bytes, 0, CLUSTER);
    assert_int_equal(qcow2_bench_one(bench, DISK_READ, 20 * CLUSTER, writer.bytes, CLUSTER), 0);
    for (unsigned i = 0; i < CLUSTER; i++)
        assert_int_equal(writer.bytes[i], 'w');
    assert_int_equal(holes_begun, 2);
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench,
                      "qemu-img check image.qcow2 >check.txt 2>&1 || { cat check.txt; exit 1; }");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(qcow2_forgets_what_a_failed_commit_would_have_freed,
                                    qcow2_bench_set_up, qcow2_bench_tear_down),
};

int main(void)
{
    if (!qcow2_bench_possible())
        return 77;
    return cmocka_run_group_tests_name("qcow2, no room", tests, NULL, NULL) != 0;
}
