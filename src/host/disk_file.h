/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_DISK_FILE_H
#define NIDO_HOST_DISK_FILE_H

/* The file or block device under a disk: opened, locked, measured. Below the image formats. */

#include "host/disk.h"

struct disk_file {
    int fd; /* owned; holds the lock */
    bool block_device;
    bool direct; /* open with O_DIRECT */
    uint64_t size_bytes;
    uint32_t block_bytes, physical_bytes, discard_bytes; /* as in struct disk */
    uint32_t memory_align_bytes; /* O_DIRECT: what buffers must be aligned to; else 1 */
};

/* Closed with disk_file_close(). On failure nothing is left open. */
int disk_file_open(struct disk_file *file, const struct disk_config *config,
                   struct nido_error *err);
/* The same for a file that is open already and nobody else's; owns `fd`, also on failure. */
int disk_file_adopt(struct disk_file *file, int fd, const struct disk_config *config,
                    struct nido_error *err);
void disk_file_close(struct disk_file *file);

/* Fails where it cannot be a raw disk: the content says that it is an image of another format (no
 * question with raw_for_sure), or the size is none. */
int disk_file_expect_raw(const struct disk_file *file, const struct disk_config *config,
                         struct nido_error *err);

#endif
