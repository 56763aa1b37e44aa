/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/source.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int make_buffers(struct source *source, struct nido_error *err)
{
    source->buffer = malloc(SOURCE_BUFFER_BYTES);
    source->inflated = malloc(SOURCE_BUFFER_BYTES);
    source->data = malloc(SOURCE_BUFFER_BYTES);
    return source->buffer && source->inflated && source->data
               ? 0
               : error_set(err, ENOMEM, "out of memory");
}

int source_open(struct source *source, int directory_fd, const char *path, struct nido_error *err)
{
    struct stat st;
    *source = (struct source){.fd = openat(directory_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (source->fd < 0 || fstat(source->fd, &st) < 0)
        return error_errno(err, errno, "cannot be opened");
    if (!S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "this is no regular file");
    source->size_bytes = (uint64_t)st.st_size;
    return make_buffers(source, err);
}

int source_open_inside(struct source *source, struct archive *outer, struct nido_error *err)
{
    *source = (struct source){.fd = -1, .outer = outer};
    return make_buffers(source, err);
}

static void end_archive(struct source *source)
{
    if (source->archive)
        archive_read_free(source->archive);
    source->archive = NULL;
    if (source->is_gzip)
        inflateEnd(&source->zlib);
    source->zlib = (z_stream){0};
    source->is_gzip = source->is_between = false;
    source->gzip_error = NULL;
}

void source_close(struct source *source)
{
    end_archive(source);
    free(source->buffer);
    free(source->inflated);
    free(source->data);
    source->buffer = source->inflated = source->data = NULL;
    if (source->fd >= 0)
        close(source->fd);
    source->fd = -1;
}

static ssize_t read_some(struct source *source)
{
    ssize_t n;
    if (source->outer)
        return archive_read_data(source->outer, source->buffer, SOURCE_BUFFER_BYTES);
    do {
        n = read(source->fd, source->buffer, SOURCE_BUFFER_BYTES);
    } while (n < 0 && errno == EINTR);
    if (n > 0 && source->hashes)
        hasher_add(&source->hasher, source->buffer, (size_t)n);
    return n;
}

static int rewind_source(struct source *source, bool hashes, enum digest_kind kind,
                         struct nido_error *err)
{
    if (!source->outer && lseek(source->fd, 0, SEEK_SET) < 0)
        return error_errno(err, errno, "cannot be read");
    source->hashes = hashes;
    if (hashes)
        hasher_begin(&source->hasher, kind);
    return 0;
}

/* To its end, for the digest. */
static int read_rest(struct source *source, struct nido_error *err)
{
    ssize_t n;
    do {
        n = read_some(source);
    } while (n > 0);
    return n < 0 ? error_errno(err, errno, "cannot be read") : 0;
}

int source_digest(struct source *source, enum digest_kind kind, struct digest *digest,
                  struct nido_error *err)
{
    int ret = rewind_source(source, true, kind, err);
    if (ret == 0)
        ret = read_rest(source, err);
    if (ret == 0)
        hasher_end(&source->hasher, digest);
    return ret;
}

/* ---- the archive in it ---- */

static const uint8_t gzip_magic[] = {0x1f, 0x8b};

static la_ssize_t read_packed(struct archive *archive, struct source *source)
{
    ssize_t n = read_some(source);
    if (n < 0 && source->outer)
        archive_set_error(archive, EIO, "the archive around it is");
    else if (n < 0)
        archive_set_error(archive, errno, "%s", strerror(errno));
    source->zlib.next_in = source->buffer;
    source->zlib.avail_in = (uInt)MAX(n, (ssize_t)0);
    return n < 0 ? ARCHIVE_FATAL : n;
}

/* Kept here: the library has words of its own for what it could not skip. */
static la_ssize_t gzip_failed(struct source *source, const char *why)
{
    source->gzip_error = why;
    return ARCHIVE_FATAL;
}

/* Member after member, as gzip does: what follows and is none is no part of it. */
static la_ssize_t read_gzip(struct archive *archive, struct source *source)
{
    z_stream *zlib = &source->zlib;
    zlib->next_out = source->inflated;
    zlib->avail_out = SOURCE_BUFFER_BYTES;
    while (zlib->avail_out) {
        if (zlib->avail_in == 0 && read_packed(archive, source) < 0)
            return ARCHIVE_FATAL;
        if (source->is_between && (zlib->avail_in == 0 || *zlib->next_in != gzip_magic[0]))
            break;
        if (zlib->avail_in == 0)
            return gzip_failed(source, "it ends too early");
        if (source->is_between)
            inflateReset(zlib);
        int got = inflate(zlib, Z_NO_FLUSH);
        source->is_between = got == Z_STREAM_END;
        if (got != Z_OK && got != Z_STREAM_END)
            return gzip_failed(source, zlib->msg ? zlib->msg : zError(got));
    }
    return SOURCE_BUFFER_BYTES - zlib->avail_out;
}

static la_ssize_t on_read(struct archive *archive, void *self, const void **bytes)
{
    struct source *source = self;
    *bytes = source->is_gzip ? source->inflated : source->buffer;
    if (source->is_gzip)
        return read_gzip(archive, source);
    la_ssize_t n = source->zlib.avail_in;
    if (n == 0)
        n = read_packed(archive, source);
    source->zlib.avail_in = 0;
    return n;
}

/* The library's words, which may be missing, as a sentence about the file. */
static int archive_failed(const struct source *source, struct nido_error *err)
{
    const char *why = archive_error_string(source->archive);
    int code = archive_errno(source->archive);
    if (source->gzip_error)
        return error_set(err, EBADMSG, "it is cut off or damaged: gzip: %s", source->gzip_error);
    /* The number is the library's for a wrong format. */
    if (code == EILSEQ && archive_format(source->archive) == 0)
        return error_set(err, EINVAL, "this is no tar archive");
    if (code == ENOMEM)
        return error_set(err, ENOMEM, "out of memory while it was unpacked");
    return error_set(err, EBADMSG, "it is cut off or damaged: %s", why ? why : "it cannot be read");
}

/* zlib checks the sum and the length that gzip writes behind what it packed; libarchive does not. */
static int begin_gzip(struct source *source, struct nido_error *err)
{
    if (read_packed(source->archive, source) < 0)
        return archive_failed(source, err);
    if (source->zlib.avail_in < sizeof(gzip_magic) ||
        memcmp(source->buffer, gzip_magic, sizeof(gzip_magic)) != 0)
        return 0;
    if (inflateInit2(&source->zlib, MAX_WBITS + 16) != Z_OK) /* gzip's header, and no other */
        return error_set(err, ENOMEM, "out of memory");
    source->is_gzip = true;
    return 0;
}

int source_begin(struct source *source, bool hashes, enum digest_kind kind, struct nido_error *err)
{
    end_archive(source);
    int ret = rewind_source(source, hashes, kind, err);
    if (ret < 0)
        return ret;
    struct archive *archive = source->archive = archive_read_new();
    if (!archive)
        return error_set(err, ENOMEM, "out of memory");
    ret = begin_gzip(source, err);
    if (ret < 0)
        return ret;
    archive_read_support_format_tar(archive);
    archive_read_support_filter_xz(archive);
    archive_read_support_filter_zstd(archive);
    archive_read_support_filter_bzip2(archive);
    if (archive_read_open(archive, source, NULL, on_read, NULL) == ARCHIVE_OK)
        return 0;
    return archive_failed(source, err);
}

int source_begin_parts(struct source *source, struct nido_error *err)
{
    int ret = rewind_source(source, false, DIGEST_SHA256, err);
    source->archive = archive_read_new();
    if (ret < 0 || !source->archive)
        return ret < 0 ? ret : error_set(err, ENOMEM, "out of memory");
    archive_read_support_format_ar(source->archive);
    if (archive_read_open(source->archive, source, NULL, on_read, NULL) == ARCHIVE_OK)
        return 0;
    return error_set(err, EINVAL, "this is no Debian package");
}

/* What squashfs, whose attributes these become, can hold: no ACLs. */
static bool is_kept(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
           strncmp(name, "security.", 9) == 0;
}

static int take_xattrs(struct archive_entry *entry, struct member *member, struct nido_error *err)
{
    const char *name;
    const void *value;
    size_t value_bytes;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &value_bytes) == ARCHIVE_OK) {
        if (!name || !is_kept(name))
            continue;
        if (member->xattr_count == MEMBER_XATTRS_MAX || value_bytes > UINT16_MAX ||
            strlen(name) > UINT8_MAX || strchr(name, '='))
            return error_set(err, E2BIG, "%.200s has more extended attributes than Linux takes",
                             member->path);
        member->xattrs[member->xattr_count++] = (struct member_xattr){name, value, value_bytes};
    }
    return 0;
}

