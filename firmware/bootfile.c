/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/bootfile.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int bootfile_open(struct bootfile *file, const char *path, struct nido_error *err)
{
    /* O_NONBLOCK: a FIFO that nobody writes to must be refused, not waited for. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0)
        return error_errno(err, errno, "cannot be opened");

    struct stat st;
    int r = 0;
    if (fstat(file->fd, &st) < 0)
        r = error_errno(err, errno, "cannot be looked at");
    else if (S_ISDIR(st.st_mode))
        r = error_set(err, EISDIR, "this is a directory; name the file in it");
    else if (!S_ISREG(st.st_mode))
        r = error_set(err, EINVAL, "this is not a regular file; copy its content into one");
    else if (st.st_size == 0)
        r = error_set(err, EINVAL, "the file is empty; copy or download it again");
    if (r < 0) {
        bootfile_close(file);
        return r;
    }
    file->size_bytes = (uint64_t)st.st_size;
    return 0;
}

int bootfile_open_head(struct bootfile *file, const char *path, void *head, size_t *length,
                       struct nido_error *err)
{
    int r = bootfile_open(file, path, err);
    if (r < 0)
        return r;
    *length = MIN(file->size_bytes, (uint64_t)*length);
    return bootfile_read(file, 0, head, *length, err);
}

void bootfile_close(struct bootfile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

int bootfile_read(const struct bootfile *file, uint64_t offset, void *to, size_t length,
                  struct nido_error *err)
{
    uint8_t *at = to;
    if (!checked_inside(offset, length, file->size_bytes))
        return error_set(err, EINVAL,
                         "the file is truncated: %llu bytes are there, %llu are needed",
                         (unsigned long long)file->size_bytes, (unsigned long long)offset + length);
    while (length) {
        ssize_t n = pread(file->fd, at, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, errno, "cannot be read");
        if (n == 0)
            return error_set(err, EIO, "the file became shorter while it was read; try again");
        at += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}
