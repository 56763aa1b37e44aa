/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/virtio/button.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <linux/input-event-codes.h>
#include <linux/virtio_input.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_IDX   GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define EVENT_BYTES sizeof(struct virtio_input_event)

enum { EVENTS, STATUS, QUEUES };

struct fixture {
    struct guest guest;
    struct virtio_device *device;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    if (virtio_button_create(&f->device, f->guest.mem, f->guest.loop, &f->guest.irq, NULL) < 0)
        return -1;
    guest_attach(&f->guest, f->device);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    guest_finish(&f->guest);
    free(f);
    return 0;
}

static void write_config(struct fixture *f, unsigned offset, uint8_t value)
{
    struct device *transport = f->guest.transport;
    assert_int_equal(transport->ops->write(transport, VIRTIO_MMIO_CONFIG + offset, 1, value),
                     DEVICE_HANDLED);
}

static struct virtio_input_config ask(struct fixture *f, uint8_t select, uint8_t subsel)
{
    struct virtio_input_config config;
    write_config(f, offsetof(struct virtio_input_config, select), select);
    write_config(f, offsetof(struct virtio_input_config, subsel), subsel);
    guest_read_config(&f->guest, 0, &config, sizeof(config));
    assert_int_equal(config.select, select);
    assert_int_equal(config.subsel, subsel);
    return config;
}

static void button_is_a_keyboard_with_one_key(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_INPUT);
    struct virtio_input_config config = ask(f, VIRTIO_INPUT_CFG_EV_BITS, EV_KEY);
    unsigned keys = 0;
    for (unsigned key = 0; key < config.size * 8u; key++)
        keys += config.u.bitmap[key / 8] >> key % 8 & 1;
    assert_int_equal(keys, 1);
    assert_int_equal(config.u.bitmap[KEY_POWER / 8] >> KEY_POWER % 8, 1);
    config = ask(f, VIRTIO_INPUT_CFG_ID_NAME, 0);
    assert_int_equal(config.size, strlen("nido power button"));
    assert_memory_equal(config.u.string, "nido power button", config.size);
    assert_int_equal(ask(f, VIRTIO_INPUT_CFG_ID_DEVIDS, 0).size, 8);
}

static void button_has_nothing_else(void **state)
{
    static const struct virtio_input_config none;
    struct fixture *f = *state;
    for (unsigned select = 0; select < 256; select++) {
        for (unsigned subsel = 0; subsel < 256; subsel += 5) {
            if (subsel == 0 &&
                (select == VIRTIO_INPUT_CFG_ID_NAME || select == VIRTIO_INPUT_CFG_ID_DEVIDS))
                continue;
            struct virtio_input_config config = ask(f, (uint8_t)select, (uint8_t)subsel);
            assert_int_equal(config.size, 0);
            assert_memory_equal(&config.u, &none.u, sizeof(none.u));
        }
    }
    /* The driver writes two of its bytes and no other. */
    write_config(f, offsetof(struct virtio_input_config, size), 7);
    write_config(f, offsetof(struct virtio_input_config, u), 7);
    assert_int_equal(ask(f, 0, 0).size, 0);
}

static uint64_t add_buffers(struct fixture *f, unsigned count)
{
    uint64_t gpa = guest_alloc(&f->guest, count * EVENT_BYTES, 8);
    for (unsigned i = 0; i < count; i++)
        guest_add(&f->guest.rings[EVENTS], &GUEST_IN(gpa + i * EVENT_BYTES, EVENT_BYTES), 1);
    guest_publish(&f->guest.rings[EVENTS]);
    return gpa;
}

static void expect_event(struct fixture *f, uint64_t gpa, uint16_t type, uint16_t code,
                         uint32_t value)
{
    assert_int_equal(guest_wait_used(&f->guest, EVENTS).written, EVENT_BYTES);
    const uint8_t *event = guest_at(&f->guest, gpa, EVENT_BYTES);
    assert_int_equal(get_le16(event), type);
    assert_int_equal(get_le16(event + 2), code);
    assert_int_equal(get_le32(event + 4), value);
}

