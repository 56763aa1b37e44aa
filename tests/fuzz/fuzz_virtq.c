/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver made of bytes, against the queues, the state machine and the MMIO registers. The input
 * is a list of steps, each a byte for the kind and what belongs to it (struct step_*). Nothing runs
 * in a second thread, so an input always does the same.
 *
 * Passes when no sanitizer objects and no chain breaks what devices/virtio/virtq.h promises.
 */
#include "base/checked.h"
#include "devices/virtio/mmio.h"
#include "tests/unit/virtio_probe.h"

#include "fuzz.h"

#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

/* Below 2 MiB, so that no huge page has to be cleared for each input. */
#define LOW_BYTES  (64 * KIB)
#define HIGH_BYTES (16 * KIB)

#define DESC_GPA  0x1000u
#define AVAIL_GPA 0x2000u
#define USED_GPA  0x3000u
#define TABLE_GPA 0x4000u /* where indirect tables are most likely */

struct fuzz {
    struct guest guest;
    struct virtio_probe *probe;
    uint8_t *low, *high;
    uint16_t size;      /* of the ring that step_bring_up() made */
    uint8_t serve_bits; /* how the device treats the chains of the next kick */
    uint16_t held[VIRTQ_SIZE_MAX];
    unsigned held_count;
};

/* The device's kick has no other way to it. */
static struct fuzz *current;

static bool take(struct input *input, void *to, size_t length)
{
    memset(to, 0, length);
    if (input->left < length)
        return false;
    memcpy(to, input->at, length);
    input->at += length;
    input->left -= length;
    return true;
}

/* ---- the device ---- */

static bool in_ram(const struct fuzz *f, const struct iovec *iov)
{
    uintptr_t at = (uintptr_t)iov->iov_base;
    uintptr_t low = (uintptr_t)f->low, high = (uintptr_t)f->high;
    return (at >= low && checked_inside(at - low, iov->iov_len, LOW_BYTES)) ||
           (at >= high && checked_inside(at - high, iov->iov_len, HIGH_BYTES));
}

static void check_chain(const struct fuzz *f, const struct virtq *ring,
                        const struct virtq_chain *chain)
{
    uint64_t out_bytes = 0, in_bytes = 0;
    PROMISE(chain->head < ring->size);
    PROMISE(chain->out_count + chain->in_count <= ring->size);
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
        PROMISE(chain->iov[i].iov_len && in_ram(f, &chain->iov[i]));
        *(i < chain->out_count ? &out_bytes : &in_bytes) += chain->iov[i].iov_len;
    }
    PROMISE(out_bytes == chain->out_bytes && in_bytes == chain->in_bytes);
    PROMISE(out_bytes + in_bytes <= UINT32_MAX);
}

static void hold(struct fuzz *f, uint16_t head)
{
    for (unsigned i = 0; i < f->held_count; i++)
        PROMISE(f->held[i] != head);
    f->held[f->held_count++] = head;
}

/* Reads and writes at both ends of the chain. */
static void touch(const struct virtq_chain *chain)
{
    uint8_t bytes[40] = {0};
    size_t length = MIN(chain->out_bytes, sizeof(bytes));
    PROMISE(virtq_chain_read(chain, 0, bytes, length) == 0);
    PROMISE(virtq_chain_read(chain, chain->out_bytes - length, bytes, length) == 0);
    PROMISE(virtq_chain_read(chain, chain->out_bytes, bytes, 1) < 0);
    length = MIN(chain->in_bytes, sizeof(bytes));
    PROMISE(virtq_chain_write(chain, 0, bytes, length) == 0);
    PROMISE(virtq_chain_write(chain, chain->in_bytes - length, bytes, length) == 0);
    PROMISE(virtq_chain_write(chain, chain->in_bytes, bytes, 1) < 0);
}

static void complete(struct fuzz *f, struct virtq *ring, unsigned leave)
{
    while (f->held_count > leave)
        virtq_push(ring, f->held[--f->held_count], 1);
}

