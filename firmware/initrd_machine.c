/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries are walked as Linux's init/initramfs.c does: archives follow each other, with zeros between
 * them, and the first that is packed ends the walk of the file; its own start is walked then.
 */
#include "firmware/initrd_machine.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "firmware/elf.h"
#include "firmware/unpack.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

/* Most archives have a program in their first KiB, Debian's and its like behind their
 * configuration. */
#define PART_FIRST_BYTES (4 * KIB)
#define PART_MAX_BYTES   MIB
#define PART_STEP        16u
/* The packed form of so much may be longer: zstd unpacks blocks of 128 KiB as a whole. */
#define PACKED_SLACK_BYTES (256 * KIB)

/* What there is before the first program, at most. */
#define ENTRIES_MAX 512u
#define ZEROS_MAX   (64 * KIB)

/* Documentation/driver-api/early-userspace/buffer-format.rst */
#define HEADER_BYTES   110u
#define FIELD_DIGITS   8u
#define FIELD_MODE     1u
#define FIELD_FILESIZE 6u
#define FIELD_NAMESIZE 11u
#define NAME_BYTES     256u /* longer ones are not understood */
#define CPIO_ALIGNMENT 4u

#define ELF_HEAD_BYTES (offsetof(Elf64_Ehdr, e_machine) + 2)

/* What is walked, a window at a time; without a file the window is all there is. */
struct view {
    const struct bootfile *file;
    uint8_t *bytes;
    size_t room;
    uint64_t start;
    size_t length;
};

struct entry {
    char name[NAME_BYTES];
    bool is_file;
    uint64_t content, content_bytes;
    uint64_t end;
};

/* What was found out, and by what. */
struct finding {
    uint16_t machine; /* EM_NONE: nothing */
    bool is_elf;
    char name[NAME_BYTES];
};

/* NULL: there is not so much of it. */
static const uint8_t *look(struct view *view, uint64_t at, size_t length)
{
    if (at >= view->start && checked_inside(at - view->start, length, view->length))
        return view->bytes + (at - view->start);
    if (!view->file || !checked_inside(at, length, view->file->size_bytes))
        return NULL;
    view->start = at;
    view->length = MIN(view->file->size_bytes - at, (uint64_t)view->room);
    if (bootfile_read(view->file, at, view->bytes, view->length, NULL) == 0)
        return view->bytes;
    view->length = 0;
    return NULL;
}

static bool parse_field(const uint8_t *header, unsigned field, uint32_t *value)
{
    const uint8_t *digits = header + 6 + field * FIELD_DIGITS;
    *value = 0;
    for (unsigned i = 0; i < FIELD_DIGITS; i++) {
        uint8_t digit = digits[i];
        if (digit >= '0' && digit <= '9')
            digit -= '0';
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            digit = (digit | 0x20) - 'a' + 10;
        else
            return false;
        *value = *value << 4 | digit;
    }
    return true;
}

static bool is_header(const uint8_t *header)
{
    return memcmp(header, "070701", 6) == 0 || memcmp(header, "070702", 6) == 0;
}

/* Names end up in a message. */
static void copy_name(char *to, const uint8_t *name, size_t length)
{
    for (size_t i = 0; i < length; i++)
        to[i] = name[i] == '\0' || (name[i] >= ' ' && name[i] < 0x7f) ? (char)name[i] : '?';
    to[length - 1] = '\0';
}

static bool read_entry(struct view *view, uint64_t at, struct entry *entry)
{
    uint32_t mode, filesize, namesize;
    const uint8_t *header = look(view, at, HEADER_BYTES);
    if (!header || !is_header(header) || !parse_field(header, FIELD_MODE, &mode) ||
        !parse_field(header, FIELD_FILESIZE, &filesize) ||
        !parse_field(header, FIELD_NAMESIZE, &namesize) || namesize == 0 || namesize > NAME_BYTES)
        return false;
    const uint8_t *name = look(view, at + HEADER_BYTES, namesize);
    if (!name)
        return false;
    copy_name(entry->name, name, namesize);
    entry->is_file = S_ISREG(mode);
    entry->content = align_up(at + HEADER_BYTES + namesize, CPIO_ALIGNMENT);
    entry->content_bytes = filesize;
    entry->end = align_up(entry->content + filesize, CPIO_ALIGNMENT);
    return true;
}

