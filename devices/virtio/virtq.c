/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue, device side (virtio 1.2, 2.7).
 *
 *     descriptor table   size x { u64 addr, u32 len, u16 flags, u16 next }       the guest writes
 *     available ring     u16 flags, u16 idx, size x u16 head, u16 used_event     the guest writes
 *     used ring          u16 flags, u16 idx, size x { u32 id, u32 len }, u16 avail_event      we do
 *
 * Indices run freely through 16 bits; an entry is index % size. What lies between two indices:
 *
 *     published_used <= next_used <= next_avail <= the guest's avail->idx <= published_used + size
 *
 * The last step is the one a hostile guest breaks; pop checks it, and with it the work between two
 * flushes is bounded. The guest changes its parts at any moment: each field is loaded once, whole,
 * and only the loaded value is checked and used.
 *
 * Barriers, each with its partner in the driver:
 *  - acquire on avail->idx: its entries and descriptors are read after it;
 *  - release on used->idx: its entries are written before it;
 *  - a full fence between publishing used->idx and reading used_event (or avail->flags), and
 *    between writing avail_event (or used->flags) and reading avail->idx again: both sides write,
 *    then read what the other wrote, and one of them must see the other's write.
 */
#include "devices/virtio/virtq.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_ring.h>

#define DESC_BYTES      16u
#define USED_ELEM_BYTES 8u

/* Offsets in both rings. */
#define RING_FLAGS   0u
#define RING_IDX     2u
#define RING_ENTRIES 4u

static uint16_t load16(const uint8_t *at)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED));
}

static uint16_t load16_acquire(const uint8_t *at)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, htole16(value), __ATOMIC_RELAXED);
}

static void store16_release(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, htole16(value), __ATOMIC_RELEASE);
}

static void store32(uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)at, htole32(value), __ATOMIC_RELAXED);
}

/* ---- setup ---- */

static size_t avail_bytes(uint16_t size, bool event_idx)
{
    return RING_ENTRIES + 2u * size + (event_idx ? 2u : 0);
}

static size_t used_bytes(uint16_t size, bool event_idx)
{
    return RING_ENTRIES + USED_ELEM_BYTES * size + (event_idx ? 2u : 0);
}

/* 2.7: alignment 16, 2 and 4. */
static bool numbers_make_sense(const struct virtq_setup *setup)
{
    return is_power_of_two(setup->size) && setup->size <= VIRTQ_SIZE_MAX &&
           is_aligned(setup->desc_gpa, 16) && is_aligned(setup->avail_gpa, 2) &&
           is_aligned(setup->used_gpa, 4);
}

/* Nothing in the specification lets two parts share a byte, and ours would then be read as the
 * driver's. All three lie in RAM, so no end wraps. */
static bool parts_overlap(const struct virtq_setup *setup, bool event_idx)
{
    const uint64_t desc = DESC_BYTES * setup->size;
    const uint64_t avail = avail_bytes(setup->size, event_idx);
    const uint64_t used = used_bytes(setup->size, event_idx);
    return checked_overlap(setup->desc_gpa, desc, setup->avail_gpa, avail) ||
           checked_overlap(setup->desc_gpa, desc, setup->used_gpa, used) ||
           checked_overlap(setup->avail_gpa, avail, setup->used_gpa, used);
}

int virtq_enable(struct virtq *queue, const struct mem *mem, const struct virtq_setup *setup,
                 bool event_idx, bool indirect)
{
    virtq_disable(queue);
    if (!numbers_make_sense(setup))
        return -EINVAL;
    queue->desc = mem_for_read(mem, setup->desc_gpa, DESC_BYTES * setup->size);
    queue->avail = mem_for_read(mem, setup->avail_gpa, avail_bytes(setup->size, event_idx));
    queue->used = mem_for_write(mem, setup->used_gpa, used_bytes(setup->size, event_idx));
    if (!queue->desc || !queue->avail || !queue->used || parts_overlap(setup, event_idx))
        return -EINVAL;
    queue->mem = mem;
    queue->event_idx = event_idx;
    queue->indirect = indirect;
    queue->size = setup->size;
    return 0;
}

void virtq_disable(struct virtq *queue)
{
    *queue = (struct virtq){0};
}

/* ---- from the available ring to a chain ---- */

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

/* Two 64-bit loads where the address allows it. An indirect table may lie at any address (2.7.5.3
 * asks for no alignment); then the compiler is kept from looking again after the copy. */
