/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_PROBE_H
#define NIDO_ARCH_PROBE_H

#include "base/error.h"

/*
 * Runs a guest of a few instructions that takes an exception in kernel mode and returns from it,
 * which every operating system does and a KVM that only emulates kernel mode cannot. 0, or why not.
 */
int arch_probe_kernel_mode(struct nido_error *err);

#endif
