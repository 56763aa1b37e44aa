/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fs_bench.h"

#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(bool fine, const char *what)
{
    if (fine)
        return;
    fprintf(stderr, "fs_bench: %s failed: %s\n", what, strerror(errno));
    abort();
}

/* ---- start and end ---- */

static struct share *open_share(const struct fs_bench *bench, const struct fs_wanted *wanted)
{
    struct nido_error err = {0};
    struct share *share = NULL;
    if (wanted->file)
        fs_host_write(bench, wanted->file, "the one");
    const struct share_config config = {
        .path = wanted->file ? fs_path(bench, wanted->file) : bench->directory,
        .read_only = wanted->read_only,
        .descriptors_max = wanted->descriptors_max ? wanted->descriptors_max : 1000,
        .nodes_max = wanted->nodes_max ? wanted->nodes_max : 1000,
    };
    if (share_open(&share, &config, &err) < 0)
        fprintf(stderr, "fs_bench: %s\n", err.text);
    must(share, "share_open");
    return share;
}

void fs_bench_start(struct fs_bench *bench, const struct fs_wanted *wanted)
{
    const char *tmp = getenv("TMPDIR");
    *bench = (struct fs_bench){.unique = 1000, .uid = geteuid(), .gid = getegid()};
    snprintf(bench->directory, sizeof(bench->directory), "%s/nido-fs.XXXXXX", tmp ? tmp : "/tmp");
    must(mkdtemp(bench->directory), "mkdtemp");
    must(chmod(bench->directory, 0755) == 0, "chmod");
    guest_init(&bench->guest);
    bench->request_gpa = guest_alloc(&bench->guest, FS_ROOM, 4096);
    bench->reply_gpa = guest_alloc(&bench->guest, FS_ROOM, 4096);
    const struct virtio_fs_options options = {.tag = "share0", .cache = wanted->cache};
    must(virtio_fs_create(&bench->device, open_share(bench, wanted), &options, bench->guest.mem,
                          bench->guest.loop, &bench->guest.irq, NULL) == 0,
         "virtio_fs_create");
    guest_attach(&bench->guest, bench->device);
    guest_bring_up(&bench->guest, GUEST_FEATURE(VIRTIO_RING_F_INDIRECT_DESC), 2, FS_QUEUE);
    struct fuse_init_out out;
    if (!wanted->no_init)
        must(fs_init(bench, FUSE_KERNEL_MINOR_VERSION, &out) == 0, "INIT");
}

static int remove_it(const char *path, const struct stat *stat, int type, struct FTW *at)
{
    if (type == FTW_DP)
        chmod(path, 0700);
    return remove(path);
}

