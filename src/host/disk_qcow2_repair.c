/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty bit ("refcounts may be inconsistent, make sure to scan L1/L2 tables to repair refcounts
 * before accessing the image"): QEMU leaves it set when it is killed while it writes an image with
 * lazy refcounts. nido never sets it.
 *
 * The tables of the disk and of its snapshots say what each refcount has to be. New refcount blocks
 * and a new refcount table go behind the end of the file; then one write of the header refers to
 * them and clears the bit. What contradicts itself is refused: qemu-img check is better at that.
 *
 * Blocking; before the loop runs.
 */
#include "host/disk_qcow2.h"

#include "base/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SNAPSHOTS_MAX      65536u
#define SNAPSHOT_BYTES     40u
#define CLUSTERS_MAX       (1ull << 28) /* a GiB of counts */
#define BYTES_MAX          (2 * GIB)    /* of tables: some 100 snapshots of 100 GiB */
#define READ_COST_MIN      4096u
#define HEADER_FEATURES_AT 72u
#define HEADER_CHANGED     (HEADER_FEATURES_AT + 8 - QCOW2_HEADER_ROOTS_AT)

struct repair {
    struct qcow2 *image;
    uint32_t *counts; /* for each cluster of the file, and for those that this adds */
    uint64_t clusters;
    uint64_t *table; /* room for one L2 table */
    uint64_t budget; /* bytes still to be read; hostile snapshots could go on for ever */
    struct nido_error *err;
};

static int tell_damage(const struct repair *repair, const char *what)
{
    const char *path = repair->image->disk.path;
    return error_set(repair->err, EINVAL,
                     "disk %s: it was not closed, and its refcounts cannot be made again: %s; "
                     "repair it with qemu-img check -r all %s",
                     path, what, path);
}

static int tell_errno(const struct repair *repair, int code)
{
    return error_errno(repair->err, code, "disk %s: cannot repair its refcounts",
                       repair->image->disk.path);
}

static int read_at(struct repair *repair, void *to, size_t bytes, uint64_t offset)
{
    if (repair->budget < READ_COST_MIN + bytes)
        return tell_damage(repair, "its tables are too large");
    repair->budget -= MAX(bytes, (size_t)READ_COST_MIN);
    ssize_t got = pread(repair->image->file.fd, to, bytes, (off_t)offset);
    return got == (ssize_t)bytes ? 0 : tell_errno(repair, got < 0 ? errno : EIO);
}

static int write_at(const struct repair *repair, const void *from, size_t bytes, uint64_t offset)
{
    ssize_t got = pwrite(repair->image->file.fd, from, bytes, (off_t)offset);
    return got == (ssize_t)bytes ? 0 : tell_errno(repair, got < 0 ? errno : ENOSPC);
}

/* ---- counting ---- */

static int count(struct repair *repair, uint64_t offset, uint64_t bytes)
{
    const unsigned bits = repair->image->cluster_bits;
    if (!bytes)
        return 0;
    if (!checked_inside(offset, bytes, repair->clusters << bits))
        return tell_damage(repair, "a cluster lies behind the end of the file");
    for (uint64_t n = offset >> bits; n <= (offset + bytes - 1) >> bits; n++)
        repair->counts[n]++;
    return 0;
}

static int count_entry(struct repair *repair, uint64_t entry)
{
    const struct qcow2_mapping mapping = qcow2_decode(repair->image, entry);
    switch (mapping.kind) {
    case QCOW2_KIND_DATA:
    case QCOW2_KIND_ZERO_STORED:
        return count(repair, mapping.host, repair->image->cluster_bytes);
    case QCOW2_KIND_PACKED:
        return count(repair, mapping.host, mapping.packed_bytes);
    case QCOW2_KIND_BROKEN:
        return tell_damage(repair, "an L2 entry is nonsense");
    case QCOW2_KIND_ABSENT:
    case QCOW2_KIND_ZERO:
        break;
    }
    return 0;
}

/* Whoever may write a cluster in place must be the only one. */
static int check_entry(struct repair *repair, uint64_t entry)
{
    const struct qcow2_mapping mapping = qcow2_decode(repair->image, entry);
    if (mapping.kind != QCOW2_KIND_DATA && mapping.kind != QCOW2_KIND_ZERO_STORED)
        return 0;
    if (mapping.copied && repair->counts[mapping.host >> repair->image->cluster_bits] != 1)
        return tell_damage(repair, "a cluster has several owners, and each believes to be alone");
    return 0;
}

static int each_entry(struct repair *repair, uint64_t l1_entry,
                      int (*visit)(struct repair *repair, uint64_t entry))
{
    const struct qcow2 *image = repair->image;
    const uint64_t table = l1_entry & QCOW2_OFFSET_MASK;
    if (!table)
        return 0;
    if (!is_aligned(table, image->cluster_bytes))
        return tell_damage(repair, "an L2 table lies nowhere");
    int ret = read_at(repair, repair->table, image->cluster_bytes, table);
    for (uint32_t i = 0; ret == 0 && i < image->cluster_bytes / sizeof(uint64_t); i++)
        ret = visit(repair, get_be64(&repair->table[i]));
    return ret;
}

static int count_table(struct repair *repair, uint64_t l1_entry)
{
    const uint64_t table = l1_entry & QCOW2_OFFSET_MASK;
    int ret = table ? count(repair, table, repair->image->cluster_bytes) : 0;
    return ret < 0 ? ret : each_entry(repair, l1_entry, count_entry);
}

static int count_active(struct repair *repair)
{
    const struct qcow2 *image = repair->image;
    int ret = count(repair, image->l1_offset, image->l1_entries * sizeof(uint64_t));
    for (uint32_t i = 0; ret == 0 && i < image->l1_entries; i++)
        ret = count_table(repair, image->l1[i]);
    for (uint32_t i = 0; ret == 0 && i < image->l1_entries; i++)
        ret = each_entry(repair, image->l1[i], check_entry);
    return ret;
}

/* ---- snapshots ---- */

static int count_snapshot_l1(struct repair *repair, uint64_t offset, uint32_t entries)
{
    int ret = count(repair, offset, entries * sizeof(uint64_t));
    for (uint32_t i = 0; ret == 0 && i < entries; i++) {
        uint64_t entry;
        ret = read_at(repair, &entry, sizeof(entry), offset + i * sizeof(entry));
        if (ret == 0)
            ret = count_table(repair, get_be64(&entry));
    }
    return ret;
}

/* "Snapshot table entry". */
static int count_snapshots(struct repair *repair, const struct qcow2_header *header)
{
    uint64_t at = header->snapshots_offset;
    if (header->snapshots > SNAPSHOTS_MAX)
        return tell_damage(repair, "it has too many snapshots");
    for (uint32_t i = 0; i < header->snapshots; i++) {
        uint8_t entry[SNAPSHOT_BYTES];
        int ret = read_at(repair, entry, sizeof(entry), at);
        if (ret == 0)
            ret = count_snapshot_l1(repair, get_be64(entry), get_be32(entry + 8));
        if (ret < 0)
            return ret;
        at += align_up((uint64_t)SNAPSHOT_BYTES + get_be16(entry + 12) + get_be16(entry + 14) +
                           get_be32(entry + 36),
                       8);
    }
    return count(repair, header->snapshots_offset, at - header->snapshots_offset);
}

/* ---- the new refcounts ---- */

struct layout {
    uint64_t first; /* of the table's clusters; the blocks follow */
    uint64_t table_clusters, blocks;
};

/* Blocks for the whole file, themselves and the table. */
static struct layout lay_out(const struct qcow2 *image, uint64_t clusters)
{
    struct layout layout = {.first = clusters};
    uint64_t all;
    do {
        all = clusters + layout.table_clusters + layout.blocks;
        layout.blocks = (all + (1ull << qcow2_block_bits(image)) - 1) >> qcow2_block_bits(image);
        layout.table_clusters =
            align_up(layout.blocks * sizeof(uint64_t), image->cluster_bytes) >> image->cluster_bits;
    } while (clusters + layout.table_clusters + layout.blocks != all);
    return layout;
}

static int write_block(struct repair *repair, const struct layout *layout, uint64_t index,
                       uint8_t *block)
{
    const struct qcow2 *image = repair->image;
    const uint64_t count_max = UINT64_MAX >> (64 - (1u << image->refcount_order));
    const uint64_t first = index << qcow2_block_bits(image);
    const uint64_t own = layout->first + layout->table_clusters + layout->blocks;
    memset(block, 0, image->cluster_bytes);
    for (uint64_t i = 0; i < 1ull << qcow2_block_bits(image) && first + i < own; i++) {
        const uint64_t value = first + i < layout->first ? repair->counts[first + i] : 1;
        if (value > count_max)
            return tell_damage(repair, "a cluster is used more often than its refcount can say");
        qcow2_refcount_set(block, image->refcount_order, i, value);
    }
    return write_at(repair, block, image->cluster_bytes,
                    (layout->first + layout->table_clusters + index) << image->cluster_bits);
}

static int write_table(struct repair *repair, const struct layout *layout)
{
    const struct qcow2 *image = repair->image;
    const size_t bytes = layout->table_clusters << image->cluster_bits;
    own_mem uint8_t *table = calloc(1, bytes);
    if (!table)
        return tell_errno(repair, ENOMEM);
    for (uint64_t i = 0; i < layout->blocks; i++)
        put_be64(table + i * sizeof(uint64_t), (layout->first + layout->table_clusters + i)
                                                   << image->cluster_bits);
    return write_at(repair, table, bytes, layout->first << image->cluster_bits);
}

static int switch_header(struct repair *repair, const struct layout *layout,
                         struct qcow2_header *header)
{
    const struct qcow2 *image = repair->image;
    uint8_t bytes[HEADER_CHANGED];
    header->incompatible &= ~QCOW2_INCOMPATIBLE_DIRTY;
    header->blocks_offset = layout->first << image->cluster_bits;
    header->blocks_clusters = (uint32_t)layout->table_clusters;
    put_be64(bytes, header->l1_offset);
    put_be64(bytes + 8, header->blocks_offset);
    put_be32(bytes + 16, header->blocks_clusters);
    put_be32(bytes + 20, header->snapshots);
    put_be64(bytes + 24, header->snapshots_offset);
    put_be64(bytes + 32, header->incompatible);
    if (fdatasync(image->file.fd) < 0)
        return tell_errno(repair, errno);
    int ret = write_at(repair, bytes, sizeof(bytes), QCOW2_HEADER_ROOTS_AT);
    return ret == 0 && fdatasync(image->file.fd) < 0 ? tell_errno(repair, errno) : ret;
}

static int write_refcounts(struct repair *repair, struct qcow2_header *header)
{
    struct qcow2 *image = repair->image;
    const struct layout layout = lay_out(image, repair->clusters);
    int ret = write_table(repair, &layout);
    for (uint64_t i = 0; ret == 0 && i < layout.blocks; i++)
        ret = write_block(repair, &layout, i, (uint8_t *)repair->table);
    if (ret == 0)
        ret = switch_header(repair, &layout, header);
    image->file_bytes = image->touched_bytes =
        (layout.first + layout.table_clusters + layout.blocks) << image->cluster_bits;
    return ret;
}

int qcow2_repair(struct qcow2 *image, struct qcow2_header *header, struct nido_error *err)
{
    const uint64_t clusters =
        align_up(image->file_bytes, image->cluster_bytes) >> image->cluster_bits;
    own_mem uint32_t *counts = clusters > CLUSTERS_MAX ? NULL : calloc(clusters, sizeof(*counts));
    own_mem uint64_t *table = malloc(image->cluster_bytes);
    struct repair repair = {image, counts, clusters, table, BYTES_MAX, err};
    if (!counts || !table)
        return tell_errno(&repair, ENOMEM);
    if (image->file.block_device)
        return tell_damage(&repair, "it is on a block device");
    counts[0]++; /* the header */
    int ret = count_snapshots(&repair, header);
    if (ret == 0)
        ret = count_active(&repair);
    if (ret == 0)
        ret = write_refcounts(&repair, header);
    if (ret == 0)
        log_warn("disk %s: it was not closed; its refcounts have been made again",
                 image->disk.path);
    return ret;
}
