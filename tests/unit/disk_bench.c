/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/disk_bench.h"

#include "base/checked.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void make_image(char *path, size_t room, uint64_t bytes)
{
    const char *directory = getenv("TMPDIR");
    snprintf(path, room, "%s/nido-disk-XXXXXX", directory ? directory : ".");
    own_fd int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
}

void disk_bench_open(struct disk_bench *bench, bool read_only, bool direct)
{
    struct nido_error err;
    struct disk_config config = {.path = bench->path, .read_only = read_only, .direct = direct};
    if (disk_open_raw(&bench->disk, &config, bench->loop, &err) < 0)
        fail_msg("%s", err.text);
}

int disk_bench_set_up(void **state)
{
    struct disk_bench *bench = calloc(1, sizeof(*bench));
    make_image(bench->path, sizeof(bench->path), DISK_BENCH_BYTES);
    assert_int_equal(loop_create(&bench->loop, "loop/test", NULL), 0);
    disk_bench_open(bench, false, false);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
    *state = bench;
    return 0;
}

int disk_bench_tear_down(void **state)
{
    struct disk_bench *bench = *state;
    loop_stop(bench->loop);
    disk_close(bench->disk);
    loop_destroy(bench->loop);
    unlink(bench->path);
    free(bench);
    return 0;
}

/* The same image, opened another way. */
void disk_bench_reopen(struct disk_bench *bench, bool read_only, bool direct)
{
    loop_stop(bench->loop);
    disk_close(bench->disk);
    disk_bench_open(bench, read_only, direct);
    assert_int_equal(loop_start(bench->loop, NULL), 0);
}

void disk_bench_done(struct disk_request *request, int result)
{
    struct disk_bench_op *op = container_of(request, struct disk_bench_op, request);
    op->result = result;
    sem_post(op->done);
}

struct submission {
    struct loop_task task;
    struct disk *disk;
    struct disk_bench_op *ops;
    unsigned count;
};

static void submit_all(struct loop_task *task)
{
    struct submission *submission = container_of(task, struct submission, task);
    for (unsigned i = 0; i < submission->count; i++)
        disk_submit(submission->disk, &submission->ops[i].request);
    disk_commit(submission->disk);
}

void disk_bench_start(struct disk_bench *bench, struct disk_bench_op *ops, unsigned count,
                      sem_t *done)
{
    struct submission submission = {{.run = submit_all}, bench->disk, ops, count};
    for (unsigned i = 0; i < count; i++) {
        ops[i].done = done;
        if (!ops[i].request.done)
            ops[i].request.done = disk_bench_done;
    }
    loop_call(bench->loop, &submission.task);
}

/* A lost request should fail its test, not hang it. */
static void wait_for_one(sem_t *done)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    while (sem_timedwait(done, &until) < 0)
        if (errno != EINTR)
            fail_msg("a request did not end");
}

void disk_bench_run(struct disk_bench *bench, struct disk_bench_op *ops, unsigned count)
{
    sem_t done;
    sem_init(&done, 0, 0);
    disk_bench_start(bench, ops, count, &done);
    for (unsigned i = 0; i < count; i++)
        wait_for_one(&done);
    sem_destroy(&done);
}

struct disk_bench_op *disk_bench_op(struct disk_bench_op *op, enum disk_op code, uint64_t offset,
                                    void *data, uint64_t length)
{
    *op = (struct disk_bench_op){
        .request = {.op = code, .offset_bytes = offset, .length_bytes = length}};
    op->iov[0] = (struct iovec){data, length};
    op->request.iov = op->iov;
    op->request.iov_count = 1;
    return op;
}

int disk_bench_one(struct disk_bench *bench, enum disk_op code, uint64_t offset, void *data,
                   uint64_t length)
{
    struct disk_bench_op op;
    disk_bench_run(bench, disk_bench_op(&op, code, offset, data, length), 1);
    return op.result;
}

struct chained {
    struct disk_bench_op first, second;
    struct disk *disk;
};

static void submit_second(struct disk_request *request, int result)
{
    struct chained *chained = container_of(request, struct chained, first.request);
    chained->first.result = result;
    disk_submit(chained->disk, &chained->second.request);
}

void disk_bench_chain(struct disk_bench *bench, enum disk_op first, enum disk_op second)
{
    struct chained chained = {.disk = bench->disk};
    uint8_t bytes[512];
    sem_t done;
    sem_init(&done, 0, 0);
    disk_bench_op(&chained.first, first, 0, bytes, sizeof(bytes));
    disk_bench_op(&chained.second, second, 0, bytes, sizeof(bytes));
    chained.first.request.done = submit_second;
    chained.second.request.done = disk_bench_done;
    chained.second.done = &done;
    disk_bench_start(bench, &chained.first, 1, NULL);
    wait_for_one(&done);
    assert_int_equal(chained.first.result, 0);
    assert_int_equal(chained.second.result, 0);
}

void disk_bench_fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

uint64_t disk_bench_stored(const struct disk_bench *bench)
{
    struct stat st;
    own_fd int fd = open(bench->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fsync(fd), 0); /* delayed allocation counts nothing */
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* A file system may need some more or less for its own books. */
void disk_bench_expect_stored(const struct disk_bench *bench, uint64_t bytes)
{
    assert_in_range(disk_bench_stored(bench), bytes - 64 * KIB, bytes + 64 * KIB);
}

/* The whole image, filled. */
uint8_t *disk_bench_written_image(struct disk_bench *bench)
{
    uint8_t *image = malloc(DISK_BENCH_BYTES);
    disk_bench_fill(image, DISK_BENCH_BYTES, 3);
    assert_int_equal(disk_bench_one(bench, DISK_WRITE, 0, image, DISK_BENCH_BYTES), 0);
    return image;
}

void disk_bench_expect(struct disk_bench *bench, uint64_t offset, const uint8_t *bytes,
                       size_t length)
{
    own_mem uint8_t *got = malloc(length);
    assert_int_equal(disk_bench_one(bench, DISK_READ, offset, got, length), 0);
    assert_memory_equal(got, bytes, length);
}

void disk_bench_expect_zeroes(struct disk_bench *bench, uint64_t offset, size_t length)
{
    own_mem uint8_t *zeroes = calloc(1, length);
    disk_bench_expect(bench, offset, zeroes, length);
}
