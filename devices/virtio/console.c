/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-console: byte streams between the guest and the host (virtio 1.2, 5.3).
 *
 * Queues         0, 1            port 0: receiveq, transmitq
 *                2, 3            control: to the driver, from the driver (MULTIPORT)
 *                2i + 2, 2i + 3  port i
 * Config space   cols, rows, max_nr_ports
 * Owner thread   the loop, which the ports' streams share: nothing here needs a lock
 *
 * To the host: chains are copied into the port's ring and completed at once, because Linux spins,
 * interrupts off, until a chain that it wrote to a console comes back. When the ring is full, the
 * chain at hand waits, and the guest with it. Nothing is dropped while somebody is at the host's
 * end; while nobody is, all is (a driver knows, and makes its writers wait).
 *
 * From the host: bytes are taken while the guest's end is open and has buffers. What comes earlier
 * waits in the host, for Linux throws away what reaches a port that nobody has opened.
 *
 * Control messages to the driver are bits that a port owes it, not a queue, so a driver that asks
 * for them without end, or gives no buffers, costs nothing. The order of the bits is the order of
 * the messages.
 *
 * The terminal's size goes through the config space, which only a device with one port has read.
 * The RESIZE message is not sent: Linux took rows for columns until 6.15 and the specification's
 * order after, and there is no telling which one listens.
 */
#include "devices/virtio/console.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>

#define RING_BYTES  ((size_t)64 * 1024)
#define TURN_CHAINS 64u

#define CONTROL_BYTES 8u
#define NAME_BYTES    64u

enum { RECEIVE, TRANSMIT, CONTROL_TO_DRIVER, CONTROL_FROM_DRIVER };

/* Messages that are owed. */
enum { OWE_ADD = 1, OWE_CONSOLE = 2, OWE_NAME = 4, OWE_CLOSED = 8, OWE_OPEN = 16 };

struct port {
    struct stream_guest line;
    struct console *console;
    unsigned index;
    struct virtio_console_port is;
    bool connected; /* the host's end */
    bool ready;     /* the driver has said PORT_READY */
    bool open;      /* the guest's end */
    unsigned owed;

    /* To the host. */
    uint8_t *ring; /* starts over whenever it runs empty */
    size_t ring_start, ring_count;
    bool line_idle; /* the stream saw no bytes to send and sleeps */
    bool sending;   /* `chain` is not used up */
    uint64_t sent_bytes;
    struct virtq_chain chain;
};

struct console {
    struct virtio_device virtio;
    struct loop_task resize_task;
    _Atomic uint32_t size; /* columns | rows << 16; any thread */
    unsigned port_count;
    struct port ports[VIRTIO_CONSOLE_PORTS_MAX];
};

static struct console *from_device(struct virtio_device *device)
{
    return container_of(device, struct console, virtio);
}

static unsigned queue_of(const struct port *port, unsigned direction)
{
    return port->index ? 2 * port->index + 2 + direction : direction;
}

static struct virtq *ring_of(struct port *port, unsigned direction)
{
    return &port->console->virtio.queues[queue_of(port, direction)].ring;
}

/* ---- control messages to the driver ---- */

/* Writes one of the messages that are owed and takes it off the list. */
static size_t next_message(struct port *port, uint8_t *message)
{
    static const struct {
        uint16_t event, value;
    } messages[] = {
        {VIRTIO_CONSOLE_PORT_ADD, 1},  {VIRTIO_CONSOLE_CONSOLE_PORT, 1},
        {VIRTIO_CONSOLE_PORT_NAME, 1}, {VIRTIO_CONSOLE_PORT_OPEN, 0},
        {VIRTIO_CONSOLE_PORT_OPEN, 1},
    };
    unsigned bit = (unsigned)__builtin_ctz(port->owed);
    size_t length = CONTROL_BYTES;
    put_le32(message, port->index);
    put_le16(message + 4, messages[bit].event);
    put_le16(message + 6, messages[bit].value);
    if (1u << bit == OWE_NAME) {
        size_t name = strnlen(port->is.name, NAME_BYTES);
        memcpy(message + length, port->is.name, name);
        length += name;
    }
    port->owed &= ~(1u << bit);
    return length;
}

/* 1: sent; otherwise as virtq_pop(). A buffer that is too short gets nothing: the message is lost,
 * by the driver's doing. */
