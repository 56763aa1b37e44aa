/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_SERIAL_BENCH_H
#define NIDO_TESTS_UNIT_SERIAL_BENCH_H

/* A serial port with a test on both ends: registers here, the line there. */

#include "devices/serial_8250.h"

#include "tests/unit/cmocka_nido.h"

#include <linux/serial_reg.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct bench {
    struct irq irq;
    struct device *serial;
    struct stream_guest *line;
    unsigned wakes;
};

static struct bench bench;

static inline void count_wake(struct stream_guest *line)
{
    bench.wakes++;
}

static inline int set_up(void **state)
{
    memset(&bench, 0, sizeof(bench));
    assert_int_equal(irq_init(&bench.irq, 4, NULL), 0);
    assert_int_equal(serial_8250_create(&bench.serial, "serial0", &bench.irq, NULL), 0);
    bench.line = serial_8250_stream(bench.serial);
    bench.line->wake = count_wake;
    return 0;
}

static inline int tear_down(void **state)
{
    bench.serial->ops->destroy(bench.serial);
    irq_finish(&bench.irq);
    return 0;
}

static inline uint8_t in(unsigned reg)
{
    uint64_t value = 0xee;
    assert_int_equal(bench.serial->ops->read(bench.serial, reg, 1, &value), DEVICE_HANDLED);
    return (uint8_t)value;
}

static inline enum verdict try_out(unsigned reg, uint8_t value)
{
    return bench.serial->ops->write(bench.serial, reg, 1, value);
}

static inline void out(unsigned reg, uint8_t value)
{
    assert_int_equal(try_out(reg, value), DEVICE_HANDLED);
}

/* Whether the line was pulsed since the last look. */
static inline bool pulsed(void)
{
    uint64_t count;
    return read(bench.irq.fd, &count, sizeof(count)) == sizeof(count);
}

static inline unsigned pulses(void)
{
    uint64_t count;
    return read(bench.irq.fd, &count, sizeof(count)) == sizeof(count) ? (unsigned)count : 0;
}

static inline size_t offer(const char *bytes)
{
    return bench.line->ops->receive(bench.line, (const uint8_t *)bytes, strlen(bytes));
}

static inline size_t room(void)
{
    return bench.line->ops->room(bench.line);
}

static inline size_t sent(const uint8_t **bytes)
{
    return bench.line->ops->pending(bench.line, bytes);
}

static inline void consume(size_t count)
{
    bench.line->ops->consumed(bench.line, count);
}

/* As Linux leaves it after startup. */
static inline void listen_with_trigger(uint8_t trigger)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO | trigger);
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR | UART_MCR_RTS);
    out(UART_IER, UART_IER_RDI | UART_IER_RLSI);
    in(UART_MSR);
    pulsed();
}

#endif