static void expect_press(struct fixture *f, uint64_t gpa)
{
    expect_event(f, gpa, EV_KEY, KEY_POWER, 1);
    expect_event(f, gpa + EVENT_BYTES, EV_SYN, SYN_REPORT, 0);
    expect_event(f, gpa + 2 * EVENT_BYTES, EV_KEY, KEY_POWER, 0);
    expect_event(f, gpa + 3 * EVENT_BYTES, EV_SYN, SYN_REPORT, 0);
}

static void button_goes_down_and_up_with_each_press(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, EVENT_IDX, QUEUES, 16);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t gpa = add_buffers(f, 4);
        virtio_button_press(f->device);
        expect_press(f, gpa);
    }
}

static void button_waits_for_buffers(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, EVENT_IDX, QUEUES, 16);
    virtio_button_press(f->device);
    virtio_button_press(f->device);
    guest_sync(&f->guest);
    virtio_button_press(f->device);
    guest_sync(&f->guest);
    for (unsigned i = 0; i < 4; i++) {
        struct guest_used used;
        uint64_t gpa = add_buffers(f, 1);
        assert_true(guest_kick_if_wanted(&f->guest, EVENTS));
        expect_event(f, gpa, i % 2 ? EV_SYN : EV_KEY, i % 2 ? SYN_REPORT : KEY_POWER, i == 0);
        assert_false(guest_take_used(&f->guest.rings[EVENTS], &used));
    }
    /* All three were one press. */
    struct guest_used used;
    add_buffers(f, 4);
    guest_kick(&f->guest, EVENTS);
    guest_sync(&f->guest);
    assert_false(guest_take_used(&f->guest.rings[EVENTS], &used));
}

static void button_that_nobody_hears_is_forgotten(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    virtio_button_press(f->device);
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    virtio_button_press(f->device);
    guest_sync(&f->guest);
    guest_reset(&f->guest);
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    uint64_t gpa = add_buffers(f, 8);
    guest_kick(&f->guest, EVENTS);
    guest_sync(&f->guest);
    assert_false(guest_take_used(&f->guest.rings[EVENTS], &used));
    virtio_button_press(f->device);
    expect_press(f, gpa);
}

static void button_answers_the_status_queue(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, EVENT_IDX, QUEUES, 64);
    uint64_t gpa = guest_alloc(&f->guest, EVENT_BYTES, 8);
    for (unsigned i = 0; i < 60; i++)
        guest_add(&f->guest.rings[STATUS], &GUEST_OUT(gpa, EVENT_BYTES), 1);
    guest_kick(&f->guest, STATUS);
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(guest_wait_used(&f->guest, STATUS).written, 0);
}

static void expect_broken(struct fixture *f)
{
    guest_sync(&f->guest);
    assert_true(guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    guest_reset(&f->guest);
}

static void button_of_a_guest_that_lies_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    uint64_t gpa = guest_alloc(&f->guest, 64, 8);
    guest_bring_up(&f->guest, 0, QUEUES, 16);
    guest_add(&f->guest.rings[EVENTS], &GUEST_IN(gpa, EVENT_BYTES - 1), 1);
    guest_publish(&f->guest.rings[EVENTS]);
    virtio_button_press(f->device);
    expect_broken(f);

    guest_bring_up(&f->guest, 0, QUEUES, 16);
    guest_add(&f->guest.rings[EVENTS], &GUEST_OUT(gpa, EVENT_BYTES), 1);
    guest_publish(&f->guest.rings[EVENTS]);
    virtio_button_press(f->device);
    expect_broken(f);

    guest_bring_up(&f->guest, 0, QUEUES, 16);
    guest_add_head(&f->guest.rings[STATUS], 99);
    guest_kick(&f->guest, STATUS);
    expect_broken(f);

    guest_bring_up(&f->guest, 0, QUEUES, 16);
    gpa = add_buffers(f, 4);
    virtio_button_press(f->device);
    expect_press(f, gpa);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(button_is_a_keyboard_with_one_key),         TEST(button_has_nothing_else),
        TEST(button_goes_down_and_up_with_each_press),   TEST(button_waits_for_buffers),
        TEST(button_that_nobody_hears_is_forgotten),     TEST(button_answers_the_status_queue),
        TEST(button_of_a_guest_that_lies_needs_a_reset),
    };
    return cmocka_run_group_tests_name("virtio_button", tests, NULL, NULL);
}
