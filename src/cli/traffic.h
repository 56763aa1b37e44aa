/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_TRAFFIC_H
#define NIDO_CLI_TRAFFIC_H

/* What a machine has moved, in the words of `nido status` and of --result. */

#include <jansson.h>
#include <nido/machine.h>

/* Adds disk_read_bytes and so on, and moved_bytes, their sum. */
static inline void traffic_add_json(json_t *json, const struct nido_traffic *traffic)
{
    const struct {
        const char *name;
        uint64_t bytes;
    } members[] = {
        {"disk_read_bytes", traffic->disk_read_bytes},
        {"disk_written_bytes", traffic->disk_written_bytes},
        {"net_received_bytes", traffic->net_received_bytes},
        {"net_sent_bytes", traffic->net_sent_bytes},
        {"share_read_bytes", traffic->share_read_bytes},
        {"share_written_bytes", traffic->share_written_bytes},
    };
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        json_object_set_new(json, members[i].name, json_integer((json_int_t)members[i].bytes));
        sum += members[i].bytes;
    }
    json_object_set_new(json, "moved_bytes", json_integer((json_int_t)sum));
}

static inline void traffic_add(struct nido_traffic *to, const struct nido_traffic *more)
{
    to->disk_read_bytes += more->disk_read_bytes;
    to->disk_written_bytes += more->disk_written_bytes;
    to->net_received_bytes += more->net_received_bytes;
    to->net_sent_bytes += more->net_sent_bytes;
    to->share_read_bytes += more->share_read_bytes;
    to->share_written_bytes += more->share_written_bytes;
}

#endif
