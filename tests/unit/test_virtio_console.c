/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "devices/virtio/console.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MULTIPORT  GUEST_FEATURE(VIRTIO_CONSOLE_F_MULTIPORT)
#define SIZE       GUEST_FEATURE(VIRTIO_CONSOLE_F_SIZE)
#define EVENT_IDX  GUEST_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define MUCH_BYTES ((size_t)1 << 20)
#define PIECE      4096u
#define BUFFERS    16u

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, QUEUES };

struct fixture {
    struct guest guest;
    struct virtio_device *device;
    struct stream *stream;
    int near[2], far[2]; /* in, out: the stream's and the test's ends of two pipes */
    uint64_t control_gpa, buffer_gpa, message_gpa;
    uint8_t *bytes, *got;
};

static void make_bytes(struct fixture *f)
{
    unsigned seed = 5;
    f->bytes = malloc(MUCH_BYTES);
    f->got = calloc(1, MUCH_BYTES);
    for (size_t i = 0; i < MUCH_BYTES; i++)
        f->bytes[i] = (uint8_t)rand_r(&seed);
}

/* Port `port` has a stream to two pipes. */
static struct fixture *start(const struct virtio_console_options *options, unsigned port)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int in[2], out[2];
    guest_init(&f->guest);
    make_bytes(f);
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    f->near[0] = in[0];
    f->near[1] = out[1];
    f->far[0] = out[0];
    f->far[1] = in[1];
    assert_int_equal(virtio_console_create(&f->device, options, f->guest.mem, f->guest.loop,
                                           &f->guest.irq, NULL),
                     0);
    const struct stream_config config = {.name = "port", .in_fd = in[0], .out_fd = out[1]};
    assert_int_equal(stream_create(&f->stream, f->guest.loop,
                                   virtio_console_stream(f->device, port), &config, NULL),
                     0);
    virtio_console_set_connected(f->device, port, true);
    guest_attach(&f->guest, f->device);
    return f;
}

static int set_up_console(void **state)
{
    *state =
        start(&(struct virtio_console_options){.ports = {{.present = true, .is_console = true}},
                                               .port_count = 1},
              0);
    return 0;
}

static int set_up_ports(void **state)
{
    *state = start(
        &(struct virtio_console_options){
            .ports = {{.present = false}, {.present = true, .name = "work"}}, .port_count = 2},
        1);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    loop_stop(f->guest.loop);
    stream_destroy(f->stream);
    guest_finish(&f->guest);
    for (unsigned i = 0; i < 2; i++) {
        close(f->near[i]);
        if (f->far[i] >= 0)
            close(f->far[i]);
    }
    free(f->bytes);
    free(f->got);
    free(f);
    return 0;
}

/* ---- the driver ---- */

static void give_control_buffer(struct fixture *f)
{
    guest_add(&f->guest.rings[CONTROL_RX], &GUEST_IN(f->control_gpa, 128), 1);
    guest_kick(&f->guest, CONTROL_RX);
}

static void say(struct fixture *f, uint32_t id, uint16_t event, uint16_t value)
{
    uint8_t *message = guest_at(&f->guest, f->message_gpa, 8);
    put_le32(message, id);
    put_le16(message + 4, event);
    put_le16(message + 6, value);
    guest_add(&f->guest.rings[CONTROL_TX], &GUEST_OUT(f->message_gpa, 8), 1);
    guest_kick(&f->guest, CONTROL_TX);
    guest_wait_used(&f->guest, CONTROL_TX);
}

/* Takes the next control message, and checks it. */
static void hear(struct fixture *f, uint32_t id, uint16_t event, uint16_t value, const char *text)
{
    give_control_buffer(f);
    struct guest_used used = guest_wait_used(&f->guest, CONTROL_RX);
    const uint8_t *message = guest_at(&f->guest, f->control_gpa, 128);
    assert_int_equal(used.written, 8 + strlen(text));
    assert_int_equal(get_le32(message), id);
    assert_int_equal(get_le16(message + 4), event);
    assert_int_equal(get_le16(message + 6), value);
    assert_memory_equal(message + 8, text, strlen(text));
}