/* squashfs counts seconds from 1970 to 2106. */
static uint32_t clamp_time(int64_t seconds)
{
    return seconds < 0 ? 0 : (uint32_t)MIN(seconds, (int64_t)UINT32_MAX);
}

static int take_owner(int64_t id, uint32_t *to, const char *path, struct nido_error *err)
{
    *to = (uint32_t)id;
    if (id >= 0 && id < (int64_t)UINT32_MAX)
        return 0;
    return error_set(err, ERANGE, "%.200s belongs to %lld, which is no user or group of Linux",
                     path, (long long)id);
}

static int take_member(struct archive_entry *entry, struct member *member, struct nido_error *err)
{
    const char *hard_link = archive_entry_hardlink(entry);
    *member = (struct member){
        .path = archive_entry_pathname(entry),
        .link = hard_link ? hard_link : archive_entry_symlink(entry),
        .is_hard_link = hard_link,
        .mode = archive_entry_mode(entry),
        .mtime_s = clamp_time(archive_entry_mtime(entry)),
    };
    if (!member->path || (S_ISLNK(member->mode) && !member->link))
        return error_set(err, EBADMSG, "a file in it has no name");
    int64_t size = archive_entry_size(entry);
    if (S_ISREG(member->mode) && !hard_link)
        member->size_bytes = (uint64_t)MAX(size, (int64_t)0);
    dev_t device = archive_entry_rdev(entry);
    member->major = major(device);
    member->minor = minor(device);
    int ret = take_owner(archive_entry_uid(entry), &member->uid, member->path, err);
    if (ret == 0)
        ret = take_owner(archive_entry_gid(entry), &member->gid, member->path, err);
    return ret < 0 ? ret : take_xattrs(entry, member, err);
}

