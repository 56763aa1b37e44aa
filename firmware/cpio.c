/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/cpio.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define ALIGN_BYTES   4u
#define ARCHIVE_BYTES 512u /* its length is a multiple of that */

void cpio_begin(struct cpio *cpio, FILE *to)
{
    *cpio = (struct cpio){.to = to, .inode = 1};
}

static void put(struct cpio *cpio, const void *bytes, size_t length)
{
    if (length)
        fwrite(bytes, 1, length, cpio->to);
    cpio->written += length;
}

static void pad(struct cpio *cpio, unsigned to)
{
    static const char zeroes[ARCHIVE_BYTES];
    put(cpio, zeroes, (to - cpio->written % to) % to);
}

static void put_header(struct cpio *cpio, const char *path, unsigned mode, uint32_t length,
                       unsigned major, unsigned minor)
{
    char header[128];
    uint32_t inode = mode ? cpio->inode++ : 0;
    int n = snprintf(header, sizeof(header),
                     "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0,
                     0, 1, 0, length, 0, 0, major, minor, (unsigned)strlen(path) + 1, 0);
    put(cpio, header, (size_t)n);
    put(cpio, path, strlen(path) + 1);
    pad(cpio, ALIGN_BYTES);
}

void cpio_directory(struct cpio *cpio, const char *path, unsigned mode)
{
    put_header(cpio, path, S_IFDIR | mode, 0, 0, 0);
}

void cpio_device(struct cpio *cpio, const char *path, unsigned mode, unsigned major, unsigned minor)
{
    put_header(cpio, path, S_IFCHR | mode, 0, major, minor);
}

int cpio_file(struct cpio *cpio, const char *path, unsigned mode, const void *bytes, size_t length,
              struct nido_error *err)
{
    if (length > UINT32_MAX)
        return error_set(err, EFBIG, "%s: too long for an initrd", path);
    put_header(cpio, path, S_IFREG | mode, (uint32_t)length, 0, 0);
    put(cpio, bytes, length);
    pad(cpio, ALIGN_BYTES);
    return 0;
}

int cpio_end(struct cpio *cpio, struct nido_error *err)
{
    put_header(cpio, "TRAILER!!!", 0, 0, 0, 0);
    pad(cpio, ARCHIVE_BYTES);
    if (fflush(cpio->to) != 0 || ferror(cpio->to))
        return error_errno(err, errno ? errno : EIO, "cannot write");
    return 0;
}