static struct desc load_desc(const uint8_t *at)
{
    uint64_t words[2];
    if (is_aligned((uintptr_t)at, sizeof(words[0]))) {
        const uint64_t *from = (const uint64_t *)(const void *)at;
        words[0] = __atomic_load_n(&from[0], __ATOMIC_RELAXED);
        words[1] = __atomic_load_n(&from[1], __ATOMIC_RELAXED);
    } else {
        memcpy(words, at, sizeof(words));
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    }
    const uint8_t *tail = (const uint8_t *)&words[1];
    return (struct desc){
        .addr = le64toh(words[0]),
        .len = get_le32(tail),
        .flags = get_le16(tail + 4),
        .next = get_le16(tail + 6),
    };
}

/* A walk along one chain: through the queue's table, and at its end maybe through one more. */
struct walk {
    const struct virtq *queue;
    const uint8_t *table;
    uint32_t entries; /* of `table` */
    bool in_indirect;
    bool writable_seen;
    uint16_t seen; /* descriptors that describe a buffer */
};

/* 2.7.5.3.1: only when negotiated, no table inside a table, nothing chained behind it, no more
 * entries than the queue has. Its WRITE flag says nothing (2.7.5.3.2). */
static int enter_table(struct walk *walk, const struct desc *desc)
{
    const struct virtq *queue = walk->queue;
    if (!queue->indirect || walk->in_indirect || (desc->flags & VRING_DESC_F_NEXT))
        return -EINVAL;
    if (desc->len % DESC_BYTES || desc->len / DESC_BYTES > queue->size)
        return -EINVAL;
    walk->table = mem_for_read(queue->mem, desc->addr, desc->len);
    walk->entries = desc->len / DESC_BYTES;
    walk->in_indirect = true;
    return walk->table ? 0 : -EINVAL;
}

/* The sum stays below 4 GiB (2.7.5.2 stops there too), because the used ring counts in 32 bits. */
static int add_buffer(struct walk *walk, struct virtq_chain *chain, const struct desc *desc)
{
    const bool in = desc->flags & VRING_DESC_F_WRITE;
    if (walk->writable_seen && !in)
        return -EINVAL; /* 2.7.4.2 */
    walk->writable_seen |= in;
    if (desc->len == 0)
        return 0;
    if (chain->out_bytes + chain->in_bytes + desc->len > UINT32_MAX)
        return -EINVAL;
    const struct mem *mem = walk->queue->mem;
    const void *at =
        in ? mem_for_write(mem, desc->addr, desc->len) : mem_for_read(mem, desc->addr, desc->len);
    if (!at)
        return -EINVAL;
    /* struct iovec has no const; what lies before out_count is only read. */
    chain->iov[chain->out_count + chain->in_count] =
        (struct iovec){.iov_base = (void *)(uintptr_t)at, .iov_len = desc->len};
    *(in ? &chain->in_count : &chain->out_count) += 1;
    *(in ? &chain->in_bytes : &chain->out_bytes) += desc->len;
    return 0;
}

/* Ends, whatever the links say: each turn counts one of `size`, or enters the one indirect table
 * there may be. */
static int walk_chain(const struct virtq *queue, struct virtq_chain *chain)
{
    struct walk walk = {.queue = queue, .table = queue->desc, .entries = queue->size};
    uint16_t index = chain->head;
    for (;;) {
        if (index >= walk.entries)
            return -EINVAL;
        struct desc desc = load_desc(walk.table + DESC_BYTES * index);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (enter_table(&walk, &desc) < 0)
                return -EINVAL;
            index = 0;
            continue;
        }
        if (walk.seen++ == queue->size || add_buffer(&walk, chain, &desc) < 0)
            return -EINVAL;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        index = desc.next;
    }
}

static bool is_busy(const struct virtq *queue, uint16_t head)
{
    return queue->busy[head / 64] >> (head % 64) & 1;
}

static void flip_busy(struct virtq *queue, uint16_t head)
{
    queue->busy[head / 64] ^= 1ull << (head % 64);
}

static uint16_t *popped_slot(struct virtq *queue, uint16_t index)
{
    return &queue->popped[index & (queue->size - 1)];
}

/* 1, 0, or -EINVAL, as virtq_pop(). */
static int take_head(const struct virtq *queue, uint16_t *head)
{
    uint16_t guest_index = load16_acquire(queue->avail + RING_IDX);
    if (guest_index == queue->next_avail)
        return 0;
    uint16_t outstanding = (uint16_t)(guest_index - queue->published_used);
    uint16_t popped = (uint16_t)(queue->next_avail - queue->published_used);
    if (outstanding > queue->size || outstanding < popped)
        return -EINVAL;
    uint16_t entry = queue->next_avail & (queue->size - 1);
    *head = load16(queue->avail + RING_ENTRIES + 2u * entry);
    return *head < queue->size && !is_busy(queue, *head) ? 1 : -EINVAL;
}