int source_next(struct source *source, struct member *member, struct nido_error *err)
{
    struct archive_entry *entry;
    source->copied_bytes = 0;
    int got = archive_read_next_header(source->archive, &entry);
    if (got == ARCHIVE_EOF)
        return 0;
    /* A warning is about a name in a character set that is none: it is taken as it stands. */
    if (got != ARCHIVE_OK && got != ARCHIVE_WARN)
        return archive_failed(source, err);
    int ret = take_member(entry, member, err);
    return ret < 0 ? ret : 1;
}

int source_data(struct source *source, const struct member *member, const void **bytes,
                size_t *count, struct nido_error *err)
{
    uint64_t left = member->size_bytes - source->copied_bytes;
    *bytes = source->data;
    *count = (size_t)MIN(left, (uint64_t)SOURCE_BUFFER_BYTES);
    if (*count == 0)
        return 0;
    la_ssize_t n = archive_read_data(source->archive, source->data, *count);
    if (n < 0)
        return archive_failed(source, err);
    /* A hole at the end of a sparse file. What is short for another reason has failed before. */
    if (n == 0)
        memset(source->data, 0, *count);
    else
        *count = (size_t)n;
    source->copied_bytes += *count;
    return 0;
}

/* To its end, for gzip's sums: the library stops at the mark. */
static int inflate_rest(struct source *source, struct nido_error *err)
{
    la_ssize_t n;
    do {
        n = source->is_gzip ? read_gzip(source->archive, source) : 0;
    } while (n > 0);
    return n < 0 ? archive_failed(source, err) : 0;
}

int source_end(struct source *source, const struct digest *expected, bool marked,
               struct nido_error *err)
{
    struct digest found;
    /* The library has gone past the mark, a block of zeroes, if there was one. */
    bool is_whole =
        archive_filter_bytes(source->archive, 0) > archive_read_header_position(source->archive);
    if (marked && !is_whole)
        return error_set(err, EBADMSG, "it is cut off: the end of the archive is missing");
    int ret = inflate_rest(source, err);
    end_archive(source);
    if (ret < 0 || !source->hashes)
        return ret;
    ret = read_rest(source, err);
    if (ret < 0)
        return ret;
    hasher_end(&source->hasher, &found);
    if (digest_equal(&found, expected))
        return 0;
    return error_set(err, ESTALE, "it was changed while it was read; try again");
}
