/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-fs, and a guest's kernel that lies. */
#include "tests/unit/fs_bench.h"

#include "base/checked.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT FUSE_ROOT_ID

static struct fs_bench bench;

static int set_up(void **state)
{
    fs_bench_start(&bench, &(struct fs_wanted){0});
    return 0;
}

static int tear_down(void **state)
{
    fs_bench_finish(&bench);
    return 0;
}

static bool is_broken(void)
{
    guest_sync(&bench.guest);
    return virtio_status(bench.device) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* The answer's error to a message of our own making. */
static int error_of(const void *message, size_t length)
{
    struct fuse_out_header out;
    assert_int_equal(fs_send(&bench, FS_REQUESTS, message, length, FS_ROOM) >= sizeof(out), true);
    memcpy(&out, fs_reply(&bench), sizeof(out));
    return out.error;
}

/* ---- lengths ---- */

struct shape {
    uint32_t opcode;
    size_t fixed_bytes;
    unsigned names; /* strings that follow */
    size_t out_bytes;
    bool changes; /* not in a read-only share */
};

#define FIXED(type) sizeof(struct type)
#define ENTRY       sizeof(struct fuse_entry_out)

static const struct shape shapes[] = {
    {FUSE_LOOKUP, 0, 1, ENTRY, false},
    {FUSE_GETATTR, FIXED(fuse_getattr_in), 0, FIXED(fuse_attr_out), false},
    {FUSE_SETATTR, FIXED(fuse_setattr_in), 0, FIXED(fuse_attr_out), true},
    {FUSE_SYMLINK, 0, 2, ENTRY, true},
    {FUSE_MKNOD, FIXED(fuse_mknod_in), 1, ENTRY, true},
    {FUSE_MKDIR, FIXED(fuse_mkdir_in), 1, ENTRY, true},
    {FUSE_UNLINK, 0, 1, 0, true},
    {FUSE_RMDIR, 0, 1, 0, true},
    {FUSE_RENAME, FIXED(fuse_rename_in), 2, 0, true},
    {FUSE_RENAME2, FIXED(fuse_rename2_in), 2, 0, true},
    {FUSE_LINK, FIXED(fuse_link_in), 1, ENTRY, true},
    {FUSE_OPEN, FIXED(fuse_open_in), 0, FIXED(fuse_open_out), false},
    {FUSE_READ, FIXED(fuse_read_in), 0, 0, false},
    {FUSE_WRITE, FIXED(fuse_write_in), 0, FIXED(fuse_write_out), false},
    {FUSE_STATFS, 0, 0, FIXED(fuse_statfs_out), false},
    {FUSE_RELEASE, FIXED(fuse_release_in), 0, 0, false},
    {FUSE_FSYNC, FIXED(fuse_fsync_in), 0, 0, false},
    {FUSE_SETXATTR, 8, 1, 0, true},
    {FUSE_GETXATTR, FIXED(fuse_getxattr_in), 1, 8, false},
    {FUSE_LISTXATTR, FIXED(fuse_getxattr_in), 0, 8, false},
    {FUSE_REMOVEXATTR, 0, 1, 0, true},
    {FUSE_FLUSH, FIXED(fuse_flush_in), 0, 0, false},
    {FUSE_INIT, 16, 0, FIXED(fuse_init_out), false},
    {FUSE_OPENDIR, FIXED(fuse_open_in), 0, FIXED(fuse_open_out), false},
    {FUSE_READDIR, FIXED(fuse_read_in), 0, 0, false},
    {FUSE_RELEASEDIR, FIXED(fuse_release_in), 0, 0, false},
    {FUSE_FSYNCDIR, FIXED(fuse_fsync_in), 0, 0, false},
    {FUSE_CREATE, FIXED(fuse_create_in), 1, ENTRY + FIXED(fuse_open_out), true},
    {FUSE_FALLOCATE, FIXED(fuse_fallocate_in), 0, 0, false},
    {FUSE_READDIRPLUS, FIXED(fuse_read_in), 0, 0, false},
    {FUSE_LSEEK, FIXED(fuse_lseek_in), 0, FIXED(fuse_lseek_out), false},
    {FUSE_COPY_FILE_RANGE, FIXED(fuse_copy_file_range_in), 0, FIXED(fuse_write_out), false},
    {FUSE_SYNCFS, FIXED(fuse_syncfs_in), 0, 0, false},
};

/* A fixed part of zeroes, cut short; and names without their ends. */
static void fs_refuses_requests_that_are_too_short(void **state)
{
    static const uint8_t zeroes[256];
    uint8_t reply[FS_QUEUE * 64];
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const struct shape *shape = &shapes[i];
        for (size_t length = 0; length < shape->fixed_bytes; length += 4) {
            const struct fs_parts parts = {.fixed = zeroes, .fixed_bytes = length};
            assert_int_equal(fs_call(&bench, shape->opcode, ROOT, parts, reply, sizeof(reply)),
                             -EINVAL);
        }
        struct fs_parts unended = {
            .fixed = zeroes, .fixed_bytes = shape->fixed_bytes, .data = "name", .data_bytes = 4};
        if (shape->names)
            assert_int_equal(fs_call(&bench, shape->opcode, ROOT, unended, reply, sizeof(reply)),
                             -EINVAL);
        if (shape->names != 2)
            continue;
        unended.name = "one";
        assert_int_equal(fs_call(&bench, shape->opcode, ROOT, unended, reply, sizeof(reply)),
                         -EINVAL);
    }
}

