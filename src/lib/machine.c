/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/machine.h"

#include "arch/board.h"
#include "base/clock.h"
#include "base/own.h"
#include "base/trace.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/vsock.h"
#include "host/disk.h"
#include "host/net.h"
#include "host/net_passt.h"
#include "lib/counters.h"
#include "lib/exposure.h"
#include "lib/ports.h"
#include "lib/shares.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MEM_BYTES  (256ull << 20)
#define DEFAULT_CMDLINE    "console=ttyS0"
#define HVC_CMDLINE        "console=hvc0"
#define DEFAULT_QUEUES_MAX 4u

struct nido_machine {
    struct machine *vm;
    struct board *board;
    struct loop *device_loop;  /* disks, networks, random numbers */
    struct loop *console_loop; /* may block in write(); the virtio console's, too */
    struct shares shares;      /* each with a loop of its own, which may block in system calls */
    struct ports *ports;       /* NULL: there is no virtio console */
    struct stream *console;
    int console_in_fd, console_out_fd; /* -1: none */
    bool owns_console_out;
    struct virtio_device *balloon; /* the board's; NULL: none */
    unsigned device_count;
    struct virtio_device *devices[MACHINE_DEVICES_MAX]; /* the board's */
    uint64_t start_ns;
    char names[NIDO_DISKS_MAX + NIDO_NETS_MAX][24];
};

static enum mem_backing backing_of(const struct nido_config *config)
{
    if (config->huge_pages)
        return MEM_HUGETLB;
    return config->mem_merge ? MEM_MERGEABLE : MEM_ANONYMOUS;
}

static struct machine_config vm_config(const struct nido_config *config)
{
    return (struct machine_config){
        .mem_bytes = config->mem_bytes ? config->mem_bytes : DEFAULT_MEM_BYTES,
        .cpus = config->cpus ? config->cpus : 1,
        .backing = backing_of(config),
    };
}

static int open_console_file(struct nido_machine *machine, const struct nido_config *config,
                             struct nido_error *err)
{
    int fd = exposure_open(config, config->console_file, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0)
        return error_errno(err, -fd, "console file %s: cannot open it for writing",
                           config->console_file);
    machine->console_out_fd = fd;
    machine->owns_console_out = true;
    return 0;
}

static int open_console(struct nido_machine *machine, const struct nido_config *config,
                        struct nido_error *err)
{
    switch (config->console) {
    case NIDO_CONSOLE_STDIO:
        machine->console_in_fd = STDIN_FILENO;
        machine->console_out_fd = STDOUT_FILENO;
        return 0;
    case NIDO_CONSOLE_FILE:
        return open_console_file(machine, config, err);
    case NIDO_CONSOLE_FD:
        machine->console_in_fd = machine->console_out_fd = config->console_fd;
        return 0;
    case NIDO_CONSOLE_NONE:
        return 0;
    }
    return error_set(err, EINVAL, "console: unknown kind %d", (int)config->console);
}

static int connect_console(struct nido_machine *machine, bool virtio,
                           const struct machine_console *wanted, struct nido_error *err)
{
    const struct stream_config config = {
        .name = "console",
        .in_fd = machine->console_in_fd,
        .out_fd = machine->console_out_fd,
        .keys = wanted ? wanted->keys : NULL,
        .output_closed = wanted ? wanted->output_closed : NULL,
        .self = wanted ? wanted->self : NULL,
    };
    if (config.in_fd < 0 && config.out_fd < 0)
        return 0;
    struct stream_guest *guest =
        virtio ? ports_console(machine->ports) : board_console(machine->board);
    return stream_create(&machine->console, machine->console_loop, guest, &config, err);
}

static int create_console_loop(struct nido_machine *machine, const struct nido_config *config,
                               struct nido_error *err)
{
    bool needed =
        machine->console_in_fd >= 0 || machine->console_out_fd >= 0 || ports_wanted(config);
    return needed ? loop_create(&machine->console_loop, "console", err) : 0;
}

