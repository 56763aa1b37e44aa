/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/arm64/image.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/arm64/layout.h"
#include "firmware/foreign.h"
#include "firmware/kernel_cache.h"
#include "firmware/room.h"
#include "firmware/unpack.h"

#include <errno.h>

#define IMAGE_MAGIC     "ARM\x64"
#define MAGIC_AT        0x38u
#define TEXT_OFFSET_AT  8u
#define IMAGE_SIZE_AT   16u
#define FLAGS_AT        24u
#define FLAG_BIG_ENDIAN 1u

/* PE format, "COFF File Header" and "Section Table". An Image that EFI can start says so in here. */
#define PE_OFFSET_AT       0x3cu
#define PE_SECTIONS_AT     6u
#define PE_OPTIONAL_AT     20u
#define PE_HEADER_BYTES    24u
#define SECTION_BYTES      40u
#define SECTION_LENGTH_AT  16u
#define SECTION_CONTENT_AT 20u

#define ZBOOT_MAGIC         "zimg"
#define ZBOOT_MAGIC_AT      4u
#define ZBOOT_PAYLOAD_AT    8u
#define ZBOOT_PAYLOAD_BYTES 12u
#define ZBOOT_TYPE_AT       24u
#define ZBOOT_TYPE_BYTES    32u

#define WANTED "an arm64 Image"

/* Larger than any kernel, and small enough for unpack_all(). */
#define UNPACKED_BYTES_MAX GIB

static bool is_plain(const uint8_t *head, size_t length)
{
    return length >= IMAGE_HEADER_BYTES && memcmp(head + MAGIC_AT, IMAGE_MAGIC, 4) == 0;
}

static bool is_zboot(const uint8_t *head, size_t length)
{
    return length >= IMAGE_HEADER_BYTES && memcmp(head, "MZ", 2) == 0 &&
           memcmp(head + ZBOOT_MAGIC_AT, ZBOOT_MAGIC, 4) == 0;
}

bool image_recognise(const uint8_t *head, size_t length)
{
    return length >= IMAGE_HEADER_BYTES && (is_plain(head, length) || is_zboot(head, length) ||
                                            unpack_recognise(head) != UNPACK_UNKNOWN);
}

int image_parse_header(struct image_header *header, const uint8_t bytes[IMAGE_HEADER_BYTES],
                       struct nido_error *err)
{
    *header = (struct image_header){.text_offset = get_le64(bytes + TEXT_OFFSET_AT),
                                    .image_bytes = get_le64(bytes + IMAGE_SIZE_AT)};
    if (!is_plain(bytes, IMAGE_HEADER_BYTES))
        return error_set(err, ENOEXEC, "not an arm64 Image");
    if (get_le64(bytes + FLAGS_AT) & FLAG_BIG_ENDIAN)
        return error_set(err, ENOEXEC, "a big-endian arm64 kernel; use a little-endian one");
    if (header->image_bytes == 0)
        return error_set(err, ENOEXEC,
                         "an arm64 Image that does not say how large it is; Linux 3.17 or later "
                         "is needed");
    if (header->text_offset >= 2 * MIB || !is_aligned(header->text_offset, MEM_PAGE_BYTES) ||
        header->image_bytes > UNPACKED_BYTES_MAX)
        return error_set(err, EINVAL,
                         "its header is broken: %llu bytes at offset 0x%llx; copy or download the "
                         "file again",
                         (unsigned long long)header->image_bytes,
                         (unsigned long long)header->text_offset);
    return 0;
}

static int truncated(uint64_t length, uint64_t needed, struct nido_error *err)
{
    return error_set(err, EINVAL,
                     "the Image is truncated: %llu bytes are there, its header says %llu; copy or "
                     "download it again",
                     (unsigned long long)length, (unsigned long long)needed);
}

/* Its own header knows its size in memory alone, with .bss; the one for EFI has that in the file. */
static int check_whole(const uint8_t *image, uint64_t length, struct nido_error *err)
{
    uint64_t at = get_le32(image + PE_OFFSET_AT);
    if (at == 0)
        return 0;
    if (!checked_inside(at, PE_HEADER_BYTES, length))
        return truncated(length, at + PE_HEADER_BYTES, err);
    if (memcmp(image + at, "PE\0\0", 4) != 0)
        return 0;
    unsigned count = get_le16(image + at + PE_SECTIONS_AT);
    at += PE_HEADER_BYTES + get_le16(image + at + PE_OPTIONAL_AT);
    if (!checked_inside(at, (uint64_t)count * SECTION_BYTES, length))
        return truncated(length, at + (uint64_t)count * SECTION_BYTES, err);
    for (unsigned i = 0; i < count; i++, at += SECTION_BYTES) {
        uint64_t end = (uint64_t)get_le32(image + at + SECTION_CONTENT_AT) +
                       get_le32(image + at + SECTION_LENGTH_AT);
        if (end > length)
            return truncated(length, end, err);
    }
    return 0;
}

/* Where an Image of so many bytes goes, if RAM has the room. */
static int find_place(const struct image_header *header, uint64_t length, const struct mem *mem,
                      struct image_place *place, struct nido_error *err)
{
    place->entry_gpa = IMAGE_BASE_GPA + header->text_offset;
    place->end_gpa = place->entry_gpa + MAX(header->image_bytes, length);
    return place->end_gpa > room_end(mem) ? room_error(mem, "it", place->end_gpa, err) : 0;
}

