/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header and its extensions ("Header", "Header extensions"), read once and checked. What this
 * implementation cannot do is refused by its name. The backing file's format must be said: to guess
 * it from the content would let a guest that owned a raw disk make it a qcow2 image that refers to
 * any file of the host.
 */
#include "host/disk_qcow2.h"

#include "base/own.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAGIC          0x514649fbu
#define HEADER_BYTES_2 72u
#define HEADER_BYTES_3 104u
#define COMPRESSION_AT 104u
#define BACKING_MAX    1023u
#define L1_BYTES_MAX   (32 * MIB) /* QEMU's limit, too */
#define AREA_BYTES     ((size_t)64 << 10)
#define KNOWN_FEATURES                                                                             \
    (QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT | QCOW2_INCOMPATIBLE_COMPRESSION)

enum extension {
    EXTENSION_END = 0,
    EXTENSION_BACKING_FORMAT = (int)0xe2792aca,
    EXTENSION_FEATURE_NAMES = 0x6803f857,
    EXTENSION_BITMAPS = 0x23852875,
};

/* The header being read: its file, and the first bytes of it. */
struct area {
    const struct disk_file *file;
    const char *path;
    uint8_t *bytes;
    size_t length;
    const uint8_t *names; /* the feature name table; NULL: none */
    size_t names_bytes;
};

static int tell_damage(const struct area *area, const char *what, struct nido_error *err)
{
    return error_set(err, EINVAL, "disk %s: the qcow2 header is damaged: %s; see qemu-img check %s",
                     area->path, what, area->path);
}

/* ---- features ---- */

static const char *const feature_names[] = {
    [2] = "an external data file",
    [4] = "extended L2 entries",
};

/* What the image calls it, for features that were invented since. */
static void name_of(const struct area *area, unsigned bit, char *name, size_t room)
{
    snprintf(name, room, "unknown feature %u", bit);
    if (bit < ARRAY_SIZE(feature_names) && feature_names[bit]) {
        snprintf(name, room, "%s", feature_names[bit]);
        return;
    }
    for (size_t at = 0; at + 48 <= area->names_bytes; at += 48)
        if (area->names[at] == 0 && area->names[at + 1] == bit)
            snprintf(name, room, "unknown feature '%.46s'", (const char *)area->names + at + 2);
}

