/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The network card: virtio 1.2, 5.1. Everything but read_config runs on the loop's thread.
 *
 * Queue 0 receives, queue 1 transmits. Config space: mac, status, max_virtqueue_pairs (1), mtu.
 * Checksum and segmentation offloads are those of the backend; the virtio-net header passes through
 * from one side to the other, and no frame is copied on the way (but see the spill).
 *
 * Transmit: a chain is a header and a frame, handed to the backend from where it lies. When the
 * backend is full, the chain goes back into the ring and the card waits for EPOLLOUT.
 *
 * Receive: the card holds a window of buffers that the driver has posted, enough for the largest
 * frame that is likely to come, and one call reads a frame straight into them. With MRG_RXBUF a
 * frame fills as many buffers as it needs (num_buffers); without, it must fit the first one. What
 * it leaves stays in the window for the next frame, so each buffer is popped once. When the driver
 * has posted too little, the end of a frame lands in the spill behind the window:
 *  - without MRG_RXBUF the frame is dropped whole, never delivered cut (5.1.6.4);
 *  - with it, the frame waits for more buffers. Dropping it would cost most when a busy guest is
 *    only a moment late with new ones. It is dropped once the ring cannot hold more.
 * Kicks are wanted only while frames wait for buffers; the backend is silent for that time.
 *
 * What reaches the backend while no driver is there is dropped on activation: a cable nobody
 * listened to. It may also be from before a reset, with offloads that the new driver does not know.
 */

#include "devices/virtio/net.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "devices/virtio/net_window.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>

/* UDP segmentation, newer than Linux 6.1's headers. */
#define NET_F_GUEST_USO4 54
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO   56

#define BIT(n) (1ull << (n))

enum { RX_QUEUE, TX_QUEUE, QUEUE_COUNT };

#define FRAMES_PER_TURN   64u /* then the other direction, and other devices, have a turn */
#define ERRORS_IN_A_ROW   64u /* of receive; then the backend counts as gone, lest we spin */
#define DRAINED_MAX       4096u
#define PLAIN_FRAME_BYTES 1518u /* with a VLAN tag */
#define LARGEST_BYTES     (NET_HEADER_BYTES + NET_FRAME_MAX_BYTES)

struct virtio_net {
    struct virtio_device virtio;
    struct net *net; /* owned */
    char name[48];
    uint8_t mac[6];
    _Atomic bool link_up; /* any thread reads, the loop's writes */

    /* Loop thread. */
    struct loop_source source;
    struct loop_task more_to_send;
    bool running;     /* between activate and deactivate */
    bool mergeable;   /* MRG_RXBUF */
    bool guest_csum;  /* GUEST_CSUM */
    bool rx_starved;  /* waits for a kick of the receive queue */
    bool tx_blocked;  /* waits for EPOLLOUT */
    unsigned errors;  /* of receive, in a row */
    size_t rx_wanted; /* what the window should hold before a read */
    size_t spilled;   /* length of the frame that waits for more buffers, 0: none */
    size_t spill_at;  /* how much of it is in the window */
    struct net_window window;
    struct virtq_chain chain;            /* the one being looked at */
    struct virtio_net_counters counters; /* but for bytes, which every device counts */
    uint8_t spill[LARGEST_BYTES + 1];    /* one more tells a frame that is too long */
};

static struct virtio_net *from_device(struct virtio_device *device)
{
    return container_of(device, struct virtio_net, virtio);
}

static struct virtq *ring_of(struct virtio_net *self, unsigned queue)
{
    return &self->virtio.queues[queue].ring;
}

static bool can_run(const struct virtio_net *self)
{
    return self->running && !self->virtio.broken;
}

