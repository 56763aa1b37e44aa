/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all opcodes have in common: headers, lengths, INIT, and the table of what there is.
 *
 *     out  40 bytes   struct fuse_in_header: its `len` counts itself and all that follows
 *     out  the opcode's fixed part, then names or data
 *     in   16 bytes   struct fuse_out_header: its `len` is what was written in all
 *     in   the payload; none with an error
 *
 * FORGET and BATCH_FORGET have no answer. What is not in the table is ENOSYS, which the guest's
 * kernel remembers, and does without:
 *  - locks of files and of records (GETLK, SETLK, SETLKW): they hold between the guest's programs;
 *  - ACCESS: the guest's kernel looks at modes and owners itself, as virtiofs always does;
 *  - INTERRUPT: no request waits for anything that an interrupt could end;
 *  - TMPFILE, POLL, BMAP, IOCTL, and the DAX window's SETUPMAPPING.
 */
#include "devices/virtio/fs_session.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

#define IN_HEADER  sizeof(struct fuse_in_header)
#define OUT_HEADER sizeof(struct fuse_out_header)

#define MINOR_MIN 31u /* Linux 5.4 */

/* A request's pages are descriptors, beside four for headers and arguments; so many fit. */
#define PAGES_MAX  (VIRTQ_SIZE_MAX - 4u)
#define WRITE_MAX  (PAGES_MAX * 4096u)
#define BACKGROUND 64u

#define FORGETS_MAX 65536u /* in one request: it must end */

#define VALID_AUTO_S   1u
#define VALID_ALWAYS_S 86400u
#define VALID_FILE_NS  1000000l

#define WANTED_FLAGS                                                                               \
    (FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |               \
     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 |     \
     FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_SUBMOUNTS)

/* ---- bytes ---- */

const char *fs_next_name(struct fs_request *request)
{
    const char *name = request->rest;
    size_t length = strnlen(name, request->rest_bytes);
    if (length == request->rest_bytes)
        return NULL;
    request->rest += length + 1;
    request->rest_bytes -= length + 1;
    return name;
}

static unsigned slice(struct iovec *to, const struct iovec *from, uint64_t offset, uint64_t length)
{
    unsigned count = 0;
    for (; length && offset >= from->iov_len; from++)
        offset -= from->iov_len;
    for (; length; from++) {
        uint64_t piece = MIN(length, from->iov_len - offset);
        to[count++] = (struct iovec){(char *)from->iov_base + offset, piece};
        length -= piece;
        offset = 0;
    }
    return count;
}

unsigned fs_readable(struct fs_session *session, const struct fs_request *request, uint64_t offset,
                     uint64_t length)
{
    return slice(session->iov, request->chain->iov, offset, length);
}

unsigned fs_writable(struct fs_session *session, const struct fs_request *request, uint64_t offset,
                     uint64_t length)
{
    return slice(session->iov, request->chain->iov + request->chain->out_count, offset, length);
}

/* ---- what answers are made of ---- */

uint64_t fs_valid_s(const struct fs_session *session)
{
    static const uint64_t valid_s[] = {
        [VIRTIO_FS_CACHE_AUTO] = VALID_AUTO_S,
        [VIRTIO_FS_CACHE_ALWAYS] = VALID_ALWAYS_S,
        [VIRTIO_FS_CACHE_NONE] = 0,
    };
    return valid_s[session->cache];
}

/* With FUSE_AUTO_INVAL_DATA a file's contents are as good as its attributes: new bytes of it behind
 * an old size would be a file that never was. Linux looks at the attributes when a file is opened
 * and at each read, if they have expired; a tick of its clock keeps small reads from asking each
 * time. */
struct timespec fs_attr_valid(const struct fs_session *session, mode_t mode)
{
    if (session->cache == VIRTIO_FS_CACHE_AUTO && S_ISREG(mode))
        return (struct timespec){.tv_nsec = VALID_FILE_NS};
    return (struct timespec){.tv_sec = (time_t)fs_valid_s(session)};
}

