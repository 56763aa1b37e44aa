/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The four libraries want their input in different ways:
 *   gzip, xz, lzma   streams: a small buffer is read and fed again and again;
 *   lz4 legacy       blocks of up to 8 MiB unpacked, each read whole into one buffer;
 *   zstd             the whole input at once. Its stream decoder would keep a window of up to
 *                    128 MiB of its own and copy every byte out of it; in one shot the output is
 *                    the window. For a part there is no way around the stream decoder.
 * All write into `to` directly, which is guest RAM that no vCPU touches yet.
 */
#include "firmware/unpack.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define STREAM_BUFFER_BYTES (1u << 20)
#define LZ4_BLOCK_BYTES     (8u << 20)
#define PART_REFILL_BYTES   (16u << 10)
/* lz4_Block_format.md: a run's length is a chain of bytes, each of which stands for 255 of it. */
#define LZ4_LENGTH_BYTES (LZ4_BLOCK_BYTES / 255 + 2)
/* Linux 6.12 packs with a dictionary of 128 MiB; a header that asks for more is not a kernel's. */
#define LZMA_MEMORY_BYTES (160u << 20)
#define LZMA_HEADER_BYTES 64u /* keeps the library's alignment */

/* What is still to be read of the packed data. */
struct source {
    const struct bootfile *file;
    uint64_t offset;
    uint64_t left;
    size_t refill_bytes; /* for a stream decoder, at a time */
};

struct target {
    uint8_t *at;
    size_t left;
    bool exact; /* the size is known, and `left` is 0 at the end */
    bool part;  /* what goes beyond `left` is not wanted */
};

enum unpack_format unpack_recognise(const uint8_t magic[UNPACK_MAGIC_BYTES])
{
    static const uint8_t xz[6] = {0xfd, '7', 'z', 'X', 'Z', 0};

    switch (get_le32(magic)) {
    case 0xfd2fb528:
        return UNPACK_ZSTD;
    case 0x184c2102:
        return UNPACK_LZ4;
    }
    if (magic[0] == 0x1f && magic[1] == 0x8b)
        return UNPACK_GZIP;
    if (memcmp(magic, xz, sizeof(xz)) == 0)
        return UNPACK_XZ;
    /* .lzma has no magic number; the kernel looks for its usual properties byte too. */
    if (magic[0] == 0x5d && magic[1] == 0 && magic[2] == 0)
        return UNPACK_LZMA;
    return UNPACK_UNKNOWN;
}

const char *unpack_format_name(enum unpack_format format)
{
    static const char *const names[] = {
        [UNPACK_UNKNOWN] = "unknown", [UNPACK_GZIP] = "gzip", [UNPACK_ZSTD] = "zstd",
        [UNPACK_LZ4] = "LZ4",         [UNPACK_XZ] = "xz",     [UNPACK_LZMA] = "LZMA",
    };
    return names[format];
}

static int broken(struct nido_error *err, const char *what)
{
    return error_set(err, EINVAL,
                     "its packed kernel is broken: %s; copy or download the file again", what);
}

static int too_long(struct target *target, struct nido_error *err)
{
    if (target->part) {
        target->left = 0;
        return 0;
    }
    if (!target->exact)
        return error_set(err, ENOMEM,
                         "it unpacks to more than there is room for in the machine's "
                         "RAM; say more with --mem");
    return broken(err, "it unpacks to more than its size field says");
}

static int too_short(struct nido_error *err)
{
    return broken(err, "it unpacks to less than its size field says");
}

static int no_memory(struct nido_error *err)
{
    return error_set(err, ENOMEM, "the host has no memory left to unpack it; free some");
}

/*
 * Memory for once, mapped by itself: unmapping gives it back to the host at once. free() would not
 * do: glibc takes the size of a large block that is freed as a hint to keep more of the heap.
 */
struct scratch {
    void *at; /* NULL: there was no memory */
    size_t length;
};

static struct scratch scratch_map(size_t length)
{
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return (struct scratch){0};
    madvise(at, length, MADV_HUGEPAGE); /* fewer page faults where the host has it */
    return (struct scratch){at, length};
}

static void scratch_unmap(struct scratch *scratch)
{
    if (scratch->at)
        munmap(scratch->at, scratch->length);
}

#define own_scratch __attribute__((cleanup(scratch_unmap)))

static int source_read(struct source *source, void *to, size_t length, struct nido_error *err)
{
    if (length > source->left)
        return broken(err, "its data end early");
    int r = bootfile_read(source->file, source->offset, to, length, err);
    if (r < 0)
        return r;
    source->offset += length;
    source->left -= length;
    return 0;
}

/* The next piece for a stream decoder; 0 bytes at the end. */
static int source_refill(struct source *source, uint8_t *buffer, size_t *length,
                         struct nido_error *err)
{
    *length = MIN(source->left, (uint64_t)source->refill_bytes);
    return source_read(source, buffer, *length, err);
}