/* Epoll is level-triggered: what we cannot take now must be silent, or the loop would spin. */
static void update_events(struct virtio_net *self)
{
    uint32_t events = 0;
    if (!atomic_load(&self->link_up))
        return;
    if (can_run(self))
        events = (self->rx_starved ? 0u : EPOLLIN) | (self->tx_blocked ? EPOLLOUT : 0u);
    loop_modify(self->virtio.loop, &self->source, events);
}

static void link_lost(struct virtio_net *self)
{
    if (!atomic_exchange(&self->link_up, false))
        return;
    loop_remove(self->virtio.loop, &self->source);
    log_warn("%s: %s is gone; the guest's link is down from here on", self->name, self->net->name);
    virtio_config_changed(&self->virtio);
    /* Chains that wait for it can end now. */
    if (self->tx_blocked)
        loop_post(self->virtio.loop, &self->more_to_send);
}

/* ---- receive ---- */

/* Hands the guest the frame of `length` bytes, header included, that the window holds. */
static void rx_deliver(struct virtio_net *self, size_t length)
{
    struct net_window *window = &self->window;
    uint8_t num_buffers[2];
    put_le16(num_buffers, (uint16_t)net_window_span(window, length));
    net_window_write(window, offsetof(struct virtio_net_hdr_v1, num_buffers), num_buffers, 2);
    /* 5.1.6.4.1: no flags without GUEST_CSUM, but a TAP sets DATA_VALID as it likes. */
    if (!self->guest_csum)
        net_window_write(window, offsetof(struct virtio_net_hdr_v1, flags), (uint8_t[]){0}, 1);
    net_window_push(window, ring_of(self, RX_QUEUE), length);
    self->counters.rx_frames++;
    virtio_moved(&self->virtio, length - NET_HEADER_BYTES, 0);
}

/* 5.1.6.3: a receive buffer has device-writable descriptors only, and room for the header. */
static bool is_rx_buffer(const struct virtq_chain *chain)
{
    return chain->out_count == 0 && chain->in_bytes >= NET_HEADER_BYTES;
}

static bool rx_has_room(struct virtio_net *self)
{
    return net_window_has_room(&self->window, ring_of(self, RX_QUEUE));
}

/* False: the ring is nonsense. */
static bool rx_fill(struct virtio_net *self)
{
    size_t wanted = MAX(self->rx_wanted, self->spilled);
    while (self->window.bytes < wanted && rx_has_room(self)) {
        int got = virtq_pop(ring_of(self, RX_QUEUE), &self->chain);
        if (got == 0)
            break;
        if (got < 0 || !is_rx_buffer(&self->chain)) {
            virtio_broken(&self->virtio, "nonsense in the receive queue");
            return false;
        }
        net_window_append(&self->window, &self->chain);
    }
    return true;
}

static void rx_drop(struct virtio_net *self)
{
    self->spilled = 0;
    self->counters.rx_dropped++;
}

/* The waiting frame: delivered, dropped, or waiting on. */
static void rx_finish_spilled(struct virtio_net *self)
{
    if (self->window.bytes >= self->spilled) {
        size_t length = self->spilled;
        net_window_write(&self->window, self->spill_at, self->spill, length - self->spill_at);
        self->spilled = 0;
        rx_deliver(self, length);
    } else if (!rx_has_room(self)) {
        rx_drop(self);
    }
}

/* Whether a frame can be read now. If not, the card is starved, or broken. */
static bool rx_prepare(struct virtio_net *self)
{
    struct virtq *ring = ring_of(self, RX_QUEUE);
    for (;;) {
        if (!rx_fill(self))
            return false;
        if (self->spilled)
            rx_finish_spilled(self);
        if (!self->spilled && self->window.buffer_count) {
            self->rx_starved = false;
            return true;
        }
        if (!virtq_listen(ring)) {
            self->rx_starved = true;
            return false;
        }
        virtq_quiet(ring);
    }
}

static void rx_failed(struct virtio_net *self, int code)
{
    self->counters.rx_dropped++;
    if (code == -ENODEV || ++self->errors == ERRORS_IN_A_ROW)
        link_lost(self);
}

