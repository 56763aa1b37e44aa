/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A raw disk: offset n of the disk is offset n of the file or block device.
 *
 * Reads and writes go straight to the I/O engine, with the caller's vectors. Two kinds of request
 * do not and take the slow lane instead, one at a time, in pieces, through one buffer: buffers that
 * O_DIRECT would refuse, and zeroes that neither the file system nor the device can write for us.
 *
 * Flushes are gathered: one fdatasync() at a time, for all that wait when it starts. That is not
 * only cheaper. The kernel reports a lost page once for each open file, so of two at a time the
 * wrong one could come back with success.
 */
#include "host/disk.h"

#include "base/checked.h"
#include "base/log.h"
#include "host/aio.h"
#include "host/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LANE_BYTES ((size_t)128 << 10)

#define PUNCH_HOLE (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO_RANGE (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

struct request_list {
    struct disk_request *first, *last;
};

struct disk_raw {
    struct disk disk;
    struct disk_file file;
    struct aio *aio;
    bool unsafe;      /* nothing waits for the storage */
    bool writes_lost; /* a flush has failed: nothing is written any more */
    bool cut_short;   /* disk_drain() is at it */
    /* Learned from the first refusal. */
    bool cannot_punch, cannot_zero, cannot_discard;
    struct request_list flush_waiting;
    struct request_list flush_running; /* fdatasync() is under way for these */
    struct request_list lane;          /* the first is being worked on */
    uint8_t *lane_buffer;              /* LANE_BYTES, mapped; pages come with first use */
    struct iovec lane_iov;
};

static struct disk_raw *raw_of(struct disk *disk)
{
    return container_of(disk, struct disk_raw, disk);
}

static struct disk_request *request_of(struct aio_request *aio)
{
    return container_of(aio, struct disk_request, aio);
}

static void list_push(struct request_list *list, struct disk_request *request)
{
    request->next = NULL;
    if (list->first)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static struct disk_request *list_pop(struct request_list *list)
{
    struct disk_request *request = list->first;
    if (request)
        list->first = request->next;
    return request;
}

/* ---- ends ---- */

static void lose_writes(struct disk_raw *self, int code)
{
    if (self->writes_lost)
        return;
    self->writes_lost = true;
    log_error("disk %s: writes did not reach the storage (%s) and may be lost, so no more are "
              "taken; check the storage, then start the machine anew",
              self->disk.path, strerror(code));
}

static void on_done(struct aio_request *aio, int result)
{
    struct disk_request *request = request_of(aio);
    if (request->op == DISK_WRITE_THROUGH && result == -EIO)
        lose_writes(raw_of(request->disk), EIO);
    request->done(request, result);
}

/* `done` must wait for its turn, so the result goes through the engine. */
static void settle(struct disk_request *request, int result)
{
    request->aio = (struct aio_request){.op = AIO_NOTHING, .result = result, .done = on_done};
    aio_submit(raw_of(request->disk)->aio, &request->aio);
}

/* ---- the slow lane ---- */

static void lane_next(struct disk_raw *self);

static size_t piece_bytes(const struct disk_request *request)
{
    return MIN(request->length_bytes - request->done_bytes, LANE_BYTES);
}

/* Between the request's vectors, from done_bytes on, and the lane's buffer. */
static void lane_copy(const struct disk_raw *self, const struct disk_request *request, bool out)
{
    const size_t piece = piece_bytes(request);
    uint64_t skip = request->done_bytes;
    size_t at = 0;
    for (unsigned i = 0; i < request->iov_count && at < piece; i++) {
        const struct iovec *iov = &request->iov[i];
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t length = MIN(iov->iov_len - skip, piece - at);
        uint8_t *theirs = (uint8_t *)iov->iov_base + skip;
        if (out)
            memcpy(self->lane_buffer + at, theirs, length);
        else
            memcpy(theirs, self->lane_buffer + at, length);
        at += length;
        skip = 0;
    }
}

static void on_lane_piece(struct aio_request *aio, int result)
{
    struct disk_request *request = request_of(aio);
    struct disk_raw *self = raw_of(request->disk);
    if (result == 0) {
        if (request->op == DISK_READ)
            lane_copy(self, request, false);
        request->done_bytes += piece_bytes(request);
    }
    bool more = result == 0 && request->done_bytes < request->length_bytes;
    if (!more)
        list_pop(&self->lane);
    lane_next(self);
    if (!more)
        on_done(aio, result);
}

static enum aio_op aio_op_of(const struct disk_raw *self, const struct disk_request *request)
{
    if (request->op == DISK_READ)
        return AIO_READ;
    return request->op == DISK_WRITE_THROUGH && !self->unsafe ? AIO_WRITE_THROUGH : AIO_WRITE;
}

/* The first request's next piece. */
static void lane_next(struct disk_raw *self)
{
    struct disk_request *request = self->lane.first;
    if (!request)
        return;
    const size_t piece = piece_bytes(request);
    if (request->op == DISK_WRITE || request->op == DISK_WRITE_THROUGH)
        lane_copy(self, request, true);
    else if (request->op != DISK_READ)
        memset(self->lane_buffer, 0, piece);
    self->lane_iov = (struct iovec){self->lane_buffer, piece};
    request->aio = (struct aio_request){
        .op = self->cut_short ? AIO_NOTHING : aio_op_of(self, request),
        .fd = self->file.fd,
        .offset_bytes = request->offset_bytes + request->done_bytes,
        .length_bytes = piece,
        .iov = &self->lane_iov,
        .iov_count = 1,
        .done = on_lane_piece,
        .result = -ECANCELED,
    };
    aio_submit(self->aio, &request->aio);
}

static void lane_enter(struct disk_raw *self, struct disk_request *request)
{
    bool free = !self->lane.first;
    list_push(&self->lane, request);
    if (free)
        lane_next(self);
}

/* ---- reads and writes ---- */

static bool buffers_suit(const struct disk_raw *self, const struct disk_request *request)
{
    if (!self->file.direct)
        return true;
    for (unsigned i = 0; i < request->iov_count; i++)
        if (!is_aligned((uintptr_t)request->iov[i].iov_base, self->file.memory_align_bytes) ||
            !is_aligned(request->iov[i].iov_len, self->disk.block_bytes))
            return false;
    return true;
}

static void move_data(struct disk_raw *self, struct disk_request *request)
{
    if (!buffers_suit(self, request)) {
        lane_enter(self, request);
        return;
    }
    request->aio = (struct aio_request){
        .op = aio_op_of(self, request),
        .fd = self->file.fd,
        .offset_bytes = request->offset_bytes,
        .length_bytes = request->length_bytes,
        .iov = request->iov,
        .iov_count = request->iov_count,
        .done = on_done,
    };
    aio_submit(self->aio, &request->aio);
}

/* ---- discard and zeroes ---- */

static void clear_range(struct disk_raw *self, struct disk_request *request);

static bool is_unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY;
}

