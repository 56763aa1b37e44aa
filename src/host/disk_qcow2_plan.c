/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of a commit: which tables move, and where to.
 *
 * L2 tables with dirty slices move, the L1 table does, and so does each refcount block of which the
 * log changes something. A new place is a change of refcounts, too, and may concern one more block:
 * the plan adds it to the log that it is just going through, and so comes to an end when no block
 * is left that does not move yet. Nothing but memory has changed by then, and qcow2_plan_undo()
 * takes it back.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add_move(struct qcow2_moves *moves, uint32_t index, uint64_t from, uint64_t to)
{
    if (moves->count == moves->room) {
        const unsigned room = MAX(2 * moves->room, 64u);
        struct qcow2_move *list = realloc(moves->list, room * sizeof(*list));
        if (!list)
            return -ENOMEM;
        moves->list = list;
        moves->room = room;
    }
    moves->list[moves->count++] = (struct qcow2_move){index, from, to};
    return 0;
}

static unsigned clusters_of(const struct qcow2 *image, uint64_t bytes)
{
    return (unsigned)((bytes + image->cluster_bytes - 1) >> image->cluster_bits);
}

/* A place in the file, and in the log. 0: there is none. */
static uint64_t place(struct qcow2 *image, unsigned count)
{
    if (image->log.count > QCOW2_LOG_MAX - 8)
        return 0;
    const uint64_t offset = qcow2_alloc_meta(image, count);
    if (offset)
        qcow2_log_add(&image->log, offset >> image->cluster_bits, count, 1, false);
    return offset;
}

static void leave_place(struct qcow2 *image, uint64_t offset, unsigned count)
{
    if (offset)
        qcow2_log_add(&image->log, offset >> image->cluster_bits, count, -1, false);
}

/* ---- L2 tables ---- */

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The dirty slices' tables, in order, each as often as it has dirty slices. */
static unsigned dirty_tables(const struct qcow2 *image, uint32_t *indices)
{
    const unsigned table_bits = image->cluster_bits - 3 - image->slice_bits;
    unsigned count = 0;
    for (unsigned i = 0; i < QCOW2_SLICES; i++)
        if (image->slices[i].dirty)
            indices[count++] = (uint32_t)(image->slices[i].number >> table_bits);
    qsort(indices, count, sizeof(*indices), by_value);
    return count;
}

static int plan_tables(struct qcow2 *image)
{
    uint32_t indices[QCOW2_SLICES];
    const unsigned count = dirty_tables(image, indices);
    for (unsigned i = 0; i < count; i++) {
        if (i && indices[i] == indices[i - 1])
            continue;
        const uint64_t from = image->l1[indices[i]] & QCOW2_OFFSET_MASK;
        const uint64_t to = place(image, 1);
        if (!to)
            return -ENOSPC;
        int ret = add_move(&image->commit.tables, indices[i], from, to);
        if (ret < 0)
            return ret;
        leave_place(image, from, 1);
    }
    return 0;
}

static int plan_l1(struct qcow2 *image)
{
    const unsigned count = clusters_of(image, image->l1_entries * sizeof(uint64_t));
    const uint64_t to = place(image, count);
    if (!to)
        return -ENOSPC;
    image->commit.l1 = (struct qcow2_run){.first = to >> image->cluster_bits, .count = count};
    leave_place(image, image->l1_offset, count);
    return 0;
}

/* ---- refcounts ---- */

static bool make_room_for_block(struct qcow2 *image, uint64_t index)
{
    if (index < image->block_count)
        return true;
    const uint64_t per_cluster = image->cluster_bytes / sizeof(uint64_t);
    const uint64_t count = align_up(index + 1, per_cluster);
    uint64_t *blocks = count > UINT32_MAX ? NULL : realloc(image->blocks, count * sizeof(*blocks));
    if (!blocks)
        return false;
    memset(blocks + image->block_count, 0, (count - image->block_count) * sizeof(*blocks));
    image->blocks = blocks;
    image->block_count = (uint32_t)count;
    return true;
}

static bool moves_already(const struct qcow2_moves *moves, uint64_t index)
{
    for (unsigned i = moves->count; i-- > 0;)
        if (moves->list[i].index == index)
            return true;
    return false;
}

static int plan_block(struct qcow2 *image, uint64_t index)
{
    struct qcow2_moves *moves = &image->commit.blocks;
    if (moves_already(moves, index))
        return 0;
    if (!make_room_for_block(image, index))
        return -ENOMEM;
    const uint64_t from = image->blocks[index], to = place(image, 1);
    if (!to)
        return -ENOSPC;
    int ret = add_move(moves, (uint32_t)index, from, to);
    if (ret == 0) {
        image->blocks[index] = to;
        leave_place(image, from, 1);
    }
    return ret;
}

/* Entries of the log from *next on, those that this adds included. */
static int plan_blocks(struct qcow2 *image, unsigned *next)
{
    const unsigned block_bits = qcow2_block_bits(image);
    for (; *next < image->log.count; ++*next) {
        const struct qcow2_run run = image->log.runs[*next];
        if (!run.delta)
            continue;
        const uint64_t last = (run.first + run.count - 1) >> block_bits;
        for (uint64_t index = run.first >> block_bits; index <= last; index++) {
            int ret = plan_block(image, index);
            if (ret < 0)
                return ret;
        }
    }
    return 0;
}

/* The table's own place may need a block that makes the table grow. */
static int plan_block_table(struct qcow2 *image)
{
    struct qcow2_run *table = &image->commit.block_table;
    unsigned next = 0;
    int ret = plan_blocks(image, &next);
    while (ret == 0 && clusters_of(image, image->block_count * sizeof(uint64_t)) > table->count) {
        const unsigned count = clusters_of(image, image->block_count * sizeof(uint64_t));
        leave_place(image, table->first << image->cluster_bits, table->count);
        const uint64_t to = place(image, count);
        if (!to)
            return -ENOSPC;
        *table = (struct qcow2_run){.first = to >> image->cluster_bits, .count = count};
        ret = plan_blocks(image, &next);
    }
    return ret;
}

/* ---- the plan ---- */

/* The log merges neighbours: what the plan adds must not melt into what was there. */
static void mark_log(struct qcow2 *image)
{
    image->commit.log_mark = image->log.count;
    image->log.runs[image->log.count++] = (struct qcow2_run){.count = 1, .delta = 0};
}

int qcow2_plan(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    commit->tables.count = commit->blocks.count = 0;
    commit->l1 = commit->block_table = (struct qcow2_run){0};
    commit->old_block_count = image->block_count;
    mark_log(image);
    int ret = plan_tables(image);
    if (ret == 0)
        ret = plan_l1(image);
    if (ret == 0) {
        leave_place(image, image->blocks_offset, image->blocks_clusters);
        ret = plan_block_table(image);
    }
    return ret;
}

void qcow2_plan_undo(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    for (unsigned i = commit->log_mark; i < image->log.count; i++) {
        const struct qcow2_run *run = &image->log.runs[i];
        if (run->delta > 0)
            qcow2_give_back(image, run->first, run->count);
    }
    for (unsigned i = 0; i < commit->blocks.count; i++)
        image->blocks[commit->blocks.list[i].index] = commit->blocks.list[i].from;
    image->block_count = commit->old_block_count;
    image->log.count = commit->log_mark;
}
