/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/root_image.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 0x10100u

/* A few bytes at a fixed place; the first that fits counts. */
static const struct {
    unsigned at, length;
    const char *bytes;
    const char *fstype; /* NULL: no root, and `sentence` tells what it is */
    const char *sentence;
} kinds[] = {
    {0x438, 2, "\x53\xef", "ext4", NULL},
    {0x400, 4, "\xe2\xe1\xf5\xe0", "erofs", NULL},
    {0, 4, "hsqs", "squashfs", NULL},
    {0, 4, "QFI\xfb", NULL, "a qcow2 image; convert it with qemu-img convert -O raw"},
    {0, 4, "XFSB", NULL, "an XFS image"},
    {0x10040, 8, "_BHRfS_M", NULL, "a btrfs image"},
    {0x200, 8, "EFI PART", NULL, "a disk with partitions; take the root's partition out of it"},
    {0x1fe, 2, "\x55\xaa", NULL, "a disk with partitions; take the root's partition out of it"},
    {0, 4, "0707", NULL, "a cpio archive; give it as --initrd, with --kernel"},
    {0, 4,
     "\x7f"
     "ELF",
     NULL, "a program or kernel"},
};

/* What tar archives come packed in. */
static const struct {
    unsigned length;
    const char *bytes;
} packers[] = {
    {2, "\x1f\x8b"},
    {6, "\xfd\x37zXZ\0"},
    {4, "\x28\xb5\x2f\xfd"},
    {4, "\x50\x2a\x4d\x18"}, /* pzstd's, whose first frame is one to be skipped */
    {3, "BZh"},
};

#define TAR_BLOCK_BYTES    512u
#define TAR_CHECKSUM_AT    148u
#define TAR_CHECKSUM_BYTES 8u

/* The first header's sum (POSIX.1-2001, ustar Interchange Format), which the old format without a magic
 * has too. No other kind of file has it right. */
static bool is_tar(const uint8_t *head, size_t length)
{
    unsigned sum = 0, found = 0, digits = 0;
    if (length < TAR_BLOCK_BYTES)
        return false;
    for (unsigned i = 0; i < TAR_BLOCK_BYTES; i++)
        sum += i - TAR_CHECKSUM_AT < TAR_CHECKSUM_BYTES ? (unsigned)' ' : head[i];
    const uint8_t *at = head + TAR_CHECKSUM_AT, *end = at + TAR_CHECKSUM_BYTES;
    while (at < end && *at == ' ')
        at++;
    for (; at < end && *at >= '0' && *at <= '7'; at++, digits++)
        found = found << 3 | (unsigned)(*at - '0');
    return digits && sum == found;
}

static bool is_packed(const uint8_t *head, size_t length)
{
    for (unsigned i = 0; i < ARRAY_SIZE(packers); i++)
        if (length > packers[i].length && memcmp(head, packers[i].bytes, packers[i].length) == 0)
            return true;
    return false;
}

static int recognise(const uint8_t *head, size_t length, struct root_image *image,
                     struct nido_error *err)
{
    if (is_tar(head, length) || is_packed(head, length)) {
        *image = (struct root_image){.kind = ROOT_TAR};
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (kinds[i].at + kinds[i].length > length ||
            memcmp(head + kinds[i].at, kinds[i].bytes, kinds[i].length) != 0)
            continue;
        if (!kinds[i].fstype)
            return error_set(err, EINVAL,
                             "this is %s; a root is a directory, an ext4, erofs or squashfs "
                             "image, or a tar archive",
                             kinds[i].sentence);
        *image = (struct root_image){.kind = ROOT_IMAGE, .fstype = kinds[i].fstype};
        return 0;
    }
    return error_set(err, EINVAL,
                     "this is no file system that nido knows; a root is a directory, an ext4, "
                     "erofs or squashfs image, or a tar archive");
}

int root_image_recognise(const char *path, struct root_image *image, struct nido_error *err)
{
    struct stat st;
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot be opened");
    if (S_ISDIR(st.st_mode)) {
        *image = (struct root_image){.kind = ROOT_DIRECTORY};
        return 0;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(err, EINVAL, "this is neither a file nor a disk");
    own_mem uint8_t *head = calloc(1, HEAD_BYTES);
    ssize_t n = head ? pread(fd, head, HEAD_BYTES, 0) : -1;
    if (n < 0)
        return error_errno(err, head ? errno : ENOMEM, "cannot be read");
    return recognise(head, (size_t)n, image, err);
}
