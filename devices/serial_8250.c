/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A UART (National Semiconductor PC16550D data sheet), wired as on a PC: COM1 and its like.
 *
 * Threads: registers on vCPU threads, the line (struct stream_guest_ops) on the stream's loop. One
 * lock guards all state. Whoever changes something calls settle() before unlocking and, unlocked,
 * does what it asks for: a pulse on the interrupt line, a wake-up of the stream.
 *
 * The transmitter is infinitely fast: a byte written to THR goes straight to a ring of 64 KiB,
 * which the stream empties. Back-pressure is THRE: it is clear while fewer than 16 bytes fit, so a
 * driver that believes it (a FIFO's worth at each THRE) never stalls; one that does not, as Linux
 * after waiting 10 ms, is made to repeat its access until there is room. TEMT goes with THRE,
 * because Linux waits for it after each line it prints and should not wait for the host.
 *
 * The receiver takes from the host what fits into its FIFO, and only while the guest listens:
 * receive interrupts enabled, not looped back. Linux clears the FIFOs and reads a byte away before
 * it enables them, and what a pipe had sent before would be lost. (A guest that polls without ever
 * setting ERBFI therefore reads nothing.)
 *
 *   0  RBR read, THR write; DLL with DLAB      4  MCR  modem control, loopback
 *   1  IER; DLM with DLAB                      5  LSR  line status
 *   2  IIR read, FCR write                     6  MSR  modem status
 *   3  LCR                                     7  SCR  scratch
 *
 * Baud rate, parity and word length are kept and mean nothing. Breaks are neither sent nor seen.
 */
#include "devices/serial_8250.h"

#include "base/checked.h"
#include "base/thread.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_BYTES 16u
#define RING_BYTES ((size_t)64 * 1024)

#define IIR_FIFO_ENABLED      0xc0u
#define IIR_CHARACTER_TIMEOUT 0x0cu
#define MSR_DELTA_BITS        0x0fu
#define MSR_WIRED             (UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD)

struct serial {
    struct device device;
    struct stream_guest line;
    const struct irq *irq;
    pthread_mutex_t lock; /* guards all that follows; never held across a system call */

    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t msr_delta;
    bool overrun;
    bool
        thre_pending; /* THR ran empty, or its interrupt was enabled, and IIR has not said so yet */
    uint8_t signalled; /* IER bits of the causes that the interrupt line has told about */

    uint8_t rx[FIFO_BYTES];
    unsigned rx_start, rx_count;

    uint8_t *ring; /* starts over whenever it runs empty: a prompt reader keeps it to one page */
    size_t ring_start, ring_count;

    bool line_idle;    /* the stream saw no bytes to send and sleeps */
    bool line_starved; /* the stream has more to deliver and sleeps */
    bool wake;         /* for settle() */
    char name[16];
};

static enum verdict serial_read(struct device *device, uint64_t offset, unsigned size_bytes,
                                uint64_t *value);
static enum verdict serial_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                 uint64_t value);
static void serial_destroy(struct device *device);

static const struct device_ops serial_ops = {
    .read = serial_read,
    .write = serial_write,
    .destroy = serial_destroy,
};

static size_t line_room(struct stream_guest *line);
static size_t line_receive(struct stream_guest *line, const uint8_t *bytes, size_t count);
static size_t line_pending(struct stream_guest *line, const uint8_t **bytes);
static void line_consumed(struct stream_guest *line, size_t count);

static const struct stream_guest_ops line_ops = {
    .room = line_room,
    .receive = line_receive,
    .pending = line_pending,
    .consumed = line_consumed,
};

/* Interrupts */

static bool looped_back(const struct serial *serial)
{
    return serial->mcr & UART_MCR_LOOP;
}

static bool fifo_enabled(const struct serial *serial)
{
    return serial->fcr & UART_FCR_ENABLE_FIFO;
}

static bool transmitter_ready(const struct serial *serial)
{
    return looped_back(serial) || RING_BYTES - serial->ring_count >= FIFO_BYTES;
}

