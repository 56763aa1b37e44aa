/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_AIO_H
#define NIDO_HOST_AIO_H

/*
 * Asynchronous file I/O for one loop, by one of two engines:
 *   aio_uring.c    io_uring; one system call starts a whole batch
 *   aio_threads.c  a few threads with preadv() and friends, where the kernel forbids io_uring, and
 *                  for the calls that io_uring does not have
 * NIDO_AIO=threads in the environment forces the second (a host with a broken io_uring; tests).
 *
 * A request is owned by the caller and lives until `done`. Nothing is allocated for it: engines
 * keep requests in lists through `next`, so that any number can wait.
 *
 * Whole or not at all: a short transfer goes on with the rest, EINTR and EAGAIN are tried again, a
 * transfer that gets nowhere (the file shrank) is -EIO.
 *
 * All functions are for the loop's thread, or for any one thread while the loop does not run.
 * `done` is called from aio_commit(), aio_drain() or the loop, never from aio_submit(). It may
 * submit: such requests start without a commit.
 */

#include "base/error.h"
#include "host/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum aio_op {
    AIO_READ,
    AIO_WRITE,
    AIO_WRITE_THROUGH, /* RWF_DSYNC: durable when done */
    AIO_SYNC,          /* fdatasync() */
    AIO_ALLOCATE,      /* fallocate() */
    AIO_DISCARD,       /* ioctl BLKDISCARD, for block devices */
    AIO_NOTHING,       /* `result` is settled: only `done` is to be called, in its turn */
};

struct aio_request {
    enum aio_op op;
    int fd;
    int mode; /* AIO_ALLOCATE: fallocate()'s */
    uint64_t offset_bytes;
    uint64_t length_bytes; /* for reads and writes the sum of iov; not 0 */
    /* Reads and writes. The engine advances offset, length and vectors as it gets on. */
    struct iovec *iov;
    unsigned iov_count;                                    /* 1 to 1024 */
    void (*done)(struct aio_request *request, int result); /* 0 or a negative errno */

    /* The engine's, from submit to done; `result` also the caller's for AIO_NOTHING. */
    struct aio_request *next;
    int result;
    unsigned retries;
};

/* First in, first out. */
struct aio_list {
    struct aio_request *first, *last;
};

struct aio;

struct aio_ops {
    /* Hands over what was submitted, as far as there is room. Not NULL. */
    void (*start)(struct aio *aio);
    /* Moves what has ended to aio->ended; what must go on, to aio->submitted. True: it moved
     * some. */
    bool (*collect)(struct aio *aio);
    /* True: requests are under way; this has waited until collect() finds something. */
    bool (*wait)(struct aio *aio);
    void (*destroy)(struct aio *aio);
};

struct aio {
    const struct aio_ops *ops;
    struct loop *loop;
    struct aio_list submitted;       /* not started */
    struct aio_list ended;           /* `done` not yet called */
    bool turning;                    /* aio_turn() is at it, further up the stack */
    void (*batch_done)(void *owner); /* after one or more `done`; NULL: nobody cares */
    void *owner;
};

/* The best engine that this host allows. */
int aio_create(struct aio **out, struct loop *loop, struct nido_error *err);
/* No request is under way. Takes NULL. */
void aio_destroy(struct aio *aio);

void aio_submit(struct aio *aio, struct aio_request *request);
/* What was submitted starts now. */
void aio_commit(struct aio *aio);
/* Returns when nothing is under way. Not from `done`. */
void aio_drain(struct aio *aio);

/* ---- between aio.c and the engines ---- */

int aio_uring_create(struct aio **out, struct loop *loop, struct nido_error *err);
int aio_threads_create(struct aio **out, struct loop *loop, struct nido_error *err);

void aio_list_push(struct aio_list *list, struct aio_request *request);
struct aio_request *aio_list_pop(struct aio_list *list); /* NULL: empty */

/* Starts, collects and calls `done` until nothing moves. */
void aio_turn(struct aio *aio);
/* What a system call's result (a byte count or a negative errno) means: true: the request has
 * ended, with request->result; false: the rest of it is to be done. */
bool aio_settle(struct aio_request *request, int64_t got);

#endif