/* Before anything is done, because what is done could not be told. */
static void fs_refuses_requests_without_room_for_the_answer(void **state)
{
    static const uint8_t zeroes[256];
    uint8_t reply[256];
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const struct shape *shape = &shapes[i];
        const struct fs_parts parts = {.fixed = zeroes,
                                       .fixed_bytes = shape->fixed_bytes,
                                       .name = shape->names ? "made" : NULL,
                                       .name2 = shape->names == 2 ? "made" : NULL};
        if (shape->out_bytes)
            assert_int_equal(
                fs_call(&bench, shape->opcode, ROOT, parts, reply, shape->out_bytes - 1), -EINVAL);
    }
    assert_false(fs_host_has(&bench, "made"));
}

static void fs_refuses_lengths_that_lie(void **state)
{
    struct {
        struct fuse_in_header header;
        char name[8];
    } message = {.header = {.opcode = FUSE_LOOKUP, .nodeid = ROOT}, .name = "f"};
    static const uint32_t lies[] = {0, 39, 49, 0x10000, UINT32_MAX};
    fs_host_write(&bench, "f", "");
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        message.header.len = lies[i];
        assert_int_equal(error_of(&message, sizeof(message)), -EINVAL);
    }
    message.header.len = 40; /* no name */
    assert_int_equal(error_of(&message, sizeof(message)), -EINVAL);
    message.header.len = 42; /* what follows is not looked at */
    assert_int_equal(error_of(&message, sizeof(message)), 0);
    assert_false(is_broken());
}

static void fs_breaks_where_there_is_no_room_for_a_header(void **state)
{
    const struct fuse_in_header header = {.len = sizeof(header), .opcode = FUSE_STATFS};
    struct fuse_attr attr;
    guest_add(&bench.guest.rings[FS_REQUESTS], &GUEST_OUT(bench.request_gpa, 39), 1);
    guest_kick(&bench.guest, FS_REQUESTS);
    assert_true(is_broken());
    guest_reset(&bench.guest);
    guest_bring_up(&bench.guest, 0, 2, FS_QUEUE);
    memcpy(guest_at(&bench.guest, bench.request_gpa, sizeof(header)), &header, sizeof(header));
    const struct guest_buffer buffers[2] = {GUEST_OUT(bench.request_gpa, sizeof(header)),
                                            GUEST_IN(bench.reply_gpa, 15)};
    guest_add(&bench.guest.rings[FS_REQUESTS], buffers, 2);
    guest_kick(&bench.guest, FS_REQUESTS);
    assert_true(is_broken());
    /* And the device works again after a reset. */
    struct fuse_init_out out;
    guest_reset(&bench.guest);
    guest_bring_up(&bench.guest, 0, 2, FS_QUEUE);
    assert_int_equal(fs_init(&bench, 31, &out), 0);
    assert_int_equal(fs_get(&bench, ROOT, &attr), 0);
}

