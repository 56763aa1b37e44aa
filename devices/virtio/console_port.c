/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To the host: chains are copied into the port's ring and completed at once, because Linux spins,
 * interrupts off, until a chain that it wrote to a console comes back. When the ring is full, the
 * chain at hand waits, and the guest with it. Nothing is dropped while somebody is at the host's
 * end; while nobody is, all is (a driver knows, and makes its writers wait).
 *
 * A driver that resets the device has let its writers believe that their bytes are written: Linux
 * does so when it powers off. What it has made available then is taken into a ring that grows for
 * it, up to a limit; the reset waits for no reader.
 *
 * From the host: bytes are taken while the guest's end is open and has buffers. What comes earlier
 * waits in the host, for Linux throws away what reaches a port that nobody has opened.
 */
#include "devices/virtio/console_port.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING_BYTES  ((size_t)64 * 1024)
#define TURN_CHAINS 64u

/* What Linux has under way at most: 64 chains of 16 pages, and some. */
#define LAST_BYTES_MAX ((size_t)8 << 20)

static struct virtq *ring_of(struct console_port *port, enum console_port_direction direction)
{
    return &port->virtio->queues[port->first_queue + direction].ring;
}

static void flush(struct console_port *port, enum console_port_direction direction)
{
    virtio_flush(port->virtio, port->first_queue + direction);
}

static void come_again(struct console_port *port, enum console_port_direction direction)
{
    virtio_notify(port->virtio, port->first_queue + direction);
}

/* The next chain; as virtq_pop(). With none, the driver is asked to kick. */
static int pop(struct console_port *port, enum console_port_direction direction,
               struct virtq_chain *chain)
{
    struct virtq *ring = ring_of(port, direction);
    int got = virtq_pop(ring, chain);
    if (got == 0 && virtq_listen(ring))
        got = virtq_pop(ring, chain);
    if (got < 0)
        virtio_broken(port->virtio, direction == PORT_RECEIVE
                                        ? "a port's receive queue is nonsense"
                                        : "a port's transmit queue is nonsense");
    return got;
}

/* ---- to the host ---- */

/* As much of the chain at hand as fits. False: the ring is full. */
static bool copy_chain(struct console_port *port)
{
    uint64_t left = port->chain.out_bytes - port->sent_bytes;
    while (port->connected && left) {
        size_t end = (port->ring_start + port->ring_count) % port->ring_bytes;
        size_t room = MIN(port->ring_bytes - port->ring_count, port->ring_bytes - end);
        size_t piece = (size_t)MIN(left, (uint64_t)room);
        if (piece == 0)
            return false;
        virtq_chain_read(&port->chain, port->sent_bytes, port->ring + end, piece);
        port->ring_count += piece;
        port->sent_bytes += piece;
        left -= piece;
    }
    return true;
}

static int next_chain(struct console_port *port)
{
    if (port->sending)
        return 1;
    int got = pop(port, PORT_TRANSMIT, &port->chain);
    port->sending = got == 1;
    port->sent_bytes = 0;
    return got;
}

/* Takes what the guest has sent, as far as there is room for it. */
static void pull(struct console_port *port)
{
    unsigned chains = 0;
    while (chains < TURN_CHAINS && next_chain(port) == 1 && copy_chain(port)) {
        virtq_push(ring_of(port, PORT_TRANSMIT), port->chain.head, 0);
        port->sending = false;
        chains++;
    }
    flush(port, PORT_TRANSMIT);
    if (chains == TURN_CHAINS)
        come_again(port, PORT_TRANSMIT);
    if (chains && port->transmitted) {
        port->transmissions++;
        port->transmitted(port);
    }
}

static void wake_line(struct console_port *port)
{
    if (port->line_idle && port->ring_count) {
        port->line_idle = false;
        stream_wake(&port->line);
    }
}

/* Room for `more` bytes, straightened out. False: there is none, or no memory. */
static bool grow(struct console_port *port, uint64_t more)
{
    size_t most = RING_BYTES + LAST_BYTES_MAX;
    if (more <= port->ring_bytes - port->ring_count)
        return true;
    if (more > most - MIN(port->ring_count, most))
        return false;
    size_t bytes = MAX(port->ring_count + (size_t)more, MIN(2 * port->ring_bytes, most));
    uint8_t *ring = malloc(bytes);
    if (!ring)
        return false;
    size_t first = MIN(port->ring_count, port->ring_bytes - port->ring_start);
    memcpy(ring, port->ring + port->ring_start, first);
    memcpy(ring + first, port->ring, port->ring_count - first);
    free(port->ring);
    port->ring = ring;
    port->ring_bytes = bytes;
    port->ring_start = 0;
    return true;
}

