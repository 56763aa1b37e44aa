/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Frames with their length in front, over a stream socket.
 *
 * Receive: one readv() takes a frame from the socket straight into the guest's buffers and, behind
 * it, the length of the next frame: one system call a frame and no copy, as with a TAP. Reading
 * ahead more than that length would save system calls where frames are small, but the far end that
 * matters sends up to 64 KiB in one, which would then be copied; and frames that wait in here while
 * the socket is silent would need a wake-up of their own (the fd is to be readable whenever a frame
 * waits). A frame that has not come whole is moved to `hold` and finished there, because the
 * guest's buffers may be others at the next call.
 *
 * Send: one sendmsg() with the length and the frame. What the socket did not take of it is copied
 * and goes first as soon as there is room, whether or not the guest sends anything more; until then
 * the device is told EAGAIN. Linux cuts a write into socket buffers of 36 KiB and takes each whole
 * or not at all, so a frame goes in two pieces at most; passt (2023) counts on that: it reads a
 * piece that is missing with one more recv().
 *
 * After nonsense (a length that no frame has) the stream cannot be understood any more: the backend
 * counts as gone.
 */

#include "host/net_stream.h"

#include "base/checked.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct net_stream *from_net(struct net *net)
{
    return container_of(net, struct net_stream, net);
}

static ssize_t broken(struct net_stream *self)
{
    self->broken = true;
    return -ENODEV;
}

/* ---- vectors ---- */

static size_t iov_bytes(const struct iovec *iov, unsigned count)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* What lies at `*offset` of `*iov`, `length` bytes at most, and moves both behind it. There is at
 * least one byte. */
static struct iovec iov_next(const struct iovec **iov, size_t *offset, size_t length)
{
    while (*offset >= (*iov)->iov_len) {
        *offset -= (*iov)->iov_len;
        (*iov)++;
    }
    const struct iovec piece = {(uint8_t *)(*iov)->iov_base + *offset,
                                MIN(length, (*iov)->iov_len - *offset)};
    *offset += piece.iov_len;
    return piece;
}

/* Describes `length` bytes from `offset` on in `to`. Returns how many entries that took; 0: more
 * than `room`. */
static unsigned iov_slice(struct iovec *to, unsigned room, const struct iovec *iov, size_t offset,
                          size_t length)
{
    unsigned used = 0;
    for (; length; length -= to[used++].iov_len) {
        if (used == room)
            return 0;
        to[used] = iov_next(&iov, &offset, length);
    }
    return used;
}

static void iov_put(const struct iovec *iov, size_t offset, const uint8_t *from, size_t length)
{
    while (length) {
        const struct iovec piece = iov_next(&iov, &offset, length);
        memcpy(piece.iov_base, from, piece.iov_len);
        from += piece.iov_len;
        length -= piece.iov_len;
    }
}

static void iov_get(const struct iovec *iov, size_t offset, uint8_t *to, size_t length)
{
    while (length) {
        const struct iovec piece = iov_next(&iov, &offset, length);
        memcpy(to, piece.iov_base, piece.iov_len);
        to += piece.iov_len;
        length -= piece.iov_len;
    }
}

/* ---- receive ---- */

/* Bytes read; 0: none wait; -ENODEV: the far end is gone. */
static ssize_t read_some(struct net_stream *self, const struct iovec *iov, unsigned count)
{
    ssize_t got;
    do {
        got = readv(self->net.fd, iov, (int)count);
    } while (got < 0 && errno == EINTR);
    if (got > 0)
        return got;
    return got < 0 && errno == EAGAIN ? 0 : broken(self);
}

