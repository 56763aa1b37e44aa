/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/program.h"

#define FNV_OFFSET 0xcbf29ce484222325u
#define FNV_PRIME  0x100000001b3u

extern const uint8_t guest_program_start[], guest_program_end[];

const uint8_t *guest_program(size_t *length)
{
    *length = (size_t)(guest_program_end - guest_program_start);
    return guest_program_start;
}

uint64_t guest_program_hash(void)
{
    uint64_t hash = FNV_OFFSET;
    for (const uint8_t *at = guest_program_start; at < guest_program_end; at++)
        hash = (hash ^ *at) * FNV_PRIME;
    return hash;
}
