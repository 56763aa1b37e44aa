/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio over MMIO, version 2 (virtio 1.2, 4.2.2).
 *
 *     0x000 R   MagicValue "virt"           0x050 W   QueueNotify (normally caught by KVM)
 *     0x004 R   Version 2                   0x060 R   InterruptStatus
 *     0x008 R   DeviceID                    0x064 W   InterruptACK
 *     0x00c R   VendorID "NIDO"             0x070 RW  Status
 *     0x010 R   DeviceFeatures              0x080 W   QueueDescLow, High
 *     0x014 W   DeviceFeaturesSel           0x090 W   QueueDriverLow, High
 *     0x020 W   DriverFeatures              0x0a0 W   QueueDeviceLow, High
 *     0x024 W   DriverFeaturesSel           0x0ac W   SHMSel: there is no shared memory
 *     0x030 W   QueueSel                    0x0b0 R   SHMLen, SHMBase: all ones
 *     0x034 R   QueueNumMax                 0x0fc R   ConfigGeneration
 *     0x038 W   QueueNum                    0x100 RW  the device's config space
 *     0x044 RW  QueueReady
 *
 * Registers are accessed with aligned 32 bits only (4.2.2.2); any other access is not handled. The
 * config space takes 1, 2, 4 and 8 bytes as long as they lie inside it. All of this runs on vCPU
 * threads; the selectors are under the device's lock, which the calls into virtio.c take
 * themselves.
 */
#include "devices/virtio/mmio.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

#define MAGIC   0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR  0x4f44494eu /* "NIDO" */

struct virtio_mmio {
    struct device base;
    struct virtio_device *virtio; /* owned */
    /* Under virtio->lock. */
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
};

static struct virtio_mmio *from_device(struct device *device)
{
    return container_of(device, struct virtio_mmio, base);
}

/* ---- selectors ---- */

static uint32_t get_selector(struct virtio_mmio *self, const uint32_t *selector)
{
    lock_take(&self->virtio->lock);
    uint32_t value = *selector;
    lock_release(&self->virtio->lock);
    return value;
}

static void set_selector(struct virtio_mmio *self, uint32_t *selector, uint32_t value)
{
    lock_take(&self->virtio->lock);
    *selector = value;
    lock_release(&self->virtio->lock);
}

/* ---- the selected queue ---- */

static uint32_t queue_size_max(struct virtio_mmio *self)
{
    uint32_t queue = get_selector(self, &self->queue_sel);
    return queue < self->virtio->queue_count ? self->virtio->queue_size_max : 0;
}

static uint32_t queue_ready(struct virtio_mmio *self)
{
    struct virtio_device *virtio = self->virtio;
    lock_take(&virtio->lock);
    bool ready = self->queue_sel < virtio->queue_count && virtio->queues[self->queue_sel].ready;
    lock_release(&virtio->lock);
    return ready;
}

static void set_half(uint64_t *whole, unsigned shift, uint32_t value)
{
    *whole &= ~((uint64_t)UINT32_MAX << shift);
    *whole |= (uint64_t)value << shift;
}

static void write_setup(const struct virtio_device *virtio, struct virtq_setup *setup,
                        uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        /* A size that we never offered is kept as 0, which activation refuses. */
        setup->size = value <= virtio->queue_size_max ? (uint16_t)value : 0;
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_half(&setup->desc_gpa, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH ? 32 : 0, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_half(&setup->avail_gpa, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH ? 32 : 0, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        set_half(&setup->used_gpa, offset == VIRTIO_MMIO_QUEUE_USED_HIGH ? 32 : 0, value);
        break;
    }
}

/* Writes for no queue, or after DRIVER_OK, are dropped. */
static void write_queue_register(struct virtio_mmio *self, uint64_t offset, uint32_t value)
{
    lock_take(&self->virtio->lock);
    struct virtio_queue *queue = virtio_queue_for_setup(self->virtio, self->queue_sel);
    if (queue)
        write_setup(self->virtio, &queue->setup, offset, value);
    lock_release(&self->virtio->lock);
}

/* ---- registers ---- */

static enum verdict read_register(struct virtio_mmio *self, uint64_t offset, uint32_t *value)
{
    struct virtio_device *virtio = self->virtio;
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        *value = MAGIC;
        break;
    case VIRTIO_MMIO_VERSION:
        *value = VERSION;
        break;
    case VIRTIO_MMIO_DEVICE_ID:
        *value = virtio->device_id;
        break;
    case VIRTIO_MMIO_VENDOR_ID:
        *value = VENDOR;
        break;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        *value = virtio_offered_features(virtio, get_selector(self, &self->device_features_sel));
        break;
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        *value = queue_size_max(self);
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        *value = queue_ready(self);
        break;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        *value = atomic_load(&virtio->interrupt_status);
        break;
    case VIRTIO_MMIO_STATUS:
        *value = virtio_status(virtio);
        break;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        *value = UINT32_MAX;
        break;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        *value = atomic_load(&virtio->config_generation);
        break;
    default:
        return DEVICE_UNHANDLED;
    }
    return DEVICE_HANDLED;
}