static void fs_does_not_know_other_opcodes(void **state)
{
    static const uint32_t opcodes[] = {
        0,
        FUSE_GETLK,
        FUSE_SETLK,
        FUSE_SETLKW,
        FUSE_ACCESS,
        FUSE_INTERRUPT,
        FUSE_BMAP,
        FUSE_IOCTL,
        FUSE_POLL,
        7,
        19,
        FUSE_SETUPMAPPING,
        FUSE_TMPFILE,
        52,
        CUSE_INIT,
        UINT32_MAX,
    };
    static const uint8_t zeroes[256];
    const struct fs_parts parts = {.fixed = zeroes, .fixed_bytes = sizeof(zeroes)};
    for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++)
        assert_int_equal(fs_call(&bench, opcodes[i], ROOT, parts, NULL, 0), -ENOSYS);
}

static void fs_writes_no_more_than_it_was_given(void **state)
{
    struct fuse_entry_out entry;
    struct fuse_write_out out;
    uint64_t handle;
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR, 0600, &entry, &handle), 0);
    const struct fuse_write_in in = {.fh = handle, .size = 100};
    assert_int_equal(
        fs_call(&bench, FUSE_WRITE, 0,
                (struct fs_parts){FS_FIXED(in), .data = "ten bytes!", .data_bytes = 10}, &out,
                sizeof(out)),
        -EINVAL);
    assert_string_equal(fs_host_read(&bench, "f"), "");
}

static void fs_reads_no_more_than_there_is_room_for(void **state)
{
    char text[16];
    uint64_t handle;
    fs_host_write(&bench, "f", "0123456789");
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "f"), O_RDONLY, &handle), 0);
    const struct fuse_read_in in = {.fh = handle, .size = UINT32_MAX};
    assert_int_equal(fs_call(&bench, FUSE_READ, 0, (struct fs_parts){FS_FIXED(in)}, text, 4), 4);
    assert_memory_equal(text, "0123", 4);
    const struct fuse_read_in beyond = {.fh = handle, .size = 4, .offset = UINT64_MAX};
    assert_int_equal(fs_call(&bench, FUSE_READ, 0, (struct fs_parts){FS_FIXED(beyond)}, text, 4),
                     -EINVAL);
}

/* ---- names ---- */

static void fs_takes_one_step_at_a_time(void **state)
{
    static const char *const names[] = {".", "..", "", "a/b", "/", "../x", "./a", "a/"};
    struct fuse_entry_out entry;
    uint64_t handle;
    fs_host_mkdir(&bench, "a");
    fs_host_write(&bench, "a/b", "");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *name = names[i];
        assert_int_equal(fs_look(&bench, ROOT, name, &entry), -EINVAL);
        assert_int_equal(fs_make_directory(&bench, ROOT, name, &entry), -EINVAL);
        assert_int_equal(fs_create_file(&bench, ROOT, name, O_RDWR, 0600, &entry, &handle),
                         -EINVAL);
        assert_int_equal(fs_remove(&bench, ROOT, name), -EINVAL);
        assert_int_equal(fs_move(&bench, ROOT, name, ROOT, "c", 0), -EINVAL);
        assert_int_equal(fs_move(&bench, ROOT, "a", ROOT, name, 0), -EINVAL);
    }
    assert_true(fs_host_has(&bench, "a/b"));
}

/* ---- numbers that are not in force ---- */

static void fs_refuses_nodes_that_it_never_named(void **state)
{
    static const uint8_t zeroes[256];
    static const uint64_t nodes[] = {0, 2, 63, 64, 1ull << 32 | 1, UINT32_MAX, UINT64_MAX};
    uint8_t reply[4096];
    for (size_t i = 0; i < ARRAY_SIZE(nodes); i++)
        for (size_t j = 0; j < ARRAY_SIZE(shapes); j++) {
            const struct shape *shape = &shapes[j];
            const struct fs_parts parts = {.fixed = zeroes,
                                           .fixed_bytes = shape->fixed_bytes,
                                           .name = shape->names ? "user.x" : NULL,
                                           .name2 = shape->names == 2 ? "user.x" : NULL};
            if (shape->opcode == FUSE_INIT || shape->opcode == FUSE_RELEASE ||
                shape->opcode == FUSE_RELEASEDIR)
                continue;
            int ret = fs_call(&bench, shape->opcode, nodes[i], parts, reply, sizeof(reply));
            assert_true(ret == -ESTALE || ret == -EBADF ||
                        (shape->opcode == FUSE_MKNOD && ret < 0));
        }
    assert_false(fs_host_has(&bench, "user.x"));
    fs_forget(&bench, 12345, UINT64_MAX);
    fs_forget(&bench, ROOT, UINT64_MAX);
    struct fuse_attr attr;
    assert_int_equal(fs_get(&bench, ROOT, &attr), 0);
}

