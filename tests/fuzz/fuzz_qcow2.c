/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images that somebody else made, and a guest that uses them. Random bytes are no image, so
 * an input is a list of changes to a good one, and then of requests:
 *   byte 0      the image: bit 0 larger clusters, bit 1 read-only, bit 2 version 2, bit 3 a drain
 *               after each request
 *   byte 1      how many changes
 *   changes     of six bytes: offset (2), length (1: 1, 2, 4 or 8 bytes), value (3, repeated)
 *   requests    of four bytes: what (1), first sector (1), sectors (1), nothing (1)
 * Passes when the sanitizers do not object, every request ends, a buffer is written to by reads
 * only, the header is what it was but for what commits change, and the image that is left can be
 * opened again.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "host/disk.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#define DISK_BYTES   (96 * KIB)
#define IMAGE_BYTES  (64 * KIB)
#define BUFFER_BYTES (64 * KIB)
#define REQUESTS     24u

struct job {
    struct disk_request request;
    struct iovec iov;
    int result;
};

static uint8_t image[IMAGE_BYTES];
static uint8_t buffers[REQUESTS][BUFFER_BYTES];

/* ---- a good image ---- */

enum { TABLE = 1, BLOCK, L1, L2, DATA, PACKED = DATA + 4, END };

static void pack(uint8_t *to, uint32_t cluster_bytes)
{
    static const uint8_t plain[4096];
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)plain,
                       .avail_in = cluster_bytes,
                       .next_out = to,
                       .avail_out = 512};
    PROMISE(deflateInit2(&stream, 9, Z_DEFLATED, -12, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    PROMISE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&stream);
}

static void make_header(unsigned cluster_bits, unsigned version)
{
    const uint32_t cluster_bytes = 1u << cluster_bits;
    const uint64_t table_maps = (uint64_t)cluster_bytes * cluster_bytes / 8;
    put_be32(image, 0x514649fb);
    put_be32(image + 4, version);
    put_be32(image + 20, cluster_bits);
    put_be64(image + 24, DISK_BYTES);
    put_be32(image + 36, (uint32_t)((DISK_BYTES + table_maps - 1) / table_maps));
    put_be64(image + 40, L1 * cluster_bytes);
    put_be64(image + 48, TABLE * cluster_bytes);
    put_be32(image + 56, 1);
    put_be32(image + 96, version == 3 ? 4 : 0);
    put_be32(image + 100, version == 3 ? 104 : 0);
}

static size_t make_image(unsigned cluster_bits, unsigned version)
{
    const uint64_t cluster_bytes = 1ull << cluster_bits;
    memset(image, 0, sizeof(image));
    make_header(cluster_bits, version);
    put_be64(image + TABLE * cluster_bytes, BLOCK * cluster_bytes);
    for (size_t i = 0; i < END; i++)
        put_be16(image + BLOCK * cluster_bytes + 2 * i, 1);
    put_be64(image + L1 * cluster_bytes, L2 * cluster_bytes | 1ull << 63);
    uint8_t *l2 = image + L2 * cluster_bytes;
    for (uint64_t i = 0; i < PACKED - DATA; i++)
        put_be64(l2 + 8 * i, (DATA + i) * cluster_bytes | 1ull << 63);
    put_be64(l2 + 40, PACKED * cluster_bytes | 1ull << 62);
    put_be64(l2 + 56, version == 3);
    pack(image + PACKED * cluster_bytes, (uint32_t)cluster_bytes);
    return END * cluster_bytes;
}

static size_t change(const uint8_t *data, size_t size, unsigned count)
{
    size_t taken = 0;
    for (; count && size - taken >= 6; count--, taken += 6) {
        const size_t at = get_le16(data + taken), length = (size_t)1 << (data[taken + 2] & 3);
        for (size_t i = 0; i < length && at + i < sizeof(image); i++)
            image[at + i] = data[taken + 3 + i % 3];
    }
    return taken;
}

/* ---- requests ---- */

static void on_done(struct disk_request *request, int result)
{
    struct job *job = container_of(request, struct job, request);
    PROMISE(job->result == 1 && result <= 0);
    job->result = result;
}

static void submit(struct disk *disk, struct job *job, const uint8_t *data, uint8_t *buffer)
{
    const uint64_t length = data[2] * 512ull;
    *job = (struct job){.result = 1, .iov = {buffer, length}};
    job->request = (struct disk_request){
        .op = data[0] % (DISK_WRITE_ZEROES_UNMAP + 1),
        .offset_bytes = data[1] * 512ull,
        .length_bytes = length,
        .iov = &job->iov,
        .iov_count = 1,
        .done = on_done,
    };
    if (job->request.op <= DISK_WRITE_THROUGH && length > BUFFER_BYTES)
        job->request.length_bytes = job->iov.iov_len = BUFFER_BYTES;
    memset(buffer, 0x5a, 512);
    disk_submit(disk, &job->request);
}

static void run(struct disk *disk, const uint8_t *data, size_t size, bool one_by_one)
{
    struct job jobs[REQUESTS];
    unsigned count = 0;
    for (; count < REQUESTS && size >= 4; count++, data += 4, size -= 4) {
        submit(disk, &jobs[count], data, buffers[count]);
        if (one_by_one)
            disk_drain(disk);
    }
    disk_drain(disk);
    for (unsigned i = 0; i < count; i++) {
        PROMISE(jobs[i].result <= 0);
        PROMISE(jobs[i].request.op == DISK_READ || buffers[i][0] == 0x5a);
    }
}

/* ---- files ---- */

static struct loop *loop;

static struct disk *open_image(const char *path, bool read_only)
{
    const struct disk_config config = {
        .path = path, .format = DISK_QCOW2, .read_only = read_only, .unsafe = true};
    struct nido_error err = {0};
    struct disk *disk = NULL;
    if (disk_open(&disk, &config, loop, &err) == 0)
        return disk;
    PROMISE(err.text[0]);
    return NULL;
}

static int make_file(size_t bytes, char path[40])
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    PROMISE(fd >= 0 && pwrite(fd, image, bytes, 0) == (ssize_t)bytes);
    snprintf(path, 40, "/proc/self/fd/%d", fd);
    return fd;
}

/* But for the roots, the dirty bit and the auto-clear features. */
static void expect_same_header(int fd)
{
    uint8_t header[512];
    PROMISE(pread(fd, header, sizeof(header), 0) == (ssize_t)sizeof(header));
    PROMISE(memcmp(header, image, 40) == 0);
    PROMISE(memcmp(header + 60, image + 60, 19) == 0);
    PROMISE(memcmp(header + 80, image + 80, 8) == 0);
    PROMISE(memcmp(header + 96, image + 96, sizeof(header) - 96) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!loop) {
        log_set_level(LOG_ERROR);
        PROMISE(loop_create(&loop, "loop/fuzz", NULL) == 0);
    }
    if (size < 2)
        return -1;
    char path[40];
    const size_t bytes = make_image(data[0] & 1 ? 12 : 9, data[0] & 4 ? 2 : 3);
    const bool read_only = data[0] & 2;
    const size_t skip = 2 + change(data + 2, size - 2, data[1] & 31);
    int fd = make_file(bytes, path);
    struct disk *disk = open_image(path, read_only);
    if (disk) {
        run(disk, data + skip, size - skip, data[0] & 8);
        disk_close(disk);
        expect_same_header(fd);
        disk = open_image(path, read_only);
        PROMISE(disk);
        disk_close(disk);
    }
    close(fd);
    return 0;
}