/* False: no more frames for now. */
static bool rx_frame(struct virtio_net *self)
{
    struct net_window *window = &self->window;
    window->iov[window->iov_count] = (struct iovec){self->spill, sizeof(self->spill)};
    ssize_t got = self->net->ops->receive(self->net, window->iov, window->iov_count + 1);
    if (got < 0)
        rx_failed(self, (int)got);
    if (got <= 0)
        return false;

    size_t length = (size_t)got;
    size_t room = self->mergeable ? window->bytes : window->buffers[0].bytes;
    bool is_frame = length > NET_HEADER_BYTES && length <= LARGEST_BYTES;
    self->errors = 0;
    if (is_frame && length <= room) {
        rx_deliver(self, length);
    } else if (is_frame && self->mergeable) {
        self->spilled = length;
        self->spill_at = window->bytes;
    } else {
        rx_drop(self);
    }
    return true;
}

static void rx_turn(struct virtio_net *self)
{
    if (!atomic_load(&self->link_up))
        return;
    virtq_quiet(ring_of(self, RX_QUEUE));
    for (unsigned left = FRAMES_PER_TURN; left && rx_prepare(self); left--) {
        if (!rx_frame(self))
            break;
    }
    virtio_flush(&self->virtio, RX_QUEUE);
    update_events(self);
}

/* ---- transmit ---- */

enum tx_verdict { TX_SERVED, TX_EMPTY, TX_BLOCKED, TX_BROKEN };

static ssize_t tx_send(struct virtio_net *self)
{
    if (!atomic_load(&self->link_up))
        return -ENODEV;
    if (self->chain.out_bytes < NET_HEADER_BYTES + ETH_HLEN ||
        self->chain.out_bytes > LARGEST_BYTES)
        return -EMSGSIZE;
    return self->net->ops->send(self->net, self->chain.iov, self->chain.out_count);
}

static enum tx_verdict tx_frame(struct virtio_net *self)
{
    struct virtq *ring = ring_of(self, TX_QUEUE);
    struct virtq_chain *chain = &self->chain;
    int got = virtq_pop(ring, chain);
    if (got == 0)
        return TX_EMPTY;
    /* 5.1.6.2: a header and a frame, all of it device-readable. */
    if (got < 0 || chain->in_count || chain->out_bytes < NET_HEADER_BYTES)
        return TX_BROKEN;

    ssize_t sent = tx_send(self);
    if (sent == -EAGAIN) {
        virtq_unpop(ring, 1);
        return TX_BLOCKED;
    }
    virtq_push(ring, chain->head, 0);
    if (sent < 0) {
        self->counters.tx_dropped++;
        if (sent == -ENODEV)
            link_lost(self);
        return TX_SERVED;
    }
    self->counters.tx_frames++;
    virtio_moved(&self->virtio, 0, chain->out_bytes - NET_HEADER_BYTES);
    return TX_SERVED;
}

static void tx_turn(struct virtio_net *self)
{
    struct virtq *ring = ring_of(self, TX_QUEUE);
    unsigned left = FRAMES_PER_TURN;
    enum tx_verdict verdict;
    do {
        virtq_quiet(ring);
        do
            verdict = tx_frame(self);
        while (verdict == TX_SERVED && --left);
    } while (verdict == TX_EMPTY && virtq_listen(ring));

    self->tx_blocked = verdict == TX_BLOCKED;
    if (verdict == TX_BROKEN)
        virtio_broken(&self->virtio, "nonsense in the transmit queue");
    virtio_flush(&self->virtio, TX_QUEUE);
    if (verdict == TX_SERVED)
        loop_post(self->virtio.loop, &self->more_to_send);
    update_events(self);
}

static void send_more(struct loop_task *task)
{
    struct virtio_net *self = container_of(task, struct virtio_net, more_to_send);
    if (can_run(self))
        tx_turn(self);
}

