/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tar streams of any bytes, unpacked as nido cp does on the host. Checksums are made right, else no input would come
 * far. Whatever comes: it ends, and nothing appears beside the directory that it may write to.
 */
#include "firmware/guest/copy.h"

#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_BYTES 65536u

static struct {
    uint8_t bytes[STREAM_BYTES];
    size_t length, at;
} stream;

static char place[64];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    return walk->level ? remove(path) : 0;
}

static void remove_inside(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void remove_place(void)
{
    remove_inside(place);
    rmdir(place);
}

static void make_place(void)
{
    char path[96];
    if (*place)
        return;
    strcpy(place, "/tmp/nido-fuzz-tar.XXXXXX");
    if (!mkdtemp(place))
        abort();
    atexit(remove_place);
    snprintf(path, sizeof(path), "%s/inside", place);
    mkdir(path, 0700);
}

static ssize_t read_stream(void *self, void *bytes, size_t count)
{
    size_t left = stream.length - stream.at, n = count < left ? count : left;
    memcpy(bytes, stream.bytes + stream.at, n);
    stream.at += n;
    return (ssize_t)n;
}

static void make_checksums_right(void)
{
    for (size_t at = 0; at + TAR_BLOCK_BYTES <= stream.length; at += TAR_BLOCK_BYTES) {
        uint8_t *block = stream.bytes + at;
        unsigned sum = 0, any = 0;
        for (unsigned i = 0; i < TAR_BLOCK_BYTES; i++)
            any |= block[i];
        if (!any)
            continue;
        memset(block + 148, ' ', 8);
        for (unsigned i = 0; i < TAR_BLOCK_BYTES; i++)
            sum += block[i];
        snprintf((char *)block + 148, 7, "%06o", sum);
    }
}

static void expect_nothing_beside(void)
{
    unsigned count = 0;
    DIR *directory = opendir(place);
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    if (count != 1)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char name[] = "x", all[] = ".";
    char *const names[] = {size && data[0] & 1 ? name : all, NULL};
    const struct unpack_rules rules = {.mode_mask = 01777,
                                       .names = size && data[0] & 2 ? names : NULL};
    struct tar_reader *reader = calloc(1, sizeof(*reader));
    struct unpack_place to;
    char path[96], why[TAR_WHY_BYTES];
    make_place();
    stream.at = 0;
    /* Whole blocks, and an end: what is cut short is a matter of the unit tests. */
    if (size > STREAM_BYTES - 2 * TAR_END_BYTES)
        size = STREAM_BYTES - 2 * TAR_END_BYTES;
    memset(stream.bytes, 0, sizeof(stream.bytes));
    memcpy(stream.bytes, data, size);
    stream.length =
        (size + TAR_BLOCK_BYTES - 1) / TAR_BLOCK_BYTES * TAR_BLOCK_BYTES + TAR_END_BYTES;
    make_checksums_right();
    snprintf(path, sizeof(path), size && data[0] & 4 ? "%s/inside/new" : "%s/inside", place);
    if (!reader || unpack_open(&to, path, false, why) < 0)
        abort();
    *reader = (struct tar_reader){.read = read_stream};
    unpack_trees(reader, &to, &rules, why);
    close(to.directory);
    free(reader);
    expect_nothing_beside();
    snprintf(path, sizeof(path), "%s/inside", place);
    remove_inside(path);
    return 0;
}