/* As the kernel packs a device number into 32 bits. */
static uint32_t device_number(uint32_t major_number, uint32_t minor_number)
{
    return (minor_number & 0xff) | major_number << 8 | (minor_number & ~0xffu) << 12;
}

void fs_fill_attr(struct fuse_attr *to, const struct statx *from)
{
    *to = (struct fuse_attr){
        .ino = from->stx_ino,
        .size = from->stx_size,
        .blocks = from->stx_blocks,
        .atime = (uint64_t)from->stx_atime.tv_sec,
        .mtime = (uint64_t)from->stx_mtime.tv_sec,
        .ctime = (uint64_t)from->stx_ctime.tv_sec,
        .atimensec = from->stx_atime.tv_nsec,
        .mtimensec = from->stx_mtime.tv_nsec,
        .ctimensec = from->stx_ctime.tv_nsec,
        .mode = from->stx_mode,
        .nlink = from->stx_nlink,
        .uid = from->stx_uid,
        .gid = from->stx_gid,
        .rdev = device_number(from->stx_rdev_major, from->stx_rdev_minor),
        .blksize = from->stx_blksize,
    };
}

void fs_fill_entry(const struct fs_session *session, struct fuse_entry_out *to,
                   const struct share_entry *from)
{
    const struct timespec valid = fs_attr_valid(session, from->attr.stx_mode);
    *to = (struct fuse_entry_out){
        .nodeid = from->node,
        .entry_valid = fs_valid_s(session),
        .attr_valid = (uint64_t)valid.tv_sec,
        .attr_valid_nsec = (uint32_t)valid.tv_nsec,
    };
    fs_fill_attr(&to->attr, &from->attr);
    to->attr.flags = from->is_mount && !session->flat ? FUSE_ATTR_SUBMOUNT : 0;
}

struct share_owner fs_caller(const struct fs_request *request)
{
    return (struct share_owner){.uid = request->header.uid, .gid = request->header.gid};
}

/* ---- beginning and end ---- */

void fs_session_forget(struct fs_session *session)
{
    share_reset(session->share);
    session->greeted = false;
}

/* The kernel of 7.36 and later sends a longer request; the flags that it holds more of are none of
 * ours. */
static int init(struct fs_session *session, struct fs_request *request)
{
    const struct fuse_init_in *in = request->args;
    struct fuse_init_out *out = (void *)session->reply;
    fs_session_forget(session);
    *out = (struct fuse_init_out){
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
    };
    if (in->major > FUSE_KERNEL_VERSION)
        return sizeof(*out); /* it will ask again, in our version */
    if (in->major < FUSE_KERNEL_VERSION || in->minor < MINOR_MIN) {
        log_warn_limited(&session->complaints,
                         "%s: the guest speaks FUSE %u.%u; %u.%u (Linux 5.4) is the oldest that is "
                         "understood",
                         session->name, in->major, in->minor, FUSE_KERNEL_VERSION, MINOR_MIN);
        return -EPROTO;
    }
    uint32_t wanted = WANTED_FLAGS;
    if (session->cache == VIRTIO_FS_CACHE_AUTO)
        wanted |= FUSE_AUTO_INVAL_DATA;
    out->flags = in->flags & wanted;
    out->max_readahead = in->max_readahead;
    out->max_background = BACKGROUND;
    out->congestion_threshold = BACKGROUND * 3 / 4;
    out->max_write = WRITE_MAX;
    out->max_pages = PAGES_MAX;
    out->time_gran = 1;
    session->greeted = true;
    return sizeof(*out);
}

static int destroy(struct fs_session *session, struct fs_request *request)
{
    fs_session_forget(session);
    return 0;
}

/* ---- the opcodes ---- */

struct opcode {
    fs_serve *serve;
    uint16_t in_bytes;  /* the fixed part of the request */
    uint16_t out_bytes; /* the fixed part of the answer */
    bool has_data;      /* what follows the fixed part stays in the guest's memory */
};

#define IN(type)  .in_bytes = sizeof(struct type)
#define OUT(type) .out_bytes = sizeof(struct type)

