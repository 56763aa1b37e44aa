/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_DISK_QCOW2_H
#define NIDO_HOST_DISK_QCOW2_H

/*
 * What the files disk_qcow2*.c share; disk.h is for everybody else, and disk_qcow2.c has the theory
 * of operation. Everything belongs to the disk's loop.
 *
 *     disk_qcow2.c           the disk: requests come in and are turned into ops
 *     disk_qcow2_open.c      opening, the backing chain, closing
 *     disk_qcow2_header.c    the header and its extensions
 *     disk_qcow2_map.c       L2 tables: a cache of slices
 *     disk_qcow2_read.c      reads
 *     disk_qcow2_write.c     writes, in place and to new clusters
 *     disk_qcow2_zero.c      discard and zeroes
 *     disk_qcow2_packed.c    compressed clusters
 *     disk_qcow2_alloc.c     which clusters are free, what changes of the refcounts are due
 *     disk_qcow2_refcount.c  the refcounts of an image that is opened to be written
 *     disk_qcow2_repair.c    the same, of one that QEMU could not close
 *     disk_qcow2_commit.c    from one consistent image to the next; flushes
 *     disk_qcow2_plan.c      where the tables of the next one will be
 *     disk_qcow2_create.c    new images, for overlays
 */

#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "host/disk.h"
#include "host/disk_file.h"

/* ---- the format ---- */

#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u

#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull /* of L1 and L2 entries */
#define QCOW2_COPIED      (1ull << 63)
#define QCOW2_PACKED      (1ull << 62)
#define QCOW2_ZERO        1ull

#define QCOW2_INCOMPATIBLE_DIRTY       (1ull << 0)
#define QCOW2_INCOMPATIBLE_CORRUPT     (1ull << 1)
#define QCOW2_INCOMPATIBLE_DATA_FILE   (1ull << 2)
#define QCOW2_INCOMPATIBLE_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 (1ull << 4)

/* Where the header says what one consistent image consists of; one write changes it all. */
#define QCOW2_HEADER_ROOTS_AT    40u
#define QCOW2_HEADER_ROOTS_BYTES 20u

struct qcow2_header {
    unsigned version, cluster_bits, refcount_order;
    uint64_t size_bytes;
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t blocks_offset; /* of the refcount table */
    uint32_t blocks_clusters;
    uint32_t snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, autoclear;
    bool zstd;
    bool bitmaps;            /* has the extension */
    char backing_path[1024]; /* as it stands there; "": none */
    char backing_format[16]; /* "": not said */
};

/* ---- the image ---- */

#define QCOW2_OPS         64u /* requests under way; the others wait */
#define QCOW2_LANES       8u  /* partial clusters being filled up at a time */
#define QCOW2_SLICES      256u
#define QCOW2_SLICE_BITS  12u  /* at most 4 KiB of a table */
#define QCOW2_DIRTY_MAX   128u /* slices; each op under way may add one */
#define QCOW2_PIECE_BYTES ((size_t)64 << 10)
#define QCOW2_LOG_MAX     (1u << 17)
#define QCOW2_LOG_FULL    (1u << 15)

struct qcow2;
struct qcow2_op;

struct qcow2_op_list {
    struct qcow2_op *first, *last;
};

enum qcow2_kind {
    QCOW2_KIND_ABSENT, /* in the backing file, if there is one */
    QCOW2_KIND_ZERO,
    QCOW2_KIND_ZERO_STORED, /* reads as zero, has a cluster of the file */
    QCOW2_KIND_DATA,
    QCOW2_KIND_PACKED,
    QCOW2_KIND_BROKEN,
};

struct qcow2_mapping {
    enum qcow2_kind kind;
    bool copied;   /* nobody else refers to the cluster: it may be written */
    uint64_t host; /* offset in the file */
    uint64_t packed_bytes;
};

/* A part of an L2 table. */
struct qcow2_slice {
    struct qcow2 *image;
    uint64_t number;   /* guest cluster >> slice_bits */
    uint64_t *entries; /* big-endian */
    struct qcow2_slice *next_in_bucket;
    enum { QCOW2_SLICE_FREE, QCOW2_SLICE_LOADING, QCOW2_SLICE_READY } state;
    bool dirty;
    bool used;     /* since the clock's hand came by */
    unsigned pins; /* ops that hold on to it */
    unsigned epoch;
    struct qcow2_op_list waiting; /* for the load */
    struct aio_request aio;
    struct iovec iov;
};

/* A change of refcounts that the next commit makes. */
struct qcow2_run {
    uint64_t first; /* cluster of the file */
    uint32_t count;
    int8_t delta;
    bool data; /* punch a hole once it is free */
};