static void on_cleared(struct aio_request *aio, int result)
{
    struct disk_request *request = request_of(aio);
    struct disk_raw *self = raw_of(request->disk);
    if (!is_unsupported(result)) {
        on_done(aio, result);
        return;
    }
    if (aio->op == AIO_DISCARD)
        self->cannot_discard = true;
    else if (aio->mode == PUNCH_HOLE)
        self->cannot_punch = true;
    else
        self->cannot_zero = true;
    clear_range(self, request);
}

static void start_clearing(struct disk_raw *self, struct disk_request *request, enum aio_op op,
                           int mode)
{
    request->aio = (struct aio_request){
        .op = op,
        .fd = self->file.fd,
        .mode = mode,
        .offset_bytes = request->offset_bytes,
        .length_bytes = request->length_bytes,
        .done = on_cleared,
    };
    aio_submit(self->aio, &request->aio);
}

/* On a block device a hole is a promise of zeroes, which not every device that discards can
 * keep. */
static void discard_range(struct disk_raw *self, struct disk_request *request)
{
    if (self->file.block_device && !self->cannot_discard)
        start_clearing(self, request, AIO_DISCARD, 0);
    else if (!self->file.block_device && !self->cannot_punch)
        start_clearing(self, request, AIO_ALLOCATE, PUNCH_HOLE);
    else
        settle(request, 0);
}

/* From the best way to the one that always works. */
static void clear_range(struct disk_raw *self, struct disk_request *request)
{
    if (request->op == DISK_DISCARD)
        discard_range(self, request);
    else if (request->op == DISK_WRITE_ZEROES_UNMAP && !self->cannot_punch)
        start_clearing(self, request, AIO_ALLOCATE, PUNCH_HOLE);
    else if (!self->cannot_zero)
        start_clearing(self, request, AIO_ALLOCATE, ZERO_RANGE);
    else
        lane_enter(self, request);
}

/* ---- flushes ---- */

static void on_flushed(struct aio_request *aio, int result)
{
    struct disk_raw *self = raw_of(request_of(aio)->disk);
    struct request_list group = self->flush_running;
    struct disk_request *request;
    self->flush_running = (struct request_list){0};
    if (result < 0)
        lose_writes(self, -result);
    if (self->writes_lost)
        result = -EIO;
    while ((request = list_pop(&group)))
        request->done(request, result);
}

