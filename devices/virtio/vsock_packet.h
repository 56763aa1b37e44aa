/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_VIRTIO_VSOCK_PACKET_H
#define NIDO_DEVICES_VIRTIO_VSOCK_PACKET_H

/* The header in front of every packet of a vsock (virtio 1.2, 5.10.6), in the host's byte order. */

#include "base/bytes.h"

#include <linux/virtio_vsock.h>
#include <stddef.h>
#include <stdint.h>

#define VSOCK_HEADER_BYTES sizeof(struct virtio_vsock_hdr)
#define VSOCK_HOST_CID     2u

struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len; /* bytes of data behind the header */
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt; /* the sender's credit, see vsock_credit.c */
};

#define VSOCK_FIELD(raw, field) ((raw) + offsetof(struct virtio_vsock_hdr, field))

static inline struct vsock_packet vsock_packet_parse(const uint8_t raw[VSOCK_HEADER_BYTES])
{
    return (struct vsock_packet){
        .src_cid = get_le64(VSOCK_FIELD(raw, src_cid)),
        .dst_cid = get_le64(VSOCK_FIELD(raw, dst_cid)),
        .src_port = get_le32(VSOCK_FIELD(raw, src_port)),
        .dst_port = get_le32(VSOCK_FIELD(raw, dst_port)),
        .len = get_le32(VSOCK_FIELD(raw, len)),
        .type = get_le16(VSOCK_FIELD(raw, type)),
        .op = get_le16(VSOCK_FIELD(raw, op)),
        .flags = get_le32(VSOCK_FIELD(raw, flags)),
        .buf_alloc = get_le32(VSOCK_FIELD(raw, buf_alloc)),
        .fwd_cnt = get_le32(VSOCK_FIELD(raw, fwd_cnt)),
    };
}

static inline void vsock_packet_format(const struct vsock_packet *packet,
                                       uint8_t raw[VSOCK_HEADER_BYTES])
{
    put_le64(VSOCK_FIELD(raw, src_cid), packet->src_cid);
    put_le64(VSOCK_FIELD(raw, dst_cid), packet->dst_cid);
    put_le32(VSOCK_FIELD(raw, src_port), packet->src_port);
    put_le32(VSOCK_FIELD(raw, dst_port), packet->dst_port);
    put_le32(VSOCK_FIELD(raw, len), packet->len);
    put_le16(VSOCK_FIELD(raw, type), packet->type);
    put_le16(VSOCK_FIELD(raw, op), packet->op);
    put_le32(VSOCK_FIELD(raw, flags), packet->flags);
    put_le32(VSOCK_FIELD(raw, buf_alloc), packet->buf_alloc);
    put_le32(VSOCK_FIELD(raw, fwd_cnt), packet->fwd_cnt);
}

#endif