static void serve(struct virtio_probe *probe, unsigned queue)
{
    static struct virtq_chain chain;
    struct fuzz *f = current;
    struct virtq *ring = &probe->virtio.queues[queue].ring;
    unsigned popped = 0;
    int got;
    if (queue)
        return;
    virtq_quiet(ring);
    while ((got = virtq_pop(ring, &chain)) == 1) {
        PROMISE(++popped <= ring->size && ring->in_flight <= ring->size);
        check_chain(f, ring, &chain);
        touch(&chain);
        hold(f, chain.head);
    }
    if (got < 0)
        virtio_broken(&probe->virtio, "fuzzed");
    if (got == 0 && (f->serve_bits & 1) && popped) {
        virtq_unpop(ring, 1);
        f->held_count--;
    }
    complete(f, ring, f->serve_bits >> 1 & 7);
    virtio_flush(&probe->virtio, 0);
    virtq_listen(ring);
    if (!virtq_live(ring))
        f->held_count = 0;
}

/* ---- the loop, by hand ---- */

static void run_posted(struct fuzz *f)
{
    loop_quit(f->guest.loop);
    loop_run(f->guest.loop);
    /* What the device was serving when its ring went away, it has given up by now. */
    if (!virtq_live(&f->probe->virtio.queues[0].ring))
        f->held_count = 0;
}

static void run_kicks(struct fuzz *f)
{
    for (unsigned i = 0; i < PROBE_QUEUES; i++) {
        struct loop_source *source = &f->probe->virtio.queues[i].source;
        source->ready(source, EPOLLIN);
    }
}

/* ---- steps ---- */

static void write32(struct fuzz *f, uint64_t offset, uint32_t value)
{
    f->guest.transport->ops->write(f->guest.transport, offset, 4, value);
}

struct step_access {
    uint8_t size_log2; /* 4 and more: a register as it should be accessed */
    uint16_t offset;
    uint64_t value;
} __attribute__((packed));

static void step_write(struct fuzz *f, struct input *input)
{
    struct step_access step;
    take(input, &step, sizeof(step));
    if (step.size_log2 & 4)
        write32(f, step.offset & 0xfc, (uint32_t)step.value);
    else
        f->guest.transport->ops->write(f->guest.transport, step.offset % (VIRTIO_MMIO_BYTES - 7),
                                       1u << (step.size_log2 & 3), step.value);
}

static void step_read(struct fuzz *f, struct input *input)
{
    struct step_access step;
    uint64_t value;
    take(input, &step, sizeof(step) - sizeof(step.value));
    if (step.size_log2 & 4)
        guest_read32(&f->guest, step.offset & 0xfc);
    else
        f->guest.transport->ops->read(f->guest.transport, step.offset % (VIRTIO_MMIO_BYTES - 7),
                                      1u << (step.size_log2 & 3), &value);
}

/* A whole driver's work up to DRIVER_OK, so that the rings are within reach of a short input. */
struct step_bring_up {
    uint8_t size_log2;
    uint8_t features; /* and 4, 8, 16: which part of the ring lies elsewhere */
    uint16_t elsewhere;
} __attribute__((packed));

