/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"

#include "tests/unit/serial_bench.h"

#include <linux/serial_reg.h>

#define RING_BYTES 65536u
#define NO_INT     0x01u
#define TIMEOUT    0xccu
#define DATA       0xc4u

/* What Linux looks for (drivers/tty/serial/8250/8250_port.c, autoconfig) */

static void serial_keeps_only_the_bits_that_a_16550a_has(void **state)
{
    out(UART_IER, 0xff);
    assert_int_equal(in(UART_IER), 0x0f);
    out(UART_MCR, 0xff);
    assert_int_equal(in(UART_MCR), 0x1f);
    out(UART_SCR, 0xa5);
    assert_int_equal(in(UART_SCR), 0xa5);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
    assert_int_equal(in(UART_IIR)&0xf0, 0xc0);
    out(UART_FCR, 0);
    assert_int_equal(in(UART_IIR)&0xf0, 0);
}

static void serial_has_a_divisor_behind_dlab(void **state)
{
    out(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
    out(UART_DLL, 0x12);
    out(UART_DLM, 0x34);
    assert_int_equal(in(UART_DLL), 0x12);
    assert_int_equal(in(UART_DLM), 0x34);
    out(UART_LCR, UART_LCR_WLEN8);
    assert_int_equal(in(UART_IER), 0);
    const uint8_t *bytes;
    assert_int_equal(sent(&bytes), 0);
}

static void serial_loopback_turns_modem_outputs_round(void **state)
{
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
    assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS);
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1 | UART_MCR_DTR);
    assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_RI | UART_MSR_DSR);
    out(UART_MCR, UART_MCR_LOOP);
    assert_int_equal(in(UART_MSR),
                     UART_MSR_TERI | UART_MSR_DDSR); /* RI's trailing edge, DSR's change */
    assert_int_equal(in(UART_MSR), 0);
}

static void serial_loopback_shows_a_fifo_of_sixteen(void **state)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
    out(UART_MCR, UART_MCR_LOOP);
    for (unsigned i = 0; i < 256; i++)
        out(UART_TX, (uint8_t)i);
    assert_int_equal(in(UART_LSR), UART_LSR_DR | UART_LSR_OE | UART_LSR_THRE | UART_LSR_TEMT);
    for (unsigned i = 0; i < 16; i++) {
        assert_true(in(UART_LSR)&UART_LSR_DR);
        assert_int_equal(in(UART_RX), i);
    }
    assert_false(in(UART_LSR) & (UART_LSR_DR | UART_LSR_OE));
    const uint8_t *bytes;
    assert_int_equal(sent(&bytes), 0);
}

static void serial_without_fifo_keeps_the_newest_byte(void **state)
{
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_TX, 'a');
    out(UART_TX, 'b');
    assert_true(in(UART_LSR)&UART_LSR_OE);
    assert_int_equal(in(UART_RX), 'b');
    assert_false(in(UART_LSR)&UART_LSR_DR);
}

/* Receiving */

static void serial_tells_data_from_timeout_by_the_trigger(void **state)
{
    static const unsigned levels[] = {1, 4, 8, 14};
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
        listen_with_trigger((uint8_t)(i << 6));
        for (unsigned count = 1; count <= 16; count++) {
            assert_int_equal(offer("x"), 1);
            assert_int_equal(in(UART_IIR), count < levels[i] ? TIMEOUT : DATA);
        }
        while (in(UART_LSR)&UART_LSR_DR)
            in(UART_RX);
        assert_int_equal(in(UART_IIR), 0xc0 | NO_INT);
    }
}

static void serial_takes_what_fits_the_fifo(void **state)
{
    listen_with_trigger(UART_FCR_R_TRIG_10);
    assert_int_equal(room(), 16);
    assert_int_equal(offer("0123456789abcdefgh"), 16);
    assert_int_equal(room(), 0);
    assert_int_equal(in(UART_RX), '0');
    assert_int_equal(room(), 1);
    assert_int_equal(offer("g"), 1);
    for (const char *expected = "123456789abcdefg"; *expected; expected++)
        assert_int_equal(in(UART_RX), *expected);
}

static void serial_takes_one_byte_without_fifo(void **state)
{
    out(UART_IER, UART_IER_RDI);
    assert_int_equal(room(), 1);
    assert_int_equal(offer("ab"), 1);
    assert_int_equal(in(UART_IIR), UART_IIR_RDI);
    assert_int_equal(in(UART_RX), 'a');
}

