/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_VSOCK_HUB_H
#define NIDO_DEVICES_VIRTIO_VSOCK_HUB_H

/*
 * The connections behind a vsock device, without its rings: vsock.c brings packets of the guest
 * here and fetches packets for it. All of it lives on one loop's thread.
 *
 *     vsock.c          rings, chains, config space               (the device)
 *     vsock_hub.c      which connection a packet is for, and whose turn it is
 *     vsock_host.c     connections in the making: clients of the host, calls of the guest, patience
 *     vsock_conn.c     one connection: its bytes and its end
 *     vsock_credit.c   who may send how much
 *     vsock_table.c    the connections there are
 *
 * The states of a connection, and what may happen in each (the guest's RST, and a reset of the
 * device, end it in any of them):
 *
 *  GREETING  A client of the host has connected and not said "CONNECT PORT" yet; the guest knows
 *            nothing of it. The line: WANTED. Anything else, the end of patience, or a newcomer
 *            that finds the table full: FREE.
 *  WANTED    The guest is sent REQUEST. RESPONSE: "OK PORT" goes to the client, OPEN. The client
 *            leaves, or the guest takes too long: DEAD.
 *  CALLING   The guest sent REQUEST, and the listener at PATH_PORT has a full queue: asked again
 *            every few milliseconds. It takes the call: OPEN. Nobody is there, or patience ends:
 *            DEAD. (Most calls go to OPEN or DEAD at once.)
 *  OPEN      Bytes flow, in each direction until its sender (guest_shut SEND, host_eof) or its
 *            receiver (guest_shut RCV, deaf) has had enough. The guest has ended both directions
 *            and its bytes are written out: DEAD. The host has, and the guest was told: CLOSING.
 *  CLOSING   The host's socket is closed; the guest was sent SHUTDOWN for both directions and owes
 *            a RST (5.10.6.5). Out of patience: DEAD.
 *  DRAINING  The guest sent RST while bytes of it wait for a slow reader on the host. The guest may
 *            use the ports again already. Written out, or the reader is gone: FREE.
 *  DEAD      Nothing is left but a RST for the guest, for which there was no buffer yet: FREE.
 */

#include "devices/virtio/vsock_packet.h"
#include "host/loop.h"
#include "host/unix_listener.h"

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/uio.h>

#define VSOCK_CONNS_MAX     1024u
#define VSOCK_BUCKETS       1024u
#define VSOCK_GREETING_MAX  32u         /* of "CONNECT 4294967295\r\n" */
#define VSOCK_PATIENCE_NS   5000000000u /* with greetings, answers and a RST that is owed */
#define VSOCK_RETRY_NS      20000000u   /* between two tries of a call; after running out of fds */
#define VSOCK_SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

enum vsock_state {
    VSOCK_FREE,
    VSOCK_GREETING,
    VSOCK_WANTED,
    VSOCK_CALLING,
    VSOCK_OPEN,
    VSOCK_CLOSING,
    VSOCK_DRAINING,
    VSOCK_DEAD,
};

/* Packets that the guest is owed; sent in this order. */
enum vsock_todo {
    VSOCK_TODO_REQUEST = 1,
    VSOCK_TODO_RESPONSE = 2,
    VSOCK_TODO_SHUTDOWN = 4,
    VSOCK_TODO_CREDIT_UPDATE = 8,
    VSOCK_TODO_CREDIT_REQUEST = 16,
};

struct vsock_hub;

struct vsock_conn {
    struct loop_source source; /* the host's socket; fd -1: none */
    struct vsock_hub *hub;
    TAILQ_ENTRY(vsock_conn) ready, waiting;
    struct vsock_conn *next; /* in its bucket, or of the spare ones */
    uint64_t deadline_ns;    /* while waiting */
    uint32_t host_port, guest_port;
    enum vsock_state state;
    uint8_t todo;       /* enum vsock_todo */
    uint8_t guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_*, as the guest has said */
    uint8_t told_shut;  /* as we have told it */
    bool hashed, in_ready, in_waiting;
    bool watched;  /* `source` is with the loop */
    bool hup;      /* the peer is gone for good; epoll would say it for ever */
    bool readable; /* the socket may have bytes or its end for us */
    bool silenced; /* the loop was told not to say so again until we have looked */
    bool host_eof; /* the host sends no more */
    bool deaf;     /* the host takes no more */
    bool wr_shut;  /* the host was told that the guest sends no more */
    bool asked;    /* for credit, since there was none */

    /* Guest to host. Counters of bytes run freely through 32 bits, as in the packets. */
    uint32_t received;  /* from the guest */
    uint32_t forwarded; /* to the host, or dropped for good: our fwd_cnt */
    uint32_t edge;      /* how far `received` may go: forwarded + buf_alloc as last told */
    uint32_t window;    /* how far the edge was last moved ahead */
    uint8_t *buffer;    /* what the host's socket would not take yet, a ring; NULL: nothing */
    uint32_t buffer_bytes, buffer_start, buffered;

    /* Host to guest. */
    uint32_t sent;                   /* to the guest */
    uint32_t guest_fwd, guest_alloc; /* the guest's fwd_cnt and buf_alloc */

    uint8_t line_length;
    char line[VSOCK_GREETING_MAX];
};

TAILQ_HEAD(vsock_list, vsock_conn);

struct vsock_hub {
    struct loop *loop;
    uint64_t guest_cid;
    uint32_t guarded_port; /* 0: none */
    struct unix_listener host;
    void (*work)(struct vsock_hub *hub); /* called when there may be packets for the guest */
    bool running;                        /* a driver is there */

