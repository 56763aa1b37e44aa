/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/guest_driver.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "devices/virtio/mmio.h"

#include <linux/virtio_mmio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A test that asks for what cannot be is wrong itself. */
#define die(...)                                                                                   \
    do {                                                                                           \
        fprintf(stderr, "guest_driver: " __VA_ARGS__);                                             \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)

void guest_init(struct guest *guest)
{
    static const struct mem_range ranges[] = {
        {0, GUEST_LOW_BYTES},
        {GUEST_HIGH_GPA, GUEST_HIGH_BYTES},
    };
    struct nido_error err;

    memset(guest, 0, sizeof(*guest));
    /* Page 0 stays unused, so that a forgotten address hits nobody's buffer. */
    guest->free_gpa = MEM_PAGE_BYTES;
    if (mem_create(&guest->mem, ranges, ARRAY_SIZE(ranges), MEM_ANONYMOUS, &err) < 0 ||
        loop_create(&guest->loop, "loop/test", &err) < 0 || irq_init(&guest->irq, 5, &err) < 0)
        die("%s", err.text);
}

void guest_finish(struct guest *guest)
{
    loop_stop(guest->loop);
    if (guest->transport)
        guest->transport->ops->destroy(guest->transport);
    loop_destroy(guest->loop);
    irq_finish(&guest->irq);
    mem_destroy(guest->mem);
    memset(guest, 0, sizeof(*guest));
}

uint64_t guest_alloc(struct guest *guest, uint64_t bytes, uint64_t alignment)
{
    uint64_t gpa = align_up(guest->free_gpa, alignment);
    if (!checked_inside(gpa, bytes, GUEST_LOW_BYTES))
        die("no RAM left for %llu bytes", (unsigned long long)bytes);
    guest->free_gpa = gpa + bytes;
    return gpa;
}

void *guest_at(const struct guest *guest, uint64_t gpa, size_t length)
{
    void *at = mem_for_write(guest->mem, gpa, length);
    if (!at)
        die("no RAM at %#llx", (unsigned long long)gpa);
    return at;
}

/* ---- rings ---- */

void guest_ring_init(struct guest_ring *ring, struct guest *guest, uint16_t size)
{
    const size_t desc_bytes = 16u * size, avail_bytes = 6 + 2u * size, used_bytes = 6 + 8u * size;

    memset(ring, 0, sizeof(*ring));
    ring->guest = guest;
    ring->size = size;
    ring->desc_gpa = guest_alloc(guest, desc_bytes, 16);
    ring->avail_gpa = guest_alloc(guest, avail_bytes, 2);
    ring->used_gpa = guest_alloc(guest, used_bytes, 4);
    ring->desc = guest_at(guest, ring->desc_gpa, desc_bytes);
    ring->avail = guest_at(guest, ring->avail_gpa, avail_bytes);
    ring->used = guest_at(guest, ring->used_gpa, used_bytes);
}

struct virtq_setup guest_ring_setup(const struct guest_ring *ring)
{
    return (struct virtq_setup){
        .size = ring->size,
        .desc_gpa = ring->desc_gpa,
        .avail_gpa = ring->avail_gpa,
        .used_gpa = ring->used_gpa,
    };
}

uint16_t *guest_used_event(const struct guest_ring *ring)
{
    return &ring->avail->ring[ring->size];
}

uint16_t *guest_avail_event(const struct guest_ring *ring)
{
    return (uint16_t *)(void *)&ring->used->ring[ring->size];
}

static uint16_t take_desc(struct guest_ring *ring)
{
    for (uint16_t i = 0; i < ring->size; i++) {
        if (!ring->taken[i]) {
            ring->taken[i] = true;
            return i;
        }
    }
    die("all %u descriptors are in use", ring->size);
}

static struct vring_desc describe(const struct guest_buffer *buffer, uint16_t flags, uint16_t next)
{
    return (struct vring_desc){
        .addr = htole64(buffer->gpa),
        .len = htole32(buffer->length),
        .flags = htole16((uint16_t)(flags | (buffer->in ? VRING_DESC_F_WRITE : 0))),
        .next = htole16(next),
    };
}

void guest_add_head(struct guest_ring *ring, uint16_t head)
{
    ring->avail->ring[ring->next_avail % ring->size] = htole16(head);
    ring->next_avail++;
}

