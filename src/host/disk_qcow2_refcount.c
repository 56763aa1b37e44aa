/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The refcounts of an image that is opened to be written ("Host cluster management"): all blocks
 * are read once, so that later the allocator never waits for one. What is known to be metadata must
 * count as used, once: an image that says otherwise would have its tables overwritten, so it is
 * refused.
 *
 * All widths are supported. Blocking; before the loop runs.
 */
#include "host/disk_qcow2.h"

#include "base/own.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCKS_BYTES_MAX GIB       /* of 64 KiB clusters: an image of 32 TiB */
#define TABLE_BYTES_MAX  (8 * MIB) /* QEMU's limit, too */

unsigned qcow2_block_bits(const struct qcow2 *image)
{
    return image->cluster_bits + 3 - image->refcount_order;
}

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index)
{
    switch (order) {
    case 3:
        return block[index];
    case 4:
        return get_be16(block + 2 * index);
    case 5:
        return get_be32(block + 4 * index);
    case 6:
        return get_be64(block + 8 * index);
    default: { /* several in a byte, the first one in its lowest bits */
        const unsigned width = 1u << order, shift = (unsigned)(index << order) & 7;
        return block[(index << order) / 8] >> shift & ((1u << width) - 1);
    }
    }
}

void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    switch (order) {
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        put_be16(block + 2 * index, (uint16_t)value);
        break;
    case 5:
        put_be32(block + 4 * index, (uint32_t)value);
        break;
    case 6:
        put_be64(block + 8 * index, value);
        break;
    default: {
        const unsigned mask = (1u << (1u << order)) - 1, shift = (unsigned)(index << order) & 7;
        uint8_t *byte = &block[(index << order) / 8];
        *byte = (uint8_t)((*byte & ~(mask << shift)) | (unsigned)value << shift);
        break;
    }
    }
}

static int tell_damage(const struct qcow2 *image, const char *what, uint64_t where,
                       struct nido_error *err)
{
    return error_set(err, EINVAL,
                     "disk %s: the image is damaged: %s (byte %llu); repair it with qemu-img check "
                     "-r all %s, or attach it read-only with ,ro",
                     image->disk.path, what, (unsigned long long)where, image->disk.path);
}

static int read_at(const struct qcow2 *image, void *to, size_t bytes, uint64_t offset,
                   struct nido_error *err)
{
    ssize_t got = pread(image->file.fd, to, bytes, (off_t)offset);
    if (got == (ssize_t)bytes)
        return 0;
    return error_errno(err, got < 0 ? errno : EIO, "disk %s: cannot read its refcounts",
                       image->disk.path);
}

/* ---- the table ---- */

static int read_table(struct qcow2 *image, const struct qcow2_header *header,
                      struct nido_error *err)
{
    const uint64_t bytes = (uint64_t)header->blocks_clusters << image->cluster_bits;
    if (!bytes || bytes > TABLE_BYTES_MAX ||
        !is_aligned(header->blocks_offset, image->cluster_bytes) || !header->blocks_offset ||
        !checked_inside(header->blocks_offset, bytes, image->file_bytes))
        return tell_damage(image, "its refcount table lies nowhere", header->blocks_offset, err);
    image->blocks_offset = header->blocks_offset;
    image->blocks_clusters = header->blocks_clusters;
    image->block_count = (uint32_t)(bytes / sizeof(uint64_t));
    image->blocks = malloc(bytes);
    if (!image->blocks)
        return error_set(err, ENOMEM, "disk %s: out of memory", image->disk.path);
    int ret = read_at(image, image->blocks, bytes, image->blocks_offset, err);
    for (uint32_t i = 0; ret == 0 && i < image->block_count; i++)
        image->blocks[i] = get_be64(&image->blocks[i]);
    return ret;
}

/* ---- the blocks ---- */