static int check_features(const struct qcow2_header *header, const struct area *area,
                          struct nido_error *err)
{
    const uint64_t unknown = header->incompatible & ~KNOWN_FEATURES;
    char name[80];
    if (!unknown)
        return 0;
    name_of(area, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
    return error_set(err, ENOTSUP,
                     "disk %s: it has %s, which is not supported; convert it with qemu-img convert "
                     "-O qcow2 %s new.qcow2",
                     area->path, name, area->path);
}

static int check_for_writing(const struct qcow2_header *header, const struct area *area,
                             struct nido_error *err)
{
    if (header->incompatible & QCOW2_INCOMPATIBLE_CORRUPT)
        return error_set(err, EINVAL,
                         "disk %s: it is marked as corrupt; repair it with qemu-img check -r all "
                         "%s, or attach it read-only with ,ro",
                         area->path, area->path);
    if (header->bitmaps)
        return error_set(err, ENOTSUP,
                         "disk %s: it keeps dirty bitmaps, which writes would make wrong; remove "
                         "them with qemu-img bitmap --remove, or attach it read-only with ,ro",
                         area->path);
    return 0;
}

/* ---- extensions ---- */

static int take_extension(struct qcow2_header *header, struct area *area, uint32_t type,
                          const uint8_t *data, uint32_t length, struct nido_error *err)
{
    if (type == (uint32_t)EXTENSION_BACKING_FORMAT) {
        if (length >= sizeof(header->backing_format))
            return tell_damage(area, "the backing file's format is too long a word", err);
        memcpy(header->backing_format, data, length);
        header->backing_format[length] = '\0';
    } else if (type == EXTENSION_FEATURE_NAMES) {
        area->names = data;
        area->names_bytes = length;
    } else if (type == EXTENSION_BITMAPS) {
        header->bitmaps = true;
    }
    return 0;
}

static int read_extensions(struct qcow2_header *header, struct area *area, size_t at,
                           struct nido_error *err)
{
    while (at + 8 <= area->length) {
        const uint32_t type = get_be32(area->bytes + at), length = get_be32(area->bytes + at + 4);
        at += 8;
        if (type == EXTENSION_END)
            break;
        if (length > area->length - at)
            return tell_damage(area, "an extension is too long", err);
        int ret = take_extension(header, area, type, area->bytes + at, length, err);
        if (ret < 0)
            return ret;
        at += align_up(length, 8);
    }
    return 0;
}

static int read_backing_path(struct qcow2_header *header, const struct area *area,
                             struct nido_error *err)
{
    const uint64_t at = get_be64(area->bytes + 8);
    const uint32_t length = get_be32(area->bytes + 16);
    if (!at)
        return 0;
    if (!length || length > BACKING_MAX ||
        !checked_inside(at, length, 1ull << header->cluster_bits))
        return tell_damage(area, "the backing file's name lies nowhere", err);
    if (pread(area->file->fd, header->backing_path, length, (off_t)at) != (ssize_t)length)
        return tell_damage(area, "the backing file's name cannot be read", err);
    header->backing_path[length] = '\0';
    if (strlen(header->backing_path) != length)
        return tell_damage(area, "the backing file's name has a zero in it", err);
    return 0;
}

/* ---- fields ---- */

static int read_fields_3(struct qcow2_header *header, const struct area *area, size_t *length,
                         struct nido_error *err)
{
    if (area->length < HEADER_BYTES_3)
        return tell_damage(area, "it is too short", err);
    header->incompatible = get_be64(area->bytes + 72);
    header->autoclear = get_be64(area->bytes + 88);
    header->refcount_order = get_be32(area->bytes + 96);
    *length = get_be32(area->bytes + 100);
    if (*length < HEADER_BYTES_3 || *length > area->length || header->refcount_order > 6)
        return tell_damage(area, "its length or its refcount width is nonsense", err);
    const uint8_t compression = *length > COMPRESSION_AT ? area->bytes[COMPRESSION_AT] : 0;
    header->zstd = compression == 1;
    if (compression > 1)
        return error_set(err, ENOTSUP,
                         "disk %s: it has compression type %u, which is not supported", area->path,
                         compression);
    if (header->zstd != !!(header->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION))
        return tell_damage(area, "its compression type contradicts itself", err);
    return 0;
}

static void read_fields_2(struct qcow2_header *header, const uint8_t *bytes)
{
    header->cluster_bits = get_be32(bytes + 20);
    header->size_bytes = get_be64(bytes + 24);
    header->l1_entries = get_be32(bytes + 36);
    header->l1_offset = get_be64(bytes + 40);
    header->blocks_offset = get_be64(bytes + 48);
    header->blocks_clusters = get_be32(bytes + 56);
    header->snapshots = get_be32(bytes + 60);
    header->snapshots_offset = get_be64(bytes + 64);
    header->refcount_order = 4;
}

static int check_geometry(const struct qcow2_header *header, const struct area *area,
                          struct nido_error *err)
{
    if (header->cluster_bits < QCOW2_CLUSTER_BITS_MIN ||
        header->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return tell_damage(area, "its cluster size is not one from 512 bytes to 2 MiB", err);
    const unsigned table_shift = 2 * header->cluster_bits - 3; /* what an L2 table maps */
    const uint64_t l1_bytes = header->l1_entries * sizeof(uint64_t);
    if (!header->size_bytes || header->size_bytes % DISK_SECTOR_BYTES ||
        header->size_bytes > INT64_MAX)
        return tell_damage(area, "the disk's size is 0, or not a multiple of 512", err);
    if (header->l1_entries < ((header->size_bytes - 1) >> table_shift) + 1)
        return tell_damage(area, "the L1 table is too small for the disk", err);
    if (l1_bytes > L1_BYTES_MAX || !is_aligned(header->l1_offset, 1ull << header->cluster_bits) ||
        !header->l1_offset || !checked_inside(header->l1_offset, l1_bytes, area->file->size_bytes))
        return tell_damage(area, "the L1 table is too large, or lies nowhere", err);
    return 0;
}

static int check_kind(const struct area *area, struct nido_error *err)
{
    if (area->length < HEADER_BYTES_2 || get_be32(area->bytes) != MAGIC)
        return error_set(err, EINVAL,
                         "disk %s: this is not a qcow2 image; leave out format=qcow2 if it is raw, "
                         "or see qemu-img info %s",
                         area->path, area->path);
    const uint32_t version = get_be32(area->bytes + 4);
    if (version != 2 && version != 3)
        return error_set(err, ENOTSUP,
                         "disk %s: this is version %u of qcow2; 2 and 3 are supported", area->path,
                         version);
    if (get_be32(area->bytes + 32))
        return error_set(err, ENOTSUP,
                         "disk %s: it is encrypted, which is not supported; convert it with "
                         "qemu-img convert",
                         area->path);
    return 0;
}

static int parse(struct qcow2_header *header, struct area *area, bool read_only,
                 struct nido_error *err)
{
    size_t length = HEADER_BYTES_2;
    int ret = check_kind(area, err);
    if (ret < 0)
        return ret;
    header->version = get_be32(area->bytes + 4);
    read_fields_2(header, area->bytes);
    if (header->version >= 3)
        ret = read_fields_3(header, area, &length, err);
    if (ret == 0)
        ret = read_extensions(header, area, length, err);
    if (ret == 0)
        ret = check_features(header, area, err);
    if (ret == 0)
        ret = check_geometry(header, area, err);
    if (ret == 0)
        ret = read_backing_path(header, area, err);
    return ret < 0 || read_only ? ret : check_for_writing(header, area, err);
}

int qcow2_header_read(struct qcow2_header *header, const struct disk_file *file,
                      const struct disk_config *config, struct nido_error *err)
{
    own_mem uint8_t *bytes = calloc(1, AREA_BYTES);
    struct area area = {.file = file, .path = config->path, .bytes = bytes};
    *header = (struct qcow2_header){0};
    if (!bytes)
        return error_set(err, ENOMEM, "disk %s: out of memory", config->path);
    ssize_t got = pread(file->fd, bytes, AREA_BYTES, 0);
    if (got < 0)
        return error_errno(err, errno, "disk %s: cannot read its header", config->path);
    area.length = (size_t)got;
    return parse(header, &area, config->read_only, err);
}