uint16_t guest_add(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count)
{
    uint16_t head = take_desc(ring);
    uint16_t at = head;
    for (unsigned i = 0; i < count; i++) {
        bool last = i + 1 == count;
        uint16_t next = last ? 0 : take_desc(ring);
        ring->desc[at] = describe(&buffers[i], last ? 0 : VRING_DESC_F_NEXT, next);
        ring->next_of[at] = next;
        at = next;
    }
    ring->length_of[head] = (uint16_t)count;
    guest_add_head(ring, head);
    return head;
}

uint16_t guest_add_indirect(struct guest_ring *ring, const struct guest_buffer *buffers,
                            unsigned count)
{
    const size_t table_bytes = count * sizeof(struct vring_desc);
    uint64_t table_gpa = guest_alloc(ring->guest, table_bytes, 16);
    struct vring_desc *table = guest_at(ring->guest, table_gpa, table_bytes);
    for (unsigned i = 0; i < count; i++)
        table[i] = describe(&buffers[i], i + 1 == count ? 0 : VRING_DESC_F_NEXT, (uint16_t)(i + 1));

    uint16_t head = take_desc(ring);
    ring->desc[head] = describe(&GUEST_OUT(table_gpa, table_bytes), VRING_DESC_F_INDIRECT, 0);
    ring->length_of[head] = 1;
    guest_add_head(ring, head);
    return head;
}

void guest_publish(struct guest_ring *ring)
{
    __atomic_store_n(&ring->avail->idx, htole16(ring->next_avail), __ATOMIC_RELEASE);
    ring->published_avail = ring->next_avail;
}

static void free_chain(struct guest_ring *ring, uint32_t head)
{
    if (head >= ring->size)
        return;
    uint16_t at = (uint16_t)head;
    for (unsigned left = ring->length_of[head]; left; left--) {
        ring->taken[at] = false;
        at = ring->next_of[at];
    }
    ring->length_of[head] = 0;
}

bool guest_take_used(struct guest_ring *ring, struct guest_used *used)
{
    uint16_t published = le16toh(__atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE));
    if (published == ring->next_used)
        return false;
    const struct vring_used_elem *elem = &ring->used->ring[ring->next_used % ring->size];
    *used = (struct guest_used){le32toh(elem->id), le32toh(elem->len)};
    free_chain(ring, used->head);
    ring->next_used++;
    if (ring->event_idx)
        __atomic_store_n(guest_used_event(ring), htole16(ring->next_used), __ATOMIC_SEQ_CST);
    return true;
}

/* ---- the MMIO driver ---- */

void guest_attach(struct guest *guest, struct virtio_device *device)
{
    struct nido_error err;
    guest->device = device;
    if (virtio_mmio_create(&guest->transport, device, &err) < 0 ||
        loop_start(guest->loop, &err) < 0)
        die("%s", err.text);
}

uint32_t guest_read32(struct guest *guest, uint64_t offset)
{
    uint64_t value = 0;
    if (guest->transport->ops->read(guest->transport, offset, 4, &value) != DEVICE_HANDLED)
        return UINT32_MAX;
    return (uint32_t)value;
}

void guest_write32(struct guest *guest, uint64_t offset, uint32_t value)
{
    const uint64_t give_up_ns = clock_now_ns() + GUEST_TIMEOUT_MS * 1000000ull;
    while (guest->transport->ops->write(guest->transport, offset, 4, value) == DEVICE_STALL) {
        if (clock_now_ns() > give_up_ns)
            die("the write of %#x to register %#llx stalls forever", value,
                (unsigned long long)offset);
        usleep(100);
    }
}

void guest_read_config(struct guest *guest, unsigned offset, void *to, unsigned length)
{
    uint8_t *bytes = to;
    for (unsigned i = 0; i < length; i++) {
        uint64_t value = UINT64_MAX;
        guest->transport->ops->read(guest->transport, VIRTIO_MMIO_CONFIG + offset + i, 1, &value);
        bytes[i] = (uint8_t)value;
    }
}

