/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/elf.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "firmware/room.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>

/* Linux has five or six; a file with hundreds is no kernel. */
#define PROGRAM_HEADERS_MAX 64u
/* Linux has half a KiB of notes. */
#define NOTES_MAX_BYTES (64u << 10)
/* xen/include/public/elfnote.h: where a PVH kernel wants to be entered, in 32-bit mode. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18u
#define NOTE_HEADER_BYTES        12u

static int image_read(const struct elf_image *image, const struct mem *mem, uint64_t offset,
                      void *to, size_t length, struct nido_error *err)
{
    if (image->file)
        return bootfile_read(image->file, offset, to, length, err);
    if (!checked_inside(offset, length, image->size_bytes) ||
        mem_read(mem, image->gpa + offset, to, length) < 0)
        return error_set(err, EINVAL, "the ELF kernel in it ends early; copy the file again");
    return 0;
}

const char *elf_machine_name(uint16_t machine)
{
    switch (machine) {
    case EM_386:
        return "i386 (32-bit x86)";
    case EM_X86_64:
        return "x86-64";
    case EM_ARM:
        return "arm (32-bit)";
    case EM_AARCH64:
        return "aarch64";
    case EM_RISCV:
        return "riscv";
    case EM_PPC64:
        return "ppc64";
    case EM_S390:
        return "s390x";
    default:
        return NULL;
    }
}

static int check_machine(const Elf64_Ehdr *header, uint16_t machine, struct nido_error *err)
{
    bool big = header->e_ident[EI_DATA] == ELFDATA2MSB;
    uint16_t is = big ? be16toh(header->e_machine) : le16toh(header->e_machine);
    const char *name = elf_machine_name(is);

    if (is == machine && !big)
        return 0;
    if (!name)
        return error_set(err, ENOEXEC,
                         "an ELF file for machine type %u; this machine boots %s "
                         "kernels",
                         is, elf_machine_name(machine));
    return error_set(err, ENOEXEC, "a kernel for %s; this machine boots %s kernels", name,
                     elf_machine_name(machine));
}

static int read_header(Elf64_Ehdr *header, const struct elf_image *image, const struct mem *mem,
                       uint16_t machine, struct nido_error *err)
{
    int r = image_read(image, mem, 0, header, sizeof(*header), err);
    if (r < 0)
        return r;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return error_set(err, ENOEXEC, "what it holds is not an ELF kernel; is it a Linux image?");
    r = check_machine(header, machine, err);
    if (r < 0)
        return r;
    if (header->e_ident[EI_CLASS] != ELFCLASS64)
        return error_set(err, ENOEXEC, "a 32-bit ELF file; use a 64-bit kernel");
    if (le16toh(header->e_type) != ET_EXEC && le16toh(header->e_type) != ET_DYN)
        return error_set(err, ENOEXEC,
                         "an ELF file that cannot be run (an object or a core?); name "
                         "the vmlinux");
    uint16_t count = le16toh(header->e_phnum);
    if (le16toh(header->e_phentsize) != sizeof(Elf64_Phdr) || count == 0 ||
        count > PROGRAM_HEADERS_MAX)
        return error_set(err, EINVAL, "its ELF header is broken: %u program headers of %u bytes",
                         count, le16toh(header->e_phentsize));
    return 0;
}

static int check_segment(const struct elf_segment *segment, const struct elf_image *image,
                         const struct mem *mem, uint64_t lowest_gpa, struct nido_error *err)
{
    if (segment->file_bytes > segment->memory_bytes)
        return error_set(err, EINVAL,
                         "its ELF header is broken: a segment is larger in the file "
                         "than in memory");
    if (!checked_inside(segment->offset, segment->file_bytes, image->size_bytes))
        return error_set(err, EINVAL,
                         "the file is truncated: a segment ends behind its end; copy "
                         "or download it again");
    if (segment->gpa < lowest_gpa)
        return error_set(err, EINVAL,
                         "a segment at 0x%llx, below 0x%llx, where the machine's "
                         "tables lie; is it a Linux kernel?",
                         (unsigned long long)segment->gpa, (unsigned long long)lowest_gpa);
    /* Not room_error(): such an address comes from a broken header, and no RAM size cures it. */
    if (!checked_inside(segment->gpa, segment->memory_bytes, 4 * GIB))
        return error_set(err, EINVAL,
                         "a segment of 0x%llx bytes at 0x%llx, not below 4 GiB; its "
                         "header is broken or it is no Linux kernel",
                         (unsigned long long)segment->memory_bytes,
                         (unsigned long long)segment->gpa);
    if (segment->gpa + segment->memory_bytes > room_end(mem))
        return room_error(mem, "it", segment->gpa + segment->memory_bytes, err);
    return 0;
}

