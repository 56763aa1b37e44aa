/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/guest.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

/* Less than nido's own patience with the guest. */
#define CONNECT_PATIENCE_S 120

/* Linux lets nobody without privileges have one below 1024, and nido's host hears no others. */
#define FIRST_PORT 512u
#define PORTS      512u

/* They are used in turn: one that has just been used may not be forgotten everywhere. */
static int bind_privileged(int fd)
{
    static unsigned next;
    int ret = -1;
    for (unsigned i = 0; ret < 0 && i < PORTS; i++) {
        const struct sockaddr_vm self = {.svm_family = AF_VSOCK,
                                         .svm_port = FIRST_PORT + next++ % PORTS,
                                         .svm_cid = VMADDR_CID_ANY};
        ret = bind(fd, (const struct sockaddr *)&self, sizeof(self));
        if (ret < 0 && errno != EADDRINUSE)
            break;
    }
    return ret;
}

int link_open(void)
{
    const struct sockaddr_vm nido = {
        .svm_family = AF_VSOCK, .svm_port = AGENT_PORT, .svm_cid = VMADDR_CID_HOST};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* Two seconds is what Linux gives it, which is not much where a hundred machines share a CPU. */
    const struct timeval patience = {.tv_sec = CONNECT_PATIENCE_S};
    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience));
    if (bind_privileged(fd) == 0 && connect(fd, (const struct sockaddr *)&nido, sizeof(nido)) == 0)
        return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

bool link_send(int fd, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    while (count) {
        ssize_t n = send(fd, at, count, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

bool link_send_frame(int fd, struct frame_writer *writer)
{
    size_t length = frame_end(writer);
    return length && link_send(fd, writer->bytes, length);
}

int link_open_stream(unsigned job, unsigned stream)
{
    uint8_t bytes[FRAME_TO_HOST_BYTES];
    int fd = link_open();
    if (fd < 0)
        return -1;
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_STREAM, job);
    frame_put_number(&writer, stream);
    if (link_send_frame(fd, &writer))
        return fd;
    close(fd);
    return -1;
}
