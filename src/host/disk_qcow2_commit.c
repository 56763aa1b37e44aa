/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commits and flushes: see the theory in disk_qcow2.c. One at a time; one request of the engine at a
 * time, through one buffer, table after table.
 *
 * A commit that fails before the thaw (the file system is full, most likely) has changed nothing;
 * its flushes fail, and the next one tries again. After the thaw there is no way back: no more
 * writes are taken, and the file stays what it was.
 */
#include "host/disk_qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LATER_SECONDS 5

/* ---- later ---- */

static void set_timer(struct qcow2 *image, time_t seconds)
{
    const struct itimerspec when = {.it_value.tv_sec = seconds};
    if (image->timer.fd >= 0)
        timerfd_settime(image->timer.fd, 0, &when, NULL);
    image->timer_armed = seconds != 0;
}

void qcow2_commit_later(struct qcow2 *image)
{
    if (!image->timer_armed && !image->throw_away)
        set_timer(image, LATER_SECONDS);
}

/* ---- the engine ---- */

static bool has_changes(const struct qcow2 *image)
{
    return image->dirty_slices || image->log.count;
}

static void end_group(struct qcow2 *image, int result)
{
    struct qcow2_commit *commit = &image->commit;
    struct disk_request *request;
    while ((request = commit->group)) {
        commit->group = request->next;
        qcow2_end_request(image, request, result);
    }
}

/* Before the thaw: as if nothing had been. */
static void take_back(struct qcow2 *image, int result)
{
    qcow2_plan_undo(image);
    image->commit.freed.count = 0; /* the old image has it all */
    image->commit.frozen = false;
    if (result != -ENOSPC && result != -EDQUOT && result != -EFBIG && result != -ENOMEM)
        qcow2_lose_writes(image, -result);
}

static void fail(struct qcow2 *image, int result)
{
    if (image->commit.frozen)
        take_back(image, result);
    else
        qcow2_lose_writes(image, -result);
    image->commit.phase = QCOW2_IDLE;
    image->commit.failed = image->writes_lost ? -EIO : result;
    qcow2_wake(image, &image->thaw_waiting);
    end_group(image, image->commit.failed);
}

static void enter_phase(struct qcow2 *image, enum qcow2_phase phase)
{
    struct qcow2_commit *commit = &image->commit;
    commit->phase = phase;
    commit->at = 0;
    commit->piece_at = 0;
    commit->has_piece = false;
}

static void on_done(struct aio_request *aio, int result)
{
    struct qcow2 *image = container_of(aio, struct qcow2, commit.aio);
    image->commit.waiting = false;
    image->commit.result = result;
    if (aio->op == AIO_WRITE && result == 0)
        image->file_bytes = MAX(image->file_bytes, aio->offset_bytes + aio->length_bytes);
}

static void submit(struct qcow2 *image, enum aio_op code, uint64_t offset, size_t bytes)
{
    struct qcow2_commit *commit = &image->commit;
    commit->iov = (struct iovec){commit->buffer, bytes};
    commit->aio = (struct aio_request){
        .op = code,
        .fd = image->file.fd,
        .offset_bytes = offset,
        .length_bytes = bytes,
        .iov = &commit->iov,
        .iov_count = 1,
        .done = on_done,
    };
    commit->waiting = true;
    aio_submit(image->aio, &commit->aio);
}

static size_t piece_bytes(const struct qcow2 *image)
{
    return MIN(QCOW2_PIECE_BYTES, image->cluster_bytes);
}

/* Pieces of clusters that move are read first, where there is something to read. */
static bool reads_first(struct qcow2 *image, uint64_t from, bool needed)
{
    struct qcow2_commit *commit = &image->commit;
    if (commit->has_piece)
        return false;
    commit->has_piece = true;
    if (!from || !needed) {
        memset(commit->buffer, 0, piece_bytes(image));
        return false;
    }
    submit(image, AIO_READ, from + commit->piece_at, piece_bytes(image));
    return true;
}