/* Keeps the list ascending; refuses an overlap with either neighbour. */
static int add_segment(struct elf_plan *plan, const struct elf_segment *segment,
                       struct nido_error *err)
{
    if (plan->count == ELF_SEGMENTS_MAX)
        return error_set(err, EINVAL, "more than %u segments; is it a Linux kernel?",
                         ELF_SEGMENTS_MAX);
    unsigned at = plan->count;
    for (; at > 0 && plan->segments[at - 1].gpa > segment->gpa; at--)
        plan->segments[at] = plan->segments[at - 1];
    plan->segments[at] = *segment;
    plan->count++;

    for (unsigned i = 1; i < plan->count; i++) {
        const struct elf_segment *low = &plan->segments[i - 1];
        if (low->gpa + low->memory_bytes > plan->segments[i].gpa)
            return error_set(err, EINVAL,
                             "its ELF header is broken: two segments overlap at "
                             "0x%llx",
                             (unsigned long long)plan->segments[i].gpa);
    }
    return 0;
}

static int plan_segments(struct elf_plan *plan, const Elf64_Ehdr *header,
                         const struct elf_image *image, const struct mem *mem, uint64_t lowest_gpa,
                         struct nido_error *err)
{
    Elf64_Phdr table[PROGRAM_HEADERS_MAX];
    unsigned count = le16toh(header->e_phnum);
    int r = image_read(image, mem, le64toh(header->e_phoff), table, count * sizeof(table[0]), err);

    for (unsigned i = 0; r == 0 && i < count; i++) {
        struct elf_segment segment = {
            .offset = le64toh(table[i].p_offset),
            .file_bytes = le64toh(table[i].p_filesz),
            .gpa = le64toh(table[i].p_paddr),
            .memory_bytes = le64toh(table[i].p_memsz),
            .virtual_address = le64toh(table[i].p_vaddr),
        };
        if (le32toh(table[i].p_type) == PT_NOTE && !plan->note_bytes) {
            plan->note_offset = segment.offset;
            plan->note_bytes = segment.file_bytes;
        }
        if (le32toh(table[i].p_type) != PT_LOAD || !segment.memory_bytes)
            continue;
        r = check_segment(&segment, image, mem, lowest_gpa, err);
        if (r == 0)
            r = add_segment(plan, &segment, err);
    }
    return r;
}

/* Linux gives e_entry as a physical address, others as a virtual one. */
static int plan_entry(struct elf_plan *plan, uint64_t entry, struct nido_error *err)
{
    for (unsigned i = 0; i < plan->count; i++) {
        const struct elf_segment *segment = &plan->segments[i];
        if (entry >= segment->gpa && entry - segment->gpa < segment->memory_bytes) {
            plan->entry_gpa = entry;
            return 0;
        }
    }
    for (unsigned i = 0; i < plan->count; i++) {
        const struct elf_segment *segment = &plan->segments[i];
        uint64_t into = entry - segment->virtual_address;
        if (entry >= segment->virtual_address && into < segment->memory_bytes) {
            plan->entry_gpa = segment->gpa + into;
            return 0;
        }
    }
    return error_set(err, EINVAL,
                     "its ELF header is broken: the entry point 0x%llx lies in no "
                     "segment",
                     (unsigned long long)entry);
}

/* TIS ELF 1.2, "Note Section": name and descriptor are each padded to 4 bytes. Every round moves on
 * by at least the header, so a note that claims nonsense ends the search and cannot hold it up. */
static uint32_t find_pvh_note(const uint8_t *notes, uint64_t length)
{
    uint64_t at = 0;
    while (checked_inside(at, NOTE_HEADER_BYTES, length)) {
        uint32_t name_bytes = get_le32(notes + at);
        uint32_t desc_bytes = get_le32(notes + at + 4);
        uint32_t type = get_le32(notes + at + 8);
        uint64_t name = at + NOTE_HEADER_BYTES;
        uint64_t desc = name + align_up(name_bytes, 4);

        if (!checked_inside(desc, desc_bytes, length))
            return 0;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_bytes == 4 && desc_bytes >= 4 &&
            memcmp(notes + name, "Xen", 4) == 0)
            return get_le32(notes + desc);
        at = desc + align_up(desc_bytes, 4);
    }
    return 0;
}

