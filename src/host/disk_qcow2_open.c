/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image and what is behind it, and closing it.
 *
 * A backing file is a disk of its own, opened read-only: its lock is shared, so that many images
 * can stand on one. Its name is relative to the image that names it, its format is the one that is
 * said there. No image may stand on itself.
 */
#include "host/disk_qcow2.h"

#include "base/own.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX      32u
#define AUTOCLEAR_AT   88u
#define PHYSICAL_BYTES 4096u

/* The images that stand on the one being opened. */
struct chain {
    const struct chain *above;
    dev_t device;
    ino_t inode;
    unsigned depth;
};

static int tell_no_memory(const struct qcow2 *image, struct nido_error *err)
{
    return error_set(err, ENOMEM, "disk %s: out of memory", image->disk.path);
}

/* ---- what is behind it ---- */

/* Relative to the image's directory. */
static int resolve(char *to, const char *image_path, const char *path)
{
    const char *slash = strrchr(image_path, '/');
    const int directory = *path == '/' || !slash ? 0 : (int)(slash - image_path) + 1;
    int length = snprintf(to, PATH_MAX, "%.*s%s", directory, image_path, path);
    return length < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int check_format(const struct qcow2 *image, const struct qcow2_header *header,
                        struct nido_error *err)
{
    const char *path = image->disk.path, *format = header->backing_format;
    if (!*format)
        return error_set(err, EINVAL,
                         "disk %s: it does not say which format its backing file %s has, and that "
                         "is not guessed; say it with qemu-img rebase -u -F FORMAT -b '%s' %s",
                         path, header->backing_path, header->backing_path, path);
    if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)
        return error_set(err, ENOTSUP,
                         "disk %s: its backing file %s is a %s image; raw and qcow2 are supported",
                         path, header->backing_path, format);
    if (strncmp(header->backing_path, "json:", 5) == 0 || strstr(header->backing_path, "://"))
        return error_set(err, ENOTSUP,
                         "disk %s: its backing file %s is not a file; files are "
                         "supported",
                         path, header->backing_path);
    return 0;
}

static int check_chain(const struct qcow2 *image, const struct chain *above, const struct stat *st,
                       struct nido_error *err)
{
    for (const struct chain *at = above; at; at = at->above)
        if (at->device == st->st_dev && at->inode == st->st_ino)
            return error_set(err, ELOOP,
                             "disk %s: it is its own backing file; set the right one "
                             "with qemu-img rebase -u",
                             image->disk.path);
    if (above && above->depth >= DEPTH_MAX)
        return error_set(err, ELOOP,
                         "disk %s: it has more than %u backing files; merge some with "
                         "qemu-img commit",
                         image->disk.path, DEPTH_MAX);
    return 0;
}

static int open_chained(struct disk **out, const struct qcow2_open *wanted,
                        const struct chain *above, struct loop *loop, struct nido_error *err);

static int open_backing(struct qcow2 *image, const struct qcow2_header *header,
                        const struct chain *self, struct nido_error *err)
{
    char path[PATH_MAX];
    struct stat st;
    int ret = check_format(image, header, err);
    if (ret < 0)
        return ret;
    if (resolve(path, image->disk.path, header->backing_path) < 0)
        return error_set(err, ENAMETOOLONG, "disk %s: its backing file's name is too long",
                         image->disk.path);
    if (stat(path, &st) == 0)
        ret = check_chain(image, self, &st, err);
    const struct disk_config config = {
        .path = path,
        .read_only = true,
        .format = strcmp(header->backing_format, "raw") == 0 ? DISK_RAW : DISK_QCOW2,
        .raw_for_sure = true,
    };
    const struct qcow2_open wanted = {.config = &config, .fd = -1};
    if (ret == 0 && config.format == DISK_RAW)
        ret = disk_open_raw(&image->backing, &config, image->loop, err);
    else if (ret == 0)
        ret = open_chained(&image->backing, &wanted, self, image->loop, err);
    /* The one that is wrong and the one that was asked for; of a long chain no more fits. */
    return ret < 0 && !self->above
               ? error_prefix(err, "disk %s: its backing file", image->disk.path)
               : ret;
}