void fs_bench_finish(struct fs_bench *bench)
{
    guest_finish(&bench->guest);
    nftw(bench->directory, remove_it, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the host's side ---- */

const char *fs_path(const struct fs_bench *bench, const char *name)
{
    static __thread char paths[4][512];
    static __thread unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", bench->directory, name);
    return path;
}

void fs_host_write(const struct fs_bench *bench, const char *name, const char *text)
{
    FILE *file = fopen(fs_path(bench, name), "we");
    must(file, name);
    fputs(text, file);
    fclose(file);
}

void fs_host_mkdir(const struct fs_bench *bench, const char *name)
{
    must(mkdir(fs_path(bench, name), 0755) == 0, name);
}

const char *fs_host_read(const struct fs_bench *bench, const char *name)
{
    static char text[4096];
    FILE *file = fopen(fs_path(bench, name), "re");
    must(file, name);
    size_t length = fread(text, 1, sizeof(text) - 1, file);
    text[length] = '\0';
    fclose(file);
    return text;
}

bool fs_host_has(const struct fs_bench *bench, const char *name)
{
    return access(fs_path(bench, name), F_OK) == 0;
}

/* ---- requests ---- */

void *fs_reply(const struct fs_bench *bench)
{
    return guest_at(&bench->guest, bench->reply_gpa, FS_ROOM);
}

uint32_t fs_send(struct fs_bench *bench, unsigned queue, const void *bytes, size_t length,
                 size_t room)
{
    struct guest_buffer buffers[2];
    unsigned count = 0;
    must(length <= FS_ROOM && room <= FS_ROOM, "a request of that size");
    memcpy(guest_at(&bench->guest, bench->request_gpa, FS_ROOM), bytes, length);
    memset(fs_reply(bench), 0xee, FS_ROOM);
    if (length)
        buffers[count++] = GUEST_OUT(bench->request_gpa, length);
    if (room)
        buffers[count++] = GUEST_IN(bench->reply_gpa, room);
    guest_add(&bench->guest.rings[queue], buffers, count);
    guest_kick(&bench->guest, queue);
    return guest_wait_used(&bench->guest, queue).written;
}

static size_t put(uint8_t *message, size_t at, const void *bytes, size_t length)
{
    if (length)
        memcpy(message + at, bytes, length);
    return at + length;
}

int fs_call(struct fs_bench *bench, uint32_t opcode, uint64_t node, struct fs_parts parts,
            void *reply, size_t room)
{
    static uint8_t message[FS_ROOM];
    size_t at = sizeof(struct fuse_in_header);
    at = put(message, at, parts.fixed, parts.fixed_bytes);
    at = put(message, at, parts.name, parts.name ? strlen(parts.name) + 1 : 0);
    at = put(message, at, parts.name2, parts.name2 ? strlen(parts.name2) + 1 : 0);
    at = put(message, at, parts.data, parts.data_bytes);
    const struct fuse_in_header in = {
        .len = (uint32_t)at,
        .opcode = opcode,
        .unique = ++bench->unique,
        .nodeid = node,
        .uid = bench->uid,
        .gid = bench->gid,
        .pid = 1,
    };
    memcpy(message, &in, sizeof(in));
    uint32_t written =
        fs_send(bench, FS_REQUESTS, message, at, sizeof(struct fuse_out_header) + room);
    struct fuse_out_header out;
    memcpy(&out, fs_reply(bench), sizeof(out));
    must(written == out.len && out.len >= sizeof(out), "an answer's length");
    must(out.unique == in.unique, "an answer to this request");
    must(out.error <= 0 && out.error > -512, "an error that Linux takes");
    must(out.error == 0 || out.len == sizeof(out), "an error without more");
    if (out.error)
        return out.error;
    size_t payload = out.len - sizeof(out);
    must(payload <= room, "an answer that fits");
    if (payload)
        memcpy(reply, (uint8_t *)fs_reply(bench) + sizeof(out), payload);
    return (int)payload;
}

/* An answer of exactly this size, or an error. */
static int exactly(int got, size_t length)
{
    must(got < 0 || (size_t)got == length, "an answer of its opcode's length");
    return got < 0 ? got : 0;
}

int fs_init(struct fs_bench *bench, uint32_t minor, struct fuse_init_out *out)
{
    const struct fuse_init_in in = {
        .major = FUSE_KERNEL_VERSION, .minor = minor, .max_readahead = 131072, .flags = UINT32_MAX};
    return exactly(fs_call(bench, FUSE_INIT, 0, (struct fs_parts){FS_FIXED(in)}, out, sizeof(*out)),
                   sizeof(*out));
}

int fs_look(struct fs_bench *bench, uint64_t directory, const char *name,
            struct fuse_entry_out *entry)
{
    return exactly(fs_call(bench, FUSE_LOOKUP, directory, (struct fs_parts){.name = name}, entry,
                           sizeof(*entry)),
                   sizeof(*entry));
}

uint64_t fs_find(struct fs_bench *bench, const char *name)
{
    struct fuse_entry_out entry;
    must(fs_look(bench, FUSE_ROOT_ID, name, &entry) == 0, name);
    return entry.nodeid;
}

void fs_forget(struct fs_bench *bench, uint64_t node, uint64_t count)
{
    const struct {
        struct fuse_in_header header;
        struct fuse_forget_in in;
    } message = {{.len = sizeof(message), .opcode = FUSE_FORGET, .nodeid = node}, {count}};
    must(fs_send(bench, FS_HIPRIO, &message, sizeof(message), 0) == 0, "FORGET");
}

int fs_get(struct fs_bench *bench, uint64_t node, struct fuse_attr *attr)
{
    const struct fuse_getattr_in in = {0};
    struct fuse_attr_out out = {0};
    int ret = exactly(
        fs_call(bench, FUSE_GETATTR, node, (struct fs_parts){FS_FIXED(in)}, &out, sizeof(out)),
        sizeof(out));
    *attr = out.attr;
    return ret;
}

int fs_set(struct fs_bench *bench, uint64_t node, const struct fuse_setattr_in *in,
           struct fuse_attr *attr)
{
    struct fuse_attr_out out = {0};
    int ret = exactly(
        fs_call(bench, FUSE_SETATTR, node, (struct fs_parts){FS_FIXED(*in)}, &out, sizeof(out)),
        sizeof(out));
    *attr = out.attr;
    return ret;
}

static int open_with(struct fs_bench *bench, uint32_t opcode, uint64_t node, uint32_t flags,
                     uint64_t *handle)
{
    const struct fuse_open_in in = {.flags = flags};
    struct fuse_open_out out = {0};
    int ret =
        exactly(fs_call(bench, opcode, node, (struct fs_parts){FS_FIXED(in)}, &out, sizeof(out)),
                sizeof(out));
    *handle = out.fh;
    return ret;
}

int fs_open_node(struct fs_bench *bench, uint64_t node, uint32_t flags, uint64_t *handle)
{
    return open_with(bench, FUSE_OPEN, node, flags, handle);
}

int fs_open_directory(struct fs_bench *bench, uint64_t node, uint64_t *handle)
{
    return open_with(bench, FUSE_OPENDIR, node, O_RDONLY | O_DIRECTORY, handle);
}

int fs_create_file(struct fs_bench *bench, uint64_t directory, const char *name, uint32_t flags,
                   uint32_t mode, struct fuse_entry_out *entry, uint64_t *handle)
{
    const struct fuse_create_in in = {.flags = flags, .mode = S_IFREG | mode};
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {0};
    int ret = exactly(fs_call(bench, FUSE_CREATE, directory,
                              (struct fs_parts){FS_FIXED(in), .name = name}, &out, sizeof(out)),
                      sizeof(out));
    *entry = out.entry;
    *handle = out.open.fh;
    return ret;
}

int fs_read_at(struct fs_bench *bench, uint64_t handle, uint64_t offset, uint32_t length, void *to)
{
    const struct fuse_read_in in = {.fh = handle, .offset = offset, .size = length};
    return fs_call(bench, FUSE_READ, 0, (struct fs_parts){FS_FIXED(in)}, to, length);
}

int fs_write_at(struct fs_bench *bench, uint64_t handle, uint64_t offset, const void *from,
                uint32_t length)
{
    const struct fuse_write_in in = {
        .fh = handle, .offset = offset, .size = length, .flags = bench->flags};
    struct fuse_write_out out = {0};
    int ret = fs_call(bench, FUSE_WRITE, 0,
                      (struct fs_parts){FS_FIXED(in), .data = from, .data_bytes = length}, &out,
                      sizeof(out));
    return ret < 0 ? ret : (int)out.size;
}

int fs_close(struct fs_bench *bench, uint64_t handle)
{
    const struct fuse_release_in in = {.fh = handle};
    return exactly(fs_call(bench, FUSE_RELEASE, 0, (struct fs_parts){FS_FIXED(in)}, NULL, 0), 0);
}

int fs_make_directory(struct fs_bench *bench, uint64_t directory, const char *name,
                      struct fuse_entry_out *entry)
{
    const struct fuse_mkdir_in in = {.mode = 0755};
    return exactly(fs_call(bench, FUSE_MKDIR, directory,
                           (struct fs_parts){FS_FIXED(in), .name = name}, entry, sizeof(*entry)),
                   sizeof(*entry));
}

int fs_remove(struct fs_bench *bench, uint64_t directory, const char *name)
{
    return exactly(fs_call(bench, FUSE_UNLINK, directory, (struct fs_parts){.name = name}, NULL, 0),
                   0);
}

int fs_move(struct fs_bench *bench, uint64_t from, const char *name, uint64_t to,
            const char *new_name, uint32_t flags)
{
    const struct fuse_rename2_in in = {.newdir = to, .flags = flags};
    return exactly(fs_call(bench, FUSE_RENAME2, from,
                           (struct fs_parts){FS_FIXED(in), .name = name, .name2 = new_name}, NULL,
                           0),
                   0);
}