int virtq_pop(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t head = 0;
    if (!virtq_live(queue))
        return 0;
    int got = take_head(queue, &head);
    if (got == 0)
        return 0;
    chain->head = head;
    chain->out_count = chain->in_count = 0;
    chain->out_bytes = chain->in_bytes = 0;
    if (got < 0 || walk_chain(queue, chain) < 0) {
        virtq_disable(queue);
        return -EINVAL;
    }
    *popped_slot(queue, queue->next_avail) = head;
    flip_busy(queue, head);
    queue->next_avail++;
    queue->in_flight++;
    return 1;
}

void virtq_unpop(struct virtq *queue, unsigned count)
{
    for (; count && queue->in_flight; count--) {
        uint16_t head = *popped_slot(queue, (uint16_t)(queue->next_avail - 1));
        assert(is_busy(queue, head));
        if (!is_busy(queue, head))
            return;
        flip_busy(queue, head);
        queue->next_avail--;
        queue->in_flight--;
    }
}

/* ---- from a chain to the used ring ---- */

void virtq_push(struct virtq *queue, uint16_t head, uint32_t written_bytes)
{
    if (!virtq_live(queue))
        return;
    /* A device that completes what it never popped is our bug; the guest is spared it. */
    assert(head < queue->size && is_busy(queue, head));
    if (head >= queue->size || !is_busy(queue, head))
        return;
    uint16_t entry = queue->next_used & (queue->size - 1);
    uint8_t *elem = queue->used + RING_ENTRIES + USED_ELEM_BYTES * entry;
    store32(elem, head);
    store32(elem + 4, written_bytes);
    flip_busy(queue, head);
    queue->next_used++;
    queue->in_flight--;
}

/* 2.7.7.2 and 2.7.10. */
static bool interrupt_wanted(const struct virtq *queue, uint16_t before)
{
    if (!queue->event_idx)
        return !(load16(queue->avail + RING_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
    uint16_t used_event = load16(queue->avail + RING_ENTRIES + 2u * queue->size);
    return vring_need_event(used_event, queue->published_used, before);
}

bool virtq_flush(struct virtq *queue)
{
    if (!virtq_live(queue) || queue->published_used == queue->next_used)
        return false;
    uint16_t before = queue->published_used;
    queue->published_used = queue->next_used;
    store16_release(queue->used + RING_IDX, queue->next_used);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return interrupt_wanted(queue, before);
}

/* With EVENT_IDX, silence is what comes without asking: avail_event stays behind. */
void virtq_quiet(struct virtq *queue)
{
    if (virtq_live(queue) && !queue->event_idx)
        store16(queue->used + RING_FLAGS, VRING_USED_F_NO_NOTIFY);
}

bool virtq_listen(struct virtq *queue)
{
    if (!virtq_live(queue))
        return false;
    if (queue->event_idx)
        store16(queue->used + RING_ENTRIES + USED_ELEM_BYTES * queue->size, queue->next_avail);
    else
        store16(queue->used + RING_FLAGS, 0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load16_acquire(queue->avail + RING_IDX) != queue->next_avail;
}

/* ---- bytes of a chain ---- */

/* Calls memcpy() for each piece of [offset, offset + length), which lies inside the vectors. */
static void copy(const struct iovec *iov, uint64_t offset, uint8_t *local, size_t length,
                 bool to_guest)
{
    for (; offset >= iov->iov_len && length; iov++)
        offset -= iov->iov_len;
    for (; length; iov++) {
        uint8_t *guest = (uint8_t *)iov->iov_base + offset;
        size_t piece = MIN(length, iov->iov_len - (size_t)offset);
        memcpy(to_guest ? guest : local, to_guest ? local : guest, piece);
        local += piece;
        length -= piece;
        offset = 0;
    }
}

int virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t length)
{
    if (!checked_inside(offset, length, chain->out_bytes))
        return -EINVAL;
    copy(chain->iov, offset, to, length, false);
    return 0;
}

int virtq_chain_write(const struct virtq_chain *chain, uint64_t offset, const void *from,
                      size_t length)
{
    if (!checked_inside(offset, length, chain->in_bytes))
        return -EINVAL;
    copy(chain->iov + chain->out_count, offset, (uint8_t *)(uintptr_t)from, length, true);
    return 0;
}