static int gzip_run(z_stream *z, struct source *source, struct target *target, uint8_t *buffer,
                    struct nido_error *err)
{
    int status = Z_OK;
    while (status != Z_STREAM_END) {
        if (z->avail_in == 0) {
            size_t length;
            int r = source_refill(source, buffer, &length, err);
            if (r < 0)
                return r;
            if (length == 0)
                return broken(err, "its data end early");
            z->next_in = buffer;
            z->avail_in = (uInt)length;
        }
        status = inflate(z, Z_NO_FLUSH);
        if (status == Z_BUF_ERROR) /* there is input: so room is what it lacks */
            return too_long(target, err);
        if (status != Z_OK && status != Z_STREAM_END)
            return broken(err, z->msg ? z->msg : "bad gzip data");
    }
    target->left = z->avail_out;
    return 0;
}

static int gzip_unpack(struct source *source, struct target *target, struct nido_error *err)
{
    z_stream z = {.next_out = target->at, .avail_out = (uInt)target->left};
    own_scratch struct scratch buffer = scratch_map(STREAM_BUFFER_BYTES);
    if (!buffer.at || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return no_memory(err);
    int r = gzip_run(&z, source, target, buffer.at, err);
    inflateEnd(&z);
    return r;
}

/* The dictionary comes through here, up to 128 MiB of it. What is in front remembers the length. */
static void *lzma_map(void *opaque, size_t count, size_t size)
{
    struct scratch scratch = scratch_map(LZMA_HEADER_BYTES + count * size);
    if (!scratch.at)
        return NULL;
    *(size_t *)scratch.at = scratch.length;
    return (uint8_t *)scratch.at + LZMA_HEADER_BYTES;
}

static void lzma_unmap(void *opaque, void *pointer)
{
    if (!pointer)
        return;
    uint8_t *at = (uint8_t *)pointer - LZMA_HEADER_BYTES;
    munmap(at, *(size_t *)(void *)at);
}

static int lzma_failed(lzma_ret status, struct nido_error *err)
{
    switch (status) {
    case LZMA_MEM_ERROR:
        return no_memory(err);
    case LZMA_MEMLIMIT_ERROR:
        return broken(err, "its dictionary is larger than any kernel's");
    case LZMA_BUF_ERROR:
        return broken(err, "its data end early");
    default:
        return broken(err, "bad xz or LZMA data");
    }
}

static int lzma_run(lzma_stream *z, struct source *source, struct target *target, uint8_t *buffer,
                    struct nido_error *err)
{
    lzma_ret status = LZMA_OK;
    while (status != LZMA_STREAM_END) {
        if (z->avail_in == 0) {
            int r = source_refill(source, buffer, &z->avail_in, err);
            if (r < 0)
                return r;
            z->next_in = buffer;
        }
        status = lzma_code(z, source->left ? LZMA_RUN : LZMA_FINISH);
        if (status == LZMA_BUF_ERROR && z->avail_in)
            return too_long(target, err);
        if (status != LZMA_OK && status != LZMA_STREAM_END)
            return lzma_failed(status, err);
    }
    target->left = z->avail_out;
    return 0;
}

static int lzma_unpack(enum unpack_format format, struct source *source, struct target *target,
                       struct nido_error *err)
{
    const lzma_allocator allocator = {.alloc = lzma_map, .free = lzma_unmap};
    lzma_stream z = LZMA_STREAM_INIT;
    own_scratch struct scratch buffer = scratch_map(STREAM_BUFFER_BYTES);

    z.allocator = &allocator;
    z.next_out = target->at;
    z.avail_out = target->left;
    lzma_ret status = format == UNPACK_XZ ? lzma_stream_decoder(&z, LZMA_MEMORY_BYTES, 0)
                                          : lzma_alone_decoder(&z, LZMA_MEMORY_BYTES);
    int r = buffer.at && status == LZMA_OK ? lzma_run(&z, source, target, buffer.at, err)
                                           : no_memory(err);
    lzma_end(&z);
    return r;
}

/* Whether a block that failed to unpack has so much of good data: what it lacked is room, then. */
static bool lz4_fills(const uint8_t *block, uint32_t length, uint8_t *to, size_t room)
{
    return LZ4_decompress_safe_partial((const char *)block, (char *)to, (int)length, (int)room,
                                       (int)room) == (int)room;
}

static int lz4_block(struct source *source, uint8_t *buffer, struct target *target,
                     struct nido_error *err)
{
    uint8_t field[4];
    int r = source_read(source, field, sizeof(field), err);
    if (r < 0)
        return r;
    uint32_t packed = get_le32(field);
    if (packed == 0 || packed > LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES))
        return broken(err, "an LZ4 block of an impossible size");
    size_t room = MIN(target->left, (size_t)LZ4_BLOCK_BYTES);
    /* The last run that is looked at may be one that goes on to the block's end. */
    if (target->part)
        packed = MIN(packed, (uint32_t)LZ4_COMPRESSBOUND(room) + LZ4_LENGTH_BYTES);
    r = source_read(source, buffer, packed, err);
    if (r < 0)
        return r;

    int n = target->part ? LZ4_decompress_safe_partial((const char *)buffer, (char *)target->at,
                                                       (int)packed, (int)room, (int)room)
                         : LZ4_decompress_safe((const char *)buffer, (char *)target->at,
                                               (int)packed, (int)room);
    if (n < 0 && !target->exact && room < LZ4_BLOCK_BYTES &&
        lz4_fills(buffer, packed, target->at, room))
        return too_long(target, err);
    if (n < 0)
        return broken(err, target->exact ? "bad LZ4 data, or more of it than its size field says"
                                         : "bad LZ4 data");
    target->at += n;
    target->left -= (size_t)n;
    return 0;
}