struct qcow2_log {
    struct qcow2_run *runs; /* mapped, QCOW2_LOG_MAX */
    unsigned count;
};

/* A bit for each cluster of the file; those beyond `limit` are 0. */
struct qcow2_bits {
    uint64_t *words; /* mapped */
    uint64_t limit;
};

/* An L2 table or a refcount block that a commit moves. */
struct qcow2_move {
    uint32_t index; /* in the L1 or refcount table */
    uint64_t from;  /* offset; 0: it is new */
    uint64_t to;
};

struct qcow2_moves {
    struct qcow2_move *list; /* by index, for L2 tables */
    unsigned count, room;
};

/* One request, one segment (a run of clusters of one kind) after the other. */
struct qcow2_op {
    struct qcow2 *image;
    struct disk_request *request; /* NULL: one of our own */
    void (*done)(struct qcow2_op *op, int result);
    void (*step)(struct qcow2_op *op); /* what to do when its turn comes */
    struct qcow2_op *next;
    int result; /* of what it waited for */
    enum disk_op op;
    uint64_t offset_bytes;
    uint64_t length_bytes; /* to be done */
    struct iovec *iov;     /* from here on */
    unsigned iov_count;

    /* The segment. */
    uint64_t segment_bytes;
    struct iovec *segment_iov;
    unsigned segment_iov_count;
    struct iovec rest; /* of the vector that the segment's end cuts in two */
    bool cut;
    unsigned epoch;
    struct aio_request aio;
    struct disk_request child; /* to the backing disk */

    /* Of writes to new clusters. */
    struct qcow2_slice *slice;
    uint64_t first;    /* guest cluster */
    unsigned clusters; /* 0: none is locked */
    uint64_t host;     /* offset of the first one's new place */
    bool reuse;        /* which it has had before */
    bool pristine;     /* where nobody has ever written */
    bool old_zero;     /* what is there now reads as zero */
    struct qcow2_op *next_lock;
    struct qcow2_op_list blocked; /* they wait for the lock */
    struct qcow2_lane *lane;
};

/* Fills up one cluster that a write covers in part. */
struct qcow2_lane {
    uint8_t *buffer; /* QCOW2_PIECE_BYTES, mapped */
    struct iovec iov;
    uint32_t at; /* in the cluster: the piece being worked on */
    struct qcow2_op read;
    struct qcow2_op *owner; /* NULL: free */
};

struct qcow2_packed {
    uint8_t *input, *output;      /* mapped with the first use */
    uint64_t key;                 /* the entry that `output` holds; 0: none */
    struct qcow2_op *owner;       /* whose input is being read; NULL: free */
    struct qcow2_op_list waiting; /* for the buffers */
    struct iovec iov;
};

enum qcow2_phase {
    QCOW2_IDLE,
    QCOW2_TABLES,
    QCOW2_BLOCKS,
    QCOW2_L1,
    QCOW2_BLOCK_TABLE,
    QCOW2_SYNC,
    QCOW2_SWITCH,
    QCOW2_SYNC_SWITCH,
    QCOW2_RELEASE,
};

struct qcow2_commit {
    enum qcow2_phase phase;
    bool frozen;                /* no mapping may change */
    bool wanted;                /* by the clock, or by who waits for room in the cache or the log */
    bool waiting;               /* for its own I/O */
    int result;                 /* of that */
    int failed;                 /* how the last commit ended */
    struct disk_request *group; /* the flushes that it answers */
    struct aio_request aio;
    struct iovec iov;
    uint8_t *buffer; /* QCOW2_PIECE_BYTES, mapped */
    struct qcow2_moves tables, blocks;
    struct qcow2_run l1, block_table; /* their new places */
    unsigned log_mark;                /* behind it: the plan's own */
    uint32_t old_block_count;
    unsigned at;       /* the move, the run or the step being worked on */
    uint64_t piece_at; /* in the table */
    bool has_piece;    /* the buffer has what was there; the hole is punched */
    struct qcow2_log freed;
};

struct qcow2 {
    struct disk disk;
    struct disk_file file;
    struct aio *aio;
    struct disk *backing;   /* NULL: none */
    uint64_t backing_bytes; /* beyond which it counts as zeroes */
    bool unsafe;            /* nothing waits for the storage */
    bool throw_away;        /* flushes mean nothing */
    struct log_limit complaints;

    unsigned version, cluster_bits, refcount_order;
    uint32_t cluster_bytes;
    unsigned slice_bits; /* entries of a slice */
    bool zstd;
    uint64_t *l1; /* as in the file, in the host's order */
    uint32_t l1_entries;
    uint64_t l1_offset;

