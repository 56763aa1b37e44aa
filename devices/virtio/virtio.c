/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a virtio device (virtio 1.2, chapters 2 and 3), the same behind every transport.
 *
 *     reset --ACKNOWLEDGE, DRIVER, FEATURES_OK--> negotiated --DRIVER_OK--> started
 *       ^                                                                     |
 *       +--virtio_idle()-- resetting <--------------status 0------------------+
 *
 * reset, negotiated   queue setups may be written; nothing runs on the loop
 * started             setups are frozen; `activate_task` makes the ready queues live; kicks count
 * resetting           `deactivate_task` was posted; every status write stalls its vCPU
 *
 * `started` and `resetting` are the vCPU side's view, `active` the loop's: an activation that finds
 * a reset already asked for does nothing, and a reset that finds nothing active is idle at once.
 *
 * The driver may set bits of the status but not clear them (2.1.2): a write adds its bits to those
 * that are there. DEVICE_NEEDS_RESET is ours; it goes away with a reset only.
 */
#include "devices/virtio/virtio.h"

#include "base/checked.h"
#include "base/trace.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- loop thread: interrupts and kicks ---- */

static void add(_Atomic uint64_t *counter, uint64_t count)
{
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + count, memory_order_relaxed);
}

void virtio_moved(struct virtio_device *device, uint64_t in_bytes, uint64_t out_bytes)
{
    add(&device->in_bytes, in_bytes);
    add(&device->out_bytes, out_bytes);
}

static void interrupt(struct virtio_device *device, uint32_t why)
{
    add(&device->interrupts, 1);
    atomic_fetch_or(&device->interrupt_status, why);
    irq_pulse(device->irq);
}

void virtio_flush(struct virtio_device *device, unsigned queue)
{
    struct virtq *ring = &device->queues[queue].ring;
    add(&device->completions, (uint16_t)(ring->next_used - ring->published_used));
    if (virtq_flush(ring))
        interrupt(device, VIRTIO_INTERRUPT_QUEUE);
}

/* Before DRIVER_OK the driver must hear nothing (3.1.1); it reads the space afterwards anyway. */
void virtio_config_changed(struct virtio_device *device)
{
    atomic_fetch_add(&device->config_generation, 1);
    if (virtio_status(device) & VIRTIO_CONFIG_S_DRIVER_OK)
        interrupt(device, VIRTIO_INTERRUPT_CONFIG);
}

static void kick(struct virtio_queue *queue)
{
    struct virtio_device *device = queue->device;
    if (device->active && virtq_live(&queue->ring))
        device->ops->kick(device, queue->index);
}

static void on_kick_fd(struct loop_source *source, uint32_t events)
{
    struct virtio_queue *queue = container_of(source, struct virtio_queue, source);
    uint64_t count;
    /* Drained first: a kick that comes while we look is a new event. */
    if (read(queue->kick_fd, &count, sizeof(count)) < 0)
        count = 0; /* EAGAIN: somebody was faster */
    add(&queue->device->kicks, count);
    kick(queue);
}

/* ---- loop thread: start and stop ---- */

static void stop_queues(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        loop_remove(device->loop, &device->queues[i].source);
        virtq_disable(&device->queues[i].ring);
    }
}

/* The setup is frozen since DRIVER_OK, so it needs no lock. NULL, or what is wrong. */
static const char *start_queue(struct virtio_device *device, struct virtio_queue *queue)
{
    if (virtq_enable(&queue->ring, device->mem, &queue->setup,
                     virtio_has(device, VIRTIO_RING_F_EVENT_IDX),
                     virtio_has(device, VIRTIO_RING_F_INDIRECT_DESC)) < 0)
        return "a queue's size or addresses make no sense";
    if (loop_add(device->loop, &queue->source, NULL) < 0)
        return "the host has no room to watch a queue";
    return NULL;
}

static const char *start_queues(struct virtio_device *device)
{
    const char *wrong = NULL;
    for (unsigned i = 0; i < device->queue_count && !wrong; i++)
        if (device->queues[i].ready)
            wrong = start_queue(device, &device->queues[i]);
    return wrong;
}

