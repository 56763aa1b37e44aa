/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk: a disk (virtio 1.2, 5.2).
 *
 * Purpose        sectors of 512 bytes, from and to a struct disk
 * Queues         1 to 16 request queues, all alike, for as many vCPUs
 * Config space   struct virtio_blk_config of linux/virtio_blk.h; never changes, not writable
 * Owner thread   the loop; read_config alone runs on vCPU threads
 *
 * A request (5.2.6) is a chain of
 *
 *     out  16 bytes   u32 type, u32 reserved, u64 sector
 *     out  data       of OUT; the segments of DISCARD and WRITE_ZEROES
 *     in   data       of IN and GET_ID
 *     in   1 byte     status: the last writable byte
 *
 * cut into descriptors in any way the driver likes (2.7.4.1: no layout may be assumed). What is too
 * short for header or status breaks the device; everything else that is wrong with a request is an
 * answer in its status byte.
 *
 * A kick pops what is there, submits it, and commits it to the disk at once. Requests live in a
 * pool with room for every descriptor of every queue; nothing is allocated while the guest runs,
 * and what was never needed was never touched. Completions are pushed as they come and published
 * once a batch.
 *
 * Durability: a driver that negotiates FLUSH says itself when (5.2.6.2). For one that does not,
 * every write is durable before it completes. CONFIG_WCE, which would let a driver go back and
 * forth between the two while it runs, is not offered: no driver of today depends on it.
 */
#include "devices/virtio/blk.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define QUEUE_SIZE    128u
#define TURN_REQUESTS 256u /* then other devices of the loop have a turn */

#define HEADER_BYTES sizeof(struct virtio_blk_outhdr)
#define RANGE_BYTES  sizeof(struct virtio_blk_discard_write_zeroes)

#define RANGES_MAX          16u
#define DISCARD_SECTORS_MAX (1u << 22) /* 2 GiB */
/* Zeroes may have to be written one by one, and a reset waits for them: 64 MiB. */
#define ZEROES_SECTORS_MAX (1u << 17)

/* Ends before the fields of secure erase, which we do not have. */
#define CONFIG_BYTES (offsetof(struct virtio_blk_config, write_zeroes_may_unmap) + 4u)

/* What a request's start may say besides a status byte. */
#define UNDER_WAY (-1)

struct virtio_blk;

struct request {
    struct disk_request disk;
    struct virtio_blk *blk;
    struct request *next_free;
    uint8_t *status; /* in guest memory */
    uint16_t queue, head;
    uint32_t in_bytes;      /* of the chain, status included */
    uint32_t written_bytes; /* what the used ring says after success */
    /* DISCARD and WRITE_ZEROES: one range after the other. */
    uint8_t range_count, ranges_done;
    bool then_flush;
    union {
        struct iovec iov[QUEUE_SIZE];
        struct {
            uint64_t sector;
            uint32_t sectors;
            enum disk_op op;
        } ranges[RANGES_MAX];
    };
};

struct virtio_blk {
    struct virtio_device virtio;
    struct disk *disk; /* owned */
    char name[32];
    char serial[VIRTIO_BLK_ID_BYTES];
    struct virtio_blk_config config; /* little-endian, as the guest reads it */

    /* Loop thread. */
    struct request *pool; /* mapped; QUEUE_SIZE for each queue */
    unsigned pool_count;
    unsigned pool_touched;    /* the rest of the pool was never used */
    struct request *free;     /* latest used first */
    unsigned under_way;       /* requests popped and not completed */
    uint32_t queues_to_flush; /* bit n: queue n has unpublished completions */
    bool stopping;            /* a reset waits for what is under way */
    bool dying;               /* destroy() is at it: rings are not touched */
    struct virtq_chain chain; /* the one being looked at */
    struct log_limit complaints;
};

static struct virtio_blk *blk_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_blk, virtio);
}

/* ---- requests: from the pool and back ---- */

/* Rings never have more under way than descriptors, so the pool cannot run dry. */
static struct request *take_request(struct virtio_blk *self)
{
    struct request *request = self->free;
    if (request)
        self->free = request->next_free;
    else if (self->pool_touched < self->pool_count)
        request = &self->pool[self->pool_touched++];
    if (request)
        self->under_way++;
    return request;
}

