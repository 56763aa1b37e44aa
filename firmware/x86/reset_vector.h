/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_RESET_VECTOR_H
#define NIDO_FIRMWARE_X86_RESET_VECTOR_H

#include "vm/mem.h"

/*
 * What stands where a PC's firmware has its reset vector. Linux on a hardware-reduced machine
 * without EFI reboots by jumping there in real mode (its "BIOS" way), also after a panic: the code
 * asks the i8042 for a reset.
 */
int reset_vector_write(struct mem *mem);

#endif