static const struct opcode opcodes[] = {
    /* The fields of 7.36 may be missing. */
    [FUSE_INIT] = {init, .in_bytes = offsetof(struct fuse_init_in, flags2), OUT(fuse_init_out)},
    [FUSE_DESTROY] = {.serve = destroy},
    [FUSE_LOOKUP] = {fs_lookup, OUT(fuse_entry_out)},
    [FUSE_GETATTR] = {fs_getattr, IN(fuse_getattr_in), OUT(fuse_attr_out)},
    [FUSE_SETATTR] = {fs_setattr, IN(fuse_setattr_in), OUT(fuse_attr_out)},
    [FUSE_READLINK] = {.serve = fs_readlink},
    [FUSE_SYMLINK] = {fs_symlink, OUT(fuse_entry_out)},
    [FUSE_MKNOD] = {fs_mknod, IN(fuse_mknod_in), OUT(fuse_entry_out)},
    [FUSE_MKDIR] = {fs_mkdir, IN(fuse_mkdir_in), OUT(fuse_entry_out)},
    [FUSE_UNLINK] = {.serve = fs_unlink},
    [FUSE_RMDIR] = {.serve = fs_rmdir},
    [FUSE_RENAME] = {fs_rename, IN(fuse_rename_in)},
    [FUSE_RENAME2] = {fs_rename2, IN(fuse_rename2_in)},
    [FUSE_LINK] = {fs_link, IN(fuse_link_in), OUT(fuse_entry_out)},
    [FUSE_STATFS] = {fs_statfs, OUT(fuse_statfs_out)},
    [FUSE_SYNCFS] = {fs_syncfs, IN(fuse_syncfs_in)},
    /* The longer form of 7.33 was not agreed on. */
    [FUSE_SETXATTR] = {fs_setxattr, .in_bytes = FUSE_COMPAT_SETXATTR_IN_SIZE},
    [FUSE_GETXATTR] = {fs_getxattr, IN(fuse_getxattr_in)},
    [FUSE_LISTXATTR] = {fs_listxattr, IN(fuse_getxattr_in)},
    [FUSE_REMOVEXATTR] = {.serve = fs_removexattr},
    [FUSE_OPEN] = {fs_open, IN(fuse_open_in), OUT(fuse_open_out)},
    [FUSE_CREATE] = {fs_create, IN(fuse_create_in),
                     .out_bytes = sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)},
    [FUSE_READ] = {fs_read, IN(fuse_read_in)},
    [FUSE_WRITE] = {fs_write, IN(fuse_write_in), OUT(fuse_write_out), .has_data = true},
    [FUSE_RELEASE] = {fs_release, IN(fuse_release_in)},
    [FUSE_FLUSH] = {fs_flush, IN(fuse_flush_in)},
    [FUSE_FSYNC] = {fs_fsync, IN(fuse_fsync_in)},
    [FUSE_OPENDIR] = {fs_opendir, IN(fuse_open_in), OUT(fuse_open_out)},
    [FUSE_READDIR] = {fs_readdir, IN(fuse_read_in)},
    [FUSE_READDIRPLUS] = {fs_readdirplus, IN(fuse_read_in)},
    [FUSE_RELEASEDIR] = {fs_releasedir, IN(fuse_release_in)},
    [FUSE_FSYNCDIR] = {fs_fsyncdir, IN(fuse_fsync_in)},
    [FUSE_LSEEK] = {fs_lseek, IN(fuse_lseek_in), OUT(fuse_lseek_out)},
    [FUSE_FALLOCATE] = {fs_fallocate, IN(fuse_fallocate_in)},
    [FUSE_COPY_FILE_RANGE] = {fs_copy_file_range, IN(fuse_copy_file_range_in), OUT(fuse_write_out)},
};

/* ---- a request ---- */

/* Cuts up what follows the header. It was not looked at before, and is not read again. */
static int take_args(struct fs_session *session, struct fs_request *request,
                     const struct opcode *opcode)
{
    const uint64_t length = request->header.len - IN_HEADER;
    if (length < opcode->in_bytes)
        return -EINVAL;
    uint64_t copied = opcode->has_data ? opcode->in_bytes : length;
    if (copied > sizeof(session->args))
        return -E2BIG;
    if (virtq_chain_read(request->chain, IN_HEADER, session->args, copied) < 0)
        return -EINVAL;
    request->args = session->args;
    request->rest = (const char *)session->args + opcode->in_bytes;
    request->rest_bytes = copied - opcode->in_bytes;
    request->data_at = IN_HEADER + copied;
    request->data_bytes = length - copied;
    return 0;
}