static int send_message(struct port *port, struct virtq *ring)
{
    uint8_t message[CONTROL_BYTES + NAME_BYTES];
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got != 1)
        return got;
    size_t length = next_message(port, message);
    int ret = virtq_chain_write(&chain, 0, message, length);
    virtq_push(ring, chain.head, ret < 0 ? 0 : (uint32_t)length);
    return 1;
}

static int send_port_messages(struct port *port, struct virtq *ring)
{
    int got = 1;
    while (port->owed && got == 1) {
        got = send_message(port, ring);
        if (got == 0 && virtq_listen(ring))
            got = 1;
    }
    return got;
}

static void send_messages(struct console *console)
{
    struct virtq *ring = &console->virtio.queues[CONTROL_TO_DRIVER].ring;
    int got = 1;
    if (!virtio_has(&console->virtio, VIRTIO_CONSOLE_F_MULTIPORT))
        return;
    for (unsigned i = 0; got == 1 && i < console->port_count; i++)
        got = send_port_messages(&console->ports[i], ring);
    if (got < 0)
        virtio_broken(&console->virtio, "the queue of control messages to the driver is nonsense");
    virtio_flush(&console->virtio, CONTROL_TO_DRIVER);
}

/* ---- control messages from the driver ---- */

static void introduce_ports(struct console *console)
{
    for (unsigned i = 0; i < console->port_count; i++)
        if (console->ports[i].is.present)
            console->ports[i].owed |= OWE_ADD;
}

static void describe_port(struct port *port)
{
    port->ready = true;
    port->owed |= (port->is.is_console ? OWE_CONSOLE : 0) | (port->is.name ? OWE_NAME : 0) |
                  (port->connected ? OWE_OPEN : 0);
}

static void set_open(struct port *port, bool open)
{
    port->open = open;
    stream_wake(&port->line);
}

/* 5.3.6.2. The other events are ours to send. */
static void take_message(struct console *console, const struct virtq_chain *chain)
{
    uint8_t message[CONTROL_BYTES];
    if (virtq_chain_read(chain, 0, message, sizeof(message)) < 0)
        return;
    uint32_t id = get_le32(message);
    uint16_t event = get_le16(message + 4), value = get_le16(message + 6);
    if (event == VIRTIO_CONSOLE_DEVICE_READY && value == 1)
        introduce_ports(console);
    if (id >= console->port_count || !console->ports[id].is.present)
        return;
    if (event == VIRTIO_CONSOLE_PORT_READY && value == 1)
        describe_port(&console->ports[id]);
    else if (event == VIRTIO_CONSOLE_PORT_OPEN)
        set_open(&console->ports[id], value != 0);
}

static void take_messages(struct console *console)
{
    struct virtq *ring = &console->virtio.queues[CONTROL_FROM_DRIVER].ring;
    unsigned chains = 0;
    do {
        struct virtq_chain chain;
        int got = 0;
        virtq_quiet(ring);
        while (chains < TURN_CHAINS && (got = virtq_pop(ring, &chain)) == 1) {
            chains++;
            take_message(console, &chain);
            virtq_push(ring, chain.head, 0);
        }
        if (got < 0)
            virtio_broken(&console->virtio, "the queue of control messages is nonsense");
        virtio_flush(&console->virtio, CONTROL_FROM_DRIVER);
    } while (chains < TURN_CHAINS && virtq_listen(ring));
    if (chains == TURN_CHAINS)
        virtio_notify(&console->virtio, CONTROL_FROM_DRIVER); /* come again */
    send_messages(console);
}

/* ---- to the host ---- */