static void serial_takes_nothing_before_the_guest_listens(void **state)
{
    assert_int_equal(room(), 0);
    assert_int_equal(offer("x"), 0);
    out(UART_IER, UART_IER_THRI | UART_IER_MSI | UART_IER_RLSI);
    assert_int_equal(room(), 0);
    assert_int_equal(bench.wakes, 0);
    out(UART_IER, UART_IER_RDI);
    assert_int_equal(bench.wakes, 1);
    assert_int_equal(room(), 1);
    out(UART_MCR, UART_MCR_LOOP);
    assert_int_equal(room(), 0);
    assert_int_equal(offer("x"), 0);
}

static void serial_refuses_a_byte_when_the_guest_turns_away_after_room(void **state)
{
    listen_with_trigger(0);
    assert_int_equal(room(), 16);
    out(UART_IER, 0);
    assert_int_equal(offer("x"), 0);
    out(UART_IER, UART_IER_RDI);
    assert_int_equal(bench.wakes, 1);
    assert_int_equal(offer("x"), 1);
}

/* Linux enables RDI before the FIFO. */
static void serial_keeps_a_byte_while_the_fifo_is_turned_on(void **state)
{
    out(UART_IER, UART_IER_RDI);
    assert_int_equal(offer("x"), 1);
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    assert_int_equal(in(UART_RX), 'x');
    offer("yz");
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_R_TRIG_10);
    assert_int_equal(in(UART_RX), 'y');
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    assert_false(in(UART_LSR)&UART_LSR_DR);
}

static void serial_wakes_the_stream_once_its_fifo_is_empty(void **state)
{
    listen_with_trigger(UART_FCR_R_TRIG_10);
    offer("0123456789abcdefg");
    for (unsigned i = 0; i < 15; i++)
        in(UART_RX);
    assert_int_equal(bench.wakes, 0);
    in(UART_RX);
    assert_int_equal(bench.wakes, 1);
}

/* Sending */

static void serial_raises_thre_when_it_is_enabled(void **state)
{
    listen_with_trigger(0);
    for (unsigned i = 0; i < 3; i++) { /* Linux: UART_BUG_THRE and UART_BUG_TXEN */
        out(UART_IER, UART_IER_THRI);
        assert_true(pulsed());
        assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_THRI);
        assert_int_equal(in(UART_IIR), 0xc0 | NO_INT);
        out(UART_IER, 0);
    }
}

static void serial_owes_one_pulse_for_a_fifo_of_bytes(void **state)
{
    listen_with_trigger(0);
    out(UART_IER, UART_IER_THRI);
    in(UART_IIR);
    pulses();
    for (unsigned i = 0; i < 16; i++)
        out(UART_TX, 'x');
    assert_int_equal(pulses(), 1);
    assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_THRI);
    out(UART_TX, 'x');
    assert_int_equal(pulses(), 1);
}

static void serial_wakes_the_stream_once_for_a_batch(void **state)
{
    const uint8_t *bytes;
    for (unsigned i = 0; i < 100; i++)
        out(UART_TX, 'x');
    assert_int_equal(bench.wakes, 1);
    assert_int_equal(sent(&bytes), 100);
    out(UART_TX, 'y');
    assert_int_equal(bench.wakes, 1); /* the stream is awake: it has not seen the end yet */
    consume(100);
    assert_int_equal(sent(&bytes), 1);
    assert_int_equal(bytes[0], 'y');
    consume(1);
    assert_int_equal(sent(&bytes), 0);
    out(UART_TX, 'z');
    assert_int_equal(bench.wakes, 2);
}

static void fill_ring(size_t count)
{
    for (size_t i = 0; i < count; i++)
        out(UART_TX, (uint8_t)i);
}

static void serial_takes_sixteen_bytes_whenever_it_says_thre(void **state)
{
    fill_ring(RING_BYTES - 16);
    assert_int_equal(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    fill_ring(16);
    assert_int_equal(in(UART_LSR), 0);
}

static void serial_stalls_a_guest_that_writes_into_a_full_ring(void **state)
{
    fill_ring(RING_BYTES);
    assert_int_equal(try_out(UART_TX, 'x'), DEVICE_STALL);
    assert_int_equal(try_out(UART_TX, 'x'), DEVICE_STALL);
    consume(1);
    assert_int_equal(try_out(UART_TX, 'x'), DEVICE_HANDLED);
    assert_int_equal(try_out(UART_TX, 'x'), DEVICE_STALL);
}

static void serial_raises_thre_when_the_ring_has_room_again(void **state)
{
    listen_with_trigger(0);
    fill_ring(RING_BYTES);
    out(UART_IER, UART_IER_THRI);
    assert_false(pulsed());
    assert_int_equal(in(UART_IIR), 0xc0 | NO_INT);
    consume(15);
    assert_false(pulsed());
    consume(1);
    assert_true(pulsed());
    assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_THRI);
}