/* 2.1.2: sets DEVICE_NEEDS_RESET, and a driver that has said DRIVER_OK is told. */
static void need_reset(struct virtio_device *device, const char *why)
{
    log_warn_limited(&device->complaints, "%s: %s; it needs a reset by its driver now",
                     device->name, why);
    device->broken = true;
    for (unsigned i = 0; i < device->queue_count; i++)
        virtq_disable(&device->queues[i].ring);
    lock_take(&device->lock);
    bool tell = device->started && !device->resetting;
    if (tell)
        atomic_fetch_or(&device->status, VIRTIO_CONFIG_S_NEEDS_RESET);
    lock_release(&device->lock);
    if (tell)
        interrupt(device, VIRTIO_INTERRUPT_CONFIG);
}

void virtio_broken(struct virtio_device *device, const char *why)
{
    if (device->active && !device->broken)
        need_reset(device, why);
}

static void activate(struct loop_task *task)
{
    struct virtio_device *device = container_of(task, struct virtio_device, activate_task);
    lock_take(&device->lock);
    bool wanted = device->started && !device->resetting && !device->active;
    device->features = wanted ? device->driver_features : device->features;
    lock_release(&device->lock);
    if (!wanted)
        return;
    const char *wrong = start_queues(device);
    if (wrong) {
        need_reset(device, wrong); /* what was started is stopped by the reset */
        return;
    }
    device->active = true;
    trace_span(device->name, TRACE_ROW_GUEST, trace_now());
    if (device->ops->activate)
        device->ops->activate(device);
    /* A driver may fill its queues before DRIVER_OK, and its kicks may have come before us. */
    for (unsigned i = 0; i < device->queue_count; i++)
        kick(&device->queues[i]);
}

static void deactivate(struct loop_task *task)
{
    struct virtio_device *device = container_of(task, struct virtio_device, deactivate_task);
    bool was_active = device->active;
    device->active = false;
    if (was_active && device->ops->stopping)
        device->ops->stopping(device);
    stop_queues(device);
    if (was_active && device->ops->deactivate)
        device->ops->deactivate(device);
    else
        virtio_idle(device);
}

/* Back to the state after power-on, as far as the driver can see (2.4). */
static void forget_driver(struct virtio_device *device) REQUIRES(device->lock)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        device->queues[i].setup = (struct virtq_setup){0};
        device->queues[i].ready = false;
    }
    device->driver_features = 0;
    device->started = false;
    atomic_store(&device->interrupt_status, 0);
    atomic_store(&device->status, 0);
}

void virtio_idle(struct virtio_device *device)
{
    assert(!device->active);
    lock_take(&device->lock);
    if (device->resetting) {
        device->features = 0;
        device->broken = false;
        forget_driver(device);
        device->resetting = false;
    }
    lock_release(&device->lock);
}

void virtio_serve(struct virtio_device *device, unsigned queue, unsigned limit,
                  int (*serve)(struct virtio_device *device, unsigned queue))
{
    struct virtq *ring = &device->queues[queue].ring;
    unsigned served = 0;
    do {
        int got = 1;
        virtq_quiet(ring);
        while (served < limit && (got = serve(device, queue)) == 1)
            served++;
        if (got < 0)
            virtio_broken(device, "a queue is nonsense");
        virtio_flush(device, queue);
        if (served == limit) {
            virtio_notify(device, queue); /* come again */
            return;
        }
    } while (virtq_listen(ring));
}

/* ---- vCPU threads: the transport's side ---- */

uint8_t virtio_status(const struct virtio_device *device)
{
    return atomic_load(&device->status);
}

uint32_t virtio_offered_features(const struct virtio_device *device, unsigned word)
{
    return word < 2 ? (uint32_t)(device->offered_features >> (32 * word)) : 0;
}

/* 3.1.1: with FEATURES_OK the choice is made. Words beyond the second hold no feature. */
void virtio_set_driver_features(struct virtio_device *device, unsigned word, uint32_t value)
{
    if (word >= 2)
        return;
    lock_take(&device->lock);
    if (!(virtio_status(device) & VIRTIO_CONFIG_S_FEATURES_OK)) {
        device->driver_features &= ~((uint64_t)UINT32_MAX << (32 * word));
        device->driver_features |= (uint64_t)value << (32 * word);
    }
    lock_release(&device->lock);
}

/* 2.2.2, and 6.1: a driver that leaves out VERSION_1 is one of before 1.0, which we do not
 * speak. */
static bool features_are_fine(const struct virtio_device *device) REQUIRES(device->lock)
{
    const uint64_t chosen = device->driver_features;
    return !(chosen & ~device->offered_features) && (chosen >> VIRTIO_F_VERSION_1 & 1);
}