    struct vsock_conn *conns; /* all VSOCK_CONNS_MAX; pages of unused ones stay untouched */
    unsigned high_water;      /* those from here on were never used */
    unsigned in_use;
    struct vsock_conn *spare;
    struct vsock_conn *buckets[VSOCK_BUCKETS];
    uint64_t hash_seed;
    uint32_t next_port; /* for clients of the host */

    struct vsock_list ready;   /* have packets for the guest; the first is next */
    struct vsock_list waiting; /* for something, until their deadline; the first ends first */
    uint64_t promised;         /* bytes that guests may send and we would have to hold, in all */

    struct loop_source listener;
    bool paused; /* clients wait outside: this process has no descriptor for one more */
    struct loop_source timer;
    uint64_t timer_at_ns; /* 0: not set */
};

/* ---- vsock_hub.c: for the device ---- */

int vsock_hub_init(struct vsock_hub *hub, struct loop *loop, uint64_t guest_cid, const char *path,
                   void (*work)(struct vsock_hub *hub), struct nido_error *err);
void vsock_hub_finish(struct vsock_hub *hub);

/* A driver has come: clients are let in. It has gone: all connections end, without a word to it. */
void vsock_hub_start(struct vsock_hub *hub);
void vsock_hub_stop(struct vsock_hub *hub);
void vsock_hub_drop_all(struct vsock_hub *hub);

/* A packet from the guest to us, with `bytes` bytes behind its header in the vectors. False: there
 * is no such connection, and the guest is to be told so. */
bool vsock_hub_take(struct vsock_hub *hub, const struct vsock_packet *packet,
                    const struct iovec *iov, unsigned count, uint64_t bytes);

/* Whether vsock_hub_next() may have one. */
static inline bool vsock_hub_has_packet(const struct vsock_hub *hub)
{
    return !TAILQ_EMPTY(&hub->ready);
}
/* The next packet for the guest, with its data in the vectors. The connections take turns. False:
 * there is none. The vectors are as before afterwards. */
bool vsock_hub_next(struct vsock_hub *hub, struct iovec *iov, unsigned count,
                    struct vsock_packet *packet);

/* ---- vsock_table.c ---- */

int vsock_table_init(struct vsock_hub *hub);
void vsock_table_finish(struct vsock_hub *hub);
/* A fresh connection. Where there is no room, the client that has been silent longest makes some.
 * NULL: there is none. */
struct vsock_conn *vsock_conn_new(struct vsock_hub *hub, enum vsock_state state);
/* Closes, frees and forgets. Tells nobody. */
void vsock_conn_free(struct vsock_conn *conn);
/* Ends the client that has said nothing for longest; false: there is none. */
bool vsock_evict_greeting(struct vsock_hub *hub);

struct vsock_conn *vsock_find(struct vsock_hub *hub, uint32_t host_port, uint32_t guest_port);
/* Under the two ports that it has. */
void vsock_conn_hash(struct vsock_conn *conn);
void vsock_conn_unhash(struct vsock_conn *conn);

/* ---- vsock_host.c ---- */

int vsock_host_init(struct vsock_hub *hub, const char *path, struct nido_error *err);
void vsock_host_finish(struct vsock_hub *hub);
/* Lets clients in, where a driver is there. */
void vsock_host_watch(struct vsock_hub *hub);
/* The guest's REQUEST. False: no room, or not for this caller. */
bool vsock_host_call(struct vsock_hub *hub, const struct vsock_packet *packet);
/* The guest's RESPONSE to a WANTED connection. */
void vsock_host_answered(struct vsock_conn *conn);
/* Patience starts now / is needed no more. */
void vsock_conn_wait(struct vsock_conn *conn);
void vsock_conn_wait_no_more(struct vsock_conn *conn);
/* Something happened to the socket, in any state. */
void vsock_conn_event(struct loop_source *source, uint32_t events);

/* ---- vsock_credit.c ---- */

/* What the guest may send and we would have to hold, with what we hold already. */
uint32_t vsock_credit_promise(const struct vsock_conn *conn);
void vsock_credit_set(struct vsock_conn *conn, uint32_t forwarded, uint32_t edge);
/* Whether the guest should be told of more room now. */
bool vsock_credit_is_low(const struct vsock_conn *conn);
/* Fills the credit fields of a packet, and moves the edge when it is time. */
void vsock_credit_tell(struct vsock_conn *conn, struct vsock_packet *packet);
/* How much the guest has room for. */
uint32_t vsock_credit_room(const struct vsock_conn *conn);
/* The credit fields of the guest's packet. False: it claims to have taken what was never sent. */
bool vsock_credit_learn(struct vsock_conn *conn, const struct vsock_packet *packet);

/* ---- vsock_conn.c ---- */

/* Watches the socket for what is wanted of it in this state. */
void vsock_conn_watch(struct vsock_conn *conn);
/* In line for the guest's attention, if there is anything for it. */
void vsock_conn_schedule(struct vsock_conn *conn);
/* The connection has its socket, and the guest agrees. */
void vsock_conn_open(struct vsock_conn *conn);
/* Closes the host's socket; what waits for it is lost. The guest is sent RST. */
void vsock_conn_reset(struct vsock_conn *conn);
/* The guest's RST. */
void vsock_conn_hang_up(struct vsock_conn *conn);
/* Any other packet of the guest for an OPEN or CLOSING connection. */
void vsock_conn_take(struct vsock_conn *conn, const struct vsock_packet *packet,
                     const struct iovec *iov, unsigned count, uint64_t bytes);
/* The socket of an OPEN or DRAINING connection. */
void vsock_conn_socket_ready(struct vsock_conn *conn, uint32_t events);
/* As vsock_hub_next(). Afterwards the connection may be FREE. */
bool vsock_conn_packet(struct vsock_conn *conn, struct iovec *iov, unsigned count,
                       struct vsock_packet *packet);

#endif