/* An overlay that is to be used again must stand on what it is to stand on now. */
static int check_base(const struct qcow2 *image, const struct qcow2_header *header,
                      const struct disk_config *base, struct nido_error *err)
{
    char path[PATH_MAX];
    struct stat theirs, ours;
    const char *format = base->format == DISK_RAW ? "raw" : "qcow2";
    const bool same = *header->backing_path && strcmp(header->backing_format, format) == 0 &&
                      resolve(path, image->disk.path, header->backing_path) == 0 &&
                      stat(path, &theirs) == 0 && stat(base->path, &ours) == 0 &&
                      theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
    if (same)
        return 0;
    return error_set(err, EINVAL,
                     "disk %s: it is there and no overlay of %s (%s); name another file, or remove "
                     "it",
                     image->disk.path, base->path, format);
}

/* ---- callbacks ---- */

static void on_batch(void *owner)
{
    struct qcow2 *image = owner;
    qcow2_process(image);
    if (image->backing)
        disk_commit(image->backing);
}

static void on_backing_batch(void *user)
{
    struct qcow2 *image = user;
    qcow2_process(image);
    aio_commit(image->aio);
}

/* ---- the parts ---- */

static void set_geometry(struct qcow2 *image, const struct qcow2_header *header)
{
    image->version = header->version;
    image->cluster_bits = header->cluster_bits;
    image->cluster_bytes = 1u << header->cluster_bits;
    image->refcount_order = header->refcount_order;
    image->zstd = header->zstd;
    image->l1_entries = header->l1_entries;
    image->l1_offset = header->l1_offset;
    image->file_bytes = image->touched_bytes = image->file.size_bytes;
}

static int load_l1(struct qcow2 *image, struct nido_error *err)
{
    const size_t bytes = image->l1_entries * sizeof(uint64_t);
    image->l1 = malloc(bytes);
    if (!image->l1)
        return tell_no_memory(image, err);
    ssize_t got = pread(image->file.fd, image->l1, bytes, (off_t)image->l1_offset);
    if (got != (ssize_t)bytes)
        return error_errno(err, got < 0 ? errno : EIO, "disk %s: cannot read its L1 table",
                           image->disk.path);
    for (uint32_t i = 0; i < image->l1_entries; i++)
        image->l1[i] = get_be64(&image->l1[i]);
    return 0;
}

/* The lanes' and the commit's; pages come with first use. */
#define BUFFERS (QCOW2_LANES + 1)