/* Adds the driver's bits as far as they may be set now. NULL, or a complaint, to be logged
 * without the lock. */
static const char *add_status(struct virtio_device *device, uint8_t bits) REQUIRES(device->lock)
{
    const uint8_t old = virtio_status(device);
    uint8_t added = (uint8_t)(bits & ~old & ~VIRTIO_CONFIG_S_NEEDS_RESET);
    const char *complaint = NULL;

    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !features_are_fine(device))
        added &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
    if (added & VIRTIO_CONFIG_S_DRIVER_OK) {
        bool negotiated = (old | added) & VIRTIO_CONFIG_S_FEATURES_OK;
        if (!negotiated || (old & VIRTIO_CONFIG_S_NEEDS_RESET)) {
            complaint = "the driver says DRIVER_OK without FEATURES_OK, or after a failure";
            added &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
            added |= VIRTIO_CONFIG_S_NEEDS_RESET;
        }
    }
    atomic_fetch_or(&device->status, added);
    if (added & VIRTIO_CONFIG_S_DRIVER_OK) {
        device->started = true;
        loop_post(device->loop, &device->activate_task);
    }
    return complaint;
}

/* The vCPU comes back until virtio_idle() has been called. */
static enum verdict reset(struct virtio_device *device) REQUIRES(device->lock)
{
    if (!device->started) {
        forget_driver(device);
        return DEVICE_HANDLED;
    }
    device->resetting = true;
    loop_post(device->loop, &device->deactivate_task);
    return DEVICE_STALL;
}

enum verdict virtio_set_status(struct virtio_device *device, uint8_t status)
{
    enum verdict verdict = DEVICE_HANDLED;
    const char *complaint = NULL;

    lock_take(&device->lock);
    if (device->resetting)
        verdict = DEVICE_STALL;
    else if (status == 0)
        verdict = reset(device);
    else
        complaint = add_status(device, status);
    lock_release(&device->lock);
    if (complaint)
        log_warn_limited(&device->complaints, "%s: %s; it needs a reset by its driver now",
                         device->name, complaint);
    return verdict;
}

struct virtio_queue *virtio_queue_for_setup(struct virtio_device *device, uint32_t index)
{
    return index < device->queue_count && !device->started ? &device->queues[index] : NULL;
}

void virtio_set_queue_ready(struct virtio_device *device, uint32_t index, bool ready)
{
    lock_take(&device->lock);
    struct virtio_queue *queue = virtio_queue_for_setup(device, index);
    if (queue)
        queue->ready = ready;
    lock_release(&device->lock);
}

void virtio_notify(struct virtio_device *device, uint32_t queue)
{
    const uint64_t one = 1;
    if (queue >= device->queue_count)
        return;
    ssize_t ignored = write(device->queues[queue].kick_fd, &one, sizeof(one));
    (void)ignored; /* EAGAIN: 2^64 - 2 kicks wait already */
}

/* ---- creation ---- */

static int init_queue(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = &device->queues[index];
    queue->device = device;
    queue->index = index;
    queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->kick_fd < 0)
        return -errno;
    queue->source = (struct loop_source){
        .fd = queue->kick_fd,
        .events = EPOLLIN,
        .ready = on_kick_fd,
    };
    return 0;
}

static void close_kick_fds(struct virtio_device *device, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(device->queues[i].kick_fd);
}

int virtio_init(struct virtio_device *device, const struct mem *mem, struct loop *loop,
                const struct irq *irq, struct nido_error *err)
{
    assert(device->queue_count <= VIRTIO_QUEUES_MAX);
    assert(is_power_of_two(device->queue_size_max) && device->queue_size_max <= VIRTQ_SIZE_MAX);
    device->mem = mem;
    device->loop = loop;
    device->irq = irq;
    device->offered_features |= 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
                                1ull << VIRTIO_RING_F_INDIRECT_DESC;
    device->activate_task.run = activate;
    device->deactivate_task.run = deactivate;
    for (unsigned i = 0; i < device->queue_count; i++) {
        int ret = init_queue(device, i);
        if (ret < 0) {
            close_kick_fds(device, i);
            return error_errno(err, -ret, "%s: cannot make an eventfd for queue %u", device->name,
                               i);
        }
    }
    lock_init(&device->lock);
    return 0;
}

void virtio_finish(struct virtio_device *device)
{
    stop_queues(device);
    close_kick_fds(device, device->queue_count);
    lock_finish(&device->lock);
}