/* Owns `device` from here on, also on failure. */
static int attach(struct nido_machine *machine, struct virtio_device *device, const struct irq *irq,
                  struct nido_error *err)
{
    int ret = board_attach_virtio(machine->board, device, irq, err);
    if (ret == 0)
        machine->devices[machine->device_count++] = device;
    return ret;
}

static int add_ports(struct nido_machine *machine, const struct nido_config *config,
                     struct nido_error *err)
{
    const struct irq *irq;
    if (!ports_wanted(config))
        return 0;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = ports_create(&machine->ports, config, machine->vm->mem, machine->console_loop, irq,
                           err);
    return ret < 0 ? ret : attach(machine, ports_take_device(machine->ports), irq, err);
}

static unsigned disk_queues(const struct nido_machine *machine, const struct nido_disk *wanted)
{
    if (wanted->queues)
        return wanted->queues;
    unsigned cpus = machine->vm->cpus;
    return cpus < DEFAULT_QUEUES_MAX ? cpus : DEFAULT_QUEUES_MAX;
}

static int add_disk(struct nido_machine *machine, unsigned index, const struct nido_disk *wanted,
                    struct nido_error *err)
{
    const struct disk_config disk_config = {
        .path = wanted->path,
        .format = wanted->format == NIDO_DISK_QCOW2 ? DISK_QCOW2 : DISK_RAW,
        .read_only = wanted->read_only,
        .direct = wanted->direct,
        .raw_for_sure = wanted->raw_for_sure,
        .unsafe = wanted->unsafe,
        .overlay = wanted->overlay,
        .overlay_path = wanted->overlay_path,
    };
    const struct irq *irq;
    struct disk *disk = NULL;
    struct virtio_device *device = NULL;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = disk_open(&disk, &disk_config, machine->device_loop, err);
    if (ret < 0)
        return ret;
    char *name = machine->names[index];
    snprintf(name, sizeof(machine->names[0]), "vd%c", 'a' + (char)index);
    const struct virtio_blk_options config = {
        .name = name,
        .serial = wanted->id ? wanted->id : name,
        .queues = disk_queues(machine, wanted),
    };
    ret =
        virtio_blk_create(&device, disk, &config, machine->vm->mem, machine->device_loop, irq, err);
    if (ret < 0) {
        disk_close(disk);
        return ret;
    }
    return attach(machine, device, irq, err);
}

/* Locally administered, and not the same for two machines of one host. */
static void choose_mac(const struct nido_net *wanted, unsigned index, uint8_t mac[6])
{
    static const uint8_t unset[6];
    memcpy(mac, wanted->mac, sizeof(wanted->mac));
    if (memcmp(mac, unset, sizeof(unset)) != 0)
        return;
    uint32_t pid = (uint32_t)getpid();
    const uint8_t made[6] = {0x52,         0x4e,          (uint8_t)(pid >> 16), (uint8_t)(pid >> 8),
                             (uint8_t)pid, (uint8_t)index};
    memcpy(mac, made, sizeof(made));
}

static int open_net(struct nido_machine *machine, const struct nido_net *wanted, struct net **net,
                    struct nido_error *err)
{
    int ret;
    switch (wanted->kind) {
    case NIDO_NET_TAP:
        return net_open_tap(net, wanted->tap, err);
    case NIDO_NET_FD:
        return net_open_tap_fd(net, wanted->fd, err);
    case NIDO_NET_USER:
        ret = net_open_passt(net, wanted, machine->device_loop, err);
        return ret < 0 ? error_prefix(err, "--net user") : 0;
    }
    return error_set(err, EINVAL, "net: unknown kind %d", (int)wanted->kind);
}

static int add_net(struct nido_machine *machine, unsigned index, const struct nido_net *wanted,
                   struct nido_error *err)
{
    const struct irq *irq;
    struct net *net = NULL;
    struct virtio_device *device = NULL;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = open_net(machine, wanted, &net, err);
    if (ret < 0)
        return ret;
    struct virtio_net_options config = {.name = machine->names[NIDO_DISKS_MAX + index]};
    snprintf(machine->names[NIDO_DISKS_MAX + index], sizeof(machine->names[0]), "net%u", index);
    choose_mac(wanted, index, config.mac);
    ret =
        virtio_net_create(&device, net, &config, machine->vm->mem, machine->device_loop, irq, err);
    if (ret < 0) {
        net_close(net);
        return ret;
    }
    return attach(machine, device, irq, err);
}