/* The buffer has been patched: writes it. The next call is for the next piece. */
static void write_moved(struct qcow2 *image, uint64_t to)
{
    struct qcow2_commit *commit = &image->commit;
    submit(image, AIO_WRITE, to + commit->piece_at, piece_bytes(image));
    commit->has_piece = false;
    commit->piece_at += piece_bytes(image);
    if (commit->piece_at == image->cluster_bytes) {
        commit->piece_at = 0;
        commit->at++;
    }
}

/* ---- tables ---- */

static size_t slice_bytes(const struct qcow2 *image)
{
    return sizeof(uint64_t) << image->slice_bits;
}

static uint64_t slice_number(const struct qcow2 *image, const struct qcow2_move *move, size_t at)
{
    const unsigned table_bits = image->cluster_bits - 3 - image->slice_bits;
    return ((uint64_t)move->index << table_bits) +
           (image->commit.piece_at + at) / slice_bytes(image);
}

static struct qcow2_slice *ready_slice(struct qcow2 *image, uint64_t number)
{
    struct qcow2_slice *slice = qcow2_slice_find(image, number);
    return slice && slice->state == QCOW2_SLICE_READY ? slice : NULL;
}

static bool is_cached(struct qcow2 *image, const struct qcow2_move *move)
{
    for (size_t at = 0; at < piece_bytes(image); at += slice_bytes(image))
        if (!ready_slice(image, slice_number(image, move, at)))
            return false;
    return true;
}

static void move_table(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    if (commit->at == commit->tables.count) {
        enter_phase(image, QCOW2_BLOCKS);
        return;
    }
    const struct qcow2_move *move = &commit->tables.list[commit->at];
    if (reads_first(image, move->from, !commit->has_piece && !is_cached(image, move)))
        return;
    for (size_t at = 0; at < piece_bytes(image); at += slice_bytes(image)) {
        const struct qcow2_slice *slice = ready_slice(image, slice_number(image, move, at));
        if (slice)
            memcpy(commit->buffer + at, slice->entries, slice_bytes(image));
    }
    write_moved(image, move->to);
}

/* ---- refcount blocks ---- */

static void apply_to_cluster(struct qcow2 *image, uint64_t cluster, uint64_t index,
                             const struct qcow2_run *run)
{
    uint8_t *buffer = image->commit.buffer;
    uint64_t value = qcow2_refcount_get(buffer, image->refcount_order, index);
    if (run->delta < 0 && value == 0) {
        qcow2_corrupt(image, "a cluster in use has no reference", cluster << image->cluster_bits);
        return;
    }
    value += (uint64_t)(int64_t)run->delta;
    qcow2_refcount_set(buffer, image->refcount_order, index, value);
    if (value == 0)
        qcow2_log_add(&image->commit.freed, cluster, 1, -1, run->data);
}

/* What the log says of the clusters from `first` on, `count` of them, whose counts are in the
 * buffer. In the log's order: what is allocated and freed again goes up first. */
static void apply_log(struct qcow2 *image, uint64_t first, uint64_t count)
{
    for (unsigned i = 0; i < image->log.count; i++) {
        const struct qcow2_run *run = &image->log.runs[i];
        const uint64_t from = MAX(run->first, first);
        const uint64_t to = MIN(run->first + run->count, first + count);
        for (uint64_t cluster = from; cluster < to && run->delta; cluster++)
            apply_to_cluster(image, cluster, cluster - first, run);
    }
}

static void move_block(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    if (commit->at == commit->blocks.count) {
        enter_phase(image, QCOW2_L1);
        return;
    }
    const struct qcow2_move *move = &commit->blocks.list[commit->at];
    if (reads_first(image, move->from, true))
        return;
    const uint64_t in_byte = 8; /* counts are bits wide: entries = bytes * 8 / bits */
    const uint64_t first = ((uint64_t)move->index << qcow2_block_bits(image)) +
                           (commit->piece_at * in_byte >> image->refcount_order);
    apply_log(image, first, piece_bytes(image) * in_byte >> image->refcount_order);
    write_moved(image, move->to);
}

