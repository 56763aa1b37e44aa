/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon: memory that the guest does not need goes back to the host (virtio 1.2, 5.5).
 *
 * Queues         0 inflateq    pages that the guest gives up: 32-bit numbers of pages of 4 KiB
 *                1 deflateq    pages that it takes back
 *                2 statsq      one buffer that goes to and fro: we hold it until we want newer ones
 *                3, 4 reporting_vq   free memory, which the guest may use again at any moment
 * Config space   num_pages (ours: the target), actual and poison_val (the driver's)
 * Owner thread   the loop; what other threads read or ask for is atomic or under `stats_lock`
 *
 * Inflating and reporting end in mem_discard(); the guest's next access finds a fresh page, so
 * deflating needs no work and the driver need not tell first (MUST_TELL_HOST is not offered).
 *
 * The page numbers of a chain are sorted, and neighbours discarded together. Linux gives them up
 * one by one all the same, and each piece taken out of a huge page of the host's splits it. Free
 * page reporting speaks of whole blocks of 2 MiB and more and is what to use where it is possible.
 *
 * 5.5.2 numbers the reporting queue 4. Drivers of Linux, and QEMU, leave out the queue of a
 * feature that is not offered (free_page_vq, 3), so there reporting is 3. Both are served.
 *
 * A guest that fills its free pages with a pattern other than zero (poison_val) expects to find it
 * again (5.5.6.7): its reports are answered and nothing is discarded.
 *
 * A chain may name as much as 4 GiB. A turn does a bounded part of one, and `struct work` remembers
 * how far it came.
 */
#include "devices/virtio/balloon.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PAGE_SHIFT VIRTIO_BALLOON_PFN_SHIFT
#define PAGE_BYTES ((uint64_t)1 << PAGE_SHIFT)

#define PFN_BYTES  4u
#define STAT_BYTES 10u
#define STATS_MAX  64u

#define PFNS_AT_ONCE 256u /* what Linux puts into a chain */
#define TURN_PIECES  8u   /* of so many PFNs, or of REPORT_BYTES */
#define REPORT_BYTES (8 * MIB)
#define TURN_CHAINS  64u /* of those that are only answered */

enum { INFLATE, DEFLATE, STATS, REPORT_PACKED, REPORT, QUEUES };

/* A chain that is being served. */
struct work {
    struct virtq_chain chain;
    bool open;
    uint64_t done_bytes; /* of its PFNs, or of its buffer number `buffer` */
    unsigned buffer;
};

struct balloon {
    struct virtio_device virtio;

    /* Loop. */
    struct work inflating, reporting[2];
    bool stats_held;
    uint16_t stats_head;
    struct loop_source timer; /* fd -1: none */
    struct log_limit complaints;

    /* Any thread. */
    struct loop_task target_task, stats_task;
    _Atomic uint32_t target_pages, actual_pages, poison_value;
    struct lock stats_lock;
    struct nido_balloon_stats stats; /* under stats_lock; target and actual are filled in late */
    uint64_t stats_at_ns;            /* the same; 0: none yet */
};

static struct balloon *from_device(struct virtio_device *device)
{
    return container_of(device, struct balloon, virtio);
}

/* ---- discarding ---- */

/* What the guest says about memory that it has not is worth no more than not doing it. */
static void discard(struct balloon *balloon, uint64_t gpa, uint64_t length, uint64_t *counter)
{
    int ret = mem_discard(balloon->virtio.mem, gpa, length);
    if (ret < 0) {
        log_warn_limited(&balloon->complaints, "balloon: cannot give back %llu bytes at %#llx: %s",
                         (unsigned long long)length, (unsigned long long)gpa, strerror(-ret));
        return;
    }
    lock_take(&balloon->stats_lock);
    *counter += length;
    lock_release(&balloon->stats_lock);
}

static int compare_pfns(const void *a, const void *b)
{
    const uint32_t *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}

static void discard_pfns(struct balloon *balloon, uint32_t *pfns, unsigned count)
{
    qsort(pfns, count, sizeof(*pfns), compare_pfns);
    for (unsigned i = 0; i < count;) {
        unsigned first = i;
        while (++i < count && pfns[i] - pfns[i - 1] <= 1)
            ;
        uint64_t pages = pfns[i - 1] - pfns[first] + 1ull;
        discard(balloon, (uint64_t)pfns[first] << PAGE_SHIFT, pages << PAGE_SHIFT,
                &balloon->stats.inflated_bytes);
    }
}

/* ---- inflating and reporting: pieces of chains ---- */

/* 1: there is a chain to go on with; otherwise as virtq_pop(). */
static int open_work(struct virtq *ring, struct work *work)
{
    if (work->open)
        return 1;
    int got = virtq_pop(ring, &work->chain);
    work->open = got == 1;
    work->done_bytes = 0;
    work->buffer = 0;
    return got;
}

/* False: the chain is used up. */
static bool inflate_piece(struct balloon *balloon, struct work *work)
{
    uint8_t bytes[PFNS_AT_ONCE * PFN_BYTES];
    uint32_t pfns[PFNS_AT_ONCE];
    uint64_t left = (work->chain.out_bytes - work->done_bytes) / PFN_BYTES;
    unsigned count = (unsigned)MIN(left, (uint64_t)PFNS_AT_ONCE);
    if (!count || virtq_chain_read(&work->chain, work->done_bytes, bytes, count * PFN_BYTES) < 0)
        return false;
    for (unsigned i = 0; i < count; i++)
        pfns[i] = get_le32(bytes + i * PFN_BYTES);
    discard_pfns(balloon, pfns, count);
    work->done_bytes += (uint64_t)count * PFN_BYTES;
    return true;
}

/* A buffer that is not made of whole pages is given back as far as it is. */
static void report_range(struct balloon *balloon, const uint8_t *at, uint64_t length)
{
    uint64_t gpa;
    if (mem_gpa_of(balloon->virtio.mem, at, &gpa) < 0)
        return;
    uint64_t from = align_up(gpa, PAGE_BYTES), to = align_down(gpa + length, PAGE_BYTES);
    if (from < to)
        discard(balloon, from, to - from, &balloon->stats.reported_bytes);
}

static bool report_piece(struct balloon *balloon, struct work *work)
{
    const struct virtq_chain *chain = &work->chain;
    if (work->buffer == chain->in_count || atomic_load(&balloon->poison_value) != 0)
        return false;
    const struct iovec *iov = &chain->iov[chain->out_count + work->buffer];
    uint64_t length = MIN(iov->iov_len - work->done_bytes, REPORT_BYTES);
    report_range(balloon, (const uint8_t *)iov->iov_base + work->done_bytes, length);
    work->done_bytes += length;
    if (work->done_bytes == iov->iov_len) {
        work->buffer++;
        work->done_bytes = 0;
    }
    return true;
}

/* As virtio_serve() wants it. */
static int serve_piece(struct virtio_device *device, unsigned queue)
{
    struct balloon *balloon = from_device(device);
    struct virtq *ring = &device->queues[queue].ring;
    bool inflates = queue == INFLATE;
    struct work *work = inflates ? &balloon->inflating : &balloon->reporting[queue - REPORT_PACKED];
    int got = open_work(ring, work);
    if (got != 1)
        return got;
    if (!(inflates ? inflate_piece(balloon, work) : report_piece(balloon, work))) {
        virtq_push(ring, work->chain.head, 0);
        work->open = false;
    }
    return 1;
}

/* ---- deflating, and statistics ---- */

static const struct {
    uint16_t tag;
    size_t field;
} stat_fields[] = {
#define STAT(tag, field)                                                                           \
    {                                                                                              \
        tag, offsetof(struct nido_balloon_stats, field)                                            \
    }
    STAT(VIRTIO_BALLOON_S_SWAP_IN, swap_in_bytes), STAT(VIRTIO_BALLOON_S_SWAP_OUT, swap_out_bytes),
    STAT(VIRTIO_BALLOON_S_MAJFLT, major_faults),   STAT(VIRTIO_BALLOON_S_MINFLT, minor_faults),
    STAT(VIRTIO_BALLOON_S_MEMFREE, free_bytes),    STAT(VIRTIO_BALLOON_S_MEMTOT, total_bytes),
    STAT(VIRTIO_BALLOON_S_AVAIL, available_bytes), STAT(VIRTIO_BALLOON_S_CACHES, cache_bytes),
#undef STAT
};

/* 5.5.6.3.1: unknown tags are skipped. */
static void set_stat(struct nido_balloon_stats *stats, uint16_t tag, uint64_t value)
{
    for (unsigned i = 0; i < ARRAY_SIZE(stat_fields); i++)
        if (stat_fields[i].tag == tag)
            memcpy((uint8_t *)stats + stat_fields[i].field, &value, sizeof(value));
}

static void take_stats(struct balloon *balloon, const struct virtq_chain *chain)
{
    uint8_t bytes[STATS_MAX * STAT_BYTES];
    unsigned count = (unsigned)MIN(chain->out_bytes / STAT_BYTES, (uint64_t)STATS_MAX);
    if (!count || virtq_chain_read(chain, 0, bytes, (size_t)count * STAT_BYTES) < 0)
        return; /* Linux's first buffer may say nothing */
    lock_take(&balloon->stats_lock);
    for (unsigned i = 0; i < count; i++)
        set_stat(&balloon->stats, get_le16(bytes + i * STAT_BYTES),
                 get_le64(bytes + i * STAT_BYTES + 2));
    balloon->stats_at_ns = clock_now_ns();
    lock_release(&balloon->stats_lock);
}

static void give_back_stats(struct balloon *balloon)
{
    if (!balloon->stats_held)
        return;
    balloon->stats_held = false;
    virtq_push(&balloon->virtio.queues[STATS].ring, balloon->stats_head, 0);
    virtio_flush(&balloon->virtio, STATS);
}

/* 5.5.6.3: one buffer at a time. A driver that adds a second one gets the first back. */
static void hold_stats(struct balloon *balloon, const struct virtq_chain *chain)
{
    give_back_stats(balloon);
    take_stats(balloon, chain);
    balloon->stats_held = true;
    balloon->stats_head = chain->head;
}

static int serve_chain(struct virtio_device *device, unsigned queue)
{
    struct virtq *ring = &device->queues[queue].ring;
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got != 1)
        return got;
    if (queue == STATS)
        hold_stats(from_device(device), &chain);
    else
        virtq_push(ring, chain.head, 0);
    return 1;
}