static int make_room(struct qcow2 *image, struct nido_error *err)
{
    void *room = mmap(NULL, BUFFERS * QCOW2_PIECE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return tell_no_memory(image, err);
    image->commit.buffer = room;
    for (unsigned i = 0; i < QCOW2_LANES; i++)
        image->lanes[i].buffer = (uint8_t *)room + (i + 1) * QCOW2_PIECE_BYTES;
    image->ops = calloc(QCOW2_OPS, sizeof(*image->ops));
    if (!image->ops || qcow2_cache_create(image) < 0)
        return tell_no_memory(image, err);
    for (unsigned i = 0; i < QCOW2_OPS; i++)
        qcow2_list_push(&image->free_ops, &image->ops[i]);
    return 0;
}

/* "An implementation may only write to an image with unknown auto-clear features if it clears the
 * respective bits from this field first." */
static int clear_autoclear(const struct qcow2 *image, const struct qcow2_header *header,
                           struct nido_error *err)
{
    static const uint8_t none[8];
    if (!header->autoclear)
        return 0;
    if (pwrite(image->file.fd, none, sizeof(none), AUTOCLEAR_AT) != (ssize_t)sizeof(none))
        return error_errno(err, errno, "disk %s: cannot write its header", image->disk.path);
    return 0;
}

static int prepare_to_write(struct qcow2 *image, struct qcow2_header *header,
                            struct nido_error *err)
{
    int ret = 0;
    if (image->disk.read_only)
        return 0;
    if (header->incompatible & QCOW2_INCOMPATIBLE_DIRTY)
        ret = qcow2_repair(image, header, err);
    if (ret == 0)
        ret = qcow2_refcounts_load(image, header, err);
    if (ret == 0)
        ret = clear_autoclear(image, header, err);
    return ret < 0 ? ret : qcow2_commit_create(image, image->loop, err);
}

static int open_behind(struct qcow2 *image, const struct qcow2_open *wanted,
                       const struct qcow2_header *header, const struct chain *above,
                       struct nido_error *err)
{
    struct stat st = {0};
    int ret = 0;
    if (fstat(image->file.fd, &st) < 0)
        return error_errno(err, errno, "disk %s: cannot look at it", image->disk.path);
    const struct chain self = {above, st.st_dev, st.st_ino, above ? above->depth + 1 : 1};
    if (wanted->expected_base)
        ret = check_base(image, header, wanted->expected_base, err);
    if (ret == 0 && wanted->base)
        image->backing = wanted->base;
    else if (ret == 0 && *header->backing_path)
        ret = open_backing(image, header, &self, err);
    if (!image->backing)
        return ret;
    image->backing_bytes = MIN(image->backing->size_bytes, header->size_bytes);
    image->backing->batch_done = on_backing_batch;
    image->backing->user = image;
    return 0;
}

static int open_file(struct qcow2 *image, const struct qcow2_open *wanted,
                     struct qcow2_header *header, struct nido_error *err)
{
    const struct disk_config *config = wanted->config;
    int ret = wanted->fd >= 0 ? disk_file_adopt(&image->file, wanted->fd, config, err)
                              : disk_file_open(&image->file, config, err);
    if (ret == 0)
        ret = qcow2_header_read(header, &image->file, config, err);
    if (ret == 0)
        set_geometry(image, header);
    return ret;
}

static int prepare(struct qcow2 *image, const struct qcow2_open *wanted, const struct chain *above,
                   struct nido_error *err)
{
    struct qcow2_header header;
    int ret = open_file(image, wanted, &header, err);
    if (ret == 0)
        ret = make_room(image, err);
    if (ret == 0)
        ret = load_l1(image, err);
    if (ret == 0)
        ret = aio_create(&image->aio, image->loop, err);
    if (ret == 0)
        ret = prepare_to_write(image, &header, err);
    if (ret == 0)
        ret = open_behind(image, wanted, &header, above, err);
    if (ret < 0)
        return ret;
    image->disk.size_bytes = header.size_bytes;
    image->disk.block_bytes = DISK_SECTOR_BYTES;
    image->disk.physical_bytes = PHYSICAL_BYTES;
    image->disk.discard_bytes = image->disk.read_only ? 0 : image->cluster_bytes;
    image->aio->batch_done = on_batch;
    image->aio->owner = image;
    return 0;
}

/* ---- life ---- */

static void destroy(struct qcow2 *image)
{
    aio_destroy(image->aio);
    disk_close(image->backing);
    qcow2_commit_destroy(image);
    qcow2_alloc_destroy(image);
    qcow2_packed_destroy(image);
    qcow2_cache_destroy(image);
    disk_file_close(&image->file);
    if (image->commit.buffer)
        munmap(image->commit.buffer, BUFFERS * QCOW2_PIECE_BYTES);
    free(image->ops);
    free(image->l1);
    free(image->blocks);
    free(image->disk.path);
    free(image);
}

static int open_chained(struct disk **out, const struct qcow2_open *wanted,
                        const struct chain *above, struct loop *loop, struct nido_error *err)
{
    struct qcow2 *image = calloc(1, sizeof(*image));
    if (!image)
        return error_set(err, ENOMEM, "disk %s: out of memory", wanted->config->path);
    image->disk.ops = &qcow2_disk_ops;
    image->disk.read_only = wanted->config->read_only;
    image->disk.path = strdup(wanted->config->path);
    image->throw_away = wanted->throw_away;
    image->unsafe = wanted->throw_away || wanted->config->unsafe;
    image->loop = loop;
    image->file.fd = image->timer.fd = -1;
    int ret = image->disk.path ? prepare(image, wanted, above, err) : -ENOMEM;
    if (ret < 0) {
        if (image->backing == wanted->base)
            image->backing = NULL; /* still the caller's */
        destroy(image);
        return ret;
    }
    *out = &image->disk;
    return 0;
}

int qcow2_open(struct disk **out, const struct qcow2_open *wanted, struct loop *loop,
               struct nido_error *err)
{
    if (wanted->config->direct)
        return error_set(err, EINVAL, "disk %s: direct goes with raw disks; leave it out",
                         wanted->config->path);
    return open_chained(out, wanted, NULL, loop, err);
}

int disk_open_qcow2(struct disk **out, const struct disk_config *config, struct loop *loop,
                    struct nido_error *err)
{
    const struct qcow2_open wanted = {.config = config, .fd = -1};
    return qcow2_open(out, &wanted, loop, err);
}

/* What is in memory only goes to the file with the last commit. */
void qcow2_disk_close(struct disk *disk)
{
    struct qcow2 *image = qcow2_of(disk);
    if (!disk->read_only && !image->throw_away) {
        image->commit.wanted = true;
        disk_drain(disk);
        if (image->commit.failed < 0 || image->writes_lost)
            log_error("disk %s: what was written since the last flush is lost (%s); the image is "
                      "as it was then",
                      disk->path, strerror(image->writes_lost ? EIO : -image->commit.failed));
    }
    destroy(image);
}