static void step_bring_up(struct fuzz *f, struct input *input)
{
    struct step_bring_up step;
    take(input, &step, sizeof(step));
    write32(f, VIRTIO_MMIO_STATUS, 0);
    run_posted(f);
    virtio_idle(&f->probe->virtio);
    memset(f->low, 0, TABLE_GPA);
    f->size = (uint16_t)(1 << step.size_log2 % 7);
    write32(f, VIRTIO_MMIO_STATUS, 0);
    write32(f, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(step.features & 3) << 28);
    write32(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write32(f, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    write32(f, VIRTIO_MMIO_STATUS, 11);
    write32(f, VIRTIO_MMIO_QUEUE_NUM, f->size);
    write32(f, VIRTIO_MMIO_QUEUE_DESC_LOW, step.features & 4 ? step.elsewhere : DESC_GPA);
    write32(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, step.features & 8 ? step.elsewhere : AVAIL_GPA);
    write32(f, VIRTIO_MMIO_QUEUE_USED_LOW, step.features & 16 ? step.elsewhere : USED_GPA);
    write32(f, VIRTIO_MMIO_QUEUE_READY, 1);
    write32(f, VIRTIO_MMIO_STATUS, 15);
    run_posted(f);
}

/* A descriptor, in the queue's table or in the indirect one. */
struct step_desc {
    uint8_t index;
    uint8_t flags; /* the descriptor's, and: 8 means in the high region, 0x80 in the other table */
    uint8_t next;
    uint16_t at;
    uint16_t len;
} __attribute__((packed));

static void step_desc(struct fuzz *f, struct input *input)
{
    struct step_desc step;
    take(input, &step, sizeof(step));
    struct vring_desc desc = {step.at, step.len, step.flags & 7, step.next};
    if (step.flags & VRING_DESC_F_INDIRECT) {
        desc.addr = TABLE_GPA + (step.at & 1);
        desc.len = step.len < 0x1000 ? step.len : step.len % 8u * 16;
    }
    if (step.flags & 8)
        desc.addr |= GUEST_HIGH_GPA;
    uint64_t table = step.flags & 0x80 ? TABLE_GPA : DESC_GPA;
    memcpy(f->low + table + sizeof(desc) * (step.index & 63), &desc, sizeof(desc));
}

/* Heads into the available ring, then its index. */
static void step_avail(struct fuzz *f, struct input *input)
{
    uint8_t heads[2];
    take(input, heads, sizeof(heads));
    struct vring_avail *avail = (struct vring_avail *)(void *)(f->low + AVAIL_GPA);
    for (unsigned i = 0; i <= heads[1] % 3u; i++) {
        avail->ring[avail->idx & (f->size - 1)] = (uint16_t)(heads[0] + i);
        avail->idx++;
    }
}

struct step_poke {
    uint16_t at;
    uint32_t value;
} __attribute__((packed));

static void step_poke(struct fuzz *f, struct input *input)
{
    struct step_poke step;
    take(input, &step, sizeof(step));
    memcpy(f->low + step.at % (LOW_BYTES - sizeof(step.value)), &step.value, sizeof(step.value));
}

static void step_kick(struct fuzz *f, struct input *input)
{
    take(input, &f->serve_bits, sizeof(f->serve_bits));
    f->probe->holds_back = f->serve_bits & 0x80;
    write32(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    run_kicks(f);
}

static void step_loop(struct fuzz *f, struct input *input)
{
    run_posted(f);
}

/* The device ends what it held back, and has news. */
static void step_idle(struct fuzz *f, struct input *input)
{
    complete(f, &f->probe->virtio.queues[0].ring, 0);
    virtio_flush(&f->probe->virtio, 0);
    virtio_config_changed(&f->probe->virtio);
    if (!f->probe->virtio.active)
        virtio_idle(&f->probe->virtio);
}

static void run_steps(struct fuzz *f, struct input *input)
{
    static void (*const steps[])(struct fuzz *, struct input *) = {
        step_bring_up, step_desc, step_avail, step_kick, step_poke,
        step_write,    step_read, step_loop,  step_idle,
    };
    uint8_t kind;
    while (take(input, &kind, sizeof(kind)))
        steps[kind % ARRAY_SIZE(steps)](f, input);
}

/* ---- a device for each input, in the same machine ---- */

static void make_machine(struct guest *guest)
{
    static const struct mem_range ranges[] = {{0, LOW_BYTES}, {GUEST_HIGH_GPA, HIGH_BYTES}};
    PROMISE(mem_create(&guest->mem, ranges, ARRAY_SIZE(ranges), MEM_ANONYMOUS, NULL) == 0);
    PROMISE(loop_create(&guest->loop, "loop/fuzz", NULL) == 0);
    PROMISE(irq_init(&guest->irq, 5, NULL) == 0);
    log_set_level(LOG_ERROR);
}

static void set_up(struct fuzz *f)
{
    static struct guest machine;
    if (!machine.mem)
        make_machine(&machine);
    memset(f, 0, sizeof(*f));
    f->guest = machine;
    f->low = memset(guest_at(&machine, 0, LOW_BYTES), 0, LOW_BYTES);
    f->high = memset(guest_at(&machine, GUEST_HIGH_GPA, HIGH_BYTES), 0, HIGH_BYTES);
    f->size = 1;
    f->probe = virtio_probe_create(&f->guest);
    f->probe->serve = serve;
    PROMISE(virtio_mmio_create(&f->guest.transport, &f->probe->virtio, NULL) == 0);
    current = f;
}

static void tear_down(struct fuzz *f)
{
    run_posted(f);
    f->guest.transport->ops->destroy(f->guest.transport);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz fuzz;
    struct input input = {data, size};
    set_up(&fuzz);
    run_steps(&fuzz, &input);
    tear_down(&fuzz);
    return 0;
}