static int run(struct fs_session *session, struct fs_request *request)
{
    const uint32_t number = request->header.opcode;
    const struct opcode *opcode = number < ARRAY_SIZE(opcodes) ? &opcodes[number] : NULL;
    if (request->header.len < IN_HEADER || request->header.len > request->chain->out_bytes)
        return -EINVAL;
    if (!opcode || !opcode->serve)
        return -ENOSYS;
    if (!session->greeted && opcode->serve != init)
        return -EPROTO;
    if (request->room < opcode->out_bytes)
        return -EINVAL;
    int ret = take_args(session, request, opcode);
    return ret < 0 ? ret : opcode->serve(session, request);
}

static void forget_one(struct fs_session *session, const struct fs_request *request)
{
    struct fuse_forget_in in;
    if (virtq_chain_read(request->chain, IN_HEADER, &in, sizeof(in)) == 0)
        share_forget(session->share, request->header.nodeid, in.nlookup);
}

static void forget_many(struct fs_session *session, const struct fs_request *request)
{
    struct fuse_batch_forget_in in;
    struct fuse_forget_one one;
    uint64_t at = IN_HEADER + sizeof(in);
    if (virtq_chain_read(request->chain, IN_HEADER, &in, sizeof(in)) < 0)
        return;
    for (uint32_t i = 0; i < MIN(in.count, FORGETS_MAX); i++, at += sizeof(one)) {
        if (virtq_chain_read(request->chain, at, &one, sizeof(one)) < 0)
            return;
        share_forget(session->share, one.nodeid, one.nlookup);
    }
}

static bool has_no_answer(struct fs_session *session, const struct fs_request *request)
{
    switch (request->header.opcode) {
    case FUSE_FORGET:
        forget_one(session, request);
        return true;
    case FUSE_BATCH_FORGET:
        forget_many(session, request);
        return true;
    default:
        return false;
    }
}

static int64_t answer(struct fs_session *session, const struct fs_request *request, int result)
{
    const uint32_t payload = result > 0 ? (uint32_t)result : 0;
    const struct fuse_out_header out = {
        .len = (uint32_t)OUT_HEADER + payload,
        .error = result < 0 ? result : 0,
        .unique = request->header.unique,
    };
    /* There is room: it was checked, or the payload was cut to it. */
    virtq_chain_write(request->chain, 0, &out, sizeof(out));
    if (!request->in_place)
        virtq_chain_write(request->chain, OUT_HEADER, session->reply, payload);
    return out.len;
}

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

static void count_request(struct fs_session *session, const struct fs_request *request, int result)
{
    const struct share_counts counts = share_count(session->share);
    count(&session->requests, 1);
    count(&session->failures, result < 0);
    if (request->header.opcode == FUSE_READ && result > 0)
        count(&session->read_bytes, (uint64_t)result);
    if (request->header.opcode == FUSE_WRITE && result > 0)
        count(&session->written_bytes, ((struct fuse_write_out *)(void *)session->reply)->size);
    atomic_store_explicit(&session->nodes, counts.nodes, memory_order_relaxed);
    atomic_store_explicit(&session->handles, counts.handles, memory_order_relaxed);
}

int64_t fs_session_serve(struct fs_session *session, const struct virtq_chain *chain)
{
    struct fs_request request = {.chain = chain};
    int result = 0;
    if (virtq_chain_read(chain, 0, &request.header, IN_HEADER) < 0)
        return -EINVAL;
    bool silent = has_no_answer(session, &request);
    if (!silent) {
        if (chain->in_bytes < OUT_HEADER)
            return -EINVAL;
        request.room = chain->in_bytes - OUT_HEADER;
        result = run(session, &request);
    }
    count_request(session, &request, result);
    return silent ? 0 : answer(session, &request, result);
}