/* ---- the device ---- */

static void backend_ready(struct loop_source *source, uint32_t events)
{
    struct virtio_net *self = container_of(source, struct virtio_net, source);
    if (events & (EPOLLERR | EPOLLHUP)) {
        link_lost(self);
        return;
    }
    if ((events & EPOLLOUT) && can_run(self))
        tx_turn(self);
    if ((events & EPOLLIN) && can_run(self))
        rx_turn(self);
    update_events(self);
}

static void net_kick(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *self = from_device(device);
    if (!can_run(self))
        return;
    if (queue == RX_QUEUE && self->rx_starved)
        rx_turn(self);
    if (queue == TX_QUEUE && !self->tx_blocked)
        tx_turn(self);
}

/* 5.1.3.1: without GUEST_CSUM there is no segmentation; the backend's USO is one switch. */
static struct net_offload wanted_offload(const struct virtio_device *device)
{
    bool csum = virtio_has(device, VIRTIO_NET_F_GUEST_CSUM);
    return (struct net_offload){
        .csum = csum,
        .tso4 = csum && virtio_has(device, VIRTIO_NET_F_GUEST_TSO4),
        .tso6 = csum && virtio_has(device, VIRTIO_NET_F_GUEST_TSO6),
        .ecn = csum && virtio_has(device, VIRTIO_NET_F_GUEST_ECN),
        .uso = csum && virtio_has(device, NET_F_GUEST_USO4) && virtio_has(device, NET_F_GUEST_USO6),
    };
}

static void set_offload(struct virtio_net *self, const struct net_offload *offload)
{
    if (!atomic_load(&self->link_up))
        return;
    int rc = self->net->ops->set_offload(self->net, offload);
    if (rc == -ENODEV)
        link_lost(self);
    else if (rc)
        log_warn_limited(&self->virtio.complaints, "%s: cannot set the offloads of %s: %s",
                         self->name, self->net->name, strerror(-rc));
}

static void drain_backend(struct virtio_net *self)
{
    struct iovec iov = {self->spill, sizeof(self->spill)};
    unsigned left = DRAINED_MAX;
    while (left && atomic_load(&self->link_up) && self->net->ops->receive(self->net, &iov, 1) > 0)
        left--;
    self->counters.rx_dropped += DRAINED_MAX - left;
}

/* How much the window should hold: a whole frame, of the size that can come. One buffer, where a
 * frame may not use more. */
static size_t bytes_to_hold(const struct virtio_net *self, const struct net_offload *offload)
{
    if (!self->mergeable)
        return 1;
    if (offload->tso4 || offload->tso6 || offload->uso)
        return LARGEST_BYTES;
    return NET_HEADER_BYTES + MAX(PLAIN_FRAME_BYTES, self->net->mtu + 18u);
}

static void net_activate(struct virtio_device *device)
{
    struct virtio_net *self = from_device(device);
    const struct net_offload offload = wanted_offload(device);
    self->running = true;
    self->mergeable = virtio_has(device, VIRTIO_NET_F_MRG_RXBUF);
    self->guest_csum = virtio_has(device, VIRTIO_NET_F_GUEST_CSUM);
    self->rx_wanted = bytes_to_hold(self, &offload);
    set_offload(self, &offload);
    drain_backend(self);
    rx_turn(self);
    if (can_run(self))
        tx_turn(self);
}

static void net_deactivate(struct virtio_device *device)
{
    struct virtio_net *self = from_device(device);
    self->running = false;
    self->rx_starved = self->tx_blocked = false;
    self->spilled = 0;
    net_window_clear(&self->window);
    update_events(self);
    set_offload(self, &(struct net_offload){0});
    virtio_idle(device);
}