/* lz4_Frame_format.md, "Legacy frame": a magic number, then blocks to the end of the input. A part is
 * one of the first block. */
static int lz4_unpack(struct source *source, struct target *target, struct nido_error *err)
{
    own_scratch struct scratch buffer = scratch_map(LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES));
    uint8_t magic[4];
    if (!buffer.at)
        return no_memory(err);
    int r = source_read(source, magic, sizeof(magic), err);
    while (r == 0 && source->left) {
        r = lz4_block(source, buffer.at, target, err);
        if (target->part)
            break;
    }
    return r;
}

static int zstd_run(const void *packed, size_t length, struct target *target,
                    struct nido_error *err)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (!context)
        return no_memory(err);
    size_t n = ZSTD_decompressDCtx(context, target->at, target->left, packed, length);
    ZSTD_freeDCtx(context);
    if (ZSTD_isError(n) && ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall)
        return too_long(target, err);
    if (ZSTD_isError(n))
        return broken(err, ZSTD_getErrorName(n));
    target->left -= n;
    return 0;
}

static int zstd_stream(ZSTD_DCtx *context, struct source *source, struct target *target,
                       uint8_t *buffer, struct nido_error *err)
{
    ZSTD_inBuffer in = {.src = buffer};
    ZSTD_outBuffer out = {.dst = target->at, .size = target->left};
    while (out.pos < out.size) {
        if (in.pos == in.size) {
            in.pos = 0;
            int r = source_refill(source, buffer, &in.size, err);
            if (r < 0 || in.size == 0)
                return r;
        }
        size_t n = ZSTD_decompressStream(context, &out, &in);
        if (ZSTD_isError(n))
            return broken(err, ZSTD_getErrorName(n));
        target->left = out.size - out.pos;
    }
    return 0;
}

static int zstd_part(struct source *source, struct target *target, struct nido_error *err)
{
    own_scratch struct scratch buffer = scratch_map(source->refill_bytes);
    ZSTD_DCtx *context = ZSTD_createDCtx();
    int r = buffer.at && context ? zstd_stream(context, source, target, buffer.at, err)
                                 : no_memory(err);
    ZSTD_freeDCtx(context);
    return r;
}

static int zstd_unpack(struct source *source, struct target *target, struct nido_error *err)
{
    if (target->part)
        return zstd_part(source, target, err);
    own_scratch struct scratch packed = scratch_map(source->left);
    if (!packed.at)
        return no_memory(err);
    int r = source_read(source, packed.at, packed.length, err);
    return r < 0 ? r : zstd_run(packed.at, packed.length, target, err);
}

static int run(enum unpack_format format, struct source *source, struct target *target,
               struct nido_error *err)
{
    switch (format) {
    case UNPACK_GZIP:
        return gzip_unpack(source, target, err);
    case UNPACK_ZSTD:
        return zstd_unpack(source, target, err);
    case UNPACK_LZ4:
        return lz4_unpack(source, target, err);
    case UNPACK_XZ:
    case UNPACK_LZMA:
        return lzma_unpack(format, source, target, err);
    case UNPACK_UNKNOWN:
        break;
    }
    return error_set(err, ENOTSUP, "it is packed in a way that nido cannot unpack");
}

int unpack(enum unpack_format format, const struct bootfile *file, uint64_t offset, uint64_t length,
           void *to, size_t to_bytes, struct nido_error *err)
{
    struct source source = {
        .file = file, .offset = offset, .left = length, .refill_bytes = STREAM_BUFFER_BYTES};
    struct target target = {.at = to, .left = to_bytes, .exact = true};
    int r = run(format, &source, &target, err);
    return r == 0 && target.left ? too_short(err) : r;
}

int unpack_all(enum unpack_format format, const struct bootfile *file, uint64_t offset,
               uint64_t length, void *to, size_t room_bytes, size_t *unpacked_bytes,
               struct nido_error *err)
{
    struct source source = {
        .file = file, .offset = offset, .left = length, .refill_bytes = STREAM_BUFFER_BYTES};
    struct target target = {.at = to, .left = room_bytes};
    int r = run(format, &source, &target, err);
    *unpacked_bytes = room_bytes - target.left;
    return r;
}

int unpack_part(enum unpack_format format, const struct bootfile *file, uint64_t offset,
                uint64_t length, void *to, size_t room_bytes, size_t *unpacked_bytes,
                struct nido_error *err)
{
    struct source source = {
        .file = file, .offset = offset, .left = length, .refill_bytes = PART_REFILL_BYTES};
    struct target target = {.at = to, .left = room_bytes, .part = true};
    int r = run(format, &source, &target, err);
    *unpacked_bytes = room_bytes - target.left;
    return r;
}
