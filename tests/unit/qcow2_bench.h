/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_QCOW2_BENCH_H
#define NIDO_TESTS_UNIT_QCOW2_BENCH_H

/*
 * Images that qemu-img makes and judges, in a directory of their own, and a model to hold against
 * them: what the disk should contain, byte for byte. The loop does not run; a batch of requests is
 * started at once and drained.
 */

#include "host/disk.h"

#include <stdio.h>

#define QCOW2_BENCH_BATCH 24u

struct qcow2_bench {
    char directory[200];
    struct loop *loop;
    struct disk *disk;
    uint8_t *model;
    uint64_t size_bytes;
    unsigned seed;
    bool unsafe; /* for what is opened next */
};

/* False: there is no qemu-img, and why that matters has been said. */
bool qcow2_bench_possible(void);

/* For cmocka: the directory and the loop. */
int qcow2_bench_set_up(void **state);
int qcow2_bench_tear_down(void **state);

/* A shell command in the bench's directory; the test fails unless it ends with 0. */
void qcow2_bench_shell(struct qcow2_bench *bench, const char *format, ...) PRINTF(2, 3);
int qcow2_bench_status(struct qcow2_bench *bench, const char *format, ...) PRINTF(2, 3);

/* The model becomes `bytes` of something that compresses, with holes; written to model.raw. */
void qcow2_bench_fill_model(struct qcow2_bench *bench, uint64_t bytes);
/* The model becomes what qemu-img finds in the image. */
void qcow2_bench_learn_model(struct qcow2_bench *bench, const char *image);

struct disk_config qcow2_bench_config(struct qcow2_bench *bench, const char *image, char path[300]);
void qcow2_bench_open(struct qcow2_bench *bench, const char *image, bool read_only);
void qcow2_bench_close(struct qcow2_bench *bench);
/* What opening it is refused with. */
const char *qcow2_bench_refusal(struct qcow2_bench *bench, const struct disk_config *config);

int qcow2_bench_one(struct qcow2_bench *bench, enum disk_op code, uint64_t offset, void *data,
                    uint64_t length);
/* So many batches of random requests, each checked against the model. */
void qcow2_bench_work(struct qcow2_bench *bench, unsigned batches);
/* All of it, read. */
void qcow2_bench_compare(struct qcow2_bench *bench);
/* qemu-img check and qemu-img compare, of a closed image. */
void qcow2_bench_judge(struct qcow2_bench *bench, const char *image);

uint32_t qcow2_bench_random(struct qcow2_bench *bench);

#endif