static int plan_pvh(struct elf_plan *plan, const struct elf_image *image, const struct mem *mem,
                    struct nido_error *err)
{
    if (plan->note_bytes == 0 || plan->note_bytes > NOTES_MAX_BYTES)
        return 0;
    own_mem uint8_t *notes = malloc(plan->note_bytes);
    if (!notes)
        return error_set(err, ENOMEM, "the host has no memory left");
    int r = image_read(image, mem, plan->note_offset, notes, plan->note_bytes, err);
    if (r < 0)
        return r;
    uint32_t entry = find_pvh_note(notes, plan->note_bytes);
    for (unsigned i = 0; i < plan->count; i++) {
        const struct elf_segment *segment = &plan->segments[i];
        if (entry >= segment->gpa && entry - segment->gpa < segment->memory_bytes)
            plan->pvh_gpa = entry;
    }
    return 0;
}

int elf_plan(struct elf_plan *plan, const struct elf_image *image, const struct mem *mem,
             uint16_t machine, uint64_t lowest_gpa, struct nido_error *err)
{
    Elf64_Ehdr header;
    *plan = (struct elf_plan){0};

    int r = read_header(&header, image, mem, machine, err);
    if (r == 0)
        r = plan_segments(plan, &header, image, mem, lowest_gpa, err);
    if (r == 0 && plan->count == 0)
        r = error_set(err, EINVAL, "an ELF file with nothing to load; name the vmlinux");
    if (r == 0)
        r = plan_entry(plan, le64toh(header.e_entry), err);
    if (r == 0)
        r = plan_pvh(plan, image, mem, err);
    if (r == 0) {
        const struct elf_segment *last = &plan->segments[plan->count - 1];
        plan->end_gpa = last->gpa + last->memory_bytes;
    }
    return r;
}

static int load_from_file(const struct elf_plan *plan, const struct bootfile *file, struct mem *mem,
                          struct nido_error *err)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < plan->count; i++) {
        const struct elf_segment *segment = &plan->segments[i];
        if (segment->file_bytes)
            r = bootfile_read(file, segment->offset,
                              mem_for_write(mem, segment->gpa, segment->file_bytes),
                              segment->file_bytes, err);
    }
    return r;
}

static void move_segment(const struct elf_segment *segment, uint64_t image_gpa, struct mem *mem)
{
    if (segment->file_bytes)
        memmove(mem_for_write(mem, segment->gpa, segment->file_bytes),
                mem_for_read(mem, image_gpa + segment->offset, segment->file_bytes),
                segment->file_bytes);
}

/* Where the unpacked image lay there are bytes of it; elsewhere RAM is still zero. */
static void clear_bss(const struct elf_segment *segment, const struct elf_image *image,
                      struct mem *mem)
{
    uint64_t start = MAX(segment->gpa + segment->file_bytes, image->gpa);
    uint64_t end = MIN(segment->gpa + segment->memory_bytes, image->gpa + image->size_bytes);
    if (start < end)
        memset(mem_for_write(mem, start, end - start), 0, end - start);
}

/*
 * Segments whose order in the image is their order in RAM can be moved without a second copy: first
 * those that go down, the lowest first, then those that go up, the highest first. No move then
 * writes over what another has still to read.
 */
static int load_from_ram(const struct elf_plan *plan, const struct elf_image *image,
                         struct mem *mem, struct nido_error *err)
{
    for (unsigned i = 1; i < plan->count; i++) {
        const struct elf_segment *low = &plan->segments[i - 1];
        if (low->offset + low->file_bytes > plan->segments[i].offset)
            return error_set(err, EINVAL,
                             "the segments of its ELF kernel are not in ascending "
                             "order; unpack it to a vmlinux and name that");
    }
    for (unsigned i = 0; i < plan->count; i++) {
        if (plan->segments[i].gpa < image->gpa + plan->segments[i].offset)
            move_segment(&plan->segments[i], image->gpa, mem);
    }
    for (unsigned i = plan->count; i-- > 0;) {
        if (plan->segments[i].gpa > image->gpa + plan->segments[i].offset)
            move_segment(&plan->segments[i], image->gpa, mem);
    }
    for (unsigned i = 0; i < plan->count; i++)
        clear_bss(&plan->segments[i], image, mem);
    return 0;
}

int elf_load(const struct elf_plan *plan, const struct elf_image *image, struct mem *mem,
             struct nido_error *err)
{
    if (image->file)
        return load_from_file(plan, image->file, mem, err);
    return load_from_ram(plan, image, mem, err);
}