/* ---- L1 and refcount table ---- */

/* The next piece of a table in memory. Returns its entries; 0: it is written. */
static size_t root_piece(struct qcow2 *image, const uint64_t *table, uint64_t count)
{
    struct qcow2_commit *commit = &image->commit;
    const uint64_t at = commit->piece_at / sizeof(uint64_t);
    const size_t entries = (size_t)MIN(count - at, QCOW2_PIECE_BYTES / sizeof(uint64_t));
    for (size_t i = 0; i < entries; i++)
        put_be64(commit->buffer + i * sizeof(uint64_t), table[at + i]);
    return entries;
}

static void write_root(struct qcow2 *image, const struct qcow2_run *place, size_t entries)
{
    const uint64_t to = (place->first << image->cluster_bits) + image->commit.piece_at;
    image->commit.piece_at += entries * sizeof(uint64_t);
    submit(image, AIO_WRITE, to, entries * sizeof(uint64_t));
}

/* Memory learns the new L2 tables with the thaw; the file's L1 table has them already. */
static void write_l1(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    const uint64_t at = commit->piece_at / sizeof(uint64_t);
    const size_t entries = root_piece(image, image->l1, image->l1_entries);
    for (unsigned i = 0; i < commit->tables.count; i++) {
        const struct qcow2_move *move = &commit->tables.list[i];
        if (move->index >= at && move->index < at + entries)
            put_be64(commit->buffer + (move->index - at) * sizeof(uint64_t),
                     move->to | QCOW2_COPIED);
    }
    if (entries)
        write_root(image, &commit->l1, entries);
    else
        enter_phase(image, QCOW2_BLOCK_TABLE);
}

static void thaw(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    for (unsigned i = 0; i < commit->tables.count; i++)
        image->l1[commit->tables.list[i].index] = commit->tables.list[i].to | QCOW2_COPIED;
    for (unsigned i = 0; i < QCOW2_SLICES; i++)
        image->slices[i].dirty = false;
    image->l1_offset = commit->l1.first << image->cluster_bits;
    image->blocks_offset = commit->block_table.first << image->cluster_bits;
    image->blocks_clusters = commit->block_table.count;
    image->dirty_slices = 0;
    image->log.count = 0;
    image->epoch ^= 1; /* the other one has been empty since the last commit */
    commit->frozen = false;
    qcow2_wake(image, &image->thaw_waiting);
}

static void write_block_table(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    const size_t entries = root_piece(image, image->blocks, image->block_count);
    if (entries) {
        write_root(image, &commit->block_table, entries);
        return;
    }
    thaw(image);
    enter_phase(image, QCOW2_SYNC);
}

/* ---- the switch ---- */

static void sync_then(struct qcow2 *image, enum qcow2_phase next)
{
    if (image->unsafe || image->commit.at++) {
        enter_phase(image, next);
        return;
    }
    submit(image, AIO_SYNC, 0, 0);
}

/* "l1_table_offset", "refcount_table_offset", "refcount_table_clusters". */
static void switch_roots(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    if (commit->at++) {
        enter_phase(image, QCOW2_SYNC_SWITCH);
        return;
    }
    put_be64(commit->buffer, image->l1_offset);
    put_be64(commit->buffer + 8, image->blocks_offset);
    put_be32(commit->buffer + 16, image->blocks_clusters);
    submit(image, AIO_WRITE, QCOW2_HEADER_ROOTS_AT, QCOW2_HEADER_ROOTS_BYTES);
}

/* ---- what only the old image used ---- */

static bool punch(struct qcow2 *image, const struct qcow2_run *run)
{
    struct qcow2_commit *commit = &image->commit;
    if (commit->has_piece || !run->data || !image->disk.discard_bytes || image->file.block_device)
        return false;
    commit->has_piece = true;
    submit(image, AIO_ALLOCATE, run->first << image->cluster_bits,
           (uint64_t)run->count << image->cluster_bits);
    commit->aio.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return true;
}