/* EM_NONE: no ELF file, or one for nothing that nido knows by name. */
static uint16_t content_machine(struct view *view, const struct entry *entry)
{
    const uint8_t *head = entry->is_file && entry->content_bytes >= ELF_HEAD_BYTES
                              ? look(view, entry->content, ELF_HEAD_BYTES)
                              : NULL;
    if (!head || memcmp(head, ELFMAG, SELFMAG) != 0)
        return EM_NONE;
    const uint8_t *field = head + offsetof(Elf64_Ehdr, e_machine);
    uint16_t machine = head[EI_DATA] == ELFDATA2MSB ? get_be16(field) : get_le16(field);
    return elf_machine_name(machine) ? machine : EM_NONE;
}

/* Firmware may be for a processor on some card. */
static bool judge(struct view *view, const struct entry *entry, struct finding *finding)
{
    const char *name = entry->name + strspn(entry->name, "./");
    bool is_microcode = strncmp(name, "kernel/x86/", strlen("kernel/x86/")) == 0;
    if (is_microcode)
        finding->machine = EM_X86_64;
    else if (!strstr(name, "firmware/"))
        finding->machine = content_machine(view, entry);
    if (finding->machine == EM_NONE)
        return false;
    finding->is_elf = !is_microcode;
    snprintf(finding->name, sizeof(finding->name), "%s", name);
    return true;
}

/* True: something was found out. Otherwise *at is where the walk ended. */
static bool walk(struct view *view, uint64_t *at, struct finding *finding)
{
    struct entry entry;
    unsigned entries = 0, zeros = 0;
    while (entries < ENTRIES_MAX && zeros < ZEROS_MAX) {
        const uint8_t *next = look(view, *at, 1);
        if (next && !*next) {
            ++*at;
            zeros++;
            continue;
        }
        if (!next || !read_entry(view, *at, &entry))
            return false;
        if (judge(view, &entry, finding))
            return true;
        *at = entry.end;
        entries++;
    }
    return false;
}

/* Each step does the work of the last one again, which is a sixteenth of its own. */
static void walk_packed(const struct bootfile *file, uint64_t offset, enum unpack_format format,
                        struct finding *finding)
{
    for (size_t room = PART_FIRST_BYTES; room <= PART_MAX_BYTES; room *= PART_STEP) {
        own_mem uint8_t *part = malloc(room);
        uint64_t at = 0;
        size_t length = 0;
        uint64_t packed = MIN(file->size_bytes - offset, room + PACKED_SLACK_BYTES);
        if (!part || unpack_part(format, file, offset, packed, part, room, &length, NULL) < 0)
            return;
        struct view view = {.bytes = part, .length = length};
        if (walk(&view, &at, finding) || length < room)
            return;
        /* It did not end for lack of bytes. */
        if (checked_inside(at, HEADER_BYTES + NAME_BYTES, length))
            return;
    }
}

static void find_machine(const struct bootfile *file, struct finding *finding)
{
    uint8_t window[4096];
    struct view view = {.file = file, .bytes = window, .room = sizeof(window)};
    uint64_t at = 0;
    if (walk(&view, &at, finding))
        return;
    const uint8_t *magic = look(&view, at, UNPACK_MAGIC_BYTES);
    enum unpack_format format = magic ? unpack_recognise(magic) : UNPACK_UNKNOWN;
    if (format != UNPACK_UNKNOWN)
        walk_packed(file, at, format, finding);
}

/* 32-bit programs of the same family run, too. */
static bool runs(uint16_t ours, uint16_t machine)
{
    return machine == EM_NONE || machine == ours || (ours == EM_X86_64 && machine == EM_386) ||
           (ours == EM_AARCH64 && machine == EM_ARM);
}

int initrd_machine_check(const struct bootfile *file, uint16_t machine, struct nido_error *err)
{
    struct finding finding = {.machine = EM_NONE};
    find_machine(file, &finding);
    if (runs(machine, finding.machine))
        return 0;
    const char *its = elf_machine_name(finding.machine), *ours = elf_machine_name(machine);
    if (!finding.is_elf)
        return error_set(err, ENOEXEC,
                         "an initrd for %s: it has a /%s; this machine runs %s programs", its,
                         finding.name, ours);
    return error_set(err, ENOEXEC,
                     "an initrd for %s: its /%s is for %s; this machine runs %s programs", its,
                     finding.name, its, ours);
}