uint64_t guest_device_features(struct guest *guest)
{
    guest_write32(guest, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    uint64_t low = guest_read32(guest, VIRTIO_MMIO_DEVICE_FEATURES);
    guest_write32(guest, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    return low | (uint64_t)guest_read32(guest, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

static void add_status(struct guest *guest, uint32_t bits)
{
    guest_write32(guest, VIRTIO_MMIO_STATUS, guest_read32(guest, VIRTIO_MMIO_STATUS) | bits);
}

bool guest_negotiate(struct guest *guest, uint64_t features)
{
    features |= GUEST_FEATURE(VIRTIO_F_VERSION_1);
    guest_reset(guest);
    add_status(guest, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    add_status(guest, VIRTIO_CONFIG_S_DRIVER);
    guest_write32(guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    guest_write32(guest, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
    guest_write32(guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    guest_write32(guest, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
    add_status(guest, VIRTIO_CONFIG_S_FEATURES_OK);

    bool event_idx = features & GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        guest->rings[i].event_idx = event_idx;
    return guest_read32(guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void write_address(struct guest *guest, uint64_t low_register, uint64_t gpa)
{
    guest_write32(guest, low_register, (uint32_t)gpa);
    guest_write32(guest, low_register + 4, (uint32_t)(gpa >> 32));
}

void guest_setup_queue(struct guest *guest, unsigned index, uint16_t size)
{
    struct guest_ring *ring = &guest->rings[index];
    if (!ring->size) {
        bool event_idx = ring->event_idx;
        guest_ring_init(ring, guest, size);
        ring->event_idx = event_idx;
    }
    guest_write32(guest, VIRTIO_MMIO_QUEUE_SEL, index);
    guest_write32(guest, VIRTIO_MMIO_QUEUE_NUM, ring->size);
    write_address(guest, VIRTIO_MMIO_QUEUE_DESC_LOW, ring->desc_gpa);
    write_address(guest, VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring->avail_gpa);
    write_address(guest, VIRTIO_MMIO_QUEUE_USED_LOW, ring->used_gpa);
    guest_write32(guest, VIRTIO_MMIO_QUEUE_READY, 1);
}

void guest_driver_ok(struct guest *guest)
{
    add_status(guest, VIRTIO_CONFIG_S_DRIVER_OK);
}

void guest_bring_up(struct guest *guest, uint64_t features, unsigned count, uint16_t size)
{
    if (!guest_negotiate(guest, features))
        die("the device refuses features %#llx", (unsigned long long)features);
    for (unsigned i = 0; i < count; i++)
        guest_setup_queue(guest, i, size);
    guest_driver_ok(guest);
    guest_sync(guest);
}

void guest_reset(struct guest *guest)
{
    guest_write32(guest, VIRTIO_MMIO_STATUS, 0);
    memset(guest->rings, 0, sizeof(guest->rings));
}

void guest_kick(struct guest *guest, unsigned queue)
{
    guest_publish(&guest->rings[queue]);
    guest->rings[queue].kicked_avail = guest->rings[queue].published_avail;
    guest_write32(guest, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

/* The driver's half of virtio 1.2, 2.7.10. */
static bool kick_is_wanted(const struct guest_ring *ring)
{
    if (!ring->event_idx)
        return !(__atomic_load_n(&ring->used->flags, __ATOMIC_RELAXED) &
                 htole16(VRING_USED_F_NO_NOTIFY));
    uint16_t event = le16toh(__atomic_load_n(guest_avail_event(ring), __ATOMIC_RELAXED));
    return vring_need_event(event, ring->published_avail, ring->kicked_avail);
}

bool guest_kick_if_wanted(struct guest *guest, unsigned queue)
{
    struct guest_ring *ring = &guest->rings[queue];
    guest_publish(ring);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool wanted = kick_is_wanted(ring);
    ring->kicked_avail = ring->published_avail;
    if (wanted)
        guest_write32(guest, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    return wanted;
}

uint32_t guest_wait_interrupt(struct guest *guest, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = guest->irq.fd, .events = POLLIN};
    uint64_t count;
    while (poll(&poll_fd, 1, timeout_ms) == 1 &&
           read(guest->irq.fd, &count, sizeof(count)) == sizeof(count)) {
        uint32_t bits = guest_read32(guest, VIRTIO_MMIO_INTERRUPT_STATUS);
        guest_write32(guest, VIRTIO_MMIO_INTERRUPT_ACK, bits);
        if (bits)
            return bits;
        /* The bit was set, and seen by the wait before this, ahead of its pulse. */
    }
    return 0;
}

struct guest_used guest_wait_used(struct guest *guest, unsigned queue)
{
    const uint64_t give_up_ns = clock_now_ns() + GUEST_TIMEOUT_MS * 1000000ull;
    struct guest_used used;
    while (!guest_take_used(&guest->rings[queue], &used)) {
        if (clock_now_ns() > give_up_ns)
            die("queue %u: nothing was completed", queue);
        guest_wait_interrupt(guest, 10);
    }
    return used;
}

static void do_nothing(struct loop_task *task)
{
}

void guest_sync(struct guest *guest)
{
    /* Twice: the turn that runs the first may have looked at its descriptors before the kick. */
    struct loop_task task = {.run = do_nothing};
    loop_call(guest->loop, &task);
    loop_call(guest->loop, &task);
}