/* ---- the loop's side ---- */

static void balloon_kick(struct virtio_device *device, unsigned queue)
{
    if (queue == DEFLATE || queue == STATS)
        virtio_serve(device, queue, TURN_CHAINS, serve_chain);
    else
        virtio_serve(device, queue, TURN_PIECES, serve_piece);
}

/* The next driver starts with all of the machine's memory. */
static void balloon_deactivate(struct virtio_device *device)
{
    struct balloon *balloon = from_device(device);
    balloon->inflating.open = balloon->reporting[0].open = balloon->reporting[1].open = false;
    balloon->stats_held = false;
    atomic_store(&balloon->actual_pages, 0);
    atomic_store(&balloon->poison_value, 0);
    lock_take(&balloon->stats_lock);
    balloon->stats_at_ns = 0;
    lock_release(&balloon->stats_lock);
    virtio_idle(device);
}

static void run_target(struct loop_task *task)
{
    virtio_config_changed(&container_of(task, struct balloon, target_task)->virtio);
}

static void run_stats(struct loop_task *task)
{
    give_back_stats(container_of(task, struct balloon, stats_task));
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct balloon *balloon = container_of(source, struct balloon, timer);
    uint64_t times;
    if (read(source->fd, &times, sizeof(times)) == (ssize_t)sizeof(times))
        give_back_stats(balloon);
}