static int add_rng(struct nido_machine *machine, struct nido_error *err)
{
    const struct irq *irq;
    struct virtio_device *device = NULL;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = virtio_rng_create(&device, machine->vm->mem, machine->device_loop, irq, err);
    return ret < 0 ? ret : attach(machine, device, irq, err);
}

static int add_balloon(struct nido_machine *machine, const struct nido_balloon *wanted,
                       struct nido_error *err)
{
    const struct virtio_balloon_options options = {
        .target_bytes = wanted->target_bytes,
        .reporting = !wanted->no_reporting,
        .stats_interval_s = wanted->stats_interval_s,
    };
    const struct irq *irq;
    struct virtio_device *device = NULL;
    if (!wanted->present)
        return 0;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = virtio_balloon_create(&device, &options, machine->vm->mem, machine->device_loop, irq,
                                    err);
    if (ret < 0)
        return ret;
    machine->balloon = device;
    return attach(machine, device, irq, err);
}

/* The guest calls PATH_PORT: a link by that name would take it to any socket of this host's user. */
static int check_vsock_path(const struct nido_config *config, struct nido_error *err)
{
    if (exposure_is_exposed(config, config->vsock.path))
        return error_set(
            err, EINVAL,
            "vsock %s: lies in a share that the guest can write to; name another path, "
            "set XDG_RUNTIME_DIR to a directory that is not shared, or share it ro",
            config->vsock.path);
    return 0;
}

static int add_vsock(struct nido_machine *machine, const struct nido_config *config,
                     struct nido_error *err)
{
    const struct nido_vsock *wanted = &config->vsock;
    const struct virtio_vsock_options options = {
        .cid = wanted->cid, .path = wanted->path, .guarded_port = wanted->guarded_port};
    const struct irq *irq;
    struct virtio_device *device = NULL;
    if (!wanted->cid)
        return 0;
    int ret = check_vsock_path(config, err);
    if (ret == 0)
        ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = virtio_vsock_create(&device, &options, machine->vm->mem, machine->device_loop, irq,
                                  err);
    return ret < 0 ? ret : attach(machine, device, irq, err);
}

static int add_share(struct nido_machine *machine, const struct nido_config *config,
                     struct nido_error *err)
{
    const struct irq *irq;
    struct virtio_device *device = NULL;
    int ret = board_next_irq(machine->board, &irq, err);
    if (ret == 0)
        ret = shares_add(&machine->shares, config, machine->vm->mem, irq, &device, err);
    return ret < 0 ? ret : attach(machine, device, irq, err);
}

static int add_devices(struct nido_machine *machine, const struct nido_config *config,
                       struct nido_error *err)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < config->disk_count; i++)
        ret = add_disk(machine, i, &config->disks[i], err);
    for (unsigned i = 0; ret == 0 && i < config->net_count; i++)
        ret = add_net(machine, i, &config->nets[i], err);
    for (unsigned i = 0; ret == 0 && i < config->share_count; i++)
        ret = add_share(machine, config, err);
    if (ret == 0)
        ret = add_balloon(machine, &config->balloon, err);
    if (ret == 0)
        ret = add_vsock(machine, config, err);
    if (ret == 0)
        ret = add_rng(machine, err);
    return ret < 0 ? ret : board_add_loop_devices(machine->board, machine->device_loop, err);
}

static const char *cmdline_of(const struct nido_config *config)
{
    if (config->cmdline)
        return config->cmdline;
    return config->console_virtio ? HVC_CMDLINE : DEFAULT_CMDLINE;
}

