/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets between guest and host: virtio 1.2, 5.10. Everything but read_config runs on the loop's
 * thread.
 *
 * Queue 0 brings packets to the guest, queue 1 from it, queue 2 tells of events. Config space: the
 * guest's CID, 8 bytes. No feature is offered: stream sockets only. The host is CID 2; on its side
 * every connection is a unix socket. The states of a connection are in vsock_hub.h.
 *
 * A packet is a header of 44 bytes, copied out once, and maybe data, which goes from guest memory
 * into the socket, or from the socket into guest memory, without a stop (vsock_conn.c).
 *
 * From the guest (tx): whatever a packet says, it is done with at once, so the queue moves on
 * however slow a socket is. It stops in one case: packets for nobody are answered with RST, and
 * when ANSWERS_MAX of these wait because the guest gives no buffers, it has to give some first
 * (5.10.6.1 allows it).
 *
 * To the guest (rx): connections that have something stand in line, each gets one packet and goes
 * to the end. Kicks are wanted only while somebody waits for buffers.
 *
 * Bad packets cost the connection they name, bad chains the device: DEVICE_NEEDS_RESET. All
 * connections end then, as they do in a reset.
 */
#include "devices/virtio/vsock.h"

#include "base/checked.h"
#include "base/own.h"
#include "devices/virtio/vsock_hub.h"

#include <errno.h>
#include <stdlib.h>

enum { RX_QUEUE, TX_QUEUE, EVENT_QUEUE, QUEUE_COUNT };

#define PACKETS_PER_TURN 64u /* then the other direction, and other devices, have a turn */
#define ANSWERS_MAX      128u

/* A RST for a packet that belongs to no connection. */
struct answer {
    uint64_t cid; /* whom the guest wrote to */
    uint32_t host_port, guest_port;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio_device virtio;
    struct vsock_hub hub;

    /* Loop thread. */
    struct loop_task more;
    bool tx_pending; /* there are packets from the guest that were not looked at */
    bool rx_starved; /* waits for a kick of the receive queue */
    struct answer answers[ANSWERS_MAX];
    unsigned answer_first, answer_count;
    struct virtq_chain chain;          /* the one being looked at */
    struct iovec data[VIRTQ_SIZE_MAX]; /* its part behind the header */
};

static struct virtio_vsock *from_device(struct virtio_device *device)
{
    return container_of(device, struct virtio_vsock, virtio);
}

static struct virtq *ring_of(struct virtio_vsock *self, unsigned queue)
{
    return &self->virtio.queues[queue].ring;
}

static bool can_run(const struct virtio_vsock *self)
{
    return self->hub.running && !self->virtio.broken;
}

static void break_device(struct virtio_vsock *self, const char *why)
{
    virtio_broken(&self->virtio, why);
    self->answer_count = 0;
    vsock_hub_stop(&self->hub);
}

/* Copies the vectors without their first `skip` bytes, up to `length` bytes. Returns how many. */
static unsigned slice(struct iovec *to, const struct iovec *from, unsigned count, size_t skip,
                      size_t length)
{
    unsigned used = 0;
    for (unsigned i = 0; i < count && length; i++) {
        size_t skipped = MIN(skip, from[i].iov_len);
        size_t taken = MIN(from[i].iov_len - skipped, length);
        skip -= skipped;
        length -= taken;
        if (taken)
            to[used++] = (struct iovec){(uint8_t *)from[i].iov_base + skipped, taken};
    }
    return used;
}

/* ---- from the guest ---- */

static void answer(struct virtio_vsock *self, const struct vsock_packet *packet)
{
    if (packet->op == VIRTIO_VSOCK_OP_RST)
        return; /* or two sides could go on for ever */
    unsigned at = (self->answer_first + self->answer_count++) % ANSWERS_MAX;
    self->answers[at] = (struct answer){
        .cid = packet->dst_cid,
        .host_port = packet->dst_port,
        .guest_port = packet->src_port,
        .type = packet->type,
    };
}

/* 5.10.6.2 and 5.10.6.4: the source is the guest's own CID; what we do not know is answered with
 * RST, be it the address or the type. */
static void tx_dispatch(struct virtio_vsock *self, const struct vsock_packet *packet)
{
    const struct virtq_chain *chain = &self->chain;
    const uint64_t bytes = MIN(chain->out_bytes - VSOCK_HEADER_BYTES, packet->len);
    if (packet->src_cid != self->hub.guest_cid)
        return;
    if (packet->dst_cid != VSOCK_HOST_CID || packet->type != VIRTIO_VSOCK_TYPE_STREAM) {
        answer(self, packet);
        return;
    }
    unsigned count = slice(self->data, chain->iov, chain->out_count, VSOCK_HEADER_BYTES, bytes);
    if (!vsock_hub_take(&self->hub, packet, self->data, count, bytes))
        answer(self, packet);
}

