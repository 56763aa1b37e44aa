/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing gets stuck: a driver that works as Linux's does, with the host's side cutting in between
 * any two of its register accesses. Interrupts and wake-ups are all that keeps either side going,
 * so a missed one ends the play before all bytes are through.
 */
#include "base/checked.h"

#include "tests/unit/serial_bench.h"

#include <stdlib.h>

#define PLAY_OUT_BYTES 20000u
#define PLAY_IN_BYTES  5000u
#define PLAY_SEEDS     40u

static struct play {
    unsigned seed;
    uint8_t ier;
    unsigned guest_sent, guest_got, host_sent, host_got;
    bool host_sends, host_gets; /* the stream's two directions are awake */
    bool wrong;
} play;

static unsigned chance(unsigned one_in)
{
    return (unsigned)rand_r(&play.seed) % one_in;
}

static void wake_host(struct stream_guest *line)
{
    play.host_sends = play.host_gets = true;
}

static uint8_t pattern(unsigned index)
{
    return (uint8_t)(index * 31 + index / 256);
}

static void host_sends(void)
{
    uint8_t bytes[20];
    size_t count = MIN(room(), (size_t)chance(20) + 1);
    count = MIN(count, (size_t)(PLAY_IN_BYTES - play.host_sent));
    for (unsigned i = 0; i < count; i++)
        bytes[i] = pattern(play.host_sent + i);
    size_t taken = count ? bench.line->ops->receive(bench.line, bytes, count) : 0;
    play.host_sent += (unsigned)taken;
    play.host_sends = taken > 0 && play.host_sent < PLAY_IN_BYTES;
}

static void host_gets(void)
{
    const uint8_t *bytes;
    size_t count = MIN(sent(&bytes), (size_t)chance(100) + 1);
    for (size_t i = 0; i < count; i++)
        play.wrong |= bytes[i] != pattern(play.host_got++);
    consume(count);
    play.host_gets = count > 0;
}

static bool host_turn(void)
{
    if (play.host_sends)
        host_sends();
    if (play.host_gets)
        host_gets();
    return play.host_sends || play.host_gets;
}

static uint8_t play_in(unsigned reg)
{
    if (chance(3) == 0)
        host_turn();
    return in(reg);
}

static enum verdict play_out(unsigned reg, uint8_t value)
{
    if (chance(3) == 0)
        host_turn();
    return try_out(reg, value);
}

static bool guest_has_bytes(void)
{
    return play.guest_sent < PLAY_OUT_BYTES;
}

static void guest_sends_one(void)
{
    while (play_out(UART_TX, pattern(play.guest_sent)) == DEVICE_STALL)
        host_turn();
    play.guest_sent++;
}

static void guest_transmits(void)
{
    for (unsigned i = 0; i < 16 && guest_has_bytes(); i++)
        guest_sends_one();
    if (!guest_has_bytes() || chance(20) == 0) { /* for now it has no more: __stop_tx() */
        play.ier &= (uint8_t)~UART_IER_THRI;
        play_out(UART_IER, play.ier);
    }
}

/* serial8250_interrupt() and serial8250_handle_irq() */
static void guest_handles_interrupt(void)
{
    while (!(play_in(UART_IIR) & UART_IIR_NO_INT)) {
        uint8_t lsr = play_in(UART_LSR);
        while (lsr & UART_LSR_DR) {
            play.wrong |= play_in(UART_RX) != pattern(play.guest_got++);
            lsr = play_in(UART_LSR);
        }
        play_in(UART_MSR);
        if (lsr & UART_LSR_THRE && play.ier & UART_IER_THRI)
            guest_transmits();
    }
}

/* serial8250_console_write(): interrupts off, poll, send, interrupts on */
static void guest_prints(void)
{
    play_out(UART_IER, 0);
    for (unsigned i = chance(30); i && guest_has_bytes(); i--) {
        while (!(play_in(UART_LSR) & UART_LSR_THRE))
            host_turn();
        guest_sends_one();
    }
    play_out(UART_IER, play.ier);
}

static void guest_starts_transmitter(void)
{
    if (play.ier & UART_IER_THRI || !guest_has_bytes())
        return;
    play.ier |= UART_IER_THRI;
    play_out(UART_IER, play.ier);
}

static bool play_is_over(void)
{
    return play.host_got == PLAY_OUT_BYTES && play.guest_got == PLAY_IN_BYTES;
}

/* The host sleeps and no interrupt is on its way. Then nobody may be waiting for either. */
static void check_silence(void)
{
    if (play.host_sends || play.host_gets)
        return;
    play.wrong |= play.ier & UART_IER_THRI;
    play.wrong |= play.guest_got != play.host_sent || play.host_got != play.guest_sent;
    play.wrong |= play.host_sent != PLAY_IN_BYTES;
}

static void play_with(unsigned seed)
{
    play = (struct play){.seed = seed, .ier = UART_IER_RDI | UART_IER_RLSI};
    bench.line->wake = wake_host;
    listen_with_trigger((uint8_t)(seed << 6));
    play.host_sends = play.host_gets = true;
    while (!play.wrong && !play_is_over()) {
        if (chance(5) == 0)
            guest_starts_transmitter();
        if (chance(50) == 0)
            guest_prints();
        if (chance(2) == 0)
            host_turn();
        /* A local APIC keeps one edge while the handler runs, however many there were. */
        while (pulsed())
            guest_handles_interrupt();
        check_silence();
    }
}

static void serial_misses_no_edge_however_guest_and_host_interleave(void **state)
{
    for (unsigned seed = 1; seed <= PLAY_SEEDS; seed++) {
        play_with(seed);
        assert_false(play.wrong);
        assert_int_equal(play.guest_got, PLAY_IN_BYTES);
        assert_int_equal(play.host_got, PLAY_OUT_BYTES);
        tear_down(NULL);
        set_up(NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(serial_misses_no_edge_however_guest_and_host_interleave,
                                        set_up, tear_down),
    };
    return cmocka_run_group_tests_name("serial_edges", tests, NULL, NULL);
}