/* ---- config space: vCPU threads ---- */

static void balloon_read_config(struct virtio_device *device, unsigned offset, void *to,
                                unsigned length)
{
    struct balloon *balloon = from_device(device);
    const struct virtio_balloon_config config = {
        .num_pages = htole32(atomic_load(&balloon->target_pages)),
        .actual = htole32(atomic_load(&balloon->actual_pages)),
        .poison_val = htole32(atomic_load(&balloon->poison_value)),
    };
    memcpy(to, (const uint8_t *)&config + offset, length);
}

/* 4.2.2.2: a field of 32 bits is written in one piece. */
static void balloon_write_config(struct virtio_device *device, unsigned offset, const void *from,
                                 unsigned length)
{
    struct balloon *balloon = from_device(device);
    if (length != sizeof(uint32_t))
        return;
    if (offset == offsetof(struct virtio_balloon_config, actual))
        atomic_store(&balloon->actual_pages, get_le32(from));
    else if (offset == offsetof(struct virtio_balloon_config, poison_val))
        atomic_store(&balloon->poison_value, get_le32(from));
}

/* ---- any thread ---- */

static uint32_t pages_of(uint64_t bytes)
{
    return (uint32_t)MIN(bytes >> PAGE_SHIFT, (uint64_t)UINT32_MAX);
}