/* 1: a packet; 0: none waits; negative: nonsense. */
static int tx_packet(struct virtio_vsock *self)
{
    uint8_t raw[VSOCK_HEADER_BYTES];
    int got = virtq_pop(ring_of(self, TX_QUEUE), &self->chain);
    if (got != 1)
        return got;
    if (self->chain.in_count || virtq_chain_read(&self->chain, 0, raw, sizeof(raw)) < 0)
        return -EINVAL;
    const struct vsock_packet packet = vsock_packet_parse(raw);
    tx_dispatch(self, &packet);
    virtq_push(ring_of(self, TX_QUEUE), self->chain.head, 0);
    return 1;
}

static void tx_turn(struct virtio_vsock *self)
{
    struct virtq *ring = ring_of(self, TX_QUEUE);
    int got = 1;
    virtq_quiet(ring);
    for (unsigned left = PACKETS_PER_TURN; left && self->answer_count < ANSWERS_MAX; left--) {
        got = tx_packet(self);
        if (got == 0 && virtq_listen(ring)) {
            virtq_quiet(ring);
            got = 1;
        }
        if (got != 1)
            break;
    }
    self->tx_pending = got == 1;
    if (got < 0)
        break_device(self, "nonsense in the transmit queue");
    virtio_flush(&self->virtio, TX_QUEUE);
}

/* ---- to the guest ---- */

static bool has_rx_work(const struct virtio_vsock *self)
{
    return self->answer_count || vsock_hub_has_packet(&self->hub);
}

/* 1: a buffer for a packet, with some room behind the header; 0: starved; negative: nonsense. */
static int rx_pop(struct virtio_vsock *self)
{
    struct virtq *ring = ring_of(self, RX_QUEUE);
    int got;
    while ((got = virtq_pop(ring, &self->chain)) == 0 && virtq_listen(ring))
        virtq_quiet(ring);
    self->rx_starved = got == 0;
    if (got == 1 && (self->chain.out_count || self->chain.in_bytes <= VSOCK_HEADER_BYTES))
        return -EINVAL;
    return got;
}

static struct vsock_packet next_answer(struct virtio_vsock *self)
{
    const struct answer *answer = &self->answers[self->answer_first];
    self->answer_first = (self->answer_first + 1) % ANSWERS_MAX;
    self->answer_count--;
    return (struct vsock_packet){
        .src_cid = answer->cid,
        .dst_cid = self->hub.guest_cid,
        .src_port = answer->host_port,
        .dst_port = answer->guest_port,
        .type = answer->type,
        .op = VIRTIO_VSOCK_OP_RST,
    };
}

static bool rx_packet(struct virtio_vsock *self, struct vsock_packet *packet)
{
    const struct virtq_chain *chain = &self->chain;
    if (self->answer_count) {
        *packet = next_answer(self);
        return true;
    }
    unsigned count = slice(self->data, chain->iov + chain->out_count, chain->in_count,
                           VSOCK_HEADER_BYTES, SIZE_MAX);
    return vsock_hub_next(&self->hub, self->data, count, packet);
}

/* The buffer that was popped is filled, or put back. */
static void rx_fill(struct virtio_vsock *self)
{
    struct virtq *ring = ring_of(self, RX_QUEUE);
    struct vsock_packet packet;
    uint8_t raw[VSOCK_HEADER_BYTES];
    if (!rx_packet(self, &packet)) {
        virtq_unpop(ring, 1);
        return;
    }
    vsock_packet_format(&packet, raw);
    virtq_chain_write(&self->chain, 0, raw, sizeof(raw));
    virtq_push(ring, self->chain.head, (uint32_t)sizeof(raw) + packet.len);
}

static void rx_turn(struct virtio_vsock *self)
{
    int got = 1;
    virtq_quiet(ring_of(self, RX_QUEUE));
    for (unsigned left = PACKETS_PER_TURN; left && has_rx_work(self); left--) {
        got = rx_pop(self);
        if (got != 1)
            break;
        rx_fill(self);
    }
    if (got < 0)
        break_device(self, "nonsense in the receive queue");
    virtio_flush(&self->virtio, RX_QUEUE);
}

/* ---- the device ---- */

