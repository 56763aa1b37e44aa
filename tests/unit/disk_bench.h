/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_DISK_BENCH_H
#define NIDO_TESTS_UNIT_DISK_BENCH_H

/* A raw disk on a real image in $TMPDIR (or here), its loop, and requests that a test waits for. */

#include "host/disk.h"

#include <semaphore.h>

#define DISK_BENCH_BYTES (4u << 20)

struct disk_bench {
    char path[256];
    struct loop *loop;
    struct disk *disk;
};

struct disk_bench_op {
    struct disk_request request;
    struct iovec iov[4];
    int result;
    sem_t *done;
};

/* For cmocka: an image of zeroes, opened to write; the loop runs. */
int disk_bench_set_up(void **state);
int disk_bench_tear_down(void **state);
/* Opens bench->path, while the loop does not run; the test fails where that fails. */
void disk_bench_open(struct disk_bench *bench, bool read_only, bool direct);
/* The same image, opened another way. */
void disk_bench_reopen(struct disk_bench *bench, bool read_only, bool direct);

/* A request of one vector. Returns `op`. */
struct disk_bench_op *disk_bench_op(struct disk_bench_op *op, enum disk_op code, uint64_t offset,
                                    void *data, uint64_t length);
/* One batch; each end posts `done`, where the test has not set request.done itself. */
void disk_bench_start(struct disk_bench *bench, struct disk_bench_op *ops, unsigned count,
                      sem_t *done);
void disk_bench_done(struct disk_request *request, int result);
/* The same, and waits for all. */
void disk_bench_run(struct disk_bench *bench, struct disk_bench_op *ops, unsigned count);
/* One request's result. */
int disk_bench_one(struct disk_bench *bench, enum disk_op code, uint64_t offset, void *data,
                   uint64_t length);

/* Two requests of the first sector, the second submitted from the first one's `done`; both must
 * succeed. */
void disk_bench_chain(struct disk_bench *bench, enum disk_op first, enum disk_op second);

void disk_bench_fill(uint8_t *bytes, size_t length, unsigned seed);
/* Fills the whole image. The caller frees what it now holds. */
uint8_t *disk_bench_written_image(struct disk_bench *bench);
void disk_bench_expect(struct disk_bench *bench, uint64_t offset, const uint8_t *bytes,
                       size_t length);
void disk_bench_expect_zeroes(struct disk_bench *bench, uint64_t offset, size_t length);
/* What the file takes of its file system; give or take what that needs for its own books. */
uint64_t disk_bench_stored(const struct disk_bench *bench);
void disk_bench_expect_stored(const struct disk_bench *bench, uint64_t bytes);

#endif