    uint64_t file_bytes;    /* what lies beyond reads as zero */
    uint64_t touched_bytes; /* what lies beyond nobody has ever tried to write */

    /* Ops. */
    struct qcow2_op *ops; /* QCOW2_OPS */
    struct qcow2_op_list free_ops, ready;
    struct qcow2_op *locks;
    struct disk_request *incoming, *incoming_last;
    struct qcow2_lane lanes[QCOW2_LANES];
    struct qcow2_op_list lanes_waiting;
    struct qcow2_packed packed;
    unsigned under_way; /* requests taken and not ended, flushes included */
    bool processing;
    bool tell_batch; /* `done` was called */
    bool writes_lost;

    /* The cache. */
    struct qcow2_slice *slices;
    struct qcow2_slice *buckets[QCOW2_SLICES];
    uint8_t *slice_memory;
    unsigned hand, dirty_slices;
    struct qcow2_op_list cache_waiting;

    /* Clusters of the file; of images that may be written. */
    struct qcow2_bits used; /* refcount not 0, or promised, or not yet given back */
    struct qcow2_bits meta; /* header and tables */
    uint64_t free_hint;     /* there is no free one below */
    uint64_t data_cursor;   /* behind the latest data */
    uint64_t clusters_max;
    uint64_t *blocks; /* the refcount table, in the host's order */
    uint32_t block_count;
    uint64_t blocks_offset;
    uint32_t blocks_clusters;
    struct qcow2_log log;
    unsigned epoch;       /* 0 or 1 */
    unsigned in_epoch[2]; /* I/O under way that may look at clusters freed since */
    struct qcow2_op_list thaw_waiting;
    struct disk_request *flushes, *flushes_last;
    struct qcow2_commit commit;
    struct loop *loop;
    struct loop_source timer;
    bool timer_armed;
};

static inline struct qcow2 *qcow2_of(struct disk *disk)
{
    return container_of(disk, struct qcow2, disk);
}

/* ---- disk_qcow2.c ---- */

void qcow2_list_push(struct qcow2_op_list *list, struct qcow2_op *op);
struct qcow2_op *qcow2_list_pop(struct qcow2_op_list *list); /* NULL: empty */
/* Its turn comes with the next round. */
void qcow2_ready(struct qcow2_op *op);
void qcow2_wake(struct qcow2 *image, struct qcow2_op_list *waiting);
/* Runs whoever is ready. What they start waits for a commit of the engines. */
void qcow2_process(struct qcow2 *image);
/* The segment is done; goes on with the next. */
void qcow2_advance(struct qcow2_op *op);
/* Instead of what would come next. */
void qcow2_fail(struct qcow2_op *op, int result);
/* The vectors of the next `bytes` bytes become the segment. */
void qcow2_cut(struct qcow2_op *op, uint64_t bytes);
void qcow2_copy(struct iovec *iov, uint64_t skip, uint8_t *buffer, size_t length, bool to_buffer);
/* The op's own read or write, of segment_iov. `step` comes when it has ended, with op->result. */
void qcow2_transfer(struct qcow2_op *op, enum aio_op code, uint64_t file_offset,
                    void (*step)(struct qcow2_op *op));
/* The op's `done` for its own aio: its result, and its turn. */
void qcow2_on_transferred(struct aio_request *aio, int result);
void qcow2_enter_epoch(struct qcow2 *image, unsigned *epoch);
void qcow2_leave_epoch(struct qcow2 *image, unsigned epoch);
void qcow2_lose_writes(struct qcow2 *image, int code);
/* The image contradicts itself. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *image, const char *what, uint64_t where);
void qcow2_end_request(struct qcow2 *image, struct disk_request *request, int result);

extern const struct disk_ops qcow2_disk_ops;

/* ---- disk_qcow2_open.c ---- */

struct qcow2_open {
    const struct disk_config *config;
    int fd; /* the image's file, owned from now on; -1: config->path */
    bool throw_away;
    struct disk *base; /* the backing disk, owned after success; NULL: what the header says */
    const struct disk_config *expected_base; /* what the header must say; NULL: anything */
};

int qcow2_open(struct disk **out, const struct qcow2_open *wanted, struct loop *loop,
               struct nido_error *err);

void qcow2_disk_close(struct disk *disk);

/* ---- disk_qcow2_header.c ---- */

/* Reads and checks; refuses what this implementation cannot do. */
int qcow2_header_read(struct qcow2_header *header, const struct disk_file *file,
                      const struct disk_config *config, struct nido_error *err);

/* ---- disk_qcow2_map.c ---- */

