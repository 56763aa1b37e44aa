/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/bzimage.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/elf.h"
#include "firmware/kernel_cache.h"
#include "firmware/room.h"
#include "firmware/unpack.h"
#include "firmware/x86/layout.h"

#include <elf.h>
#include <errno.h>

#define HEADER_AT     0x1f1u
#define SECTOR_BYTES  512u
#define CODE64_OFFSET 0x200u /* boot.rst, "64-bit Linux Boot Protocol" */
#define SETUP_SECTS   4u     /* what a setup_sects of 0 means */
#define PARAGRAPH     16u    /* the unit of syssize */
#define SIZE_BYTES    4u     /* the unpacked size, which ends every payload */

/* The version of the protocol that brought a field. */
#define HAS_CMDLINE_SIZE 0x0206
#define HAS_PAYLOAD      0x0208
#define HAS_PREF_ADDRESS 0x020a
#define HAS_XLOADFLAGS   0x020c

/* CONFIG_PHYSICAL_START's default, for kernels older than pref_address. */
#define DEFAULT_ADDRESS (16 * MIB)
/* Where in its ELF file vmlinux's first segment begins: the linker's largest page. */
#define USUAL_SEGMENT_OFFSET (2 * MIB)

bool bzimage_recognise(const uint8_t *head, size_t length)
{
    return length >= 0x206 && get_le16(head + 0x1fe) == 0xaa55 &&
           memcmp(head + 0x202, "HdrS", 4) == 0;
}

/* The header ends where its first instruction, a short jump, leads to. */
static void copy_header(struct setup_header *header, const uint8_t *head)
{
    size_t end = 0x202u + head[0x201];
    end = MIN(end, HEADER_AT + sizeof(*header));
    *header = (struct setup_header){0};
    memcpy(header, head + HEADER_AT, end - HEADER_AT);
}

static int check_version(const struct setup_header *header, struct nido_error *err)
{
    if (header->version < HAS_CMDLINE_SIZE)
        return error_set(err, ENOEXEC,
                         "a bzImage of boot protocol %u.%02u; 2.06 or later is "
                         "needed (Linux 2.6.22)",
                         header->version >> 8, header->version & 0xff);
    if (!(header->loadflags & LOADED_HIGH))
        return error_set(err, ENOEXEC, "a zImage, which loads below 1 MiB; use a bzImage");
    if (header->version >= HAS_XLOADFLAGS && !(header->xloadflags & XLF_KERNEL_64))
        return error_set(err, ENOEXEC, "a 32-bit x86 kernel; use a 64-bit one");
    return 0;
}

static int check_sizes(struct bzimage *image, const struct bootfile *file, struct nido_error *err)
{
    const struct setup_header *header = &image->header;
    unsigned sectors = header->setup_sects ? header->setup_sects : SETUP_SECTS;

    image->code_offset = (sectors + 1) * SECTOR_BYTES;
    image->code_bytes = (uint64_t)header->syssize * PARAGRAPH;
    if (!checked_inside(image->code_offset, image->code_bytes, file->size_bytes) ||
        image->code_bytes <= CODE64_OFFSET)
        return error_set(err, EINVAL,
                         "the bzImage is truncated: %llu bytes are there, its header "
                         "says %llu; copy or download it again",
                         (unsigned long long)file->size_bytes,
                         (unsigned long long)(image->code_offset + image->code_bytes));
    if (header->version < HAS_PAYLOAD || !header->payload_length)
        return 0;
    if (!checked_inside(header->payload_offset, header->payload_length, image->code_bytes) ||
        header->payload_length < UNPACK_MAGIC_BYTES + SIZE_BYTES)
        return error_set(err, EINVAL,
                         "its header is broken: the packed kernel would lie outside "
                         "the image");
    image->payload_offset = image->code_offset + header->payload_offset;
    image->payload_bytes = header->payload_length;
    return 0;
}

int bzimage_parse(struct bzimage *image, const struct bootfile *file, struct nido_error *err)
{
    uint8_t head[BZIMAGE_HEAD_BYTES];
    *image = (struct bzimage){0};

    int r = bootfile_read(file, 0, head, sizeof(head), err);
    if (r < 0)
        return r;
    copy_header(&image->header, head);
    r = check_version(&image->header, err);
    return r < 0 ? r : check_sizes(image, file, err);
}

/*
 * Where to unpack to: so that the first segment, most of the kernel, comes to lie where it belongs
 * and need not be moved. That its offset in the file is the usual one is a guess; a wrong guess
 * costs a move. In tight RAM the place is the highest that there is.
 */
static int choose_place(const struct setup_header *header, uint64_t length, const struct mem *mem,
                        uint64_t *gpa, struct nido_error *err)
{
    uint64_t wanted = header->version >= HAS_PREF_ADDRESS ? header->pref_address : DEFAULT_ADDRESS;
    uint64_t end = room_end(mem);

    if (length > end - HIGH_RAM_GPA)
        return room_error(mem, "it", MAX(HIGH_RAM_GPA + length, wanted + header->init_size), err);
    wanted = wanted < USUAL_SEGMENT_OFFSET ? 0 : wanted - USUAL_SEGMENT_OFFSET;
    wanted = MIN(wanted, end - length);
    *gpa = align_down(MAX(wanted, (uint64_t)HIGH_RAM_GPA), MEM_PAGE_BYTES);
    return 0;
}