static void fs_refuses_handles_of_the_wrong_kind(void **state)
{
    uint64_t file, directory;
    char text[64];
    fs_host_write(&bench, "f", "");
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "f"), O_RDWR, &file), 0);
    assert_int_equal(fs_open_directory(&bench, ROOT, &directory), 0);
    assert_int_equal(fs_read_at(&bench, directory, 0, 10, text), -EBADF);
    assert_int_equal(fs_write_at(&bench, directory, 0, "x", 1), -EBADF);
    const struct fuse_read_in in = {.fh = file, .size = sizeof(text)};
    assert_int_equal(
        fs_call(&bench, FUSE_READDIR, ROOT, (struct fs_parts){FS_FIXED(in)}, text, sizeof(text)),
        -ENOTDIR);
    assert_int_equal(fs_open_directory(&bench, fs_find(&bench, "f"), &directory), -ENOTDIR);
}

/* ---- too much of everything ---- */

static void fs_bounds_what_a_guest_may_hold(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle;
    char name[16];
    unsigned known = 0;
    tear_down(state);
    fs_bench_start(&bench, &(struct fs_wanted){.nodes_max = 100});
    for (unsigned i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        fs_host_write(&bench, name, "");
        int ret = fs_look(&bench, ROOT, name, &entry);
        assert_true(ret == (i < 99 ? 0 : -ENFILE));
        known += ret == 0;
    }
    assert_int_equal(known, 99);
    assert_int_equal(fs_create_file(&bench, ROOT, "new", O_RDWR, 0600, &entry, &handle), -ENFILE);
    assert_int_equal(fs_make_directory(&bench, ROOT, "new", &entry), -ENFILE);
    assert_false(fs_host_has(&bench, "new"));
    assert_int_equal(fs_look(&bench, ROOT, "f0", &entry), 0); /* what is known stays so */
    fs_forget(&bench, entry.nodeid, 2);
    assert_int_equal(fs_look(&bench, ROOT, "f150", &entry), 0);
}

/* A long listing leaves room for what is asked for by name. */
static void fs_lists_more_than_a_guest_may_hold(void **state)
{
    static uint8_t reply[FS_ROOM - sizeof(struct fuse_out_header)];
    struct fuse_read_in in = {.size = sizeof(reply)};
    struct virtio_fs_stats stats;
    struct fuse_entry_out entry;
    char name[16];
    tear_down(state);
    fs_bench_start(&bench, &(struct fs_wanted){.nodes_max = 100});
    for (unsigned i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        fs_host_write(&bench, name, "");
    }
    assert_int_equal(fs_open_directory(&bench, ROOT, &in.fh), 0);
    int got = fs_call(&bench, FUSE_READDIRPLUS, ROOT, (struct fs_parts){FS_FIXED(in)}, reply,
                      sizeof(reply));
    assert_int_equal(got, 202 * (sizeof(entry) + 32));
    virtio_fs_stats(bench.device, &stats);
    assert_int_equal(stats.nodes, 75);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        if (fs_look(&bench, ROOT, name, &entry) < 0)
            break;
    }
    virtio_fs_stats(bench.device, &stats);
    assert_int_equal(stats.nodes, 100);
}

static void fs_stands_a_flood_of_forgets(void **state)
{
    static struct {
        struct fuse_in_header header;
        struct fuse_batch_forget_in in;
        struct fuse_forget_one one[4000];
    } message;
    struct fuse_attr attr;
    fs_host_write(&bench, "f", "");
    uint64_t node = fs_find(&bench, "f");
    message.header = (struct fuse_in_header){.len = sizeof(message), .opcode = FUSE_BATCH_FORGET};
    message.in.count = UINT32_MAX;
    for (size_t i = 0; i < ARRAY_SIZE(message.one); i++)
        message.one[i] = (struct fuse_forget_one){i, UINT64_MAX};
    message.one[3999].nodeid = node;
    assert_int_equal(fs_send(&bench, FS_HIPRIO, &message, sizeof(message), 0), 0);
    assert_int_equal(fs_get(&bench, node, &attr), -ESTALE);
    assert_int_equal(fs_get(&bench, ROOT, &attr), 0);
}