/* Starved, we wait for the guest, and what was not looked at can wait too. */
static bool has_more(const struct virtio_vsock *self)
{
    if (self->rx_starved)
        return self->tx_pending && self->answer_count < ANSWERS_MAX;
    return self->tx_pending || has_rx_work(self);
}

static void turn(struct virtio_vsock *self)
{
    if (can_run(self) && self->tx_pending)
        tx_turn(self);
    if (can_run(self) && !self->rx_starved && has_rx_work(self))
        rx_turn(self);
    if (can_run(self) && has_more(self))
        loop_post(self->virtio.loop, &self->more);
}

static void run_more(struct loop_task *task)
{
    turn(container_of(task, struct virtio_vsock, more));
}

static void hub_has_work(struct vsock_hub *hub)
{
    turn(container_of(hub, struct virtio_vsock, hub));
}

/* Buffers for events stay in their ring until there is one. */
static void vsock_kick(struct virtio_device *device, unsigned queue)
{
    struct virtio_vsock *self = from_device(device);
    if (queue == RX_QUEUE)
        self->rx_starved = false;
    if (queue == TX_QUEUE)
        self->tx_pending = true;
    turn(self);
}

static void vsock_activate(struct virtio_device *device)
{
    struct virtio_vsock *self = from_device(device);
    self->tx_pending = true;
    vsock_hub_start(&self->hub);
}

static void vsock_deactivate(struct virtio_device *device)
{
    struct virtio_vsock *self = from_device(device);
    vsock_hub_stop(&self->hub);
    self->tx_pending = self->rx_starved = false;
    self->answer_count = 0;
    virtio_idle(device);
}

void virtio_vsock_transport_reset(struct virtio_device *device)
{
    struct virtio_vsock *self = from_device(device);
    struct virtq *ring = ring_of(self, EVENT_QUEUE);
    uint8_t event[sizeof(struct virtio_vsock_event)];
    vsock_hub_drop_all(&self->hub);
    self->answer_count = 0;
    put_le32(event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    int got = can_run(self) ? virtq_pop(ring, &self->chain) : 0;
    if (got == 1 && virtq_chain_write(&self->chain, 0, event, sizeof(event)) == 0)
        virtq_push(ring, self->chain.head, sizeof(event));
    else if (got)
        break_device(self, "nonsense in the event queue");
    virtio_flush(device, EVENT_QUEUE);
}

static void vsock_read_config(struct virtio_device *device, unsigned offset, void *to,
                              unsigned length)
{
    uint8_t space[sizeof(struct virtio_vsock_config)];
    put_le64(space, from_device(device)->hub.guest_cid);
    memcpy(to, space + offset, length);
}

static void vsock_destroy(struct virtio_device *device)
{
    struct virtio_vsock *self = from_device(device);
    vsock_hub_finish(&self->hub);
    virtio_finish(device);
    free(self);
}

static const struct virtio_ops virtio_vsock_ops = {
    .activate = vsock_activate,
    .kick = vsock_kick,
    .deactivate = vsock_deactivate,
    .read_config = vsock_read_config,
    .destroy = vsock_destroy,
};

int virtio_vsock_create(struct virtio_device **out, const struct virtio_vsock_options *options,
                        const struct mem *mem, struct loop *loop, const struct irq *irq,
                        struct nido_error *err)
{
    if (options->cid < VIRTIO_VSOCK_CID_MIN || options->cid > VIRTIO_VSOCK_CID_MAX)
        return error_set(err, EINVAL, "vsock %s: cid=%u is reserved; say %u to %u", options->path,
                         options->cid, VIRTIO_VSOCK_CID_MIN, VIRTIO_VSOCK_CID_MAX);
    own_mem struct virtio_vsock *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "vsock %s: out of memory", options->path);
    self->more.run = run_more;
    self->virtio = (struct virtio_device){
        .ops = &virtio_vsock_ops,
        .name = "vsock",
        .device_id = VIRTIO_ID_VSOCK,
        .config_bytes = sizeof(struct virtio_vsock_config),
        .queue_count = QUEUE_COUNT,
        .queue_size_max = VIRTQ_SIZE_MAX,
    };
    int ret = vsock_hub_init(&self->hub, loop, options->cid, options->path, hub_has_work, err);
    if (ret < 0)
        return ret;
    self->hub.guarded_port = options->guarded_port;
    ret = virtio_init(&self->virtio, mem, loop, irq, err);
    if (ret < 0) {
        vsock_hub_finish(&self->hub);
        return ret;
    }
    *out = &own_take_ptr(self)->virtio;
    return 0;
}
