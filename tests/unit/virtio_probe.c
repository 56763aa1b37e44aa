/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/virtio_probe.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

static struct virtio_probe *from_virtio(struct virtio_device *device)
{
    return container_of(device, struct virtio_probe, virtio);
}

static void probe_activate(struct virtio_device *device)
{
    atomic_store(&from_virtio(device)->features, device->features);
    atomic_fetch_add(&from_virtio(device)->activated, 1);
}

static void probe_kick(struct virtio_device *device, unsigned queue)
{
    struct virtio_probe *probe = from_virtio(device);
    atomic_fetch_add(&probe->kicks[queue], 1);
    if (probe->serve)
        probe->serve(probe, queue);
}

static void probe_deactivate(struct virtio_device *device)
{
    struct virtio_probe *probe = from_virtio(device);
    atomic_fetch_add(&probe->deactivated, 1);
    if (!probe->holds_back)
        virtio_idle(device);
}

static void probe_read_config(struct virtio_device *device, unsigned offset, void *to,
                              unsigned length)
{
    memcpy(to, from_virtio(device)->config + offset, length);
}

static void probe_write_config(struct virtio_device *device, unsigned offset, const void *from,
                               unsigned length)
{
    memcpy(from_virtio(device)->config + offset, from, length);
}

static void probe_destroy(struct virtio_device *device)
{
    virtio_finish(device);
    free(from_virtio(device));
}

static const struct virtio_ops probe_ops = {
    .activate = probe_activate,
    .kick = probe_kick,
    .deactivate = probe_deactivate,
    .read_config = probe_read_config,
    .write_config = probe_write_config,
    .destroy = probe_destroy,
};

struct virtio_probe *virtio_probe_create(struct guest *guest)
{
    struct virtio_probe *probe = calloc(1, sizeof(*probe));
    probe->virtio.ops = &probe_ops;
    probe->virtio.name = "probe";
    probe->virtio.device_id = PROBE_ID;
    probe->virtio.offered_features = 1ull << PROBE_FEATURE;
    probe->virtio.config_bytes = PROBE_CONFIG_BYTES;
    probe->virtio.queue_count = PROBE_QUEUES;
    probe->virtio.queue_size_max = PROBE_SIZE_MAX;
    if (virtio_init(&probe->virtio, guest->mem, guest->loop, &guest->irq, NULL) < 0)
        abort();
    return probe;
}

struct probe_call {
    struct loop_task task;
    struct virtio_probe *probe;
    void (*run)(struct virtio_probe *probe);
};

static void run_probe_call(struct loop_task *task)
{
    struct probe_call *call = container_of(task, struct probe_call, task);
    call->run(call->probe);
}

void virtio_probe_call(struct virtio_probe *probe, void (*run)(struct virtio_probe *probe))
{
    struct probe_call call = {.task.run = run_probe_call, .probe = probe, .run = run};
    loop_call(probe->virtio.loop, &call.task);
}