static void shrink(struct console_port *port)
{
    uint8_t *ring = port->ring_bytes > RING_BYTES ? realloc(port->ring, RING_BYTES) : NULL;
    if (!ring)
        return;
    port->ring = ring;
    port->ring_bytes = RING_BYTES;
}

/* Nothing is pushed: the driver does not look any more. Without a flush, that bounds the work. */
void console_port_take_last(struct console_port *port)
{
    while (next_chain(port) == 1) {
        if (port->connected && !grow(port, port->chain.out_bytes - port->sent_bytes)) {
            log_warn_limited(&port->virtio->complaints,
                             "console: port %u: its driver went with more under way than is kept",
                             port->index);
            break;
        }
        copy_chain(port);
        port->sending = false;
    }
    wake_line(port);
}

static struct console_port *from_line(struct stream_guest *line)
{
    return container_of(line, struct console_port, line);
}

/* The guest's kick may not have come yet, and at a machine's end never comes. */
static size_t line_pending(struct stream_guest *line, const uint8_t **bytes)
{
    struct console_port *port = from_line(line);
    if (port->ring_count == 0)
        pull(port);
    *bytes = port->ring + port->ring_start;
    port->line_idle = port->ring_count == 0;
    return MIN(port->ring_count, port->ring_bytes - port->ring_start);
}

/* A disconnection may have emptied the ring meanwhile. */
static void line_consumed(struct stream_guest *line, size_t count)
{
    struct console_port *port = from_line(line);
    port->ring_count -= MIN(count, port->ring_count);
    port->ring_start = port->ring_count ? (port->ring_start + count) % port->ring_bytes : 0;
    if (port->ring_count == 0)
        shrink(port);
    if (port->sending)
        pull(port);
}

/* ---- from the host ---- */

/* The next buffer that has room; as virtq_pop(). */
static int next_buffer(struct console_port *port, struct virtq_chain *chain)
{
    for (unsigned chains = 0; chains < TURN_CHAINS; chains++) {
        int got = pop(port, PORT_RECEIVE, chain);
        if (got != 1 || chain->in_bytes)
            return got;
        virtq_push(ring_of(port, PORT_RECEIVE), chain->head, 0);
    }
    come_again(port, PORT_RECEIVE);
    return 0;
}

static size_t line_room(struct stream_guest *line)
{
    struct console_port *port = from_line(line);
    struct virtq_chain chain;
    int got = port->open ? next_buffer(port, &chain) : 0;
    if (got == 1)
        virtq_unpop(ring_of(port, PORT_RECEIVE), 1);
    flush(port, PORT_RECEIVE); /* buffers of no size */
    return got == 1 ? chain.in_bytes : 0;
}

static size_t line_receive(struct stream_guest *line, const uint8_t *bytes, size_t count)
{
    struct console_port *port = from_line(line);
    struct virtq_chain chain;
    size_t taken = 0;
    while (port->open && taken < count && next_buffer(port, &chain) == 1) {
        size_t piece = (size_t)MIN(chain.in_bytes, (uint64_t)(count - taken));
        virtq_chain_write(&chain, 0, bytes + taken, piece);
        virtq_push(ring_of(port, PORT_RECEIVE), chain.head, (uint32_t)piece);
        taken += piece;
    }
    flush(port, PORT_RECEIVE);
    return taken;
}

static const struct stream_guest_ops line_ops = {
    .room = line_room,
    .receive = line_receive,
    .pending = line_pending,
    .consumed = line_consumed,
};

/* ---- the port ---- */

int console_port_init(struct console_port *port)
{
    port->line.ops = &line_ops;
    port->line_idle = true;
    port->ring_bytes = RING_BYTES;
    port->ring = malloc(RING_BYTES);
    return port->ring ? 0 : -ENOMEM;
}

void console_port_finish(struct console_port *port)
{
    free(port->ring);
}

void console_port_kick(struct console_port *port, enum console_port_direction direction)
{
    if (direction == PORT_RECEIVE) {
        stream_wake(&port->line);
        return;
    }
    pull(port);
    wake_line(port);
}

void console_port_set_open(struct console_port *port, bool open)
{
    port->open = open;
    stream_wake(&port->line);
}

void console_port_set_connected(struct console_port *port, bool connected)
{
    port->connected = connected;
    if (connected)
        return;
    port->ring_start = port->ring_count = 0;
    shrink(port);
    pull(port);
}

void console_port_reset(struct console_port *port)
{
    port->open = port->sending = false;
    port->transmissions = 0;
}
