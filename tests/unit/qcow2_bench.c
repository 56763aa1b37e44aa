/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/qcow2_bench.h"

#include "base/checked.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

bool qcow2_bench_possible(void)
{
    if (system("qemu-img --version >/dev/null 2>&1") == 0)
        return true;
    print_message("there is no qemu-img: install qemu-utils\n");
    return false;
}

int qcow2_bench_set_up(void **state)
{
    struct qcow2_bench *bench = calloc(1, sizeof(*bench));
    const char *directory = getenv("TMPDIR");
    snprintf(bench->directory, sizeof(bench->directory), "%s/nido-qcow2-XXXXXX",
             directory ? directory : ".");
    assert_non_null(mkdtemp(bench->directory));
    assert_int_equal(loop_create(&bench->loop, "loop/test", NULL), 0);
    bench->seed = 1;
    *state = bench;
    return 0;
}

int qcow2_bench_tear_down(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_close(bench);
    loop_destroy(bench->loop);
    qcow2_bench_shell(bench, "rm -rf \"$PWD\"");
    free(bench->model);
    free(bench);
    return 0;
}

PRINTF(2, 0)
static int shell(const struct qcow2_bench *bench, const char *format, va_list ap)
{
    char command[2048];
    int at = snprintf(command, sizeof(command), "cd '%s' && ", bench->directory);
    vsnprintf(command + at, sizeof(command) - (size_t)at, format, ap);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

int qcow2_bench_status(struct qcow2_bench *bench, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int status = shell(bench, format, ap);
    va_end(ap);
    return status;
}

void qcow2_bench_shell(struct qcow2_bench *bench, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int status = shell(bench, format, ap);
    va_end(ap);
    if (status != 0)
        fail_msg("'%s' ended with %d", format, status);
}

uint32_t qcow2_bench_random(struct qcow2_bench *bench)
{
    bench->seed = bench->seed * 1103515245u + 12345u;
    return bench->seed >> 8 & 0x7fffff;
}

/* ---- the model ---- */

static void model_path(const struct qcow2_bench *bench, char path[300])
{
    snprintf(path, 300, "%s/model.raw", bench->directory);
}

static void save_model(const struct qcow2_bench *bench)
{
    char path[300];
    model_path(bench, path);
    own_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, bench->model, bench->size_bytes), bench->size_bytes);
}

void qcow2_bench_fill_model(struct qcow2_bench *bench, uint64_t bytes)
{
    free(bench->model);
    bench->size_bytes = bytes;
    bench->model = calloc(1, bytes);
    for (uint64_t at = 0; at < bytes; at += 4096) {
        const uint8_t kind = (uint8_t)qcow2_bench_random(bench);
        for (uint64_t i = at; i < MIN(at + 4096, bytes) && kind % 4; i++)
            bench->model[i] = (uint8_t)(kind % 4 == 1 ? qcow2_bench_random(bench) : kind + i / 64);
    }
    save_model(bench);
}

void qcow2_bench_learn_model(struct qcow2_bench *bench, const char *image)
{
    char path[300];
    struct stat st;
    qcow2_bench_shell(bench, "qemu-img convert -O raw %s model.raw", image);
    model_path(bench, path);
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    free(bench->model);
    bench->size_bytes = (uint64_t)st.st_size;
    bench->model = malloc(bench->size_bytes);
    assert_int_equal(read(fd, bench->model, bench->size_bytes), st.st_size);
}

/* ---- the disk ---- */

struct disk_config qcow2_bench_config(struct qcow2_bench *bench, const char *image, char path[300])
{
    snprintf(path, 300, "%s/%s", bench->directory, image);
    return (struct disk_config){.path = path, .format = DISK_QCOW2};
}

void qcow2_bench_open(struct qcow2_bench *bench, const char *image, bool read_only)
{
    char path[300];
    struct nido_error err;
    struct disk_config config = qcow2_bench_config(bench, image, path);
    config.read_only = read_only;
    config.unsafe = bench->unsafe;
    if (disk_open(&bench->disk, &config, bench->loop, &err) < 0)
        fail_msg("%s", err.text);
    if (bench->model)
        assert_int_equal(bench->disk->size_bytes, bench->size_bytes);
}

void qcow2_bench_close(struct qcow2_bench *bench)
{
    disk_close(bench->disk);
    bench->disk = NULL;
}

const char *qcow2_bench_refusal(struct qcow2_bench *bench, const struct disk_config *config)
{
    static struct nido_error err;
    struct disk *disk = NULL;
    err.text[0] = '\0';
    int ret = disk_open(&disk, config, bench->loop, &err);
    disk_close(disk);
    assert_true(ret < 0);
    return err.text;
}

struct job {
    struct disk_request request;
    struct iovec iov[3];
    uint8_t *bytes;
    int result;
};

static void on_done(struct disk_request *request, int result)
{
    container_of(request, struct job, request)->result = result;
}

static void prepare(struct job *job, enum disk_op code, uint64_t offset, void *data,
                    uint64_t length)
{
    const size_t third = length / 3;
    job->result = 1;
    job->request = (struct disk_request){.op = code,
                                         .offset_bytes = offset,
                                         .length_bytes = length,
                                         .iov = job->iov,
                                         .iov_count = 3,
                                         .done = on_done};
    job->iov[0] = (struct iovec){data, third};
    job->iov[1] = (struct iovec){(uint8_t *)data + third, third};
    job->iov[2] = (struct iovec){(uint8_t *)data + 2 * third, length - 2 * third};
}

int qcow2_bench_one(struct qcow2_bench *bench, enum disk_op code, uint64_t offset, void *data,
                    uint64_t length)
{
    struct job job;
    uint8_t none[1];
    prepare(&job, code, offset, data ? data : none, length);
    disk_submit(bench->disk, &job.request);
    disk_drain(bench->disk);
    return job.result;
}

