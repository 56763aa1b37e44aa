/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_ARM64_VM_ARM64_H
#define NIDO_ARCH_ARM64_VM_ARM64_H

#include "arch/arm64/gic.h"

#include <stdbool.h>
#include <stdint.h>

/* What machine->arch is here. */
struct arch_vm {
    struct gic gic;
    bool clock_stopped;   /* the machine is paused; under its park_lock, as the next */
    uint64_t clock_ticks; /* what the virtual counter said then */
};

#endif
