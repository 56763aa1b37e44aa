/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_ELF_H
#define NIDO_FIRMWARE_ELF_H

/*
 * Loads the segments of a 64-bit ELF kernel at their physical addresses. The image is either a
 * file, whose segments are read straight into place, or lies unpacked in guest RAM already, whose
 * segments are then moved where they do not lie right.
 *
 * ELF-64 Object File Format 1.5 (TIS ELF 1.2 for the notes).
 */

#include "base/error.h"
#include "firmware/bootfile.h"
#include "vm/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ELF_SEGMENTS_MAX 16u

struct elf_image {
    const struct bootfile *file; /* NULL: the image is in RAM, at gpa */
    uint64_t gpa;
    uint64_t size_bytes;
};

struct elf_segment {
    uint64_t offset, file_bytes; /* in the image */
    uint64_t gpa, memory_bytes;
    uint64_t virtual_address;
};

struct elf_plan {
    struct elf_segment segments[ELF_SEGMENTS_MAX]; /* ascending by gpa, disjoint */
    unsigned count;
    uint64_t entry_gpa;
    uint64_t end_gpa;                 /* behind the last segment's memory */
    uint32_t pvh_gpa;                 /* 0: no XEN_ELFNOTE_PHYS32_ENTRY */
    uint64_t note_offset, note_bytes; /* the PT_NOTE segment; 0 bytes: none */
};

/* Reads the headers and checks that each segment lies in RAM, at `lowest_gpa` or above, and shares
 * no byte with another. `machine` is an EM_ number. Writes no RAM. */
int elf_plan(struct elf_plan *plan, const struct elf_image *image, const struct mem *mem,
             uint16_t machine, uint64_t lowest_gpa, struct nido_error *err);

/* Does what was planned. */
int elf_load(const struct elf_plan *plan, const struct elf_image *image, struct mem *mem,
             struct nido_error *err);

/* How machines are called in messages: "aarch64"; NULL for those nobody boots. */
const char *elf_machine_name(uint16_t machine);

#endif
