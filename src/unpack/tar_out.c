/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/tar_out.h"

#include "base/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES 512u

/* POSIX.1-2001, ustar Interchange Format. */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK_BYTES, "a header is one block");

/* ---- bytes ---- */

static int flush(struct tar_out *out, struct nido_error *err)
{
    for (size_t done = 0; done < out->used;) {
        ssize_t n = write(out->fd, out->buffer + done, out->used - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_errno(err, n < 0 ? errno : EIO, "the archive cannot be handed on");
        done += (size_t)n;
    }
    out->used = 0;
    return 0;
}

static int put(struct tar_out *out, const void *bytes, size_t count, struct nido_error *err)
{
    const uint8_t *at = bytes;
    while (count) {
        size_t piece = MIN(count, sizeof(out->buffer) - out->used);
        memcpy(out->buffer + out->used, at, piece);
        out->used += piece;
        at += piece;
        count -= piece;
        int ret = out->used == sizeof(out->buffer) ? flush(out, err) : 0;
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int pad(struct tar_out *out, uint64_t after_bytes, struct nido_error *err)
{
    static const uint8_t zeroes[BLOCK_BYTES];
    return put(out, zeroes, (BLOCK_BYTES - after_bytes % BLOCK_BYTES) % BLOCK_BYTES, err);
}

/* ---- what does not fit a header ---- */

/* "LENGTH KEY=VALUE\n", where LENGTH counts its own digits. */
static void put_record(FILE *records, const char *key, const char *suffix, const void *value,
                       size_t value_bytes)
{
    size_t rest = 1 + strlen(key) + strlen(suffix) + 1 + value_bytes + 1, length = rest + 1;
    while (length != rest + (size_t)snprintf(NULL, 0, "%zu", length))
        length = rest + (size_t)snprintf(NULL, 0, "%zu", length);
    fprintf(records, "%zu %s%s=", length, key, suffix);
    fwrite(value, 1, value_bytes, records);
    putc('\n', records);
}

static void put_number_record(FILE *records, const char *key, uint64_t value)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    put_record(records, key, "", text, (size_t)length);
}

/* An octal number that fills its field but for the zero at the end; false: it does not fit. */
static bool set_number(char *field, size_t bytes, uint64_t value)
{
    bool fits = value >> 3 * (bytes - 1) == 0;
    char text[32];
    snprintf(text, sizeof(text), "%0*llo", (int)bytes - 1, (unsigned long long)(fits ? value : 0));
    memcpy(field, text, bytes);
    return fits;
}

static void set_text(FILE *records, const char *key, char *field, size_t bytes, const char *text)
{
    size_t length = strlen(text);
    memcpy(field, text, MIN(length, bytes));
    if (length > bytes)
        put_record(records, key, "", text, length);
}

static void finish_header(struct header *header)
{
    unsigned sum = 0;
    memcpy(header->magic, "ustar", 6);
    memcpy(header->version, "00", 2);
    memset(header->checksum, ' ', sizeof(header->checksum));
    for (size_t i = 0; i < sizeof(*header); i++)
        sum += ((const uint8_t *)header)[i];
    snprintf(header->checksum, sizeof(header->checksum), "%06o", sum);
}

static int put_records(struct tar_out *out, const char *records, size_t length,
                       struct nido_error *err)
{
    struct header header = {.name = "pax", .type = 'x'};
    set_number(header.mode, sizeof(header.mode), 0644);
    set_number(header.uid, sizeof(header.uid), 0);
    set_number(header.gid, sizeof(header.gid), 0);
    set_number(header.size, sizeof(header.size), length);
    set_number(header.mtime, sizeof(header.mtime), 0);
    finish_header(&header);
    int ret = put(out, &header, sizeof(header), err);
    if (ret == 0)
        ret = put(out, records, length, err);
    return ret < 0 ? ret : pad(out, length, err);
}

/* ---- members ---- */

static char type_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFLNK:
        return '2';
    case S_IFCHR:
        return '3';
    case S_IFBLK:
        return '4';
    case S_IFDIR:
        return '5';
    case S_IFIFO:
        return '6';
    default:
        return '0';
    }
}

static void fill(struct header *header, FILE *records, const char *path, const char *link,
                 const struct member *member)
{
    set_text(records, "path", header->name, sizeof(header->name), path);
    set_text(records, "linkpath", header->link, sizeof(header->link), link);
    set_number(header->mode, sizeof(header->mode), member->mode & 07777);
    set_number(header->mtime, sizeof(header->mtime), member->mtime_s);
    if (!set_number(header->uid, sizeof(header->uid), member->uid))
        put_number_record(records, "uid", member->uid);
    if (!set_number(header->gid, sizeof(header->gid), member->gid))
        put_number_record(records, "gid", member->gid);
    uint64_t size = header->type == '0' ? member->size_bytes : 0;
    if (!set_number(header->size, sizeof(header->size), size))
        put_number_record(records, "size", size);
    /* Linux has twelve bits of the one and twenty of the other: they always fit. */
    set_number(header->major, sizeof(header->major), member->major & 0xfff);
    set_number(header->minor, sizeof(header->minor), member->minor & 0xfffff);
    for (unsigned i = 0; header->type != '1' && i < member->xattr_count; i++)
        put_record(records, "SCHILY.xattr.", member->xattrs[i].name, member->xattrs[i].value,
                   member->xattrs[i].value_bytes);
}

static int put_header(struct tar_out *out, char type, const char *path, const char *link,
                      const struct member *member, struct nido_error *err)
{
    struct header header = {.type = type};
    char *text = NULL;
    size_t length = 0;
    int ret = 0;
    FILE *records = open_memstream(&text, &length);
    if (!records)
        return error_set(err, ENOMEM, "out of memory");
    fill(&header, records, path, link, member);
    bool failed = ferror(records);
    if (fclose(records) != 0 || failed)
        ret = error_set(err, ENOMEM, "out of memory");
    if (ret == 0 && length)
        ret = put_records(out, text, length, err);
    free(text);
    finish_header(&header);
    out->left_bytes = type == '0' ? member->size_bytes : 0;
    return ret < 0 ? ret : put(out, &header, sizeof(header), err);
}

void tar_out_begin(struct tar_out *out, int fd)
{
    out->fd = fd;
    out->used = 0;
    out->left_bytes = 0;
}

int tar_out_member(struct tar_out *out, const char *path, const struct member *member,
                   struct nido_error *err)
{
    return put_header(out, type_of(member->mode), path, S_ISLNK(member->mode) ? member->link : "",
                      member, err);
}

int tar_out_hard_link(struct tar_out *out, const char *path, const char *target,
                      const struct member *member, struct nido_error *err)
{
    return put_header(out, '1', path, target, member, err);
}

int tar_out_data(struct tar_out *out, const void *bytes, size_t count, struct nido_error *err)
{
    out->left_bytes -= count;
    int ret = put(out, bytes, count, err);
    /* The buffer is whole blocks, and so is all that came before this. */
    return ret < 0 || out->left_bytes ? ret : pad(out, out->used, err);
}

int tar_out_end(struct tar_out *out, struct nido_error *err)
{
    static const uint8_t zeroes[2 * BLOCK_BYTES];
    int ret = put(out, zeroes, sizeof(zeroes), err);
    return ret < 0 ? ret : flush(out, err);
}