static void release_request(struct virtio_blk *self, struct request *request)
{
    request->next_free = self->free;
    self->free = request;
    self->under_way--;
}

/* 2.7.8.2: the length counts bytes written from the first writable one on. After a failure nothing
 * is promised of the data in front of the status. */
static uint32_t written_bytes(const struct request *request, uint8_t status)
{
    if (status == VIRTIO_BLK_S_OK)
        return request->written_bytes;
    return request->in_bytes == 1 ? 1 : 0;
}

/* After a reset, or when the device is broken, nobody waits for an answer any more, and the memory
 * behind it may have another use. */
static bool is_unwanted(const struct request *request)
{
    const struct virtio_blk *self = request->blk;
    return self->dying || !virtq_live(&self->virtio.queues[request->queue].ring);
}

static void complete(struct request *request, uint8_t status)
{
    struct virtio_blk *self = request->blk;
    if (!is_unwanted(request)) {
        *request->status = status;
        virtq_push(&self->virtio.queues[request->queue].ring, request->head,
                   written_bytes(request, status));
        self->queues_to_flush |= 1u << request->queue;
    }
    release_request(self, request);
}

static void publish(struct virtio_blk *self)
{
    while (self->queues_to_flush) {
        unsigned queue = (unsigned)__builtin_ctz(self->queues_to_flush);
        self->queues_to_flush &= self->queues_to_flush - 1;
        virtio_flush(&self->virtio, queue);
    }
}

/* After one or more completions. */
static void on_batch(void *user)
{
    struct virtio_blk *self = user;
    publish(self);
    if (self->stopping && !self->under_way) {
        self->stopping = false;
        virtio_idle(&self->virtio);
    }
}

static void complain(struct virtio_blk *self, const struct disk_request *request, int result)
{
    log_warn_limited(&self->complaints, "disk %s: the guest's %s at byte %llu failed: %s",
                     self->disk->path,
                     request->op == DISK_READ    ? "read"
                     : request->op == DISK_FLUSH ? "flush"
                                                 : "write",
                     (unsigned long long)request->offset_bytes, strerror(-result));
}

static bool submit_next_range(struct request *request);

static void count_bytes(struct virtio_blk *self, const struct disk_request *disk)
{
    if (disk->op == DISK_READ)
        virtio_moved(&self->virtio, disk->length_bytes, 0);
    else if (disk->op == DISK_WRITE || disk->op == DISK_WRITE_THROUGH)
        virtio_moved(&self->virtio, 0, disk->length_bytes);
}

static void on_done(struct disk_request *disk, int result)
{
    struct request *request = container_of(disk, struct request, disk);
    if (is_unwanted(request)) {
        release_request(request->blk, request);
    } else if (result < 0) {
        complain(request->blk, disk, result);
        complete(request, VIRTIO_BLK_S_IOERR);
    } else {
        count_bytes(request->blk, disk);
        if (!submit_next_range(request))
            complete(request, VIRTIO_BLK_S_OK);
    }
}

static void submit(struct request *request, enum disk_op op, uint64_t sector, uint64_t length_bytes)
{
    request->disk.op = op;
    request->disk.offset_bytes = sector * DISK_SECTOR_BYTES;
    request->disk.length_bytes = length_bytes;
    request->disk.done = on_done;
    disk_submit(request->blk->disk, &request->disk);
}

/* ---- IN and OUT ---- */

static bool range_exists(const struct virtio_blk *self, uint64_t sector, uint64_t sectors)
{
    return checked_inside(sector, sectors, self->disk->size_bytes / DISK_SECTOR_BYTES);
}

/* Copies the vectors behind the first `skip` bytes, up to `length` bytes. */
static void take_vectors(struct request *request, const struct iovec *from, uint64_t skip,
                         uint64_t length)
{
    unsigned count = 0;
    for (; skip >= from->iov_len && length; from++)
        skip -= from->iov_len;
    for (; length; from++) {
        size_t piece = MIN(from->iov_len - (size_t)skip, length);
        request->iov[count++] = (struct iovec){(uint8_t *)from->iov_base + skip, piece};
        length -= piece;
        skip = 0;
    }
    request->disk.iov = request->iov;
    request->disk.iov_count = count;
}