static void allocate(struct fixture *f)
{
    f->control_gpa = guest_alloc(&f->guest, 128, 8);
    f->message_gpa = guest_alloc(&f->guest, 8, 8);
    f->buffer_gpa = guest_alloc(&f->guest, (uint64_t)BUFFERS * PIECE, 8);
}

static void bring_up_port(struct fixture *f)
{
    guest_bring_up(&f->guest, MULTIPORT | EVENT_IDX, QUEUES, 16);
    allocate(f);
    say(f, 0xffffffff, VIRTIO_CONSOLE_DEVICE_READY, 1);
    hear(f, 1, VIRTIO_CONSOLE_PORT_ADD, 1, "");
    say(f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    hear(f, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "work");
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
}

static void send(struct fixture *f, unsigned queue, const void *bytes, uint32_t count)
{
    memcpy(guest_at(&f->guest, f->buffer_gpa, count), bytes, count);
    guest_add(&f->guest.rings[queue], &GUEST_OUT(f->buffer_gpa, count), 1);
    guest_kick_if_wanted(&f->guest, queue);
    guest_wait_used(&f->guest, queue);
}

static void expect_at_far(struct fixture *f, const char *text)
{
    size_t length = strlen(text), done = 0;
    char got[64];
    while (done < length) {
        ssize_t count = read(f->far[0], got + done, length - done);
        assert_true(count > 0);
        done += (size_t)count;
    }
    assert_memory_equal(got, text, length);
}

static void expect_in_guest(struct fixture *f, unsigned queue, const char *text)
{
    guest_add(&f->guest.rings[queue], &GUEST_IN(f->buffer_gpa, PIECE), 1);
    guest_kick_if_wanted(&f->guest, queue);
    struct guest_used used = guest_wait_used(&f->guest, queue);
    assert_int_equal(used.written, strlen(text));
    assert_memory_equal(guest_at(&f->guest, f->buffer_gpa, PIECE), text, strlen(text));
}

/* ---- one console ---- */

static void console_carries_bytes_both_ways(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_read32(&f->guest, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_CONSOLE);
    assert_false(guest_device_features(&f->guest) & MULTIPORT);
    guest_bring_up(&f->guest, EVENT_IDX, 2, 16);
    allocate(f);
    send(f, TX0, "hello, host", 11);
    expect_at_far(f, "hello, host");
    assert_int_equal(write(f->far[1], "hello, guest", 12), 12);
    expect_in_guest(f, RX0, "hello, guest");
}

static void console_keeps_input_for_a_driver_that_comes_late(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(write(f->far[1], "early", 5), 5);
    guest_sync(&f->guest);
    guest_bring_up(&f->guest, 0, 2, 16);
    allocate(f);
    expect_in_guest(f, RX0, "early");
}

static void console_tells_the_terminals_size(void **state)
{
    struct fixture *f = *state;
    uint8_t size[4];
    guest_bring_up(&f->guest, SIZE, 2, 16);
    virtio_console_resize(f->device, 132, 43);
    assert_int_equal(guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS), VIRTIO_INTERRUPT_CONFIG);
    /* Linux may have been too early; what it prints shows that it is there. */
    allocate(f);
    for (unsigned i = 0; i < 2; i++) {
        guest_add(&f->guest.rings[TX0], &GUEST_OUT(f->buffer_gpa, 1), 1);
        guest_kick(&f->guest, TX0);
        uint32_t bits = 0;
        while (!(bits & VIRTIO_INTERRUPT_CONFIG))
            assert_true((bits = guest_wait_interrupt(&f->guest, GUEST_TIMEOUT_MS)) != 0);
    }
    guest_read_config(&f->guest, 0, size, sizeof(size));
    assert_int_equal(get_le16(size), 132);
    assert_int_equal(get_le16(size + 2), 43);
}

/* What the driver was told is taken reaches the host, though the driver goes. */
static void console_output_outlives_a_reset(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 2, 16);
    allocate(f);
    for (unsigned i = 0; i < 20; i++) /* more than the pipe takes */
        send(f, TX0, f->bytes + (size_t)i * PIECE, PIECE);
    guest_reset(&f->guest);
    for (size_t done = 0; done < (size_t)20 * PIECE;) {
        ssize_t count = read(f->far[0], f->got + done, MUCH_BYTES - done);
        assert_true(count > 0);
        done += (size_t)count;
    }
    assert_memory_equal(f->got, f->bytes, (size_t)20 * PIECE);
}