/* What the guest wants to hear of and is the case, as bits of IER. */
static uint8_t causes(const struct serial *serial)
{
    uint8_t is_the_case =
        (serial->overrun ? UART_IER_RLSI : 0) | (serial->rx_count ? UART_IER_RDI : 0) |
        (serial->thre_pending ? UART_IER_THRI : 0) | (serial->msr_delta ? UART_IER_MSI : 0);
    return serial->ier & is_the_case;
}

/* Table 4 of the data sheet. Characters arrive without delay, so the four character times of the
 * timeout have always passed: fewer bytes than the trigger level are a timeout at once. */
static uint8_t interrupt_id(const struct serial *serial)
{
    static const unsigned triggers[] = {1, 4, 8, 14};
    uint8_t now = causes(serial);

    if (now & UART_IER_RLSI)
        return UART_IIR_RLSI;
    if (now & UART_IER_RDI)
        return fifo_enabled(serial) && serial->rx_count < triggers[serial->fcr >> 6]
                   ? IIR_CHARACTER_TIMEOUT
                   : UART_IIR_RDI;
    if (now & UART_IER_THRI)
        return UART_IIR_THRI;
    if (now & UART_IER_MSI)
        return UART_IIR_MSI;
    return UART_IIR_NO_INT;
}

/* On a PC the interrupt pin reaches the bus through a gate that OUT2 opens, and loopback pulls OUT2
 * away. Linux counts on it: it tests the THRE interrupt with its handler installed and OUT2 off,
 * and takes the UART for a broken one if another CPU's handler reads IIR in the middle. */
static bool interrupt_gate_open(const struct serial *serial)
{
    return (serial->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
}

struct effects {
    bool pulse;
    bool wake;
};

/*
 * The line is edge-triggered. A driver reads IIR until it says "none", so one pulse is owed for
 * each cause that comes up, and none while it stays up; THRE goes down when IIR tells of it, so the
 * sixteen bytes written in answer owe one pulse between them.
 */
static struct effects settle(struct serial *serial)
{
    uint8_t now = interrupt_gate_open(serial) ? causes(serial) : 0;
    struct effects effects = {.pulse = now & ~serial->signalled, .wake = serial->wake};
    serial->signalled = now;
    serial->wake = false;
    /* Not for each byte that is read, but for a FIFO that has run empty. */
    if (serial->line_starved && serial->rx_count == 0 && serial->ier & UART_IER_RDI &&
        !looped_back(serial)) {
        serial->line_starved = false;
        effects.wake = true;
    }
    return effects;
}

static void apply(struct serial *serial, struct effects effects)
{
    if (effects.pulse)
        irq_pulse(serial->irq);
    if (effects.wake)
        stream_wake(&serial->line);
}

/* The receive FIFO */

static unsigned rx_capacity(const struct serial *serial)
{
    return fifo_enabled(serial) ? FIFO_BYTES : 1;
}

static void rx_push(struct serial *serial, uint8_t byte)
{
    serial->rx[(serial->rx_start + serial->rx_count) % FIFO_BYTES] = byte;
    serial->rx_count++;
}

static uint8_t rx_pop(struct serial *serial)
{
    uint8_t byte = serial->rx[serial->rx_start];
    if (serial->rx_count) {
        serial->rx_start = (serial->rx_start + 1) % FIFO_BYTES;
        serial->rx_count--;
    }
    return byte;
}

/* 8.4.5: a full FIFO keeps what it has; without the FIFO the newer byte takes RBR. */
static void loop_back(struct serial *serial, uint8_t byte)
{
    if (serial->rx_count >= rx_capacity(serial)) {
        serial->overrun = true;
        if (fifo_enabled(serial))
            return;
        rx_pop(serial);
    }
    rx_push(serial, byte);
}

/* Registers. All under the lock. */

static enum verdict transmit(struct serial *serial, uint8_t byte)
{
    if (looped_back(serial)) {
        loop_back(serial, byte);
    } else if (serial->line.wake) {
        if (serial->ring_count == RING_BYTES)
            return DEVICE_STALL;
        serial->ring[(serial->ring_start + serial->ring_count++) % RING_BYTES] = byte;
        serial->wake |= serial->line_idle;
        serial->line_idle = false;
    }
    serial->thre_pending = transmitter_ready(serial);
    return DEVICE_HANDLED;
}

static void write_ier(struct serial *serial, uint8_t value)
{
    uint8_t risen = value & ~serial->ier;
    serial->ier = value & 0x0f;
    if (risen & UART_IER_THRI)
        serial->thre_pending = transmitter_ready(serial);
}

/* Bytes in the ring are on the wire already, so clearing the transmitter has nothing to clear. The
 * chip empties its receiver on a change of mode either way; here a byte in RBR survives the FIFO's
 * being turned on, because Linux does that just after it has begun to listen. */
static void write_fcr(struct serial *serial, uint8_t value)
{
    bool enable = value & UART_FCR_ENABLE_FIFO;
    if (!enable || value & UART_FCR_CLEAR_RCVR)
        serial->rx_count = 0;
    serial->fcr = enable ? value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK) : 0;
}