/* The length of the next frame; 0: has not come yet; -ENODEV. */
static ssize_t next_length(struct net_stream *self)
{
    if (self->prefix_bytes < NET_STREAM_PREFIX_BYTES) {
        const struct iovec iov = {self->prefix + self->prefix_bytes,
                                  NET_STREAM_PREFIX_BYTES - self->prefix_bytes};
        ssize_t got = read_some(self, &iov, 1);
        if (got <= 0)
            return got;
        self->prefix_bytes += (unsigned)got;
        if (self->prefix_bytes < NET_STREAM_PREFIX_BYTES)
            return 0;
    }
    uint32_t length;
    memcpy(&length, self->prefix, sizeof(length));
    length = ntohl(length);
    if (length >= ETH_HLEN && length <= NET_FRAME_MAX_BYTES)
        return (ssize_t)length;
    log_warn("%s announced a frame of %u bytes, which none has", self->net.name, length);
    return broken(self);
}

/* Reads what `self->vectors` describe, `wanted` bytes of a frame, and then the next prefix. */
static ssize_t read_frame(struct net_stream *self, unsigned vectors, size_t wanted)
{
    self->vectors[vectors] = (struct iovec){self->prefix, NET_STREAM_PREFIX_BYTES};
    ssize_t got = read_some(self, self->vectors, vectors + 1);
    if (got >= (ssize_t)wanted)
        self->prefix_bytes = (unsigned)((size_t)got - wanted);
    return got;
}

static ssize_t delivered(const struct iovec *iov, size_t length)
{
    static const uint8_t header[NET_HEADER_BYTES];
    iov_put(iov, 0, header, NET_HEADER_BYTES);
    return (ssize_t)(NET_HEADER_BYTES + length);
}

/* `self->vectors` describe the place of the frame behind the header in `iov`. */
static ssize_t receive_straight(struct net_stream *self, const struct iovec *iov, size_t length,
                                unsigned vectors)
{
    ssize_t got = read_frame(self, vectors, length);
    if (got <= 0)
        return got;
    if ((size_t)got >= length)
        return delivered(iov, length);
    iov_get(iov, NET_HEADER_BYTES, self->hold, (size_t)got);
    self->held = (size_t)got;
    return 0;
}

static ssize_t receive_in_pieces(struct net_stream *self, const struct iovec *iov, size_t room,
                                 size_t length)
{
    size_t wanted = length - self->held;
    self->vectors[0] = (struct iovec){self->hold + self->held, wanted};
    ssize_t got = read_frame(self, 1, wanted);
    if (got <= 0)
        return got;
    self->held += MIN((size_t)got, wanted);
    if (self->held < length)
        return 0;
    self->held = 0;
    length = MIN(length, room);
    iov_put(iov, NET_HEADER_BYTES, self->hold, length);
    return delivered(iov, length);
}

ssize_t net_stream_receive(struct net *net, struct iovec *iov, unsigned count)
{
    struct net_stream *self = from_net(net);
    if (self->broken)
        return -ENODEV;
    size_t room = iov_bytes(iov, count);
    if (room < NET_HEADER_BYTES)
        return -EINVAL;
    room -= NET_HEADER_BYTES;
    ssize_t length = next_length(self);
    if (length <= 0)
        return length;
    if (self->held == 0 && room >= (size_t)length) {
        unsigned vectors =
            iov_slice(self->vectors, NET_STREAM_IOVS - 1, iov, NET_HEADER_BYTES, (size_t)length);
        if (vectors)
            return receive_straight(self, iov, (size_t)length, vectors);
    }
    return receive_in_pieces(self, iov, room, (size_t)length);
}

/* ---- send ---- */

