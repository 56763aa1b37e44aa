/* SPDX-License-Identifier: Apache-2.0 */
/* Which connection a packet of the guest is for, and which has the next one for the guest. */
#include "devices/virtio/vsock_hub.h"

#include <errno.h>

int vsock_hub_init(struct vsock_hub *hub, struct loop *loop, uint64_t guest_cid, const char *path,
                   void (*work)(struct vsock_hub *hub), struct nido_error *err)
{
    *hub = (struct vsock_hub){.loop = loop, .guest_cid = guest_cid, .work = work};
    int ret = vsock_table_init(hub);
    if (ret < 0)
        return error_set(err, -ret, "vsock %s: out of memory", path);
    ret = vsock_host_init(hub, path, err);
    if (ret < 0)
        vsock_table_finish(hub);
    return ret;
}

void vsock_hub_finish(struct vsock_hub *hub)
{
    vsock_hub_drop_all(hub);
    vsock_host_finish(hub);
    vsock_table_finish(hub);
}

void vsock_hub_start(struct vsock_hub *hub)
{
    hub->running = true;
    vsock_host_watch(hub);
}

void vsock_hub_stop(struct vsock_hub *hub)
{
    hub->running = false;
    vsock_hub_drop_all(hub);
    vsock_host_watch(hub);
}

void vsock_hub_drop_all(struct vsock_hub *hub)
{
    for (unsigned i = 0; i < hub->high_water; i++)
        if (hub->conns[i].state != VSOCK_FREE)
            vsock_conn_free(&hub->conns[i]);
}

/* A packet for a connection that both sides know. False: it must not come in this state. */
static bool take_in_state(struct vsock_conn *conn, const struct vsock_packet *packet,
                          const struct iovec *iov, unsigned count, uint64_t bytes)
{
    switch (conn->state) {
    case VSOCK_WANTED:
        if (packet->op != VIRTIO_VSOCK_OP_RESPONSE || (conn->todo & VSOCK_TODO_REQUEST) ||
            !vsock_credit_learn(conn, packet))
            return false;
        vsock_host_answered(conn);
        return true;
    case VSOCK_OPEN:
    case VSOCK_CLOSING:
        if (!vsock_credit_learn(conn, packet))
            return false;
        vsock_conn_take(conn, packet, iov, count, bytes);
        return true;
    case VSOCK_DEAD: /* its RST says all */
        return true;
    default:
        return false;
    }
}

bool vsock_hub_take(struct vsock_hub *hub, const struct vsock_packet *packet,
                    const struct iovec *iov, unsigned count, uint64_t bytes)
{
    struct vsock_conn *conn = vsock_find(hub, packet->dst_port, packet->src_port);
    if (!conn && packet->op == VIRTIO_VSOCK_OP_REQUEST)
        return vsock_host_call(hub, packet);
    if (!conn)
        return false;
    if (packet->op == VIRTIO_VSOCK_OP_RST)
        vsock_conn_hang_up(conn);
    else if (!take_in_state(conn, packet, iov, count, bytes))
        vsock_conn_reset(conn);
    return true;
}

bool vsock_hub_next(struct vsock_hub *hub, struct iovec *iov, unsigned count,
                    struct vsock_packet *packet)
{
    struct vsock_conn *conn;
    while ((conn = TAILQ_FIRST(&hub->ready))) {
        TAILQ_REMOVE(&hub->ready, conn, ready);
        conn->in_ready = false;
        bool got = vsock_conn_packet(conn, iov, count, packet);
        if (conn->state != VSOCK_FREE)
            vsock_conn_schedule(conn); /* at the end of the line */
        if (got)
            return true;
    }
    return false;
}