/* The upper half of MSR: a modem that is always there, or in loopback our own outputs. */
static uint8_t modem_lines(const struct serial *serial)
{
    if (!looped_back(serial))
        return MSR_WIRED;
    return (serial->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
           (serial->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
           (serial->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
           (serial->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}

static void write_mcr(struct serial *serial, uint8_t value)
{
    uint8_t before = modem_lines(serial);
    serial->mcr = value & 0x1f;
    uint8_t after = modem_lines(serial);
    /* The ring indicator's delta tells of its trailing edge only. */
    uint8_t changed = (before ^ after) & ~(after & UART_MSR_RI);
    serial->msr_delta |= changed >> 4;
}

static uint8_t read_iir(struct serial *serial)
{
    uint8_t id = interrupt_id(serial);
    if (id == UART_IIR_THRI)
        serial->thre_pending = false;
    return id | (fifo_enabled(serial) ? IIR_FIFO_ENABLED : 0);
}

static uint8_t read_lsr(struct serial *serial)
{
    uint8_t value = (serial->rx_count ? UART_LSR_DR : 0) | (serial->overrun ? UART_LSR_OE : 0) |
                    (transmitter_ready(serial) ? UART_LSR_THRE | UART_LSR_TEMT : 0);
    serial->overrun = false;
    return value;
}

static uint8_t read_msr(struct serial *serial)
{
    uint8_t value = modem_lines(serial) | serial->msr_delta;
    serial->msr_delta = 0;
    return value;
}

static uint8_t read_register(struct serial *serial, uint64_t offset)
{
    bool dlab = serial->lcr & UART_LCR_DLAB;
    switch (offset) {
    case UART_RX:
        return dlab ? serial->dll : rx_pop(serial);
    case UART_IER:
        return dlab ? serial->dlm : serial->ier;
    case UART_IIR:
        return read_iir(serial);
    case UART_LCR:
        return serial->lcr;
    case UART_MCR:
        return serial->mcr;
    case UART_LSR:
        return read_lsr(serial);
    case UART_MSR:
        return read_msr(serial);
    default:
        return serial->scr;
    }
}

static enum verdict write_register(struct serial *serial, uint64_t offset, uint8_t value)
{
    bool dlab = serial->lcr & UART_LCR_DLAB;
    switch (offset) {
    case UART_TX:
        if (!dlab)
            return transmit(serial, value);
        serial->dll = value;
        break;
    case UART_IER:
        if (dlab)
            serial->dlm = value;
        else
            write_ier(serial, value);
        break;
    case UART_FCR:
        write_fcr(serial, value);
        break;
    case UART_LCR:
        serial->lcr = value;
        break;
    case UART_MCR:
        write_mcr(serial, value);
        break;
    case UART_SCR:
        serial->scr = value;
        break;
    default: /* LSR and MSR: for factory tests only */
        break;
    }
    return DEVICE_HANDLED;
}

static enum verdict serial_read(struct device *device, uint64_t offset, unsigned size_bytes,
                                uint64_t *value)
{
    struct serial *serial = container_of(device, struct serial, device);
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    pthread_mutex_lock(&serial->lock);
    *value = read_register(serial, offset);
    struct effects effects = settle(serial);
    pthread_mutex_unlock(&serial->lock);
    apply(serial, effects);
    return DEVICE_HANDLED;
}

static enum verdict serial_write(struct device *device, uint64_t offset, unsigned size_bytes,
                                 uint64_t value)
{
    struct serial *serial = container_of(device, struct serial, device);
    if (size_bytes != 1)
        return DEVICE_UNHANDLED;
    pthread_mutex_lock(&serial->lock);
    enum verdict verdict = write_register(serial, offset, (uint8_t)value);
    struct effects effects = settle(serial);
    pthread_mutex_unlock(&serial->lock);
    apply(serial, effects);
    return verdict;
}

/* The line */

static size_t line_room(struct stream_guest *line)
{
    struct serial *serial = container_of(line, struct serial, line);
    pthread_mutex_lock(&serial->lock);
    bool listens = serial->ier & UART_IER_RDI && !looped_back(serial);
    size_t room = listens && serial->rx_count < rx_capacity(serial)
                      ? rx_capacity(serial) - serial->rx_count
                      : 0;
    serial->line_starved = room == 0;
    pthread_mutex_unlock(&serial->lock);
    return room;
}

/* The guest may have stopped listening since it was asked. */
static size_t line_receive(struct stream_guest *line, const uint8_t *bytes, size_t count)
{
    struct serial *serial = container_of(line, struct serial, line);
    size_t taken = 0;
    pthread_mutex_lock(&serial->lock);
    if (serial->ier & UART_IER_RDI && !looped_back(serial))
        while (taken < count && serial->rx_count < rx_capacity(serial))
            rx_push(serial, bytes[taken++]);
    struct effects effects = settle(serial);
    serial->line_starved = taken < count;
    pthread_mutex_unlock(&serial->lock);
    apply(serial, effects);
    return taken;
}

static size_t line_pending(struct stream_guest *line, const uint8_t **bytes)
{
    struct serial *serial = container_of(line, struct serial, line);
    pthread_mutex_lock(&serial->lock);
    size_t count = MIN(serial->ring_count, RING_BYTES - serial->ring_start);
    *bytes = serial->ring + serial->ring_start;
    serial->line_idle = count == 0;
    pthread_mutex_unlock(&serial->lock);
    return count;
}

static void line_consumed(struct stream_guest *line, size_t count)
{
    struct serial *serial = container_of(line, struct serial, line);
    pthread_mutex_lock(&serial->lock);
    bool was_ready = transmitter_ready(serial);
    serial->ring_count -= count;
    serial->ring_start = serial->ring_count ? (serial->ring_start + count) % RING_BYTES : 0;
    if (!was_ready && transmitter_ready(serial))
        serial->thre_pending = true;
    struct effects effects = settle(serial);
    pthread_mutex_unlock(&serial->lock);
    apply(serial, effects);
}

int serial_8250_create(struct device **out, const char *name, const struct irq *irq,
                       struct nido_error *err)
{
    struct serial *serial = calloc(1, sizeof(*serial));
    uint8_t *ring = malloc(RING_BYTES);
    if (!serial || !ring) {
        free(serial);
        free(ring);
        return error_set(err, ENOMEM, "serial port %s: out of memory", name);
    }
    strncpy(serial->name, name, sizeof(serial->name) - 1);
    serial->device = (struct device){.ops = &serial_ops, .name = serial->name};
    serial->line.ops = &line_ops;
    serial->irq = irq;
    serial->ring = ring;
    serial->line_idle = true;
    pthread_mutex_init(&serial->lock, NULL);
    *out = &serial->device;
    return 0;
}

struct stream_guest *serial_8250_stream(struct device *device)
{
    return &container_of(device, struct serial, device)->line;
}

static void serial_destroy(struct device *device)
{
    struct serial *serial = container_of(device, struct serial, device);
    pthread_mutex_destroy(&serial->lock);
    free(serial->ring);
    free(serial);
}