/* A finished reset leaves the selectors as they were at power-on, too. */
static enum verdict write_status(struct virtio_mmio *self, uint32_t value)
{
    enum verdict verdict = virtio_set_status(self->virtio, (uint8_t)value);
    if ((uint8_t)value == 0 && verdict == DEVICE_HANDLED) {
        lock_take(&self->virtio->lock);
        self->device_features_sel = self->driver_features_sel = self->queue_sel = 0;
        lock_release(&self->virtio->lock);
    }
    return verdict;
}

static enum verdict write_register(struct virtio_mmio *self, uint64_t offset, uint32_t value)
{
    struct virtio_device *virtio = self->virtio;
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        set_selector(self, &self->device_features_sel, value);
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        set_selector(self, &self->driver_features_sel, value);
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_set_driver_features(virtio, get_selector(self, &self->driver_features_sel), value);
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        set_selector(self, &self->queue_sel, value);
        break;
    case VIRTIO_MMIO_QUEUE_NUM:
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        write_queue_register(self, offset, value);
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        virtio_set_queue_ready(virtio, get_selector(self, &self->queue_sel), value & 1);
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        virtio_notify(virtio, value);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        atomic_fetch_and(&virtio->interrupt_status, ~value);
        break;
    case VIRTIO_MMIO_STATUS:
        return write_status(self, value);
    case VIRTIO_MMIO_SHM_SEL:
        break;
    default:
        return DEVICE_UNHANDLED;
    }
    return DEVICE_HANDLED;
}

/* At an offset that is not aligned there is no register. */
static bool is_register_access(uint64_t offset, unsigned size_bytes)
{
    return offset < VIRTIO_MMIO_CONFIG && size_bytes == 4;
}

/* ---- config space ---- */

static bool is_config_access(const struct virtio_device *virtio, uint64_t offset,
                             unsigned size_bytes)
{
    return offset >= VIRTIO_MMIO_CONFIG && size_bytes <= sizeof(uint64_t) &&
           checked_inside(offset - VIRTIO_MMIO_CONFIG, size_bytes, virtio->config_bytes);
}

static void read_config(struct virtio_device *virtio, uint64_t offset, unsigned size_bytes,
                        uint64_t *value)
{
    uint8_t bytes[sizeof(*value)] = {0};
    if (virtio->ops->read_config) {
        lock_take(&virtio->lock);
        virtio->ops->read_config(virtio, (unsigned)(offset - VIRTIO_MMIO_CONFIG), bytes,
                                 size_bytes);
        lock_release(&virtio->lock);
    }
    *value = get_le64(bytes);
}

static void write_config(struct virtio_device *virtio, uint64_t offset, unsigned size_bytes,
                         uint64_t value)
{
    uint8_t bytes[sizeof(value)];
    put_le64(bytes, value);
    if (!virtio->ops->write_config)
        return;
    lock_take(&virtio->lock);
    virtio->ops->write_config(virtio, (unsigned)(offset - VIRTIO_MMIO_CONFIG), bytes, size_bytes);
    lock_release(&virtio->lock);
}

/* ---- the device on the bus ---- */

static enum verdict mmio_read(struct device *device, uint64_t offset, unsigned size_bytes,
                              uint64_t *value)
{
    struct virtio_mmio *self = from_device(device);
    if (is_config_access(self->virtio, offset, size_bytes)) {
        read_config(self->virtio, offset, size_bytes, value);
        return DEVICE_HANDLED;
    }
    uint32_t word = UINT32_MAX;
    if (!is_register_access(offset, size_bytes) ||
        read_register(self, offset, &word) != DEVICE_HANDLED)
        return DEVICE_UNHANDLED;
    *value = word;
    return DEVICE_HANDLED;
}

static enum verdict mmio_write(struct device *device, uint64_t offset, unsigned size_bytes,
                               uint64_t value)
{
    struct virtio_mmio *self = from_device(device);
    if (is_config_access(self->virtio, offset, size_bytes)) {
        write_config(self->virtio, offset, size_bytes, value);
        return DEVICE_HANDLED;
    }
    if (!is_register_access(offset, size_bytes))
        return DEVICE_UNHANDLED;
    return write_register(self, offset, (uint32_t)value);
}

static void mmio_destroy(struct device *device)
{
    struct virtio_mmio *self = from_device(device);
    self->virtio->ops->destroy(self->virtio);
    free(self);
}

static const struct device_ops mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .destroy = mmio_destroy,
};

int virtio_mmio_create(struct device **out, struct virtio_device *device, struct nido_error *err)
{
    struct virtio_mmio *self = calloc(1, sizeof(*self));
    if (!self) {
        error_set(err, ENOMEM, "%s: out of memory", device->name);
        device->ops->destroy(device);
        return -ENOMEM;
    }
    self->base = (struct device){.ops = &mmio_ops, .name = device->name};
    self->virtio = device;
    *out = &self->base;
    return 0;
}