static int load_plain(const struct bootfile *file, struct mem *mem, struct image_place *place,
                      struct nido_error *err)
{
    uint8_t bytes[IMAGE_HEADER_BYTES];
    struct image_header header;
    int r = bootfile_read(file, 0, bytes, sizeof(bytes), err);
    if (r == 0)
        r = image_parse_header(&header, bytes, err);
    if (r == 0 && file->size_bytes > UNPACKED_BYTES_MAX)
        r = error_set(err, EFBIG, "its %llu MiB are larger than any kernel; copy it again",
                      (unsigned long long)(file->size_bytes / MIB));
    if (r == 0)
        r = find_place(&header, file->size_bytes, mem, place, err);
    if (r < 0)
        return r;
    uint8_t *at = mem_for_write(mem, place->entry_gpa, file->size_bytes);
    r = bootfile_read(file, 0, at, file->size_bytes, err);
    return r < 0 ? r : check_whole(at, file->size_bytes, err);
}

/* Whether what was unpacked to IMAGE_BASE_GPA is an Image that fits. */
static int check_unpacked(struct image_header *header, const uint8_t *at, uint64_t length,
                          const struct mem *mem, struct image_place *place, struct nido_error *err)
{
    if (!is_plain(at, length)) {
        foreign_error(at, MIN(length, (uint64_t)FOREIGN_HEAD_BYTES), NULL, WANTED, err);
        return error_prefix(err, "unpacked");
    }
    int r = image_parse_header(header, at, err);
    if (r == 0)
        r = check_whole(at, length, err);
    return r < 0 ? r : find_place(header, length, mem, place, err);
}

struct payload {
    enum unpack_format format;
    uint64_t offset, bytes;
    uint64_t unpacked_bytes; /* 0: it does not say */
};

/* What cannot be unpacked may be no kernel at all, and larger than RAM for that reason. The caller has
 * a sentence already; a better one replaces it. */
static int not_unpacked(int r, const struct payload *payload, const struct bootfile *file,
                        struct nido_error *err)
{
    uint8_t head[FOREIGN_HEAD_BYTES];
    size_t length = 0;
    if (unpack_part(payload->format, file, payload->offset, payload->bytes, head, sizeof(head),
                    &length, NULL) < 0 ||
        length < IMAGE_HEADER_BYTES || is_plain(head, length))
        return r;
    r = foreign_error(head, length, NULL, WANTED, err);
    error_prefix(err, "unpacked");
    return r;
}

static int unpack_payload(const struct payload *payload, const struct bootfile *file,
                          const char *cache_path, struct mem *mem, struct image_place *place,
                          struct nido_error *err)
{
    struct image_header header;
    size_t room = MIN(room_end(mem) - IMAGE_BASE_GPA, UNPACKED_BYTES_MAX), length = 0;
    void *at = mem_for_write(mem, IMAGE_BASE_GPA, room);
    int r =
        unpack_all(payload->format, file, payload->offset, payload->bytes, at, room, &length, err);
    if (r < 0)
        return not_unpacked(r, payload, file, err);
    if (length == 0)
        r = error_set(err, ENOEXEC, "it is a packed file of nothing");
    if (r == 0)
        r = check_unpacked(&header, at, length, mem, place, err);
    if (r < 0)
        return r;
    kernel_cache_store(cache_path, file, at, length);
    /* Old kernels want it half a megabyte higher. */
    if (header.text_offset)
        memmove(mem_for_write(mem, place->entry_gpa, length), at, length);
    return 0;
}

static int load_packed(const struct payload *payload, const struct bootfile *file,
                       const char *cache_path, struct mem *mem, struct image_place *place,
                       struct nido_error *err)
{
    own_bootfile struct bootfile cached = {.fd = -1};
    if (kernel_cache_open(cache_path, file, payload->unpacked_bytes, &cached))
        return load_plain(&cached, mem, place, err);
    return unpack_payload(payload, file, cache_path, mem, place, err);
}

static int find_payload(struct payload *payload, const uint8_t *head, const struct bootfile *file,
                        struct nido_error *err)
{
    uint8_t magic[UNPACK_MAGIC_BYTES];
    *payload = (struct payload){.format = unpack_recognise(head), .bytes = file->size_bytes};
    if (!is_zboot(head, IMAGE_HEADER_BYTES))
        return 0;
    payload->offset = get_le32(head + ZBOOT_PAYLOAD_AT);
    payload->bytes = get_le32(head + ZBOOT_PAYLOAD_BYTES);
    if (!checked_inside(payload->offset, payload->bytes, file->size_bytes) ||
        payload->bytes < sizeof(magic))
        return error_set(err, EINVAL,
                         "its header is broken: the packed kernel would lie outside the file; copy "
                         "or download the file again");
    int r = bootfile_read(file, payload->offset, magic, sizeof(magic), err);
    payload->format = unpack_recognise(magic);
    if (r == 0 && payload->format == UNPACK_UNKNOWN)
        r = error_set(err, ENOTSUP,
                      "an EFI zboot image packed with '%.*s', which nido cannot unpack",
                      (int)strnlen((const char *)head + ZBOOT_TYPE_AT, ZBOOT_TYPE_BYTES),
                      (const char *)head + ZBOOT_TYPE_AT);
    return r;
}

int image_load(const struct bootfile *file, const char *cache_path, struct mem *mem,
               struct image_place *place, struct nido_error *err)
{
    uint8_t head[IMAGE_HEADER_BYTES];
    struct payload payload;
    int r = bootfile_read(file, 0, head, sizeof(head), err);
    if (r < 0 || is_plain(head, sizeof(head)))
        return r < 0 ? r : load_plain(file, mem, place, err);
    r = find_payload(&payload, head, file, err);
    return r < 0 ? r : load_packed(&payload, file, cache_path, mem, place, err);
}
