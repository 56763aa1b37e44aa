/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_DISK_H
#define NIDO_HOST_DISK_H

/*
 * A disk: a size and asynchronous requests. devices/virtio/blk.c sees only this. disk_raw.c is the
 * first kind (a file or block device, byte for byte), disk_qcow2.c the second, and disk_open.c knows
 * which is wanted.
 *
 * A disk belongs to one loop: all functions but open are for the loop's thread, or for any one
 * thread while the loop does not run. A request is owned by the caller and must live until `done`,
 * which is called from disk_commit(), disk_drain() or the loop, never from disk_submit(). It may
 * submit further requests; those start without a commit.
 *
 * What is acknowledged: a write is durable once a later flush has completed with 0. After a flush
 * has failed, the host may have dropped dirty pages, so every later write and flush fails with -EIO
 * rather than pretend.
 */

#include "base/error.h"
#include "host/aio.h"
#include "host/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define DISK_SECTOR_BYTES 512u

enum disk_op {
    DISK_READ,
    DISK_WRITE,
    DISK_WRITE_THROUGH, /* durable when done: a write and its flush in one */
    DISK_FLUSH,
    DISK_DISCARD,            /* the range's content is no longer needed; may be ignored */
    DISK_WRITE_ZEROES,       /* reads as zero afterwards, storage kept allocated */
    DISK_WRITE_ZEROES_UNMAP, /* the same, storage may be given back */
};

struct disk_request {
    enum disk_op op;
    uint64_t offset_bytes;
    uint64_t length_bytes; /* the sum of iov for reads and writes */
    struct iovec *iov;     /* reads and writes; may be changed while the request is under way */
    unsigned iov_count;    /* 1 to 1024 */
    /* result: 0, or a negative errno (-EIO, -ENOSPC...). Whole or not at all: a short read is
     * -EIO. */
    void (*done)(struct disk_request *request, int result);

    /* The disk's own while the request is under way. */
    struct aio_request aio;
    struct disk *disk;
    struct disk_request *next;
    uint64_t done_bytes;
};

struct disk;

struct disk_ops {
    void (*submit)(struct disk *disk, struct disk_request *request);
    void (*commit)(struct disk *disk); /* what was submitted starts now; one system call for many */
    /* Returns when nothing is under way, for the end of a machine: long requests (zeroes) are cut
     * short with -ECANCELED. */
    void (*drain)(struct disk *disk);
    void (*close)(struct disk *disk); /* no request is under way */
};

struct disk {
    const struct disk_ops *ops;
    uint64_t size_bytes;     /* a multiple of block_bytes */
    uint32_t block_bytes;    /* what O_DIRECT or the device needs requests aligned to: 512, 4096...
                              * A request that is not fails with -EINVAL, where it matters */
    uint32_t physical_bytes; /* smaller writes cost a read; at least block_bytes */
    uint32_t discard_bytes;  /* granularity of discard; 0: discard does nothing */
    bool read_only;
    char *path; /* for messages; owned */

    /* The user's: called after one or more `done`, so that their outcome can be published at once.
     * NULL: nobody cares. */
    void (*batch_done)(void *user);
    void *user;
};

enum disk_format { DISK_RAW, DISK_QCOW2 };

struct disk_config {
    const char *path;
    enum disk_format format;
    bool read_only;
    bool direct;       /* O_DIRECT; raw only */
    bool raw_for_sure; /* whatever it starts with */
    bool unsafe;       /* flushes do not wait for the storage: a power failure may lose anything */
    bool overlay;      /* writes go to a layer on top; the file is shared, and stays as it is */
    const char *overlay_path; /* where the layer is kept; NULL: thrown away with the disk */
};

/* Whatever the configuration asks for. */
int disk_open(struct disk **out, const struct disk_config *config, struct loop *loop,
              struct nido_error *err);

/* Opens and locks the file so that two machines cannot write it (readers share; QEMU and qemu-img
 * see the lock too). Refuses what is not a regular file or block device, is not a multiple of 512
 * bytes, is empty, is locked, or (for a file that starts with the magic of qcow2, vmdk, vdi..., and
 * is not raw_for_sure) not raw, each with its next step. */
int disk_open_raw(struct disk **out, const struct disk_config *config, struct loop *loop,
                  struct nido_error *err);

/* An image of version 2 or 3 and what it stands on, locked alike. Refuses what is no such image,
 * needs a feature that is not supported, or (to be written) contradicts itself. */
int disk_open_qcow2(struct disk **out, const struct disk_config *config, struct loop *loop,
                    struct nido_error *err);

static inline void disk_submit(struct disk *disk, struct disk_request *request)
{
    disk->ops->submit(disk, request);
}

static inline void disk_commit(struct disk *disk)
{
    disk->ops->commit(disk);
}

static inline void disk_drain(struct disk *disk)
{
    disk->ops->drain(disk);
}

static inline void disk_close(struct disk *disk) /* takes NULL */
{
    if (disk)
        disk->ops->close(disk);
}

#endif