static void net_read_config(struct virtio_device *device, unsigned offset, void *to,
                            unsigned length)
{
    const struct virtio_net *self = from_device(device);
    struct virtio_net_config space = {0};
    memcpy(space.mac, self->mac, sizeof(space.mac));
    put_le16(&space.status, atomic_load(&self->link_up) ? VIRTIO_NET_S_LINK_UP : 0);
    put_le16(&space.max_virtqueue_pairs, 1);
    put_le16(&space.mtu, self->net->mtu);
    memcpy(to, (const uint8_t *)&space + offset, length);
}

static void net_destroy(struct virtio_device *device)
{
    struct virtio_net *self = from_device(device);
    loop_remove(device->loop, &self->source);
    virtio_finish(device);
    net_close(self->net);
    free(self);
}

static const struct virtio_ops virtio_net_ops = {
    .activate = net_activate,
    .kick = net_kick,
    .deactivate = net_deactivate,
    .read_config = net_read_config,
    .destroy = net_destroy,
};

static uint64_t offered_features(const struct net *net)
{
    uint64_t features =
        BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF);
    if (net->mtu >= 68) /* 5.1.4.1 */
        features |= BIT(VIRTIO_NET_F_MTU);
    if (!net->can.csum)
        return features;
    features |= BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM);
    if (net->can.tso4)
        features |= BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO4);
    if (net->can.tso6)
        features |= BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_GUEST_TSO6);
    if (net->can.ecn && (net->can.tso4 || net->can.tso6))
        features |= BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_ECN);
    if (net->can.uso)
        features |= BIT(NET_F_HOST_USO) | BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6);
    return features;
}

static int check_mac(const struct virtio_net_options *options, struct nido_error *err)
{
    static const uint8_t zero[6];
    const uint8_t *mac = options->mac;
    const char *why = NULL;
    if (mac[0] & 1)
        why = "is the address of a group; the first byte must be even";
    else if (memcmp(mac, zero, sizeof(zero)) == 0)
        why = "is nobody's address; try 02:00:00:00:00:01";
    if (!why)
        return 0;
    return error_set(err, EINVAL, "net %s: the MAC %02x:%02x:%02x:%02x:%02x:%02x %s", options->name,
                     mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], why);
}

static void describe(struct virtio_net *self, struct net *net,
                     const struct virtio_net_options *options)
{
    snprintf(self->name, sizeof(self->name), "net %s", options->name);
    memcpy(self->mac, options->mac, sizeof(self->mac));
    self->net = net;
    self->link_up = true;
    self->more_to_send.run = send_more;
    self->source = (struct loop_source){.fd = net->fd, .ready = backend_ready};
    self->virtio = (struct virtio_device){
        .ops = &virtio_net_ops,
        .name = self->name,
        .device_id = VIRTIO_ID_NET,
        .offered_features = offered_features(net),
        .config_bytes = offsetof(struct virtio_net_config, speed),
        .queue_count = QUEUE_COUNT,
        .queue_size_max = VIRTQ_SIZE_MAX,
    };
}

int virtio_net_create(struct virtio_device **out, struct net *net,
                      const struct virtio_net_options *options, const struct mem *mem,
                      struct loop *loop, const struct irq *irq, struct nido_error *err)
{
    int rc = check_mac(options, err);
    if (rc)
        return rc;
    own_mem struct virtio_net *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "net %s: out of memory", options->name);
    describe(self, net, options);

    rc = virtio_init(&self->virtio, mem, loop, irq, err);
    if (rc)
        return rc;
    rc = loop_add(loop, &self->source, err);
    if (rc) {
        virtio_finish(&self->virtio);
        return rc;
    }
    *out = &own_take_ptr(self)->virtio;
    return 0;
}

struct virtio_net_counters virtio_net_counters(struct virtio_device *device)
{
    struct virtio_net_counters counters = from_device(device)->counters;
    counters.rx_bytes = atomic_load(&device->in_bytes);
    counters.tx_bytes = atomic_load(&device->out_bytes);
    return counters;
}