/* The guest sends and switches itself off before the loop has looked. */
static void console_drains_what_was_never_kicked(void **state)
{
    struct fixture *f = *state;
    guest_bring_up(&f->guest, 0, 2, 16);
    allocate(f);
    memcpy(guest_at(&f->guest, f->buffer_gpa, 4), "last", 4);
    guest_add(&f->guest.rings[TX0], &GUEST_OUT(f->buffer_gpa, 4), 1);
    guest_publish(&f->guest.rings[TX0]);
    assert_int_equal(stream_drain(f->stream, -1), 0);
    expect_at_far(f, "last");
}

/* ---- ports ---- */

static void port_is_introduced_as_the_specification_says(void **state)
{
    struct fixture *f = *state;
    uint8_t count[4];
    bring_up_port(f);
    guest_read_config(&f->guest, 4, count, sizeof(count));
    assert_int_equal(get_le32(count), 2);
    send(f, TX1, "from a port", 11);
    expect_at_far(f, "from a port");
}

static void port_gets_nothing_before_the_guest_opens_it(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    bring_up_port(f);
    assert_int_equal(write(f->far[1], "patience", 8), 8);
    guest_add(&f->guest.rings[RX1], &GUEST_IN(f->buffer_gpa, PIECE), 1);
    guest_kick(&f->guest, RX1);
    guest_sync(&f->guest);
    assert_false(guest_take_used(&f->guest.rings[RX1], &used));
    say(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    assert_int_equal(guest_wait_used(&f->guest, RX1).written, 8);
    say(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
    assert_int_equal(write(f->far[1], "more", 4), 4);
    guest_add(&f->guest.rings[RX1], &GUEST_IN(f->buffer_gpa, PIECE), 1);
    guest_kick(&f->guest, RX1);
    guest_sync(&f->guest);
    assert_false(guest_take_used(&f->guest.rings[RX1], &used));
}

struct change {
    struct loop_task task;
    struct fixture *f;
    bool connected;
};

static void run_change(struct loop_task *task)
{
    struct change *change = container_of(task, struct change, task);
    virtio_console_set_connected(change->f->device, 1, change->connected);
}

static void set_connected(struct fixture *f, bool connected)
{
    struct change change = {.task.run = run_change, .f = f, .connected = connected};
    loop_call(f->guest.loop, &change.task);
}

static void port_tells_who_comes_and_goes(void **state)
{
    struct fixture *f = *state;
    bring_up_port(f);
    set_connected(f, false);
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, "");
    send(f, TX1, "nobody hears", 12);
    set_connected(f, true);
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
    send(f, TX1, "somebody", 8);
    expect_at_far(f, "somebody");
    /* Faster than the guest takes messages: it hears of the gap all the same. */
    set_connected(f, false);
    set_connected(f, true);
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, "");
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
}

/* ---- much, with a far end that dawdles ---- */

static void port_loses_nothing_to_a_slow_reader(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    size_t sent = 0, completed = 0, got = 0;
    bring_up_port(f);
    fcntl(f->far[0], F_SETFL, O_NONBLOCK);
    fcntl(f->far[0], F_SETPIPE_SZ, 4096);
    while (got < MUCH_BYTES) {
        for (; sent < MUCH_BYTES && sent - completed < BUFFERS * PIECE / 2; sent += PIECE) {
            uint64_t gpa = f->buffer_gpa + sent % ((uint64_t)BUFFERS * PIECE);
            memcpy(guest_at(&f->guest, gpa, PIECE), f->bytes + sent, PIECE);
            guest_add(&f->guest.rings[TX1], &GUEST_OUT(gpa, PIECE), 1);
        }
        guest_kick_if_wanted(&f->guest, TX1);
        while (guest_take_used(&f->guest.rings[TX1], &used))
            completed += PIECE;
        struct pollfd readable = {.fd = f->far[0], .events = POLLIN};
        assert_int_equal(poll(&readable, 1, GUEST_TIMEOUT_MS), 1);
        ssize_t count = read(f->far[0], f->got + got, MIN(MUCH_BYTES - got, (size_t)3000));
        assert_true(count > 0);
        got += (size_t)count;
    }
    assert_memory_equal(f->got, f->bytes, MUCH_BYTES);
}