static int check_dump(const struct nido_config *config, const char *path, struct nido_error *err)
{
    if (path && exposure_is_exposed(config, path))
        return error_set(err, EINVAL,
                         "%s: lies in a share that the guest can write to; dump to another place",
                         path);
    return 0;
}

static int load_guest(struct nido_machine *machine, const struct nido_config *config,
                      struct nido_error *err)
{
    struct boot_request request = {
        .kernel_path = config->kernel,
        .initrd_path = config->initrd,
        .cmdline = cmdline_of(config),
        .cache_path = config->kernel_cache,
        .dump_path = config->dump_dtb,
    };
    struct boot_entry entry;
    int ret = check_dump(config, config->dump_acpi, err);
    if (ret == 0)
        ret = check_dump(config, config->dump_dtb, err);
    if (ret == 0)
        ret = board_finish(machine->board, config->dump_acpi, &request.tables_gpa, err);
    if (ret == 0)
        ret = boot_load(&request, machine->vm->mem, &entry, err);
    return ret < 0 ? ret : board_boot(machine->board, &entry, err);
}

static int check(const struct nido_config *config, struct nido_error *err)
{
    if (!config->kernel)
        return error_set(err, EINVAL, "no kernel is named");
    if (config->cpus > NIDO_CPUS_MAX || config->disk_count > NIDO_DISKS_MAX ||
        config->net_count > NIDO_NETS_MAX || config->port_count > NIDO_PORTS_MAX ||
        config->share_count > NIDO_SHARES_MAX)
        return error_set(err, EINVAL, "too many vCPUs, disks, networks, ports or shares");
    if (config->balloon.target_bytes >= (config->mem_bytes ? config->mem_bytes : DEFAULT_MEM_BYTES))
        return error_set(err, EINVAL, "the balloon takes all the memory that there is, or more");
    if (config->huge_pages && config->mem_merge)
        return error_set(err, EINVAL, "reserved huge pages cannot be merged");
    return 0;
}

/* A step is done; the next one begins. */
static void mark(const char *name, uint64_t *since_ns)
{
    trace_span(name, TRACE_ROW_NIDO, *since_ns);
    *since_ns = trace_now();
}

static int build(struct nido_machine *machine, const struct nido_config *config,
                 const struct machine_console *console, struct nido_error *err)
{
    uint64_t since_ns = trace_now();
    const struct machine_config vm = vm_config(config);
    int ret = check(config, err);
    if (ret == 0)
        ret = open_console(machine, config, err);
    if (ret == 0)
        ret = machine_create(&machine->vm, &vm, err);
    mark("VM and vCPUs", &since_ns);
    if (ret == 0)
        ret = board_create(&machine->board, machine->vm, err);
    if (ret == 0)
        board_set_on_panic(machine->board, config->on_panic);
    if (ret == 0)
        ret = create_console_loop(machine, config, err);
    if (ret == 0)
        ret = add_ports(machine, config, err);
    if (ret == 0)
        ret = connect_console(machine, config->console_virtio, console, err);
    if (ret == 0)
        ret = loop_create(&machine->device_loop, "loop/0", err);
    mark("board and console", &since_ns);
    if (ret == 0)
        ret = add_devices(machine, config, err);
    mark("disks and networks", &since_ns);
    if (ret == 0)
        ret = load_guest(machine, config, err);
    mark("kernel and initrd", &since_ns);
    return ret;
}

int machine_build(struct nido_machine **out, const struct nido_config *config,
                  const struct machine_console *console, struct nido_error *err)
{
    struct nido_machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return error_set(err, ENOMEM, "out of memory");
    machine->console_in_fd = machine->console_out_fd = -1;
    int ret = build(machine, config, console, err);
    if (ret < 0) {
        nido_machine_destroy(machine);
        return ret;
    }
    *out = machine;
    return 0;
}

int nido_machine_create(struct nido_machine **out, const struct nido_config *config,
                        struct nido_error *err)
{
    return machine_build(out, config, NULL, err);
}

