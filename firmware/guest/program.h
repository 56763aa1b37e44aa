/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_PROGRAM_H
#define NIDO_FIRMWARE_GUEST_PROGRAM_H

/* The program that nido puts into its initrds, an ELF file for the guest. */

#include <stddef.h>
#include <stdint.h>

const uint8_t *guest_program(size_t *length);

/* Tells one build of it from another. */
uint64_t guest_program_hash(void);

#endif