static void port_loses_nothing_on_the_way_in(void **state)
{
    struct fixture *f = *state;
    size_t sent = 0, got = 0;
    unsigned seed = 1;
    bring_up_port(f);
    say(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    fcntl(f->far[1], F_SETFL, O_NONBLOCK);
    while (got < MUCH_BYTES) {
        ssize_t count = write(f->far[1], f->bytes + sent, MIN(MUCH_BYTES - sent, (size_t)5000));
        sent += count > 0 ? (size_t)count : 0;
        uint32_t length = 1 + (uint32_t)rand_r(&seed) % PIECE;
        guest_add(&f->guest.rings[RX1], &GUEST_IN(f->buffer_gpa, length), 1);
        guest_kick_if_wanted(&f->guest, RX1);
        struct guest_used used = guest_wait_used(&f->guest, RX1);
        assert_in_range(used.written, 1, length);
        memcpy(f->got + got, guest_at(&f->guest, f->buffer_gpa, used.written), used.written);
        got += used.written;
    }
    assert_memory_equal(f->got, f->bytes, MUCH_BYTES);
}

/* Linux resets its devices when it powers off, with all of that still under way. */
static void port_keeps_what_was_under_way_at_a_reset(void **state)
{
    struct fixture *f = *state;
    const uint32_t half = MUCH_BYTES / 2;
    bring_up_port(f);
    uint64_t gpa = guest_alloc(&f->guest, MUCH_BYTES, 8);
    memcpy(guest_at(&f->guest, gpa, MUCH_BYTES), f->bytes, MUCH_BYTES);
    guest_add(&f->guest.rings[TX1], &GUEST_OUT(gpa, half), 1);
    guest_kick(&f->guest, TX1);
    guest_sync(&f->guest);
    const struct guest_buffer buffers[] = {GUEST_OUT(gpa + half, 1),
                                           GUEST_OUT(gpa + half + 1, half - 1)};
    guest_add(&f->guest.rings[TX1], buffers, 2);
    guest_publish(&f->guest.rings[TX1]);
    guest_reset(&f->guest);
    memset(guest_at(&f->guest, gpa, MUCH_BYTES), 0, MUCH_BYTES);
    for (size_t got = 0; got < MUCH_BYTES;) {
        struct pollfd readable = {.fd = f->far[0], .events = POLLIN};
        assert_int_equal(poll(&readable, 1, GUEST_TIMEOUT_MS), 1);
        ssize_t count = read(f->far[0], f->got + got, MUCH_BYTES - got);
        assert_true(count > 0);
        got += (size_t)count;
    }
    assert_memory_equal(f->got, f->bytes, MUCH_BYTES);
    bring_up_port(f);
    send(f, TX1, "next", 4);
    expect_at_far(f, "next");
}

/* Nobody reads, and the guest does it again and again. */
static void port_keeps_a_bounded_amount_at_resets(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 20; i++) {
        bring_up_port(f);
        const struct guest_buffer buffers[] = {GUEST_OUT(0, GUEST_LOW_BYTES / 2)};
        guest_add(&f->guest.rings[TX1], buffers, 1);
        guest_kick(&f->guest, TX1);
        guest_reset(&f->guest);
    }
    struct stream_guest *line = virtio_console_stream(f->device, 1);
    const uint8_t *bytes;
    loop_stop(f->guest.loop);
    assert_in_range(line->ops->pending(line, &bytes), GUEST_LOW_BYTES / 2, 10u << 20);
}

/* ---- lies ---- */

static void port_shrugs_at_control_messages_of_nonsense(void **state)
{
    struct fixture *f = *state;
    bring_up_port(f);
    for (uint16_t event = 0; event < 10; event++) {
        say(f, 99, event, 1);
        say(f, 0xffffffff, event, 0xffff);
        say(f, 0, event, 1); /* which is not there */
    }
    guest_add(&f->guest.rings[CONTROL_TX], &GUEST_OUT(f->message_gpa, 3), 1);
    guest_add(&f->guest.rings[CONTROL_TX], &GUEST_IN(f->message_gpa, 8), 1);
    guest_kick(&f->guest, CONTROL_TX);
    guest_wait_used(&f->guest, CONTROL_TX);
    guest_wait_used(&f->guest, CONTROL_TX);
    hear(f, 1, VIRTIO_CONSOLE_PORT_ADD, 1, ""); /* DEVICE_READY was among them */
    send(f, TX1, "still here", 10);
    expect_at_far(f, "still here");
}

