/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new image: header, refcount table, one refcount block and an L1 table of nothing. With clusters
 * of 64 KiB and refcounts of 16 bits, as everybody expects. Blocking; before a machine runs.
 */
#include "host/disk_qcow2.h"

#include "base/own.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER_BITS  16u
#define CLUSTER_BYTES (1u << CLUSTER_BITS)
#define HEADER_BYTES  112u

enum { CLUSTER_HEADER, CLUSTER_TABLE, CLUSTER_BLOCK, CLUSTER_L1 };

static void fill_header(uint8_t *header, uint64_t size_bytes, uint64_t l1_entries)
{
    put_be32(header, 0x514649fb);
    put_be32(header + 4, 3);
    put_be32(header + 20, CLUSTER_BITS);
    put_be64(header + 24, size_bytes);
    put_be32(header + 36, (uint32_t)l1_entries);
    put_be64(header + 40, CLUSTER_L1 * CLUSTER_BYTES);
    put_be64(header + 48, CLUSTER_TABLE * CLUSTER_BYTES);
    put_be32(header + 56, 1);
    put_be32(header + 96, 4);
    put_be32(header + 100, HEADER_BYTES);
}

/* The format as an extension, the end of extensions, the name. */
static void add_backing(uint8_t *header, const char *path, const char *format)
{
    const size_t format_bytes = strlen(format), path_bytes = strlen(path);
    uint8_t *extension = header + HEADER_BYTES;
    put_be32(extension, 0xe2792aca);
    put_be32(extension + 4, (uint32_t)format_bytes);
    memcpy(extension + 8, format, format_bytes);
    const size_t name_at = HEADER_BYTES + 8 + align_up(format_bytes, 8) + 8;
    put_be64(header + 8, name_at);
    put_be32(header + 16, (uint32_t)path_bytes);
    memcpy(header + name_at, path, path_bytes);
}

static void fill_refcounts(uint8_t *image, unsigned clusters)
{
    put_be64(image + CLUSTER_TABLE * CLUSTER_BYTES, CLUSTER_BLOCK * CLUSTER_BYTES);
    for (unsigned i = 0; i < clusters; i++)
        put_be16(image + CLUSTER_BLOCK * CLUSTER_BYTES + 2 * (size_t)i, 1);
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
    ssize_t got = pwrite(fd, bytes, length, 0);
    if (got < 0)
        return -errno;
    if ((size_t)got != length)
        return -ENOSPC;
    return fsync(fd) < 0 ? -errno : 0;
}

int qcow2_create(int fd, const char *path, uint64_t size_bytes, const char *backing_path,
                 const char *backing_format, struct nido_error *err)
{
    const uint64_t table_maps = (uint64_t)CLUSTER_BYTES * CLUSTER_BYTES / sizeof(uint64_t);
    const uint64_t l1_entries = (size_bytes + table_maps - 1) / table_maps;
    const uint64_t l1_clusters = align_up(l1_entries * 8, CLUSTER_BYTES) / CLUSTER_BYTES;
    if (l1_clusters > 512)
        return error_set(err, EFBIG, "disk %s: too large for an overlay", path);
    if (backing_path && strlen(backing_path) > 1023)
        return error_set(err, ENAMETOOLONG,
                         "disk %s: the name of what it is to stand on has more "
                         "than 1023 bytes",
                         path);
    const size_t length = (CLUSTER_L1 + l1_clusters) * CLUSTER_BYTES;
    own_mem uint8_t *image = calloc(1, length);
    if (!image)
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    fill_header(image, size_bytes, l1_entries);
    if (backing_path)
        add_backing(image, backing_path, backing_format);
    fill_refcounts(image, CLUSTER_L1 + (unsigned)l1_clusters);
    int ret = write_all(fd, image, length);
    return ret < 0 ? error_errno(err, -ret, "disk %s: cannot write it", path) : 0;
}