static void fs_ends_a_session_when_another_begins(void **state)
{
    struct virtio_fs_stats stats;
    struct fuse_init_out out;
    uint64_t handle;
    fs_host_write(&bench, "f", "");
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(fs_open_node(&bench, fs_find(&bench, "f"), O_RDONLY, &handle), 0);
        assert_int_equal(fs_init(&bench, 31, &out), 0);
    }
    virtio_fs_stats(bench.device, &stats);
    assert_int_equal(stats.nodes, 1);
    assert_int_equal(stats.handles, 0);
}

/* ---- read-only ---- */

static void fs_changes_nothing_in_a_read_only_share(void **state)
{
    static const uint8_t zeroes[256];
    static const uint32_t flags[] = {O_WRONLY, O_RDWR, O_TRUNC};
    uint8_t reply[4096];
    uint64_t handle;
    struct stat before, after;
    tear_down(state);
    fs_bench_start(&bench, &(struct fs_wanted){.read_only = true});
    fs_host_write(&bench, "user.x", "text");
    assert_int_equal(stat(bench.directory, &before), 0);
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const struct shape *shape = &shapes[i];
        struct fs_parts parts = {.fixed = zeroes,
                                 .fixed_bytes = shape->fixed_bytes,
                                 .name = shape->names ? "user.x" : NULL,
                                 .name2 = shape->names == 2 ? "user.y" : NULL};
        const struct fuse_link_in link_in = {.oldnodeid = fs_find(&bench, "user.x")};
        const struct fuse_rename_in rename_in = {.newdir = ROOT};
        if (shape->opcode == FUSE_LINK)
            parts.fixed = &link_in;
        if (shape->opcode == FUSE_RENAME)
            parts.fixed = &rename_in;
        int ret = shape->changes ? fs_call(&bench, shape->opcode, ROOT, parts, reply, sizeof(reply))
                                 : -EROFS;
        if (ret != -EROFS)
            fail_msg("opcode %u: %d", shape->opcode, ret);
    }
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        assert_int_equal(fs_open_node(&bench, fs_find(&bench, "user.x"), flags[i], &handle),
                         -EROFS);
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "user.x"), O_RDONLY, &handle), 0);
    assert_int_equal(chmod(fs_path(&bench, "user.x"), 06755), 0);
    const struct fuse_open_in kill = {.flags = O_RDONLY, .open_flags = FUSE_OPEN_KILL_SUIDGID};
    assert_int_equal(fs_call(&bench, FUSE_OPEN, fs_find(&bench, "user.x"),
                             (struct fs_parts){FS_FIXED(kill)}, reply,
                             sizeof(struct fuse_open_out)),
                     sizeof(struct fuse_open_out));
    assert_int_equal(stat(fs_path(&bench, "user.x"), &after), 0);
    assert_int_equal(after.st_mode, S_IFREG | 06755);
    const struct fuse_fallocate_in allocate = {.fh = handle, .length = 100};
    assert_int_equal(
        fs_call(&bench, FUSE_FALLOCATE, 0, (struct fs_parts){FS_FIXED(allocate)}, NULL, 0), -EROFS);
    assert_int_equal(fs_write_at(&bench, handle, 0, "x", 1), -EROFS);
    const struct fuse_copy_file_range_in copy = {.fh_in = handle, .fh_out = handle, .len = 1};
    assert_int_equal(
        fs_call(&bench, FUSE_COPY_FILE_RANGE, 0, (struct fs_parts){FS_FIXED(copy)}, reply, 8),
        -EROFS);
    assert_string_equal(fs_host_read(&bench, "user.x"), "text");
    assert_int_equal(stat(bench.directory, &after), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(after.st_mtim));
}

/* ---- the share of one file ---- */