/*
 * What the payload unpacks to. The kernel's build puts this field behind the data; gzip data end
 * with it themselves. init_size has room for all of it, so a larger number is no size.
 */
static int read_size(const struct bzimage *image, const struct bootfile *file, uint64_t *size,
                     struct nido_error *err)
{
    uint8_t field[SIZE_BYTES];
    uint64_t at = image->payload_offset + image->payload_bytes - SIZE_BYTES;
    int r = bootfile_read(file, at, field, sizeof(field), err);
    if (r < 0)
        return r;
    *size = get_le32(field);
    if (*size == 0 ||
        (image->header.version >= HAS_PREF_ADDRESS && *size > image->header.init_size))
        return error_set(err, EINVAL,
                         "its packed kernel is broken: it cannot unpack to %llu bytes; copy or "
                         "download the file again",
                         (unsigned long long)*size);
    return 0;
}

/* Unpacks into RAM; *elf says where. */
static int unpack_payload(const struct bzimage *image, enum unpack_format format,
                          const struct bootfile *file, const char *cache_path, struct mem *mem,
                          struct elf_image *elf, struct nido_error *err)
{
    uint64_t packed = image->payload_bytes - (format == UNPACK_GZIP ? 0 : SIZE_BYTES);
    int r = choose_place(&image->header, elf->size_bytes, mem, &elf->gpa, err);
    if (r < 0)
        return r;
    void *to = mem_for_write(mem, elf->gpa, elf->size_bytes);
    r = unpack(format, file, image->payload_offset, packed, to, elf->size_bytes, err);
    if (r == 0)
        kernel_cache_store(cache_path, file, to, elf->size_bytes);
    return r;
}

static int load_unpacked(const struct bzimage *image, enum unpack_format format,
                         const struct bootfile *file, const char *cache_path, struct mem *mem,
                         struct bzimage_place *place, struct nido_error *err)
{
    struct elf_image elf = {0};
    own_bootfile struct bootfile cached = {.fd = -1};
    int r = read_size(image, file, &elf.size_bytes, err);
    if (r == 0 && kernel_cache_open(cache_path, file, elf.size_bytes, &cached))
        elf.file = &cached;
    else if (r == 0)
        r = unpack_payload(image, format, file, cache_path, mem, &elf, err);

    struct elf_plan plan;
    if (r == 0)
        r = elf_plan(&plan, &elf, mem, EM_X86_64, HIGH_RAM_GPA, err);
    if (r == 0)
        r = elf_load(&plan, &elf, mem, err);
    if (r < 0)
        return r;
    *place = (struct bzimage_place){.entry_gpa = plan.entry_gpa, .end_gpa = plan.end_gpa};
    return 0;
}

/* boot.rst, "64-bit Linux Boot Protocol": any aligned place with init_size bytes after it. */
static int load_packed(const struct bzimage *image, const struct bootfile *file, struct mem *mem,
                       struct bzimage_place *place, struct nido_error *err)
{
    const struct setup_header *header = &image->header;
    if (header->version < HAS_XLOADFLAGS)
        return error_set(err, ENOEXEC,
                         "boot protocol %u.%02u and a packing that nido cannot "
                         "unpack; use Linux 3.8 or later",
                         header->version >> 8, header->version & 0xff);

    uint64_t at = header->pref_address;
    uint64_t length = MAX((uint64_t)header->init_size, image->code_bytes);
    if (at < HIGH_RAM_GPA || !checked_inside(at, length, 4 * GIB))
        return error_set(err, EINVAL, "its header is broken: it wants to lie at 0x%llx",
                         (unsigned long long)at);
    if (at + length > room_end(mem))
        return room_error(mem, "it", at + length, err);
    *place = (struct bzimage_place){.entry_gpa = at + CODE64_OFFSET, .end_gpa = at + length};
    return bootfile_read(file, image->code_offset, mem_for_write(mem, at, image->code_bytes),
                         image->code_bytes, err);
}

int bzimage_load(const struct bzimage *image, const struct bootfile *file, const char *cache_path,
                 struct mem *mem, struct bzimage_place *place, struct nido_error *err)
{
    uint8_t magic[UNPACK_MAGIC_BYTES];
    enum unpack_format format = UNPACK_UNKNOWN;

    if (image->payload_bytes) {
        int r = bootfile_read(file, image->payload_offset, magic, sizeof(magic), err);
        if (r < 0)
            return r;
        format = unpack_recognise(magic);
    }
    if (format == UNPACK_UNKNOWN)
        return load_packed(image, file, mem, place, err);
    return load_unpacked(image, format, file, cache_path, mem, place, err);
}