static void port_owes_a_message_once_however_often_it_is_asked(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    bring_up_port(f);
    for (unsigned i = 0; i < 1000; i++)
        say(f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    hear(f, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "work");
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
    give_control_buffer(f);
    guest_sync(&f->guest);
    assert_false(guest_take_used(&f->guest.rings[CONTROL_RX], &used));
}

static void port_survives_buffers_that_are_too_short(void **state)
{
    struct fixture *f = *state;
    bring_up_port(f);
    say(f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    guest_add(&f->guest.rings[CONTROL_RX], &GUEST_IN(f->control_gpa, 8), 1);
    guest_kick(&f->guest, CONTROL_RX);
    assert_int_equal(guest_wait_used(&f->guest, CONTROL_RX).written, 0);
    hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
    /* No room at all, and nothing to read. */
    say(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    guest_add(&f->guest.rings[RX1], &GUEST_IN(f->buffer_gpa, 0), 1);
    guest_add(&f->guest.rings[RX1], &GUEST_OUT(f->buffer_gpa, 8), 1);
    guest_add(&f->guest.rings[TX1], &GUEST_IN(f->buffer_gpa, 8), 1);
    guest_kick(&f->guest, RX1);
    guest_kick(&f->guest, TX1);
    assert_int_equal(guest_wait_used(&f->guest, TX1).written, 0);
    assert_int_equal(guest_wait_used(&f->guest, RX1).written, 0);
    assert_int_equal(guest_wait_used(&f->guest, RX1).written, 0);
    assert_int_equal(write(f->far[1], "fine", 4), 4);
    expect_in_guest(f, RX1, "fine");
}

static void port_needs_a_reset_after_a_ring_of_nonsense(void **state)
{
    struct fixture *f = *state;
    for (unsigned queue = CONTROL_RX; queue < QUEUES; queue++) {
        bring_up_port(f);
        say(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        if (queue == CONTROL_RX) {
            guest_add_head(&f->guest.rings[queue], 99);
            guest_kick(&f->guest, queue);
            guest_add(&f->guest.rings[CONTROL_TX], &GUEST_OUT(f->message_gpa, 8), 1);
            put_le16(guest_at(&f->guest, f->message_gpa + 4, 2), VIRTIO_CONSOLE_PORT_READY);
            guest_kick(&f->guest, CONTROL_TX);
        } else {
            guest_add_head(&f->guest.rings[queue], 99);
            guest_kick(&f->guest, queue);
        }
        const uint64_t give_up_ns = clock_now_ns() + GUEST_TIMEOUT_MS * 1000000ull;
        while (!(guest_read32(&f->guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET))
            assert_true(clock_now_ns() < give_up_ns);
        guest_reset(&f->guest);
    }
}

#define CONSOLE(name) cmocka_unit_test_setup_teardown(name, set_up_console, tear_down)
#define PORTS(name)   cmocka_unit_test_setup_teardown(name, set_up_ports, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONSOLE(console_carries_bytes_both_ways),
        CONSOLE(console_keeps_input_for_a_driver_that_comes_late),
        CONSOLE(console_tells_the_terminals_size),
        CONSOLE(console_output_outlives_a_reset),
        CONSOLE(console_drains_what_was_never_kicked),
        PORTS(port_is_introduced_as_the_specification_says),
        PORTS(port_gets_nothing_before_the_guest_opens_it),
        PORTS(port_tells_who_comes_and_goes),
        PORTS(port_loses_nothing_to_a_slow_reader),
        PORTS(port_loses_nothing_on_the_way_in),
        PORTS(port_keeps_what_was_under_way_at_a_reset),
        PORTS(port_keeps_a_bounded_amount_at_resets),
        PORTS(port_shrugs_at_control_messages_of_nonsense),
        PORTS(port_owes_a_message_once_however_often_it_is_asked),
        PORTS(port_survives_buffers_that_are_too_short),
        PORTS(port_needs_a_reset_after_a_ring_of_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