static void fs_shows_one_file_and_nothing_beside_it(void **state)
{
    struct fuse_entry_out entry;
    struct fuse_attr attr;
    uint64_t handle;
    uint8_t reply[4096];
    tear_down(state);
    fs_bench_start(&bench, &(struct fs_wanted){.file = "one"});
    fs_host_write(&bench, "secret", "x");
    fs_host_mkdir(&bench, "d");
    uint64_t node = fs_find(&bench, "one");
    assert_int_equal(fs_open_node(&bench, node, O_RDWR, &handle), 0);
    assert_int_equal(fs_write_at(&bench, handle, 0, "The", 3), 3);
    assert_string_equal(fs_host_read(&bench, "one"), "The one");
    assert_int_equal(fs_look(&bench, ROOT, "secret", &entry), -ENOENT);
    assert_int_equal(fs_look(&bench, ROOT, "d", &entry), -ENOENT);
    assert_int_equal(fs_remove(&bench, ROOT, "one"), -EPERM);
    assert_int_equal(fs_remove(&bench, ROOT, "secret"), -EPERM);
    assert_int_equal(fs_make_directory(&bench, ROOT, "new", &entry), -EPERM);
    assert_int_equal(fs_create_file(&bench, ROOT, "new", O_RDWR, 0600, &entry, &handle), -EPERM);
    assert_int_equal(fs_move(&bench, ROOT, "one", ROOT, "two", 0), -EPERM);
    const struct fuse_setattr_in mode = {.valid = FATTR_MODE, .mode = 0777};
    assert_int_equal(fs_set(&bench, ROOT, &mode, &attr), -EPERM);
    struct fuse_read_in in = {.size = sizeof(reply)};
    assert_int_equal(fs_open_directory(&bench, ROOT, &in.fh), 0);
    assert_int_equal(fs_call(&bench, FUSE_READDIRPLUS, ROOT, (struct fs_parts){FS_FIXED(in)}, reply,
                             sizeof(reply)),
                     3 * (sizeof(entry) + 32)); /* ".", ".." and "one" */
    /* And when something else has its name: */
    assert_int_equal(rename(fs_path(&bench, "one"), fs_path(&bench, "was")), 0);
    assert_int_equal(rename(fs_path(&bench, "d"), fs_path(&bench, "one")), 0);
    assert_int_equal(fs_look(&bench, ROOT, "one", &entry), -ENOENT);
}

/* ---- what goes away ---- */

static void fs_answers_when_the_directory_is_gone(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle;
    char text[8];
    fs_host_write(&bench, "f", "hello");
    uint64_t node = fs_find(&bench, "f");
    assert_int_equal(fs_open_node(&bench, node, O_RDONLY, &handle), 0);
    assert_int_equal(unlink(fs_path(&bench, "f")), 0);
    assert_int_equal(rmdir(bench.directory), 0);
    assert_int_equal(fs_look(&bench, ROOT, "f", &entry), -ENOENT);
    assert_int_equal(fs_make_directory(&bench, ROOT, "d", &entry), -ENOENT);
    assert_int_equal(fs_read_at(&bench, handle, 0, 8, text), 5); /* as on any Unix */
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(fs_refuses_requests_that_are_too_short),
        PROMISE(fs_refuses_requests_without_room_for_the_answer),
        PROMISE(fs_refuses_lengths_that_lie),
        PROMISE(fs_breaks_where_there_is_no_room_for_a_header),
        PROMISE(fs_does_not_know_other_opcodes),
        PROMISE(fs_writes_no_more_than_it_was_given),
        PROMISE(fs_reads_no_more_than_there_is_room_for),
        PROMISE(fs_takes_one_step_at_a_time),
        PROMISE(fs_refuses_nodes_that_it_never_named),
        PROMISE(fs_refuses_handles_of_the_wrong_kind),
        PROMISE(fs_bounds_what_a_guest_may_hold),
        PROMISE(fs_lists_more_than_a_guest_may_hold),
        PROMISE(fs_stands_a_flood_of_forgets),
        PROMISE(fs_ends_a_session_when_another_begins),
        PROMISE(fs_changes_nothing_in_a_read_only_share),
        PROMISE(fs_shows_one_file_and_nothing_beside_it),
        PROMISE(fs_answers_when_the_directory_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