static void start_flush(struct disk_raw *self)
{
    if (self->flush_running.first || !self->flush_waiting.first)
        return;
    self->flush_running = self->flush_waiting;
    self->flush_waiting = (struct request_list){0};
    struct aio_request *aio = &self->flush_running.first->aio;
    *aio = (struct aio_request){.op = AIO_SYNC, .fd = self->file.fd, .done = on_flushed};
    aio_submit(self->aio, aio);
}

static void on_batch(void *owner)
{
    struct disk_raw *self = owner;
    if (self->disk.batch_done)
        self->disk.batch_done(self->disk.user);
    start_flush(self);
}

/* ---- the disk ---- */

/* The caller has checked these already, or should have: past the end a write would grow the
 * file. */
static int refusal(const struct disk_raw *self, const struct disk_request *request)
{
    if (request->op != DISK_READ && self->writes_lost)
        return -EIO;
    if (request->op == DISK_FLUSH)
        return 0;
    if (request->op != DISK_READ && self->disk.read_only)
        return -EROFS;
    if (!request->length_bytes ||
        !checked_inside(request->offset_bytes, request->length_bytes, self->disk.size_bytes))
        return -EINVAL;
    bool strict = self->file.direct || self->file.block_device;
    if (strict &&
        !is_aligned(request->offset_bytes | request->length_bytes, self->disk.block_bytes))
        return -EINVAL;
    return 0;
}

static void raw_submit(struct disk *disk, struct disk_request *request)
{
    struct disk_raw *self = raw_of(disk);
    request->disk = disk;
    request->done_bytes = 0;
    int refused = refusal(self, request);
    if (refused < 0 || (self->unsafe && request->op == DISK_FLUSH))
        settle(request, refused);
    else if (request->op <= DISK_WRITE_THROUGH)
        move_data(self, request);
    else if (request->op == DISK_FLUSH)
        list_push(&self->flush_waiting, request);
    else
        clear_range(self, request);
}

static void raw_commit(struct disk *disk)
{
    struct disk_raw *self = raw_of(disk);
    start_flush(self);
    aio_commit(self->aio);
}

static void raw_drain(struct disk *disk)
{
    struct disk_raw *self = raw_of(disk);
    self->cut_short = true;
    start_flush(self);
    aio_drain(self->aio);
    self->cut_short = false;
}

static void raw_close(struct disk *disk)
{
    struct disk_raw *self = raw_of(disk);
    aio_destroy(self->aio);
    disk_file_close(&self->file);
    if (self->lane_buffer)
        munmap(self->lane_buffer, LANE_BYTES);
    free(self->disk.path);
    free(self);
}

static const struct disk_ops raw_ops = {
    .submit = raw_submit,
    .commit = raw_commit,
    .drain = raw_drain,
    .close = raw_close,
};

static int prepare(struct disk_raw *self, const struct disk_config *config, struct loop *loop,
                   struct nido_error *err)
{
    void *lane = mmap(NULL, LANE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    self->lane_buffer = lane == MAP_FAILED ? NULL : lane;
    self->disk.path = strdup(config->path);
    if (!self->lane_buffer || !self->disk.path)
        return error_set(err, ENOMEM, "disk %s: out of memory", config->path);
    int ret = disk_file_open(&self->file, config, err);
    if (ret == 0)
        ret = disk_file_expect_raw(&self->file, config, err);
    if (ret < 0)
        return ret;
    ret = aio_create(&self->aio, loop, err);
    return ret < 0 ? error_prefix(err, "disk %s", config->path) : 0;
}

int disk_open_raw(struct disk **out, const struct disk_config *config, struct loop *loop,
                  struct nido_error *err)
{
    struct disk_raw *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "disk %s: out of memory", config->path);
    self->file.fd = -1;
    self->disk.ops = &raw_ops;
    int ret = prepare(self, config, loop, err);
    if (ret < 0) {
        raw_close(&self->disk);
        return ret;
    }
    self->disk.size_bytes = self->file.size_bytes;
    self->disk.block_bytes = self->file.block_bytes;
    self->disk.physical_bytes = self->file.physical_bytes;
    self->disk.discard_bytes = self->file.discard_bytes;
    self->disk.read_only = config->read_only;
    self->unsafe = config->unsafe;
    self->aio->batch_done = on_batch;
    self->aio->owner = self;
    *out = &self->disk;
    return 0;
}
