/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/ports.h"

#include "base/checked.h"
#include "base/own.h"
#include "devices/virtio/console.h"
#include "host/port_end.h"
#include "lib/exposure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

/* Whoever has not read a byte in that time does not wait for any. */
#define DRAIN_S 10

_Static_assert(NIDO_PORTS_MAX + 1 <= VIRTIO_CONSOLE_PORTS_MAX, "port 0 is the console's");

struct link {
    struct ports *ports;
    unsigned index; /* of the device's port */
    struct port_end *end;
    char name[NIDO_PORT_NAME_BYTES + 1];
    char title[NIDO_PORT_NAME_BYTES + 16];
};

struct ports {
    struct virtio_device *device;
    bool device_taken; /* by the board */
    unsigned count;
    struct link links[NIDO_PORTS_MAX];
};

bool ports_wanted(const struct nido_config *config)
{
    return config->console_virtio || config->port_count;
}

static int create_device(struct ports *ports, const struct nido_config *config,
                         const struct mem *mem, struct loop *loop, const struct irq *irq,
                         struct nido_error *err)
{
    struct virtio_console_options options = {.port_count = ports->count + 1};
    options.ports[0].present = options.ports[0].is_console = config->console_virtio;
    for (unsigned i = 0; i < ports->count; i++)
        options.ports[i + 1] = (struct virtio_console_port){
            .name = ports->links[i].name,
            .present = true,
            .is_console = config->ports[i].console,
        };
    return virtio_console_create(&ports->device, &options, mem, loop, irq, err);
}

static void on_connected(void *self, bool connected)
{
    struct link *link = self;
    virtio_console_set_connected(link->ports->device, link->index, connected);
}

/* A guest that has put a link there, for this run or the next, would choose what is opened; of a file, exposure_open()
 * sees to that. */
static int check_place(const struct link *link, const struct nido_config *machine,
                       const struct nido_port *wanted, struct nido_error *err)
{
    bool has_place = wanted->kind == NIDO_PORT_PIPE || wanted->kind == NIDO_PORT_SOCKET;
    if (has_place && exposure_is_exposed(machine, wanted->path))
        return error_set(err, EINVAL,
                         "%s: %s: lies in a share that the guest can write to; name another path",
                         link->title, wanted->path);
    return 0;
}

static int create_end(struct link *link, const struct nido_config *machine, unsigned index,
                      struct loop *loop, struct nido_error *err)
{
    const struct nido_port *wanted = &machine->ports[index];
    static const enum port_end_kind kinds[] = {
        [NIDO_PORT_FILE] = PORT_END_FILE,
        [NIDO_PORT_PIPE] = PORT_END_PIPE,
        [NIDO_PORT_SOCKET] = PORT_END_SOCKET,
        [NIDO_PORT_STDIO] = PORT_END_DESCRIPTORS,
    };
    struct port_end_config config = {
        .name = link->title,
        .kind = kinds[wanted->kind],
        .path = wanted->path,
        .in_fd = STDIN_FILENO,
        .out_fd = STDOUT_FILENO,
        .connected = on_connected,
        .self = link,
    };
    int ret = check_place(link, machine, wanted, err);
    if (ret < 0)
        return ret;
    if (wanted->kind == NIDO_PORT_FILE)
        config.out_fd = exposure_open(machine, wanted->path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (config.out_fd < 0)
        return error_errno(err, -config.out_fd, "%s: %s: cannot open it for writing", link->title,
                           wanted->path);
    return port_end_create(&link->end, loop,
                           virtio_console_stream(link->ports->device, link->index), &config, err);
}

static void name_links(struct ports *ports, const struct nido_config *config)
{
    ports->count = config->port_count;
    for (unsigned i = 0; i < ports->count; i++) {
        struct link *link = &ports->links[i];
        link->ports = ports;
        link->index = i + 1;
        snprintf(link->name, sizeof(link->name), "%s", config->ports[i].name);
        snprintf(link->title, sizeof(link->title), "port %s", config->ports[i].name);
    }
}

int ports_create(struct ports **out, const struct nido_config *config, const struct mem *mem,
                 struct loop *loop, const struct irq *irq, struct nido_error *err)
{
    struct ports *ports = calloc(1, sizeof(*ports));
    if (!ports)
        return error_set(err, ENOMEM, "ports: out of memory");
    name_links(ports, config);
    int ret = create_device(ports, config, mem, loop, irq, err);
    for (unsigned i = 0; ret == 0 && i < ports->count; i++)
        ret = create_end(&ports->links[i], config, i, loop, err);
    if (ret < 0) {
        ports_destroy(ports);
        return ret;
    }
    *out = ports;
    return 0;
}

void ports_destroy(struct ports *ports)
{
    if (!ports)
        return;
    for (unsigned i = 0; i < ports->count; i++)
        port_end_destroy(ports->links[i].end);
    if (ports->device && !ports->device_taken)
        ports->device->ops->destroy(ports->device);
    free(ports);
}

struct virtio_device *ports_take_device(struct ports *ports)
{
    ports->device_taken = true;
    return ports->device;
}

struct stream_guest *ports_console(struct ports *ports)
{
    virtio_console_set_connected(ports->device, 0, true);
    return virtio_console_stream(ports->device, 0);
}

void ports_resize(struct ports *ports, uint16_t columns, uint16_t rows)
{
    virtio_console_resize(ports->device, columns, rows);
}

/* A descriptor that is readable when `fd` is, or the time is over. */
static int watch_both(int fd, int timer_fd)
{
    const struct itimerspec patience = {.it_value.tv_sec = DRAIN_S};
    struct epoll_event event = {.events = EPOLLIN};
    int either_fd = epoll_create1(EPOLL_CLOEXEC);
    if (either_fd < 0 || timerfd_settime(timer_fd, 0, &patience, NULL) < 0)
        return either_fd;
    epoll_ctl(either_fd, EPOLL_CTL_ADD, timer_fd, &event);
    if (fd >= 0)
        epoll_ctl(either_fd, EPOLL_CTL_ADD, fd, &event);
    return either_fd;
}

static bool is_readable(int fd)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    return poll(&readable, 1, 0) == 1;
}

/* False: stop. A slow reader is waited for as long as it reads. */
static bool drain(struct link *link, int stop_fd)
{
    uint64_t before;
    do {
        own_fd int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
        own_fd int either_fd = timer_fd < 0 ? -1 : watch_both(stop_fd, timer_fd);
        if (either_fd < 0)
            return false;
        before = port_end_sent_bytes(link->end);
        if (port_end_drain(link->end, either_fd) == 0)
            return true;
    } while (!is_readable(stop_fd) && port_end_sent_bytes(link->end) != before);
    return !is_readable(stop_fd);
}

void ports_drain(struct ports *ports, int stop_fd)
{
    for (unsigned i = 0; i < ports->count; i++)
        if (!drain(&ports->links[i], stop_fd))
            return;
}
