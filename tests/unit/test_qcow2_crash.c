/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that writes a qcow2 image is killed at any moment. Each time the image must be clean, to
 * the last cluster, and have what was flushed. What the process knew stands in memory that outlives
 * it.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/qcow2_bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4096, BLOCKS = 4096, AT_ONCE = 12, KILLS = 50 };

/* For each block, generations of its content. */
struct record {
    uint32_t started; /* the latest that was ever submitted */
    uint32_t zeroed;  /* the latest that was zeroes */
    uint32_t acknowledged;
    uint32_t flushed; /* at least this one must be there */
};

struct job {
    struct disk_request request;
    struct iovec iov;
    uint8_t bytes[BLOCK_BYTES];
    uint32_t block, generation;
};

static struct record *records; /* shared with the process that is killed */

static void on_done(struct disk_request *request, int result)
{
    const struct job *job = container_of(request, struct job, request);
    if (result < 0)
        _exit(2);
    records[job->block].acknowledged = job->generation;
}

static void start_write(struct qcow2_bench *bench, struct job *job)
{
    struct record *record = &records[job->block];
    const uint32_t dice = qcow2_bench_random(bench) % 8;
    job->generation = record->started + 1;
    if (dice < 2)
        record->zeroed = job->generation;
    record->started = job->generation;
    for (unsigned i = 0; i < BLOCK_BYTES; i += 8)
        put_be64(job->bytes + i, (uint64_t)job->block << 32 | job->generation);
    job->iov = (struct iovec){job->bytes, BLOCK_BYTES};
    job->request = (struct disk_request){
        .op = dice == 0   ? DISK_WRITE_ZEROES
              : dice == 1 ? DISK_WRITE_ZEROES_UNMAP
                          : DISK_WRITE,
        .offset_bytes = (uint64_t)job->block * BLOCK_BYTES,
        .length_bytes = BLOCK_BYTES,
        .iov = &job->iov,
        .iov_count = 1,
        .done = on_done,
    };
    disk_submit(bench->disk, &job->request);
}

static void flush(struct qcow2_bench *bench)
{
    if (qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0) < 0)
        _exit(3);
    for (unsigned i = 0; i < BLOCKS; i++)
        records[i].flushed = records[i].acknowledged;
}

/* For ever. Blocks cluster, so that clusters become whole, and blocks are written again. */
static void write_and_flush(struct qcow2_bench *bench)
{
    static struct job jobs[AT_ONCE];
    for (;;) {
        const uint32_t from = qcow2_bench_random(bench) % (BLOCKS - 10 * AT_ONCE);
        for (unsigned i = 0; i < AT_ONCE; i++) {
            jobs[i].block = from + i * (1 + from % 10);
            start_write(bench, &jobs[i]);
        }
        disk_drain(bench->disk);
        if (qcow2_bench_random(bench) % 3 == 0)
            flush(bench);
    }
}

static void be_killed(struct qcow2_bench *bench, unsigned round)
{
    const pid_t child = fork();
    if (child == 0) {
        setenv("NIDO_AIO", round % 2 ? "threads" : "", 1);
        bench->unsafe = round % 3 == 0;
        qcow2_bench_open(bench, "image.qcow2", false);
        write_and_flush(bench);
        _exit(0);
    }
    const struct timespec pause = {.tv_nsec = 8000000 + qcow2_bench_random(bench) % 60000000};
    int status;
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The sector's generation; 0: it is zeroes, and may be. */
static uint32_t expect_sector(const uint8_t *bytes, uint32_t block)
{
    static const uint8_t zeroes[DISK_SECTOR_BYTES];
    const struct record *record = &records[block];
    const uint64_t word = get_be64(bytes);
    const uint32_t generation = (uint32_t)word;
    if (memcmp(bytes, zeroes, sizeof(zeroes)) == 0) {
        if (record->flushed && record->zeroed < record->flushed)
            fail_msg("block %u is lost: generation %u was flushed", block, record->flushed);
        return 0;
    }
    for (unsigned i = 0; i < DISK_SECTOR_BYTES; i += 8)
        assert_true(get_be64(bytes + i) == word);
    if (word >> 32 != block || generation < record->flushed || generation > record->started)
        fail_msg("block %u has %#llx, not generation %u to %u", block, (unsigned long long)word,
                 record->flushed, record->started);
    return generation;
}

/* A block that was being written may be in part what it was; what it is now is there to stay. */
static void expect_block(const uint8_t *bytes, uint32_t block)
{
    struct record *record = &records[block];
    uint32_t lowest = UINT32_MAX, highest = 0;
    for (unsigned i = 0; i < BLOCK_BYTES; i += DISK_SECTOR_BYTES) {
        const uint32_t generation = expect_sector(bytes + i, block);
        lowest = MIN(lowest, generation);
        highest = MAX(highest, generation);
    }
    *record = (struct record){highest, 0, lowest, lowest};
}

/* Opening it first waits until the kernel has let go of what was under way. */
static void expect_good_image(struct qcow2_bench *bench)
{
    uint8_t bytes[BLOCK_BYTES];
    qcow2_bench_open(bench, "image.qcow2", true);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(
            qcow2_bench_one(bench, DISK_READ, (uint64_t)i * BLOCK_BYTES, bytes, BLOCK_BYTES), 0);
        expect_block(bytes, i);
    }
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench, "qemu-img check image.qcow2 >check.txt 2>&1 || "
                             "{ cat check.txt; exit 1; }");
}

static void be_killed_often(struct qcow2_bench *bench, const char *make)
{
    const size_t bytes = BLOCKS * sizeof(*records);
    records = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(records, MAP_FAILED);
    qcow2_bench_shell(bench, "%s", make);
    for (unsigned round = 0; round < KILLS; round++) {
        be_killed(bench, round);
        bench->seed += round;
        expect_good_image(bench);
    }
    munmap(records, bytes);
}

static void qcow2_survives_kills(void **state)
{
    be_killed_often(*state, "qemu-img create -q -f qcow2 image.qcow2 16M");
}

static void qcow2_survives_kills_with_small_clusters(void **state)
{
    be_killed_often(*state, "qemu-img create -q -f qcow2 -o cluster_size=2k image.qcow2 16M");
}

static void qcow2_survives_kills_on_a_base(void **state)
{
    be_killed_often(*state, "truncate -s 16M base.raw && "
                            "qemu-img create -q -f qcow2 -F raw -b base.raw image.qcow2");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, qcow2_bench_set_up, qcow2_bench_tear_down)

static const struct CMUnitTest tests[] = {
    TEST(qcow2_survives_kills),
    TEST(qcow2_survives_kills_with_small_clusters),
    TEST(qcow2_survives_kills_on_a_base),
};

int main(void)
{
    if (!qcow2_bench_possible())
        return 77;
    return cmocka_run_group_tests_name("qcow2, kill -9", tests, NULL, NULL) != 0;
}