void qcow2_bench_compare(struct qcow2_bench *bench)
{
    enum { PIECE = 1 << 20 };
    own_mem uint8_t *got = malloc(PIECE);
    for (uint64_t at = 0; at < bench->size_bytes; at += PIECE) {
        const uint64_t length = MIN((uint64_t)PIECE, bench->size_bytes - at);
        assert_int_equal(qcow2_bench_one(bench, DISK_READ, at, got, length), 0);
        for (uint64_t i = 0; i < length; i++)
            if (got[i] != bench->model[at + i])
                fail_msg("byte %llu is %#x, not %#x", (unsigned long long)(at + i), got[i],
                         bench->model[at + i]);
    }
}

/* ---- random work ---- */

static void choose_range(struct qcow2_bench *bench, uint64_t *offset, uint64_t *length)
{
    static const uint32_t sectors[] = {1, 8, 16, 128, 200, 1000, 5000};
    const uint64_t all = bench->size_bytes / DISK_SECTOR_BYTES;
    const uint64_t most = sectors[qcow2_bench_random(bench) % ARRAY_SIZE(sectors)];
    uint64_t first = qcow2_bench_random(bench) % all;
    uint64_t count = 1 + qcow2_bench_random(bench) % most;
    if (qcow2_bench_random(bench) % 3 == 0) { /* something like a cluster, or several */
        first &= ~127ull;
        count = align_up(count, 128);
    }
    *offset = first * DISK_SECTOR_BYTES;
    *length = MIN(count, all - first) * DISK_SECTOR_BYTES;
}

static bool collides(const struct job *jobs, unsigned count, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < count; i++)
        if (checked_overlap(jobs[i].request.offset_bytes, jobs[i].request.length_bytes, offset,
                            length))
            return true;
    return false;
}

static enum disk_op choose_op(struct qcow2_bench *bench)
{
    static const enum disk_op ops[] = {
        DISK_READ,    DISK_READ,         DISK_READ,  DISK_WRITE,
        DISK_WRITE,   DISK_WRITE,        DISK_WRITE, DISK_WRITE_THROUGH,
        DISK_DISCARD, DISK_WRITE_ZEROES, DISK_FLUSH, DISK_WRITE_ZEROES_UNMAP,
    };
    return ops[qcow2_bench_random(bench) % ARRAY_SIZE(ops)];
}

/* Ranges of one batch are disjoint, so that what comes of it is certain; clusters are not. */
static unsigned make_batch(struct qcow2_bench *bench, struct job *jobs)
{
    unsigned count = 0;
    while (count < QCOW2_BENCH_BATCH) {
        uint64_t offset, length;
        struct job *job = &jobs[count];
        choose_range(bench, &offset, &length);
        if (collides(jobs, count, offset, length))
            break;
        job->bytes = malloc(length);
        for (uint64_t i = 0; i < length; i++)
            job->bytes[i] = (uint8_t)(bench->seed + i + i / 509);
        qcow2_bench_random(bench);
        prepare(job, choose_op(bench), offset, job->bytes, length);
        if (job->request.op == DISK_FLUSH)
            job->request.offset_bytes = job->request.length_bytes = 0;
        count++;
    }
    return count;
}

/* Discarded sectors are as they were, or zero. */
static void settle_discard(struct qcow2_bench *bench, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[DISK_SECTOR_BYTES];
    own_mem uint8_t *got = malloc(length);
    assert_int_equal(qcow2_bench_one(bench, DISK_READ, offset, got, length), 0);
    for (uint64_t at = 0; at < length; at += DISK_SECTOR_BYTES)
        assert_true(memcmp(got + at, zeroes, sizeof(zeroes)) == 0 ||
                    memcmp(got + at, bench->model + offset + at, sizeof(zeroes)) == 0);
    memcpy(bench->model + offset, got, length);
}

static void settle(struct qcow2_bench *bench, const struct job *job)
{
    const uint64_t offset = job->request.offset_bytes, length = job->request.length_bytes;
    uint8_t *expected = bench->model + offset;
    assert_int_equal(job->result, 0);
    switch (job->request.op) {
    case DISK_READ:
        if (memcmp(job->bytes, expected, length) != 0)
            fail_msg("a read of %llu bytes at %llu is wrong", (unsigned long long)length,
                     (unsigned long long)offset);
        break;
    case DISK_WRITE:
    case DISK_WRITE_THROUGH:
        memcpy(expected, job->bytes, length);
        break;
    case DISK_WRITE_ZEROES:
    case DISK_WRITE_ZEROES_UNMAP:
        memset(expected, 0, length);
        break;
    case DISK_DISCARD:
        settle_discard(bench, offset, length);
        break;
    case DISK_FLUSH:
        break;
    }
}

void qcow2_bench_work(struct qcow2_bench *bench, unsigned batches)
{
    struct job jobs[QCOW2_BENCH_BATCH];
    while (batches--) {
        const unsigned count = make_batch(bench, jobs);
        for (unsigned i = 0; i < count; i++)
            disk_submit(bench->disk, &jobs[i].request);
        disk_drain(bench->disk);
        for (unsigned i = 0; i < count; i++)
            settle(bench, &jobs[i]);
        for (unsigned i = 0; i < count; i++)
            free(jobs[i].bytes);
    }
}

void qcow2_bench_judge(struct qcow2_bench *bench, const char *image)
{
    qcow2_bench_shell(bench, "qemu-img check %s >check.txt 2>&1 || { cat check.txt; exit 1; }",
                      image);
    save_model(bench);
    qcow2_bench_shell(bench, "qemu-img compare -q -f raw -F qcow2 model.raw %s", image);
}
