/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-console: byte streams between the guest and the host (virtio 1.2, 5.3). The streams are
 * console_port.c's; here are the device and its control messages.
 *
 * Queues         0, 1            port 0: receiveq, transmitq
 *                2, 3            control: to the driver, from the driver (MULTIPORT)
 *                2i + 2, 2i + 3  port i
 * Config space   cols, rows, max_nr_ports
 * Owner thread   the loop, which the ports' streams share: nothing here needs a lock
 *
 * Control messages to the driver are bits that a port owes it, not a queue, so a driver that asks
 * for them without end, or gives no buffers, costs nothing. The order of the bits is the order of
 * the messages.
 *
 * The terminal's size goes through the config space, which only a device with one port has read.
 * Linux reads it at a change alone, and forgets it where that comes before its console is made. So
 * a change is announced at the start, and again at the first, second, fourth... transmission.
 * The RESIZE message is not sent: Linux took rows for columns until 6.15 and the specification's
 * order after, and there is no telling which one listens.
 */
#include "devices/virtio/console.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "devices/virtio/console_port.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>

#define TURN_CHAINS           64u
#define TELLING_TRANSMISSIONS 1024u

#define CONTROL_BYTES 8u
#define NAME_BYTES    64u

enum { CONTROL_TO_DRIVER = 2, CONTROL_FROM_DRIVER = 3 };

/* Messages that are owed. */
enum { OWE_ADD = 1, OWE_CONSOLE = 2, OWE_NAME = 4, OWE_CLOSED = 8, OWE_OPEN = 16 };

struct console {
    struct virtio_device virtio;
    struct loop_task resize_task;
    _Atomic uint32_t size; /* columns | rows << 16; any thread */
    unsigned port_count;
    struct console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
};

static struct console *from_device(struct virtio_device *device)
{
    return container_of(device, struct console, virtio);
}

/* ---- control messages to the driver ---- */

/* Writes one of the messages that are owed and takes it off the list. */
static size_t next_message(struct console_port *port, uint8_t *message)
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
static int send_message(struct console_port *port, struct virtq *ring)
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

static int send_port_messages(struct console_port *port, struct virtq *ring)
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

static void describe_port(struct console_port *port)
{
    port->ready = true;
    port->owed |= (port->is.is_console ? OWE_CONSOLE : 0) | (port->is.name ? OWE_NAME : 0) |
                  (port->connected ? OWE_OPEN : 0);
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
        console_port_set_open(&console->ports[id], value != 0);
}

static int serve_message(struct virtio_device *device, unsigned queue)
{
    struct virtq *ring = &device->queues[queue].ring;
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got != 1)
        return got;
    take_message(from_device(device), &chain);
    virtq_push(ring, chain.head, 0);
    return 1;
}

/* ---- the device ---- */

static void announce_size(struct console *console)
{
    if (virtio_has(&console->virtio, VIRTIO_CONSOLE_F_SIZE) && atomic_load(&console->size))
        virtio_config_changed(&console->virtio);
}

static void on_transmitted(struct console_port *port)
{
    if (port->transmissions <= TELLING_TRANSMISSIONS && is_power_of_two(port->transmissions))
        announce_size(container_of(port->virtio, struct console, virtio));
}

static void console_activate(struct virtio_device *device)
{
    struct console *console = from_device(device);
    if (!virtio_has(device, VIRTIO_CONSOLE_F_MULTIPORT))
        console_port_set_open(&console->ports[0], console->ports[0].is.present);
    announce_size(console);
}

static void console_kick(struct virtio_device *device, unsigned queue)
{
    struct console *console = from_device(device);
    if (queue == CONTROL_TO_DRIVER) {
        send_messages(console);
    } else if (queue == CONTROL_FROM_DRIVER) {
        if (virtio_has(device, VIRTIO_CONSOLE_F_MULTIPORT))
            virtio_serve(device, queue, TURN_CHAINS, serve_message);
        send_messages(console);
    } else {
        struct console_port *port = &console->ports[queue < 2 ? 0 : (queue - 2) / 2];
        console_port_kick(port, queue % 2 ? PORT_TRANSMIT : PORT_RECEIVE);
    }
}

static void console_stopping(struct virtio_device *device)
{
    struct console *console = from_device(device);
    for (unsigned i = 0; i < console->port_count; i++)
        console_port_take_last(&console->ports[i]);
}

/* What was taken from the driver goes to the host still. */
static void console_deactivate(struct virtio_device *device)
{
    struct console *console = from_device(device);
    for (unsigned i = 0; i < console->port_count; i++) {
        console_port_reset(&console->ports[i]);
        console->ports[i].ready = false;
        console->ports[i].owed = 0;
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
        console_port_finish(&console->ports[i]);
    free(console);
}

static const struct virtio_ops console_ops = {
    .activate = console_activate,
    .kick = console_kick,
    .stopping = console_stopping,
    .deactivate = console_deactivate,
    .read_config = console_read_config,
    .destroy = console_destroy,
};

static void run_resize(struct loop_task *task)
{
    announce_size(container_of(task, struct console, resize_task));
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
    struct console *console = from_device(device);
    struct console_port *port = &console->ports[index];
    if (port->connected == connected)
        return;
    console_port_set_connected(port, connected);
    if (!port->ready)
        return;
    port->owed = connected ? port->owed | OWE_OPEN : (port->owed & ~OWE_OPEN) | OWE_CLOSED;
    send_messages(console);
}

/* ---- creation ---- */

static int init_ports(struct console *console, const struct virtio_console_options *options)
{
    int ret = 0;
    console->port_count = options->port_count;
    for (unsigned i = 0; ret == 0 && i < options->port_count; i++) {
        console->ports[i] = (struct console_port){
            .virtio = &console->virtio,
            .is = options->ports[i],
            .index = i,
            .first_queue = i ? 2 * i + 2 : 0,
            .transmitted = i ? NULL : on_transmitted,
        };
        ret = console_port_init(&console->ports[i]);
    }
    return ret;
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
        console_port_finish(&console->ports[i]);
    free(console);
    return ret;
}