/* As much of the chain at hand as fits. False: the ring is full. */
static bool copy_chain(struct port *port)
{
    uint64_t left = port->chain.out_bytes - port->sent_bytes;
    while (port->connected && left) {
        size_t end = (port->ring_start + port->ring_count) % RING_BYTES;
        size_t room = MIN(RING_BYTES - port->ring_count, RING_BYTES - end);
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

/* 1: there is a chain; otherwise as virtq_pop(). */
static int next_chain(struct port *port, struct virtq *ring)
{
    if (port->sending)
        return 1;
    int got = virtq_pop(ring, &port->chain);
    if (got == 0 && virtq_listen(ring))
        got = virtq_pop(ring, &port->chain);
    port->sending = got == 1;
    port->sent_bytes = 0;
    return got;
}

/* Takes what the guest has sent, as far as there is room for it. */
static void pull(struct port *port)
{
    struct virtio_device *virtio = &port->console->virtio;
    struct virtq *ring = ring_of(port, TRANSMIT);
    unsigned chains = 0;
    int got = 0;
    while (chains < TURN_CHAINS && (got = next_chain(port, ring)) == 1 && copy_chain(port)) {
        virtq_push(ring, port->chain.head, 0);
        port->sending = false;
        chains++;
    }
    if (got < 0)
        virtio_broken(virtio, "a port's transmit queue is nonsense");
    virtio_flush(virtio, queue_of(port, TRANSMIT));
    if (chains == TURN_CHAINS)
        virtio_notify(virtio, queue_of(port, TRANSMIT)); /* come again */
}

static void transmit(struct port *port)
{
    pull(port);
    if (port->line_idle && port->ring_count) {
        port->line_idle = false;
        stream_wake(&port->line);
    }
}

static struct port *from_line(struct stream_guest *line)
{
    return container_of(line, struct port, line);
}

/* The guest's kick may not have come yet, and at a machine's end never comes. */
static size_t line_pending(struct stream_guest *line, const uint8_t **bytes)
{
    struct port *port = from_line(line);
    if (port->ring_count == 0)
        pull(port);
    *bytes = port->ring + port->ring_start;
    port->line_idle = port->ring_count == 0;
    return MIN(port->ring_count, RING_BYTES - port->ring_start);
}

/* A disconnection may have emptied the ring meanwhile. */
static void line_consumed(struct stream_guest *line, size_t count)
{
    struct port *port = from_line(line);
    port->ring_count -= MIN(count, port->ring_count);
    port->ring_start = port->ring_count ? (port->ring_start + count) % RING_BYTES : 0;
    if (port->sending)
        pull(port);
}

/* ---- from the host ---- */

/* The next buffer that has room; as virtq_pop(). */
static int next_buffer(struct port *port, struct virtq_chain *chain)
{
    struct virtq *ring = ring_of(port, RECEIVE);
    for (unsigned chains = 0; chains < TURN_CHAINS; chains++) {
        int got = virtq_pop(ring, chain);
        if (got == 0 && virtq_listen(ring))
            got = virtq_pop(ring, chain);
        if (got < 0)
            virtio_broken(&port->console->virtio, "a port's receive queue is nonsense");
        if (got != 1 || chain->in_bytes)
            return got;
        virtq_push(ring, chain->head, 0);
    }
    virtio_notify(&port->console->virtio, queue_of(port, RECEIVE));
    return 0;
}

static size_t line_room(struct stream_guest *line)
{
    struct port *port = from_line(line);
    struct virtq_chain chain;
    int got = port->open ? next_buffer(port, &chain) : 0;
    if (got == 1)
        virtq_unpop(ring_of(port, RECEIVE), 1);
    virtio_flush(&port->console->virtio, queue_of(port, RECEIVE)); /* buffers of no size */
    return got == 1 ? chain.in_bytes : 0;
}

static size_t line_receive(struct stream_guest *line, const uint8_t *bytes, size_t count)
{
    struct port *port = from_line(line);
    struct virtq_chain chain;
    size_t taken = 0;
    while (port->open && taken < count && next_buffer(port, &chain) == 1) {
        size_t piece = (size_t)MIN(chain.in_bytes, (uint64_t)(count - taken));
        virtq_chain_write(&chain, 0, bytes + taken, piece);
        virtq_push(ring_of(port, RECEIVE), chain.head, (uint32_t)piece);
        taken += piece;
    }
    virtio_flush(&port->console->virtio, queue_of(port, RECEIVE));
    return taken;
}

static const struct stream_guest_ops line_ops = {
    .room = line_room,
    .receive = line_receive,
    .pending = line_pending,
    .consumed = line_consumed,
};

/* ---- the device ---- */

static void console_activate(struct virtio_device *device)
{
    struct console *console = from_device(device);
    if (!virtio_has(device, VIRTIO_CONSOLE_F_MULTIPORT))
        set_open(&console->ports[0], console->ports[0].is.present);
}

static void console_kick(struct virtio_device *device, unsigned queue)
{
    struct console *console = from_device(device);
    bool has_control = virtio_has(device, VIRTIO_CONSOLE_F_MULTIPORT);
    if (queue == CONTROL_TO_DRIVER) {
        send_messages(console);
    } else if (queue == CONTROL_FROM_DRIVER) {
        if (has_control)
            take_messages(console);
    } else {
        struct port *port = &console->ports[queue < 2 ? 0 : (queue - 2) / 2];
        if (queue % 2 == TRANSMIT)
            transmit(port);
        else
            stream_wake(&port->line);
    }
}

/* What was taken from the driver goes to the host still. */
static void console_deactivate(struct virtio_device *device)
{
    struct console *console = from_device(device);
    for (unsigned i = 0; i < console->port_count; i++) {
        struct port *port = &console->ports[i];
        port->ready = port->open = port->sending = false;
        port->owed = 0;
    }
    virtio_idle(device);
}

static void console_read_config(struct virtio_device *device, unsigned offset, void *to,
                                unsigned length)
{
    struct console *console = from_device(device);
    uint32_t size = atomic_load(&console->size);
    const struct virtio_console_config config = {
        .cols = htole16((uint16_t)size),
        .rows = htole16((uint16_t)(size >> 16)),
        .max_nr_ports = htole32(console->port_count),
    };
    memcpy(to, (const uint8_t *)&config + offset, length);
}

static void console_destroy(struct virtio_device *device)
{
    struct console *console = from_device(device);
    virtio_finish(device);
    for (unsigned i = 0; i < console->port_count; i++)
        free(console->ports[i].ring);
    free(console);
}

static const struct virtio_ops console_ops = {
    .activate = console_activate,
    .kick = console_kick,
    .deactivate = console_deactivate,
    .read_config = console_read_config,
    .destroy = console_destroy,
};

static void run_resize(struct loop_task *task)
{
    virtio_config_changed(&container_of(task, struct console, resize_task)->virtio);
}

void virtio_console_resize(struct virtio_device *device, uint16_t columns, uint16_t rows)
{
    struct console *console = from_device(device);
    atomic_store(&console->size, columns | (uint32_t)rows << 16);
    if (device->offered_features >> VIRTIO_CONSOLE_F_SIZE & 1)
        loop_post(device->loop, &console->resize_task);
}

struct stream_guest *virtio_console_stream(struct virtio_device *device, unsigned port)
{
    return &from_device(device)->ports[port].line;
}

void virtio_console_set_connected(struct virtio_device *device, unsigned index, bool connected)
{
    struct port *port = &from_device(device)->ports[index];
    if (port->connected == connected)
        return;
    port->connected = connected;
    if (!connected) {
        port->ring_start = port->ring_count = 0;
        pull(port);
    }
    if (!port->ready)
        return;
    port->owed = connected ? port->owed | OWE_OPEN : (port->owed & ~OWE_OPEN) | OWE_CLOSED;
    send_messages(port->console);
}

/* ---- creation ---- */

static int init_ports(struct console *console, const struct virtio_console_options *options)
{
    console->port_count = options->port_count;
    for (unsigned i = 0; i < options->port_count; i++) {
        struct port *port = &console->ports[i];
        port->console = console;
        port->index = i;
        port->is = options->ports[i];
        port->line.ops = &line_ops;
        port->line_idle = true;
        port->ring = malloc(RING_BYTES);
        if (!port->ring)
            return -ENOMEM;
    }
    return 0;
}

static void describe(struct console *console)
{
    bool alone =
        console->port_count == 1 && console->ports[0].is.present && console->ports[0].is.is_console;
    console->virtio = (struct virtio_device){
        .ops = &console_ops,
        .name = "console",
        .device_id = VIRTIO_ID_CONSOLE,
        .offered_features = 1ull << (alone ? VIRTIO_CONSOLE_F_SIZE : VIRTIO_CONSOLE_F_MULTIPORT),
        .config_bytes = sizeof(struct virtio_console_config),
        .queue_count = alone ? 2 : 2 * console->port_count + 2,
        .queue_size_max = 64,
    };
    console->resize_task.run = run_resize;
}

int virtio_console_create(struct virtio_device **out, const struct virtio_console_options *options,
                          const struct mem *mem, struct loop *loop, const struct irq *irq,
                          struct nido_error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    int ret = console ? init_ports(console, options) : -ENOMEM;
    if (ret == 0) {
        describe(console);
        ret = virtio_init(&console->virtio, mem, loop, irq, err);
    } else {
        error_set(err, ENOMEM, "console: out of memory");
    }
    if (ret == 0) {
        *out = &console->virtio;
        return 0;
    }
    for (unsigned i = 0; console && i < console->port_count; i++)
        free(console->ports[i].ring);
    free(console);
    return ret;
}