static int load_entries(struct qcow2 *image, const uint8_t *block, uint64_t first)
{
    const uint64_t count = 1ull << qcow2_block_bits(image);
    const uint64_t in_word = 64u >> image->refcount_order;
    for (uint64_t i = 0; i < count; i++) {
        if (i % in_word == 0 && get_be64(block + i / in_word * 8) == 0) {
            i += in_word - 1;
            continue;
        }
        if (!qcow2_refcount_get(block, image->refcount_order, i))
            continue;
        if (!qcow2_bits_reach(image, first + i))
            return -ENOMEM;
        qcow2_bits_set(&image->used, first + i, 1, true);
    }
    return 0;
}

static int load_block(struct qcow2 *image, uint32_t index, uint8_t *room, struct nido_error *err)
{
    const uint64_t offset = image->blocks[index];
    if (!is_aligned(offset, image->cluster_bytes) ||
        !checked_inside(offset, image->cluster_bytes, image->file_bytes))
        return tell_damage(image, "a refcount block lies nowhere", offset, err);
    int ret = read_at(image, room, image->cluster_bytes, offset, err);
    if (ret == 0 && load_entries(image, room, (uint64_t)index << qcow2_block_bits(image)) < 0)
        ret = error_set(err, ENOMEM, "disk %s: out of memory", image->disk.path);
    return ret;
}

static int load_blocks(struct qcow2 *image, struct nido_error *err)
{
    own_mem uint8_t *room = malloc(image->cluster_bytes);
    uint64_t read_bytes = 0;
    if (!room)
        return error_set(err, ENOMEM, "disk %s: out of memory", image->disk.path);
    for (uint32_t i = 0; i < image->block_count; i++) {
        if (!image->blocks[i])
            continue;
        read_bytes += image->cluster_bytes;
        if (read_bytes > BLOCKS_BYTES_MAX)
            return error_set(err, EFBIG,
                             "disk %s: its clusters of %u bytes are too small for its size; "
                             "convert it with qemu-img convert -O qcow2 -o cluster_size=64k",
                             image->disk.path, image->cluster_bytes);
        int ret = load_block(image, i, room, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* ---- what must count as used ---- */

static int claim(struct qcow2 *image, uint64_t offset, uint64_t bytes, struct nido_error *err)
{
    const uint64_t first = offset >> image->cluster_bits;
    const uint64_t count = (bytes + image->cluster_bytes - 1) >> image->cluster_bits;
    if (!is_aligned(offset, image->cluster_bytes) ||
        !checked_inside(offset, bytes, align_up(image->file_bytes, image->cluster_bytes)))
        return tell_damage(image, "a table lies nowhere", offset, err);
    if (!qcow2_is_data(image, offset, count))
        return tell_damage(image, "a table has a place that counts as free, or as another's",
                           offset, err);
    qcow2_bits_set(&image->meta, first, count, true);
    return 0;
}

static int claim_all(struct qcow2 *image, const struct qcow2_header *header, struct nido_error *err)
{
    int ret = claim(image, 0, image->cluster_bytes, err);
    if (ret == 0)
        ret = claim(image, image->l1_offset, image->l1_entries * sizeof(uint64_t), err);
    if (ret == 0)
        ret = claim(image, image->blocks_offset,
                    (uint64_t)image->blocks_clusters << image->cluster_bits, err);
    if (ret == 0 && header->snapshots)
        ret = claim(image, header->snapshots_offset, 1, err);
    for (uint32_t i = 0; ret == 0 && i < image->block_count; i++)
        if (image->blocks[i])
            ret = claim(image, image->blocks[i], image->cluster_bytes, err);
    for (uint32_t i = 0; ret == 0 && i < image->l1_entries; i++)
        if (image->l1[i] & QCOW2_OFFSET_MASK)
            ret = claim(image, image->l1[i] & QCOW2_OFFSET_MASK, image->cluster_bytes, err);
    return ret;
}

int qcow2_refcounts_load(struct qcow2 *image, const struct qcow2_header *header,
                         struct nido_error *err)
{
    int ret = qcow2_alloc_create(image);
    if (ret < 0)
        return error_set(err, -ret, "disk %s: out of memory", image->disk.path);
    ret = read_table(image, header, err);
    if (ret == 0)
        ret = load_blocks(image, err);
    return ret < 0 ? ret : claim_all(image, header, err);
}