static int start_transfer(struct request *request, enum disk_op op, uint64_t sector,
                          uint64_t length)
{
    if (length % DISK_SECTOR_BYTES ||
        !range_exists(request->blk, sector, length / DISK_SECTOR_BYTES))
        return VIRTIO_BLK_S_IOERR;
    if (length == 0)
        return VIRTIO_BLK_S_OK;
    const struct virtq_chain *chain = &request->blk->chain;
    if (op == DISK_READ)
        take_vectors(request, chain->iov + chain->out_count, 0, length);
    else
        take_vectors(request, chain->iov, HEADER_BYTES, length);
    submit(request, op, sector, length);
    return UNDER_WAY;
}

static int start_read(struct request *request, uint64_t sector)
{
    return start_transfer(request, DISK_READ, sector, request->blk->chain.in_bytes - 1);
}

static int start_write(struct request *request, uint64_t sector)
{
    const struct virtio_blk *self = request->blk;
    if (self->disk->read_only)
        return VIRTIO_BLK_S_IOERR;
    bool through = !virtio_has(&self->virtio, VIRTIO_BLK_F_FLUSH);
    return start_transfer(request, through ? DISK_WRITE_THROUGH : DISK_WRITE, sector,
                          self->chain.out_bytes - HEADER_BYTES);
}

/* ---- DISCARD and WRITE_ZEROES ---- */

/* Copies one segment out and checks it. 0, or a status byte. */
static int take_range(struct request *request, unsigned index, bool zeroes)
{
    struct virtio_blk_discard_write_zeroes raw;
    virtq_chain_read(&request->blk->chain, HEADER_BYTES + index * RANGE_BYTES, &raw, sizeof(raw));
    const uint64_t sector = le64toh(raw.sector);
    const uint32_t sectors = le32toh(raw.num_sectors), flags = le32toh(raw.flags);
    const uint32_t known = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    if (flags & ~known)
        return VIRTIO_BLK_S_UNSUPP;
    if (sectors > (zeroes ? ZEROES_SECTORS_MAX : DISCARD_SECTORS_MAX) ||
        !range_exists(request->blk, sector, sectors))
        return VIRTIO_BLK_S_IOERR;
    request->ranges[index].sector = sector;
    request->ranges[index].sectors = sectors;
    request->ranges[index].op = !zeroes ? DISK_DISCARD
                                : flags ? DISK_WRITE_ZEROES_UNMAP
                                        : DISK_WRITE_ZEROES;
    return 0;
}

/* False: there is none left. */
static bool submit_next_range(struct request *request)
{
    while (request->ranges_done < request->range_count) {
        unsigned i = request->ranges_done++;
        if (!request->ranges[i].sectors)
            continue;
        submit(request, request->ranges[i].op, request->ranges[i].sector,
               (uint64_t)request->ranges[i].sectors * DISK_SECTOR_BYTES);
        return true;
    }
    if (!request->then_flush)
        return false;
    request->then_flush = false;
    submit(request, DISK_FLUSH, 0, 0);
    return true;
}

/* All segments are checked before the first one is touched (5.2.6.2). */
static int start_ranges(struct request *request, unsigned feature)
{
    const struct virtio_blk *self = request->blk;
    const bool zeroes = feature == VIRTIO_BLK_F_WRITE_ZEROES;
    const uint64_t length = self->chain.out_bytes - HEADER_BYTES;
    if (self->disk->read_only)
        return VIRTIO_BLK_S_IOERR;
    if (!virtio_has(&self->virtio, feature))
        return VIRTIO_BLK_S_UNSUPP;
    if (!length || length % RANGE_BYTES || length / RANGE_BYTES > RANGES_MAX)
        return VIRTIO_BLK_S_IOERR;
    const unsigned count = (unsigned)(length / RANGE_BYTES);
    for (unsigned i = 0; i < count; i++) {
        int status = take_range(request, i, zeroes);
        if (status)
            return status;
    }
    request->range_count = (uint8_t)count;
    request->then_flush = zeroes && !virtio_has(&self->virtio, VIRTIO_BLK_F_FLUSH);
    return submit_next_range(request) ? UNDER_WAY : VIRTIO_BLK_S_OK;
}