/* Bytes sent; a negative errno, -ENODEV when the far end is gone. */
static ssize_t send_some(struct net_stream *self, struct iovec *iov, unsigned count)
{
    const struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t sent;
    do {
        sent = sendmsg(self->net.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
        return -errno;
    return broken(self);
}

/* 0: nothing is left of the last frame. */
static int send_unsent(struct net_stream *self)
{
    while (self->unsent_bytes) {
        struct iovec rest = {self->unsent_frame + self->unsent_at, self->unsent_bytes};
        ssize_t sent = send_some(self, &rest, 1);
        if (sent < 0)
            return sent == -ENODEV ? -ENODEV : -EAGAIN;
        self->unsent_at += (size_t)sent;
        self->unsent_bytes -= (size_t)sent;
    }
    loop_modify(self->loop, &self->unsent, 0);
    return 0;
}

/* Lets the device find out by itself that the far end is gone: it has the same socket. */
static void unsent_ready(struct loop_source *source, uint32_t events)
{
    struct net_stream *self = container_of(source, struct net_stream, unsent);
    if (events & (EPOLLERR | EPOLLHUP) || send_unsent(self) == -ENODEV)
        loop_remove(self->loop, source);
}

/* The last `bytes` of `iov`, from `offset` on, go when there is room. */
static void keep_unsent(struct net_stream *self, const struct iovec *iov, size_t offset,
                        size_t bytes)
{
    iov_get(iov, offset, self->unsent_frame, bytes);
    self->unsent_at = 0;
    self->unsent_bytes = bytes;
    loop_modify(self->loop, &self->unsent, EPOLLOUT);
}

/* A frame in more pieces than `vectors` takes: by way of a copy. */
static ssize_t send_put_together(struct net_stream *self, const struct iovec *iov, size_t length)
{
    iov_get(iov, NET_HEADER_BYTES, self->unsent_frame + NET_STREAM_PREFIX_BYTES, length);
    memcpy(self->unsent_frame, self->vectors[0].iov_base, NET_STREAM_PREFIX_BYTES);
    self->unsent_at = 0;
    self->unsent_bytes = NET_STREAM_PREFIX_BYTES + length;
    loop_modify(self->loop, &self->unsent, EPOLLOUT);
    return send_unsent(self) == -ENODEV ? -ENODEV : (ssize_t)(NET_HEADER_BYTES + length);
}

static ssize_t send_frame(struct net_stream *self, const struct iovec *iov, size_t length)
{
    uint32_t prefix = htonl((uint32_t)length);
    self->vectors[0] = (struct iovec){&prefix, sizeof(prefix)};
    unsigned count =
        iov_slice(self->vectors + 1, NET_STREAM_IOVS - 1, iov, NET_HEADER_BYTES, length);
    if (!count)
        return send_put_together(self, iov, length);
    ssize_t sent = send_some(self, self->vectors, count + 1);
    if (sent < 0)
        return sent;
    size_t bytes = sizeof(prefix) + length;
    if ((size_t)sent < bytes)
        keep_unsent(self, self->vectors, (size_t)sent, bytes - (size_t)sent);
    return (ssize_t)(NET_HEADER_BYTES + length);
}

ssize_t net_stream_send(struct net *net, const struct iovec *iov, unsigned count)
{
    struct net_stream *self = from_net(net);
    if (self->broken)
        return -ENODEV;
    size_t bytes = iov_bytes(iov, count);
    if (bytes < NET_HEADER_BYTES + ETH_HLEN || bytes > NET_HEADER_BYTES + NET_FRAME_MAX_BYTES)
        return -EMSGSIZE;
    if (self->unsent_bytes) {
        int rc = send_unsent(self);
        if (rc)
            return rc;
    }
    return send_frame(self, iov, bytes - NET_HEADER_BYTES);
}

/* ---- the rest ---- */

/* There is none to set. */
int net_stream_set_offload(struct net *net, const struct net_offload *offload)
{
    return from_net(net)->broken ? -ENODEV : 0;
}

int net_stream_init(struct net_stream *self, int fd, struct loop *loop, struct nido_error *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return error_errno(err, errno, "cannot prepare the socket");
    self->unsent = (struct loop_source){.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0), .ready = unsent_ready};
    if (self->unsent.fd < 0)
        return error_errno(err, errno, "cannot duplicate the socket");
    int rc = loop_add(loop, &self->unsent, err);
    if (rc) {
        close(self->unsent.fd);
        return rc;
    }
    self->loop = loop;
    self->net.fd = fd;
    return 0;
}

void net_stream_finish(struct net_stream *self)
{
    loop_remove(self->loop, &self->unsent);
    close(self->unsent.fd);
    close(self->net.fd);
}
