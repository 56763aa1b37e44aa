/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/virtio/net_window.h"

#include "base/checked.h"

#include <string.h>

bool net_window_has_room(const struct net_window *window, const struct virtq *ring)
{
    return window->buffer_count < ring->size &&
           window->iov_count + VIRTQ_SIZE_MAX < NET_WINDOW_IOVS;
}

void net_window_append(struct net_window *window, const struct virtq_chain *chain)
{
    window->buffers[window->buffer_count++] =
        (struct net_buffer){chain->head, chain->in_count, chain->in_bytes};
    memcpy(&window->iov[window->iov_count], &chain->iov[chain->out_count],
           chain->in_count * sizeof(chain->iov[0]));
    window->iov_count += chain->in_count;
    window->bytes += chain->in_bytes;
}

void net_window_write(struct net_window *window, size_t offset, const void *from, size_t length)
{
    const uint8_t *bytes = from;
    for (const struct iovec *iov = window->iov; length; iov++) {
        if (offset >= iov->iov_len) {
            offset -= iov->iov_len;
            continue;
        }
        size_t n = MIN(length, iov->iov_len - offset);
        memcpy((uint8_t *)iov->iov_base + offset, bytes, n);
        bytes += n;
        length -= n;
        offset = 0;
    }
}

unsigned net_window_span(const struct net_window *window, size_t length)
{
    unsigned count = 0;
    for (uint64_t held = 0; held < length; count++)
        held += window->buffers[count].bytes;
    return count;
}

/* The rest moves to the front: a window is some forty small entries, and a frame a system call. */
static void forget_first(struct net_window *window, unsigned buffers, unsigned iovs)
{
    window->buffer_count -= buffers;
    window->iov_count -= iovs;
    memmove(window->buffers, window->buffers + buffers,
            window->buffer_count * sizeof(window->buffers[0]));
    memmove(window->iov, window->iov + iovs, window->iov_count * sizeof(window->iov[0]));
}

void net_window_push(struct net_window *window, struct virtq *ring, size_t length)
{
    unsigned buffers = 0, iovs = 0;
    while (length) {
        const struct net_buffer *buffer = &window->buffers[buffers++];
        size_t n = MIN(length, buffer->bytes);
        virtq_push(ring, buffer->head, (uint32_t)n);
        length -= n;
        iovs += buffer->iovs;
        window->bytes -= buffer->bytes;
    }
    forget_first(window, buffers, iovs);
}

void net_window_clear(struct net_window *window)
{
    window->buffer_count = window->iov_count = 0;
    window->bytes = 0;
}
