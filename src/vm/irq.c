/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/irq.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int irq_init(struct irq *irq, unsigned gsi, struct nido_error *err)
{
    irq->gsi = gsi;
    irq->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (irq->fd < 0)
        return error_errno(err, errno, "cannot make an eventfd for interrupt %u", gsi);
    return 0;
}

void irq_finish(struct irq *irq)
{
    if (irq->fd >= 0)
        close(irq->fd);
    irq->fd = -1;
}

void irq_pulse(const struct irq *irq)
{
    const uint64_t one = 1;
    /* EAGAIN would mean 2^64 - 1 pulses wait: the line is high already. */
    ssize_t ignored = write(irq->fd, &one, sizeof(one));
    (void)ignored;
}