void virtio_balloon_set_target(struct virtio_device *device, uint64_t target_bytes)
{
    struct balloon *balloon = from_device(device);
    atomic_store(&balloon->target_pages, pages_of(target_bytes));
    loop_post(device->loop, &balloon->target_task);
}

void virtio_balloon_stats(struct virtio_device *device, struct nido_balloon_stats *stats)
{
    struct balloon *balloon = from_device(device);
    uint64_t now_ns = clock_now_ns();
    lock_take(&balloon->stats_lock);
    *stats = balloon->stats;
    stats->known = balloon->stats_at_ns != 0;
    stats->age_ns =
        stats->known && now_ns > balloon->stats_at_ns ? now_ns - balloon->stats_at_ns : 0;
    lock_release(&balloon->stats_lock);
    stats->target_bytes = (uint64_t)atomic_load(&balloon->target_pages) << PAGE_SHIFT;
    stats->actual_bytes = (uint64_t)atomic_load(&balloon->actual_pages) << PAGE_SHIFT;
    loop_post(device->loop, &balloon->stats_task);
}

/* ---- creation ---- */

static void balloon_destroy(struct virtio_device *device)
{
    struct balloon *balloon = from_device(device);
    if (balloon->timer.fd >= 0) {
        loop_remove(device->loop, &balloon->timer);
        close(balloon->timer.fd);
    }
    virtio_finish(device);
    lock_finish(&balloon->stats_lock);
    free(balloon);
}

static const struct virtio_ops balloon_ops = {
    .kick = balloon_kick,
    .deactivate = balloon_deactivate,
    .read_config = balloon_read_config,
    .write_config = balloon_write_config,
    .destroy = balloon_destroy,
};

static void describe(struct balloon *balloon, const struct virtio_balloon_options *options)
{
    uint64_t features = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
    if (options->reporting)
        features |= 1ull << VIRTIO_BALLOON_F_REPORTING | 1ull << VIRTIO_BALLOON_F_PAGE_POISON;
    balloon->virtio = (struct virtio_device){
        .ops = &balloon_ops,
        .name = "balloon",
        .device_id = VIRTIO_ID_BALLOON,
        .offered_features = features,
        .config_bytes = sizeof(struct virtio_balloon_config),
        .queue_count = QUEUES,
        .queue_size_max = 128,
    };
    balloon->target_task.run = run_target;
    balloon->stats_task.run = run_stats;
    balloon->timer = (struct loop_source){.fd = -1, .events = EPOLLIN, .ready = on_timer};
    atomic_store(&balloon->target_pages, pages_of(options->target_bytes));
    lock_init(&balloon->stats_lock);
}

static int start_timer(struct balloon *balloon, unsigned seconds, struct nido_error *err)
{
    const struct itimerspec every = {.it_value.tv_sec = seconds, .it_interval.tv_sec = seconds};
    if (seconds == 0)
        return 0;
    balloon->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (balloon->timer.fd < 0 || timerfd_settime(balloon->timer.fd, 0, &every, NULL) < 0)
        return error_errno(err, errno, "balloon: cannot set a timer");
    return loop_add(balloon->virtio.loop, &balloon->timer, err);
}

int virtio_balloon_create(struct virtio_device **out, const struct virtio_balloon_options *options,
                          const struct mem *mem, struct loop *loop, const struct irq *irq,
                          struct nido_error *err)
{
    if (!mem_can_discard(mem))
        return error_set(err, EOPNOTSUPP,
                         "balloon: the host's reserved huge pages cannot be given back; leave out "
                         "hugepages, or the balloon");
    struct balloon *balloon = calloc(1, sizeof(*balloon));
    if (!balloon)
        return error_set(err, ENOMEM, "balloon: out of memory");
    describe(balloon, options);
    int ret = virtio_init(&balloon->virtio, mem, loop, irq, err);
    if (ret < 0) {
        lock_finish(&balloon->stats_lock);
        free(balloon);
        return ret;
    }
    ret = start_timer(balloon, options->stats_interval_s, err);
    if (ret < 0) {
        balloon_destroy(&balloon->virtio);
        return ret;
    }
    *out = &balloon->virtio;
    return 0;
}