/* ---- the rest of the types, and the queue ---- */

static int start_flush(struct request *request)
{
    submit(request, DISK_FLUSH, 0, 0);
    return UNDER_WAY;
}

/* 20 bytes; NUL ends a shorter one. A shorter buffer gets what it holds. */
static int give_id(struct request *request)
{
    const struct virtio_blk *self = request->blk;
    const uint32_t room = request->in_bytes - 1;
    const uint32_t length = MIN(room, (uint32_t)VIRTIO_BLK_ID_BYTES);
    virtq_chain_write(&self->chain, 0, self->serial, length);
    request->written_bytes = length == room ? request->in_bytes : length;
    return VIRTIO_BLK_S_OK;
}

/* UNDER_WAY, or the status byte. */
static int start_request(struct request *request, uint32_t type, uint64_t sector)
{
    switch (type) {
    case VIRTIO_BLK_T_IN:
        return start_read(request, sector);
    case VIRTIO_BLK_T_OUT:
        return start_write(request, sector);
    case VIRTIO_BLK_T_FLUSH:
        return start_flush(request);
    case VIRTIO_BLK_T_GET_ID:
        return give_id(request);
    case VIRTIO_BLK_T_DISCARD:
        return start_ranges(request, VIRTIO_BLK_F_DISCARD);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return start_ranges(request, VIRTIO_BLK_F_WRITE_ZEROES);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* The chain at hand becomes a request. False: it cannot be one. */
static bool serve_chain(struct virtio_blk *self, unsigned queue)
{
    const struct virtq_chain *chain = &self->chain;
    struct virtio_blk_outhdr header;
    if (chain->in_bytes < 1 || virtq_chain_read(chain, 0, &header, sizeof(header)) < 0)
        return false;
    struct request *request = take_request(self);
    if (!request)
        return false;
    const struct iovec *last = &chain->iov[chain->out_count + chain->in_count - 1];
    request->blk = self;
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->queue = (uint16_t)queue;
    request->head = chain->head;
    request->in_bytes = request->written_bytes = (uint32_t)chain->in_bytes;
    request->range_count = request->ranges_done = 0;
    request->then_flush = false;
    int status = start_request(request, le32toh(header.type), le64toh(header.sector));
    if (status != UNDER_WAY)
        complete(request, (uint8_t)status);
    return true;
}

/* Pops and submits at most `limit` chains. Returns how many. */
static unsigned serve_queue(struct virtio_blk *self, unsigned queue, unsigned limit)
{
    struct virtq *ring = &self->virtio.queues[queue].ring;
    unsigned served = 0;
    int got = 0;
    while (served < limit && (got = virtq_pop(ring, &self->chain)) == 1) {
        if (!serve_chain(self, queue)) {
            virtio_broken(&self->virtio, "a request has no room for its header or its status");
            return served;
        }
        served++;
    }
    if (got < 0)
        virtio_broken(&self->virtio, "a request queue is nonsense");
    return served;
}

static void blk_kick(struct virtio_device *device, unsigned queue)
{
    struct virtio_blk *self = blk_of(device);
    struct virtq *ring = &device->queues[queue].ring;
    unsigned served = 0;
    do {
        virtq_quiet(ring);
        served += serve_queue(self, queue, TURN_REQUESTS - served);
        disk_commit(self->disk);
        publish(self);
        if (served == TURN_REQUESTS) {
            virtio_notify(device, queue); /* come again */
            return;
        }
    } while (virtq_listen(ring));
}

/* ---- life ---- */

static void blk_deactivate(struct virtio_device *device)
{
    struct virtio_blk *self = blk_of(device);
    if (self->under_way)
        self->stopping = true;
    else
        virtio_idle(device);
}

static void blk_read_config(struct virtio_device *device, unsigned offset, void *to,
                            unsigned length)
{
    memcpy(to, (const uint8_t *)&blk_of(device)->config + offset, length);
}

static void free_blk(struct virtio_blk *self)
{
    if (self->pool)
        munmap(self->pool, self->pool_count * sizeof(*self->pool));
    free(self);
}

static void blk_destroy(struct virtio_device *device)
{
    struct virtio_blk *self = blk_of(device);
    self->dying = true;
    disk_drain(self->disk);
    disk_close(self->disk);
    virtio_finish(device);
    free_blk(self);
}

static const struct virtio_ops blk_ops = {
    .kick = blk_kick,
    .deactivate = blk_deactivate,
    .read_config = blk_read_config,
    .destroy = blk_destroy,
};

static uint64_t offered_features(const struct disk *disk, unsigned queues)
{
    uint64_t features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
                        1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_TOPOLOGY;
    if (queues > 1)
        features |= 1ull << VIRTIO_BLK_F_MQ;
    if (disk->read_only)
        return features | 1ull << VIRTIO_BLK_F_RO;
    if (disk->discard_bytes)
        features |= 1ull << VIRTIO_BLK_F_DISCARD;
    return features | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

static void fill_config(struct virtio_blk_config *config, const struct disk *disk, unsigned queues)
{
    const uint32_t blocks = disk->physical_bytes / disk->block_bytes;
    put_le64(&config->capacity, disk->size_bytes / DISK_SECTOR_BYTES);
    put_le32(&config->seg_max, QUEUE_SIZE - 2); /* and one each for header and status */
    put_le32(&config->blk_size, disk->block_bytes);
    config->physical_block_exp = (uint8_t)__builtin_ctz(blocks);
    put_le16(&config->min_io_size, (uint16_t)blocks);
    put_le16(&config->num_queues, (uint16_t)queues);
    put_le32(&config->max_discard_sectors, DISCARD_SECTORS_MAX);
    put_le32(&config->max_discard_seg, RANGES_MAX);
    put_le32(&config->discard_sector_alignment, disk->discard_bytes / DISK_SECTOR_BYTES);
    put_le32(&config->max_write_zeroes_sectors, ZEROES_SECTORS_MAX);
    put_le32(&config->max_write_zeroes_seg, RANGES_MAX);
    config->write_zeroes_may_unmap = 1;
}

/* Everything that virtio_init() wants to know. */
static int prepare(struct virtio_blk *self, const struct virtio_blk_options *options)
{
    snprintf(self->name, sizeof(self->name), "blk %s", options->name);
    memcpy(self->serial, options->serial, strnlen(options->serial, sizeof(self->serial)));
    fill_config(&self->config, self->disk, options->queues);
    self->virtio.ops = &blk_ops;
    self->virtio.name = self->name;
    self->virtio.device_id = VIRTIO_ID_BLOCK;
    self->virtio.offered_features = offered_features(self->disk, options->queues);
    self->virtio.config_bytes = CONFIG_BYTES;
    self->virtio.queue_count = options->queues;
    self->virtio.queue_size_max = QUEUE_SIZE;

    self->pool_count = QUEUE_SIZE * options->queues;
    void *pool = mmap(NULL, self->pool_count * sizeof(*self->pool), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool == MAP_FAILED)
        return -errno;
    self->pool = pool;
    return 0;
}

int virtio_blk_create(struct virtio_device **out, struct disk *disk,
                      const struct virtio_blk_options *options, const struct mem *mem,
                      struct loop *loop, const struct irq *irq, struct nido_error *err)
{
    struct virtio_blk *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "blk %s: out of memory", options->name);
    self->disk = disk;
    int ret = prepare(self, options);
    if (ret < 0)
        error_errno(err, -ret, "blk %s: no room for its requests", options->name);
    else
        ret = virtio_init(&self->virtio, mem, loop, irq, err);
    if (ret < 0) {
        free_blk(self);
        return ret;
    }
    disk->batch_done = on_batch;
    disk->user = self;
    *out = &self->virtio;
    return 0;
}