#define QCOW2_PARKED 1

int qcow2_cache_create(struct qcow2 *image);
void qcow2_cache_destroy(struct qcow2 *image);
/* The slice of op->offset_bytes, pinned; NULL: the whole table is absent (never, if `make`).
 * QCOW2_PARKED: the op's step is called again later. */
int qcow2_slice_get(struct qcow2_op *op, bool make, struct qcow2_slice **out);
void qcow2_slice_put(struct qcow2_slice *slice);
struct qcow2_slice *qcow2_slice_find(struct qcow2 *image, uint64_t number);
void qcow2_slice_dirty(struct qcow2_slice *slice);
unsigned qcow2_slice_index(const struct qcow2 *image, uint64_t guest_cluster);
struct qcow2_mapping qcow2_decode(const struct qcow2 *image, uint64_t entry);
struct qcow2_mapping qcow2_mapping_at(const struct qcow2_slice *slice, unsigned index);

/* ---- disk_qcow2_read.c, disk_qcow2_write.c, disk_qcow2_zero.c, disk_qcow2_packed.c ---- */

void qcow2_read_step(struct qcow2_op *op);
void qcow2_write_step(struct qcow2_op *op);
void qcow2_zero_step(struct qcow2_op *op);
/* Whether unallocated clusters at this offset show a backing file. */
bool qcow2_is_backed(const struct qcow2 *image, uint64_t guest_offset);
/* Room in the cache and in the log for a change; else the op is parked or fails, and this is not
 * 0. */
int qcow2_may_change(struct qcow2_op *op, const struct qcow2_slice *slice);
/* The op that locks one of these; NULL: none. */
struct qcow2_op *qcow2_lock_holder(struct qcow2 *image, uint64_t first, uint64_t count);
void qcow2_park(struct qcow2_op *op, struct qcow2_op_list *waiting);
void qcow2_packed_read(struct qcow2_op *op, uint64_t entry);
void qcow2_packed_destroy(struct qcow2 *image);

/* ---- disk_qcow2_alloc.c ---- */

bool qcow2_bit(const struct qcow2_bits *bits, uint64_t n);
/* False: out of memory. */
bool qcow2_bits_reach(struct qcow2 *image, uint64_t cluster);
void qcow2_bits_set(struct qcow2_bits *bits, uint64_t first, uint64_t count, bool value);
int qcow2_alloc_create(struct qcow2 *image);
void qcow2_alloc_destroy(struct qcow2 *image);
/* Up to *count neighbours, at least one. 0: there is no room. */
uint64_t qcow2_alloc_data(struct qcow2 *image, unsigned *count);
/* Exactly `count` neighbours. 0: there is no room. */
uint64_t qcow2_alloc_meta(struct qcow2 *image, unsigned count);
/* Gives back what nobody refers to: at once. */
void qcow2_give_back(struct qcow2 *image, uint64_t first, uint64_t count);
void qcow2_log_add(struct qcow2_log *log, uint64_t first, uint32_t count, int delta, bool data);
/* The cluster of a mapping that is replaced loses a reference. */
void qcow2_drop(struct qcow2 *image, const struct qcow2_mapping *mapping);
/* Whether `count` clusters from `host` on are in use and no metadata. */
bool qcow2_is_data(const struct qcow2 *image, uint64_t host, uint64_t count);

/* ---- disk_qcow2_refcount.c ---- */

int qcow2_refcounts_load(struct qcow2 *image, const struct qcow2_header *header,
                         struct nido_error *err);
unsigned qcow2_block_bits(const struct qcow2 *image); /* log2 of the entries in a block */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t index, uint64_t value);

/* ---- disk_qcow2_repair.c ---- */

/* Makes the refcounts of an image with the dirty bit again, in the file and in the header here. */
int qcow2_repair(struct qcow2 *image, struct qcow2_header *header, struct nido_error *err);

/* ---- disk_qcow2_commit.c, disk_qcow2_plan.c ---- */

/* Something has changed that only memory knows. */
void qcow2_commit_later(struct qcow2 *image);
/* Starts what is due. */
void qcow2_commit_poll(struct qcow2 *image);
int qcow2_plan(struct qcow2 *image);
void qcow2_plan_undo(struct qcow2 *image);
int qcow2_commit_create(struct qcow2 *image, struct loop *loop, struct nido_error *err);
void qcow2_commit_destroy(struct qcow2 *image);

/* ---- disk_qcow2_create.c ---- */

/* Writes a new image without content to an empty file. */
int qcow2_create(int fd, const char *path, uint64_t size_bytes, const char *backing_path,
                 const char *backing_format, struct nido_error *err);

#endif