int nido_machine_start(struct nido_machine *machine, struct nido_error *err)
{
    uint64_t since_ns = trace_now();
    int ret = machine->console_loop ? loop_start(machine->console_loop, err) : 0;
    if (ret == 0)
        ret = loop_start(machine->device_loop, err);
    if (ret == 0)
        ret = shares_start(&machine->shares, err);
    machine->start_ns = clock_now_ns();
    if (ret == 0)
        ret = machine_start(machine->vm, err);
    mark("start", &since_ns);
    return ret;
}

int nido_machine_fd(const struct nido_machine *machine)
{
    return machine->vm->end_fd;
}

enum nido_end nido_machine_end(struct nido_machine *machine, const char **report)
{
    return machine_how_it_ended(machine->vm, report);
}

void nido_machine_press_power_button(struct nido_machine *machine)
{
    board_press_power_button(machine->board);
}

void nido_machine_pause(struct nido_machine *machine)
{
    machine_pause(machine->vm);
}

void nido_machine_resume(struct nido_machine *machine)
{
    machine_resume(machine->vm);
}

void nido_machine_stop(struct nido_machine *machine)
{
    machine_end(machine->vm, NIDO_STOPPED, NULL);
    machine_stop(machine->vm);
}

void machine_resize_console(struct nido_machine *machine, uint16_t columns, uint16_t rows)
{
    if (machine->ports)
        ports_resize(machine->ports, columns, rows);
}

void machine_drain_console(struct nido_machine *machine, int stop_fd)
{
    if (machine->console)
        stream_drain(machine->console, stop_fd);
    if (machine->ports)
        ports_drain(machine->ports, stop_fd);
}

unsigned nido_machine_counters(struct nido_machine *machine, struct nido_counter *counters,
                               unsigned max)
{
    unsigned count =
        counters_fill(machine->vm, machine->devices, machine->device_count, counters, max);
    return count + shares_counters(&machine->shares, counters + count, max - count);
}

void nido_machine_status(struct nido_machine *machine, struct nido_status *status)
{
    *status = (struct nido_status){
        .cpus = machine->vm->cpus,
        .mem_bytes = mem_total_bytes(machine->vm->mem),
        .uptime_ns = machine->start_ns ? clock_now_ns() - machine->start_ns : 0,
        .paused = machine_is_paused(machine->vm),
    };
    status->exits = counters_all_exits(machine->vm);
    counters_add_traffic(machine->devices, machine->device_count, &status->traffic);
    shares_add_traffic(&machine->shares, &status->traffic);
}

static int no_balloon(struct nido_error *err)
{
    return error_set(err, ENODEV, "this machine has no balloon; start it with one");
}

int nido_machine_set_balloon(struct nido_machine *machine, uint64_t target_bytes,
                             struct nido_error *err)
{
    uint64_t most = mem_total_bytes(machine->vm->mem);
    if (!machine->balloon)
        return no_balloon(err);
    if (target_bytes >= most)
        return error_set(err, ERANGE, "the balloon's target is all that the machine has, or more");
    virtio_balloon_set_target(machine->balloon, target_bytes);
    return 0;
}

int nido_machine_balloon_stats(struct nido_machine *machine, struct nido_balloon_stats *stats,
                               struct nido_error *err)
{
    if (!machine->balloon)
        return no_balloon(err);
    virtio_balloon_stats(machine->balloon, stats);
    return 0;
}

/* vCPUs first, so that nobody kicks devices; then their threads; then what they used. */
void nido_machine_destroy(struct nido_machine *machine)
{
    if (!machine)
        return;
    if (machine->vm)
        machine_stop(machine->vm);
    if (machine->console_loop)
        loop_stop(machine->console_loop);
    if (machine->device_loop)
        loop_stop(machine->device_loop);
    shares_stop(&machine->shares);
    stream_destroy(machine->console);
    ports_destroy(machine->ports);
    machine_destroy(machine->vm);
    board_destroy(machine->board);
    loop_destroy(machine->device_loop);
    loop_destroy(machine->console_loop);
    shares_destroy(&machine->shares);
    if (machine->owns_console_out)
        close(machine->console_out_fd);
    free(machine);
}
