/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may send how much on a connection of a vsock (virtio 1.2, 5.10.6.3). Each side tells in every
 * packet how large its buffer is (buf_alloc) and how many bytes have left it so far (fwd_cnt);
 * counters run freely through 32 bits.
 *
 * What the guest may send is a promise: `edge` is how far its bytes may go, and it never moves
 * back while the guest sends. How far it moves ahead depends on what all connections together were
 * promised: an eighth of what is free of PROMISED_MAX, so that a few get large windows and a
 * thousand get small ones. It doubles with use: an idle connection holds little.
 */
#include "devices/virtio/vsock_hub.h"

#include "base/checked.h"

#define PROMISED_MAX  (2 * MIB)
#define PROMISED_PART 8u
#define WINDOW_FIRST  8192u
#define WINDOW_MIN    1024u

_Static_assert(VSOCK_CONNS_MAX *WINDOW_MIN < PROMISED_MAX, "everybody can have the least");

/* ---- what the guest may send ---- */

uint32_t vsock_credit_promise(const struct vsock_conn *conn)
{
    return conn->edge - conn->forwarded;
}

void vsock_credit_set(struct vsock_conn *conn, uint32_t forwarded, uint32_t edge)
{
    conn->hub->promised -= vsock_credit_promise(conn);
    conn->forwarded = forwarded;
    conn->edge = edge;
    conn->hub->promised += vsock_credit_promise(conn);
}

/* What the promise to this connection should be. A slow reader is promised no more than its buffer
 * holds. */
static uint32_t next_promise(const struct vsock_conn *conn)
{
    const uint64_t others = conn->hub->promised - vsock_credit_promise(conn);
    const uint64_t part = (PROMISED_MAX - MIN(others, PROMISED_MAX)) / PROMISED_PART;
    const uint64_t wanted = conn->window ? 2ull * conn->window : WINDOW_FIRST;
    const uint64_t most = MIN(part, wanted);
    const uint32_t window = (uint32_t)MAX(most, WINDOW_MIN);
    return conn->buffered ? MIN(window, conn->buffer_bytes) : window;
}

bool vsock_credit_is_low(const struct vsock_conn *conn)
{
    const uint32_t next = next_promise(conn);
    return !(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && !conn->deaf &&
           vsock_credit_promise(conn) <= MIN(conn->window, next) / 2;
}

void vsock_credit_tell(struct vsock_conn *conn, struct vsock_packet *packet)
{
    if (vsock_credit_is_low(conn)) {
        const uint32_t window = next_promise(conn);
        if (!conn->buffered)
            conn->window = window;
        vsock_credit_set(conn, conn->forwarded, conn->forwarded + window);
    }
    packet->buf_alloc = vsock_credit_promise(conn);
    packet->fwd_cnt = conn->forwarded;
    conn->todo &= (uint8_t)~VSOCK_TODO_CREDIT_UPDATE;
}

/* ---- what we may send ---- */

uint32_t vsock_credit_room(const struct vsock_conn *conn)
{
    const uint32_t in_flight = conn->sent - conn->guest_fwd;
    return conn->guest_alloc > in_flight ? conn->guest_alloc - in_flight : 0;
}

/* Two threads of the guest may fill two packets and queue them the other way round: a counter that
 * goes back is late, not wrong. */
bool vsock_credit_learn(struct vsock_conn *conn, const struct vsock_packet *packet)
{
    const uint32_t progress = packet->fwd_cnt - conn->guest_fwd;
    if (progress > conn->sent - conn->guest_fwd)
        return (int32_t)progress < 0;
    conn->guest_fwd = packet->fwd_cnt;
    conn->guest_alloc = packet->buf_alloc;
    if (vsock_credit_room(conn))
        conn->asked = false;
    return true;
}