/* Whether there is more to do, now. A hole that cannot be punched is no matter. */
static bool release(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    commit->failed = 0;
    end_group(image, 0);
    if (image->in_epoch[image->epoch ^ 1])
        return false;
    for (; commit->at < commit->freed.count; commit->at++) {
        const struct qcow2_run *run = &commit->freed.runs[commit->at];
        if (punch(image, run))
            return true;
        commit->has_piece = false;
        qcow2_give_back(image, run->first, run->count);
    }
    commit->freed.count = 0;
    commit->phase = QCOW2_IDLE;
    return true;
}

/* ---- one phase after the other ---- */

/* Does something, or goes on to the next phase. False: it has to wait for ops. */
static bool go_on(struct qcow2 *image)
{
    switch (image->commit.phase) {
    case QCOW2_TABLES:
        move_table(image);
        break;
    case QCOW2_BLOCKS:
        move_block(image);
        break;
    case QCOW2_L1:
        write_l1(image);
        break;
    case QCOW2_BLOCK_TABLE:
        write_block_table(image);
        break;
    case QCOW2_SYNC:
        sync_then(image, QCOW2_SWITCH);
        break;
    case QCOW2_SWITCH:
        switch_roots(image);
        break;
    case QCOW2_SYNC_SWITCH:
        sync_then(image, QCOW2_RELEASE);
        break;
    case QCOW2_RELEASE:
        return release(image);
    case QCOW2_IDLE:
        break;
    }
    return true;
}

static void take_flushes(struct qcow2 *image)
{
    image->commit.group = image->flushes;
    image->flushes = NULL;
}

static void start_commit(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    set_timer(image, 0);
    commit->frozen = true;
    enter_phase(image, QCOW2_TABLES);
    commit->result = qcow2_plan(image);
}

/* False: nothing is due. */
static bool start(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    const bool wanted = commit->wanted;
    commit->wanted = false;
    commit->result = 0;
    if (image->writes_lost || image->throw_away) {
        take_flushes(image);
        end_group(image, image->writes_lost ? -EIO : 0);
    }
    if (!image->flushes && !wanted)
        return false;
    if (image->writes_lost || (!image->flushes && !has_changes(image))) {
        qcow2_wake(image, &image->thaw_waiting);
        return false;
    }
    take_flushes(image);
    if (has_changes(image))
        start_commit(image);
    else
        enter_phase(image, QCOW2_SYNC_SWITCH);
    return true;
}

void qcow2_commit_poll(struct qcow2 *image)
{
    struct qcow2_commit *commit = &image->commit;
    while (!commit->waiting && (commit->phase != QCOW2_IDLE || start(image))) {
        if (commit->result < 0 && commit->phase != QCOW2_RELEASE)
            fail(image, commit->result);
        else if (!go_on(image))
            return;
    }
}

/* ---- life ---- */

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct qcow2 *image = container_of(source, struct qcow2, timer);
    uint64_t expirations;
    if (read(source->fd, &expirations, sizeof(expirations)) != (ssize_t)sizeof(expirations))
        return;
    image->timer_armed = false;
    image->commit.wanted = true;
    disk_commit(&image->disk);
}

int qcow2_commit_create(struct qcow2 *image, struct loop *loop, struct nido_error *err)
{
    image->loop = loop;
    image->timer.ready = on_timer;
    image->timer.events = EPOLLIN;
    image->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (image->timer.fd < 0)
        return error_errno(err, errno, "disk %s: cannot make a timer", image->disk.path);
    return loop_add(loop, &image->timer, err);
}

/* Nothing is under way but what nobody has flushed. */
void qcow2_commit_destroy(struct qcow2 *image)
{
    if (image->timer.fd >= 0) {
        loop_remove(image->loop, &image->timer);
        close(image->timer.fd);
    }
    free(image->commit.tables.list);
    free(image->commit.blocks.list);
}
