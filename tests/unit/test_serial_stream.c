/* SPDX-License-Identifier: Apache-2.0 */
/* A mebibyte through a serial port and its stream, each way, with a far end that dawdles. */
#include "base/checked.h"
#include "base/thread.h"
#include "devices/serial_8250.h"
#include "host/stream.h"

#include "tests/unit/cmocka_nido.h"

#include <linux/serial_reg.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define MUCH_BYTES ((size_t)1 << 20)

static struct loop *loop;
static struct stream *stream;
static struct device *serial;
static struct irq irq;
static int ends[2];
static uint8_t *bytes, *got;

static int set_up(void **state)
{
    unsigned seed = 7;
    bytes = malloc(MUCH_BYTES);
    got = malloc(MUCH_BYTES);
    for (size_t i = 0; i < MUCH_BYTES; i++)
        bytes[i] = (uint8_t)rand_r(&seed);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(irq_init(&irq, 4, NULL), 0);
    assert_int_equal(serial_8250_create(&serial, "serial0", &irq, NULL), 0);
    assert_int_equal(loop_create(&loop, "console", NULL), 0);
    return 0;
}

static int tear_down(void **state)
{
    loop_stop(loop);
    stream_destroy(stream);
    loop_destroy(loop);
    serial->ops->destroy(serial);
    irq_finish(&irq);
    close(ends[0]);
    close(ends[1]);
    free(bytes);
    free(got);
    return 0;
}

static void start(int in_fd, int out_fd)
{
    const struct stream_config config = {.name = "console", .in_fd = in_fd, .out_fd = out_fd};
    assert_int_equal(stream_create(&stream, loop, serial_8250_stream(serial), &config, NULL), 0);
    assert_int_equal(loop_start(loop, NULL), 0);
}

static void out(unsigned reg, uint8_t value)
{
    serial->ops->write(serial, reg, 1, value);
}

static uint8_t in(unsigned reg)
{
    uint64_t value = 0;
    serial->ops->read(serial, reg, 1, &value);
    return (uint8_t)value;
}

/* A vCPU that repeats a stalled access. */
static void *send_much(void *self)
{
    for (size_t i = 0; i < MUCH_BYTES; i++)
        while (serial->ops->write(serial, UART_TX, 1, bytes[i]) == DEVICE_STALL)
            usleep(100);
    return NULL;
}

static void serial_sends_everything_to_a_slow_reader(void **state)
{
    pthread_t vcpu;
    unsigned seed = 3;
    start(-1, ends[1]);
    assert_int_equal(thread_start(&vcpu, "vcpu", send_much, NULL, NULL), 0);
    usleep(20000); /* the ring and the pipe fill up */
    for (size_t have = 0; have < MUCH_BYTES;) {
        size_t want = MIN((size_t)rand_r(&seed) % 9000 + 1, MUCH_BYTES - have);
        ssize_t count = read(ends[0], got + have, want);
        assert_true(count > 0);
        have += (size_t)count;
        if (rand_r(&seed) % 16 == 0)
            usleep(500);
    }
    pthread_join(vcpu, NULL);
    assert_memory_equal(got, bytes, MUCH_BYTES);
}

/* A guest that now and then stops listening for a moment, as Linux does to print. */
static void *receive_much(void *self)
{
    for (size_t have = 0; have < MUCH_BYTES;) {
        if (have % 5000 == 17) {
            out(UART_IER, 0);
            out(UART_IER, UART_IER_RDI);
        }
        if (in(UART_LSR)&UART_LSR_DR)
            got[have++] = in(UART_RX);
        else
            sched_yield();
    }
    return NULL;
}

/* Linux's startup: clears the FIFOs, reads a byte away, listens, turns the FIFO on. */
static void start_as_linux(void)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    out(UART_FCR, 0);
    in(UART_RX);
    out(UART_IER, UART_IER_RDI);
    usleep(1000);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_R_TRIG_10);
}

static void serial_receives_everything_though_the_guest_starts_late(void **state)
{
    pthread_t vcpu;
    size_t at = 60000; /* fits the pipe */
    assert_int_equal(write(ends[1], bytes, at), at);
    start(ends[0], -1);
    usleep(5000);
    start_as_linux();
    assert_int_equal(thread_start(&vcpu, "vcpu", receive_much, NULL, NULL), 0);
    while (at < MUCH_BYTES) {
        ssize_t wrote = write(ends[1], bytes + at, MIN(MUCH_BYTES - at, (size_t)7777));
        assert_true(wrote > 0);
        at += (size_t)wrote;
    }
    pthread_join(vcpu, NULL);
    assert_memory_equal(got, bytes, MUCH_BYTES);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(serial_sends_everything_to_a_slow_reader),
        CASE(serial_receives_everything_though_the_guest_starts_late),
    };
    return cmocka_run_group_tests_name("serial_stream", tests, NULL, NULL);
}
