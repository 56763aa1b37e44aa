/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-input, as a power button (virtio 1.2, 5.8).
 *
 * Purpose        asks the guest to shut down where there is no ACPI: to systemd-logind and to any
 *                other reader of /dev/input a key is a key
 * Queue 0        eventq: device-writable buffers; one event of eight bytes in each
 *       1        statusq: what the driver would light up; there is nothing to light, so it is
 *                answered unread
 * Config space   select and subsel (the driver's), size, and an answer of up to 128 bytes
 * Owner thread   the loop; `select` and `subsel` belong to vCPU threads, under the device's lock
 *
 * A press is four events: down, report, up, report. When the driver has fewer buffers, the others
 * wait for the next; a second press meanwhile is the same press.
 */
#include "devices/virtio/button.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <linux/input-event-codes.h>
#include <linux/input.h>
#include <linux/virtio_input.h>
#include <stdlib.h>

#define QUEUE_SIZE  64u
#define TURN_CHAINS 8u

enum { EVENTS, STATUS, QUEUES };

struct button {
    struct virtio_device virtio;
    struct loop_task press_task;
    unsigned owed;          /* events of the press under way; loop thread */
    uint8_t select, subsel; /* under virtio.lock */
};

static struct button *from_device(struct virtio_device *device)
{
    return container_of(device, struct button, virtio);
}

/* ---- the config space ---- */

static void put_name(struct virtio_input_config *config)
{
    static const char name[] = "nido power button";
    memcpy(config->u.string, name, sizeof(name) - 1);
    config->size = sizeof(name) - 1;
}

static void put_ids(struct virtio_input_config *config)
{
    config->u.ids.bustype = htole16(BUS_VIRTUAL);
    config->size = sizeof(config->u.ids);
}

static void put_keys(struct virtio_input_config *config)
{
    config->u.bitmap[KEY_POWER / 8] = 1u << KEY_POWER % 8;
    config->size = KEY_POWER / 8 + 1;
}

/* 5.8.5: what was selected and is not there has size 0. */
static struct virtio_input_config config_of(const struct button *button)
{
    struct virtio_input_config config = {.select = button->select, .subsel = button->subsel};
    if (button->select == VIRTIO_INPUT_CFG_ID_NAME && button->subsel == 0)
        put_name(&config);
    else if (button->select == VIRTIO_INPUT_CFG_ID_DEVIDS && button->subsel == 0)
        put_ids(&config);
    else if (button->select == VIRTIO_INPUT_CFG_EV_BITS && button->subsel == EV_KEY)
        put_keys(&config);
    return config;
}

static void button_read_config(struct virtio_device *device, unsigned offset, void *to,
                               unsigned length)
{
    const struct virtio_input_config config = config_of(from_device(device));
    memcpy(to, (const uint8_t *)&config + offset, length);
}

static void button_write_config(struct virtio_device *device, unsigned offset, const void *from,
                                unsigned length)
{
    struct button *button = from_device(device);
    const uint8_t *bytes = from;
    for (unsigned i = 0; i < length; i++) {
        if (offset + i == offsetof(struct virtio_input_config, select))
            button->select = bytes[i];
        else if (offset + i == offsetof(struct virtio_input_config, subsel))
            button->subsel = bytes[i];
    }
}

/* ---- the queues ---- */

/* Counted from the end, as `owed` is. */
static struct virtio_input_event event_of(unsigned owed)
{
    if (owed % 2)
        return (struct virtio_input_event){.type = htole16(EV_SYN), .code = htole16(SYN_REPORT)};
    return (struct virtio_input_event){
        .type = htole16(EV_KEY), .code = htole16(KEY_POWER), .value = htole32(owed == 4)};
}

/* 1: an event is on its way; otherwise as virtq_pop(). */
static int send_one(struct button *button, struct virtq *ring)
{
    const struct virtio_input_event event = event_of(button->owed);
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got != 1)
        return got;
    if (virtq_chain_write(&chain, 0, &event, sizeof(event)) < 0)
        return -EINVAL;
    virtq_push(ring, chain.head, sizeof(event));
    button->owed--;
    return 1;
}

static void send_events(struct button *button)
{
    struct virtq *ring = &button->virtio.queues[EVENTS].ring;
    int got = 1;
    virtq_quiet(ring); /* buffers are of no interest until a press lacks some */
    do
        while (button->owed && (got = send_one(button, ring)) == 1)
            ;
    while (button->owed && got == 0 && virtq_listen(ring));
    if (got < 0)
        virtio_broken(&button->virtio, "the event queue is nonsense");
    virtio_flush(&button->virtio, EVENTS);
}

static int answer_one(struct virtq *ring)
{
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got == 1)
        virtq_push(ring, chain.head, 0);
    return got;
}

static void answer_status(struct virtio_device *device)
{
    struct virtq *ring = &device->queues[STATUS].ring;
    unsigned served = 0;
    do {
        int got = 1;
        virtq_quiet(ring);
        while (served < TURN_CHAINS && (got = answer_one(ring)) == 1)
            served++;
        if (got < 0)
            virtio_broken(device, "the status queue is nonsense");
        virtio_flush(device, STATUS);
        if (served == TURN_CHAINS) {
            virtio_notify(device, STATUS); /* come again */
            return;
        }
    } while (virtq_listen(ring));
}

static void button_kick(struct virtio_device *device, unsigned queue)
{
    if (queue == EVENTS)
        send_events(from_device(device));
    else
        answer_status(device);
}

static void button_deactivate(struct virtio_device *device)
{
    from_device(device)->owed = 0;
    virtio_idle(device);
}

static void press(struct loop_task *task)
{
    struct button *button = container_of(task, struct button, press_task);
    if (!button->virtio.active)
        return;
    if (button->owed == 0)
        button->owed = 4;
    send_events(button);
}

void virtio_button_press(struct virtio_device *device)
{
    loop_post(device->loop, &from_device(device)->press_task);
}

static void button_destroy(struct virtio_device *device)
{
    virtio_finish(device);
    free(from_device(device));
}

static const struct virtio_ops button_ops = {
    .kick = button_kick,
    .deactivate = button_deactivate,
    .read_config = button_read_config,
    .write_config = button_write_config,
    .destroy = button_destroy,
};

int virtio_button_create(struct virtio_device **out, const struct mem *mem, struct loop *loop,
                         const struct irq *irq, struct nido_error *err)
{
    struct button *button = calloc(1, sizeof(*button));
    if (!button)
        return error_set(err, ENOMEM, "power button: out of memory");
    button->virtio.ops = &button_ops;
    button->virtio.name = "button";
    button->virtio.device_id = VIRTIO_ID_INPUT;
    button->virtio.config_bytes = sizeof(struct virtio_input_config);
    button->virtio.queue_count = QUEUES;
    button->virtio.queue_size_max = QUEUE_SIZE;
    button->press_task.run = press;
    int ret = virtio_init(&button->virtio, mem, loop, irq, err);
    if (ret < 0) {
        free(button);
        return ret;
    }
    *out = &button->virtio;
    return 0;
}
