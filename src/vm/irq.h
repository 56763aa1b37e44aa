/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_IRQ_H
#define NIDO_VM_IRQ_H

/*
 * An edge-triggered interrupt line: an eventfd that KVM watches (irqfd). Raising it is one write(),
 * from any thread, without entering the VM file descriptor. In a unit test it is a plain eventfd.
 */

#include "base/error.h"

struct irq {
    int fd; /* owned; -1 where not connected */
    unsigned gsi;
};

int irq_init(struct irq *irq, unsigned gsi, struct nido_error *err);
void irq_finish(struct irq *irq);
void irq_pulse(const struct irq *irq);

#endif
