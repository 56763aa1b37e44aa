/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections there are: a fixed number, found by their two ports. (Both CIDs are always the
 * same.) The guest chooses the ports, so the hash has a seed that it does not know: it cannot make
 * one bucket hold all.
 */
#include "devices/virtio/vsock_hub.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

int vsock_table_init(struct vsock_hub *hub)
{
    hub->conns = calloc(VSOCK_CONNS_MAX, sizeof(*hub->conns));
    if (!hub->conns)
        return -ENOMEM;
    TAILQ_INIT(&hub->ready);
    TAILQ_INIT(&hub->waiting);
    ssize_t ignored = getrandom(&hub->hash_seed, sizeof(hub->hash_seed), GRND_NONBLOCK);
    (void)ignored; /* a known seed is worse, and works */
    hub->hash_seed |= 1;
    return 0;
}

void vsock_table_finish(struct vsock_hub *hub)
{
    free(hub->conns);
    hub->conns = NULL;
}

/* Multiplication by an odd number, and its upper bits. */
static struct vsock_conn **bucket_of(struct vsock_hub *hub, uint32_t host_port, uint32_t guest_port)
{
    uint64_t key = (uint64_t)host_port << 32 | guest_port;
    key ^= key >> 29;
    return &hub->buckets[(key * hub->hash_seed) >> 54];
}
_Static_assert(VSOCK_BUCKETS == 1u << (64 - 54), "as many buckets as bits say");

struct vsock_conn *vsock_find(struct vsock_hub *hub, uint32_t host_port, uint32_t guest_port)
{
    struct vsock_conn *conn = *bucket_of(hub, host_port, guest_port);
    while (conn && (conn->host_port != host_port || conn->guest_port != guest_port))
        conn = conn->next;
    return conn;
}

void vsock_conn_hash(struct vsock_conn *conn)
{
    struct vsock_conn **bucket = bucket_of(conn->hub, conn->host_port, conn->guest_port);
    conn->next = *bucket;
    *bucket = conn;
    conn->hashed = true;
}

void vsock_conn_unhash(struct vsock_conn *conn)
{
    if (!conn->hashed)
        return;
    struct vsock_conn **at = bucket_of(conn->hub, conn->host_port, conn->guest_port);
    while (*at != conn)
        at = &(*at)->next;
    *at = conn->next;
    conn->hashed = false;
}

bool vsock_evict_greeting(struct vsock_hub *hub)
{
    struct vsock_conn *conn;
    TAILQ_FOREACH(conn, &hub->waiting, waiting)
    {
        if (conn->state == VSOCK_GREETING) {
            vsock_conn_free(conn);
            return true;
        }
    }
    return false;
}

struct vsock_conn *vsock_conn_new(struct vsock_hub *hub, enum vsock_state state)
{
    if (!hub->spare && hub->high_water == VSOCK_CONNS_MAX && !vsock_evict_greeting(hub))
        return NULL;
    struct vsock_conn *conn = hub->spare;
    if (conn)
        hub->spare = conn->next;
    else
        conn = &hub->conns[hub->high_water++];
    *conn = (struct vsock_conn){
        .source = {.fd = -1, .ready = vsock_conn_event},
        .hub = hub,
        .state = state,
    };
    hub->in_use++;
    return conn;
}

void vsock_conn_free(struct vsock_conn *conn)
{
    struct vsock_hub *hub = conn->hub;
    vsock_conn_unhash(conn);
    vsock_conn_wait_no_more(conn);
    if (conn->in_ready)
        TAILQ_REMOVE(&hub->ready, conn, ready);
    if (conn->watched)
        loop_remove(hub->loop, &conn->source);
    if (conn->source.fd >= 0)
        close(conn->source.fd);
    free(conn->buffer);
    hub->promised -= conn->edge - conn->forwarded;
    *conn = (struct vsock_conn){.hub = hub, .source.fd = -1, .next = hub->spare};
    hub->spare = conn;
    hub->in_use--;
    if (hub->paused)
        vsock_host_watch(hub);
}