static void serial_hands_out_the_ring_in_order_across_its_end(void **state)
{
    const uint8_t *bytes;
    fill_ring(RING_BYTES);
    consume(1000);
    fill_ring(1000); /* RING_BYTES is a multiple of 256: the pattern goes on */
    assert_int_equal(sent(&bytes), RING_BYTES - 1000);
    assert_int_equal(bytes[0], 1000 % 256);
    consume(RING_BYTES - 1000);
    assert_int_equal(sent(&bytes), 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(bytes[i], i % 256);
}

static void serial_without_a_stream_sends_into_the_void(void **state)
{
    bench.line->wake = NULL;
    fill_ring(RING_BYTES + 1000);
    assert_int_equal(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

/* The interrupt line */

static void serial_interrupts_only_through_the_gate_of_out2(void **state)
{
    out(UART_IER, UART_IER_RDI);
    offer("x");
    assert_false(pulsed());
    assert_int_equal(in(UART_IIR), UART_IIR_RDI);
    out(UART_MCR, UART_MCR_OUT2);
    assert_true(pulsed());
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP);
    in(UART_RX);
    out(UART_TX, 'x');
    assert_false(pulsed());
}

static void serial_reports_causes_by_priority(void **state)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    out(UART_MCR, UART_MCR_LOOP);
    for (unsigned i = 0; i < 17; i++)
        out(UART_TX, 'x');
    out(UART_IER, 0x0f);
    assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_RLSI);
    in(UART_LSR);
    assert_int_equal(in(UART_IIR), DATA);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_THRI);
    assert_int_equal(in(UART_IIR), 0xc0 | UART_IIR_MSI);
    in(UART_MSR);
    assert_int_equal(in(UART_IIR), 0xc0 | NO_INT);
}

static void serial_pulses_for_a_new_cause_while_another_is_up(void **state)
{
    listen_with_trigger(0);
    offer("x");
    assert_int_equal(pulses(), 1);
    offer("y");
    assert_int_equal(pulses(), 0); /* the same cause, still up */
    out(UART_IER, UART_IER_RDI | UART_IER_THRI);
    assert_int_equal(pulses(), 1);
    in(UART_RX);
    in(UART_RX);
    offer("z");
    assert_int_equal(pulses(), 1);
}

static void serial_answers_only_byte_accesses(void **state)
{
    uint64_t value;
    assert_int_equal(bench.serial->ops->read(bench.serial, 0, 2, &value), DEVICE_UNHANDLED);
    assert_int_equal(bench.serial->ops->write(bench.serial, 0, 4, 0), DEVICE_UNHANDLED);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(serial_keeps_only_the_bits_that_a_16550a_has),
        CASE(serial_has_a_divisor_behind_dlab),
        CASE(serial_loopback_turns_modem_outputs_round),
        CASE(serial_loopback_shows_a_fifo_of_sixteen),
        CASE(serial_without_fifo_keeps_the_newest_byte),
        CASE(serial_tells_data_from_timeout_by_the_trigger),
        CASE(serial_takes_what_fits_the_fifo),
        CASE(serial_takes_one_byte_without_fifo),
        CASE(serial_takes_nothing_before_the_guest_listens),
        CASE(serial_refuses_a_byte_when_the_guest_turns_away_after_room),
        CASE(serial_keeps_a_byte_while_the_fifo_is_turned_on),
        CASE(serial_wakes_the_stream_once_its_fifo_is_empty),
        CASE(serial_raises_thre_when_it_is_enabled),
        CASE(serial_owes_one_pulse_for_a_fifo_of_bytes),
        CASE(serial_wakes_the_stream_once_for_a_batch),
        CASE(serial_takes_sixteen_bytes_whenever_it_says_thre),
        CASE(serial_stalls_a_guest_that_writes_into_a_full_ring),
        CASE(serial_raises_thre_when_the_ring_has_room_again),
        CASE(serial_hands_out_the_ring_in_order_across_its_end),
        CASE(serial_without_a_stream_sends_into_the_void),
        CASE(serial_interrupts_only_through_the_gate_of_out2),
        CASE(serial_reports_causes_by_priority),
        CASE(serial_pulses_for_a_new_cause_while_another_is_up),
        CASE(serial_answers_only_byte_accesses),
    };
    return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
