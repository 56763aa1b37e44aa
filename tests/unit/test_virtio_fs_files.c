/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-fs: open files and directories, as a guest's kernel that means well uses it. */
#include "tests/unit/fs_bench.h"

#include "base/checked.h"

#include "cmocka_nido.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
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

/* ---- files ---- */

static void fs_reads_and_writes(void **state)
{
    char text[64] = {0};
    uint64_t handle, none;
    fs_host_write(&bench, "f", "hello");
    uint64_t node = fs_find(&bench, "f");
    assert_int_equal(fs_open_node(&bench, node, O_RDWR, &handle), 0);
    assert_int_equal(fs_read_at(&bench, handle, 1, 64, text), 4);
    assert_memory_equal(text, "ello", 4);
    assert_int_equal(fs_write_at(&bench, handle, 5, " world", 6), 6);
    assert_string_equal(fs_host_read(&bench, "f"), "hello world");
    assert_int_equal(fs_read_at(&bench, handle, 11, 64, text), 0);
    assert_int_equal(fs_close(&bench, handle), 0);
    assert_int_equal(fs_read_at(&bench, handle, 0, 64, text), -EBADF);
    assert_int_equal(fs_open_node(&bench, node, O_RDONLY, &handle), 0);
    assert_int_equal(fs_write_at(&bench, handle, 0, "x", 1), -EBADF);
    assert_int_equal(fs_open_node(&bench, ROOT, O_RDONLY, &none), -EISDIR);
}

static uint32_t how_opened(uint64_t node, uint32_t flags)
{
    const struct fuse_open_in in = {.flags = flags};
    struct fuse_open_out out;
    assert_int_equal(
        fs_call(&bench, FUSE_OPEN, node, (struct fs_parts){FS_FIXED(in)}, &out, sizeof(out)),
        sizeof(out));
    return out.open_flags;
}

static void fs_tells_what_the_guest_may_keep(void **state)
{
    static const struct {
        enum virtio_fs_cache cache;
        uint32_t flags;
    } kinds[] = {{VIRTIO_FS_CACHE_AUTO, 0},
                 {VIRTIO_FS_CACHE_ALWAYS, FOPEN_KEEP_CACHE},
                 {VIRTIO_FS_CACHE_NONE, FOPEN_DIRECT_IO}};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        tear_down(state);
        fs_bench_start(&bench, &(struct fs_wanted){.cache = kinds[i].cache});
        fs_host_write(&bench, "f", "");
        uint64_t node = fs_find(&bench, "f");
        assert_int_equal(how_opened(node, O_RDWR), kinds[i].flags);
        assert_int_equal(how_opened(node, O_RDONLY), kinds[i].flags | FOPEN_NOFLUSH);
    }
}

/* In pieces of any size: nothing may be assumed of where a buffer ends. */
static void fs_writes_from_many_descriptors(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle;
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR, 0600, &entry, &handle), 0);
    struct {
        struct fuse_in_header header;
        struct fuse_write_in in;
        char data[10];
    } __attribute__((packed)) message = {
        .header = {.len = sizeof(message), .opcode = FUSE_WRITE, .unique = 7},
        .in = {.fh = handle, .size = 10},
        .data = "0123456789",
    };
    struct guest_buffer buffers[48];
    unsigned count = 0;
    memcpy(guest_at(&bench.guest, bench.request_gpa, sizeof(message)), &message, sizeof(message));
    for (unsigned at = 0; at < sizeof(message); at += 3)
        buffers[count++] =
            GUEST_OUT(bench.request_gpa + at, MIN(3u, (unsigned)sizeof(message) - at));
    for (unsigned at = 0; at < 24; at += 5)
        buffers[count++] = GUEST_IN(bench.reply_gpa + at, MIN(5u, 24 - at));
    guest_add(&bench.guest.rings[FS_REQUESTS], buffers, count);
    guest_kick(&bench.guest, FS_REQUESTS);
    assert_int_equal(guest_wait_used(&bench.guest, FS_REQUESTS).written, 24);
    assert_string_equal(fs_host_read(&bench, "f"), "0123456789");
}

static void fs_appends_at_the_end_wherever_that_is(void **state)
{
    uint64_t handle;
    fs_host_write(&bench, "log", "12345");
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "log"), O_WRONLY | O_APPEND, &handle), 0);
    fs_host_write(&bench, "log", "1234567890");
    bench.flags = O_WRONLY | O_APPEND;
    assert_int_equal(fs_write_at(&bench, handle, 5, "abc", 3), 3);
    assert_string_equal(fs_host_read(&bench, "log"), "1234567890abc");
    bench.flags = 0; /* fcntl() took it away */
    assert_int_equal(fs_write_at(&bench, handle, 0, "x", 1), 1);
    assert_string_equal(fs_host_read(&bench, "log"), "x234567890abc");
    /* A file that appends takes no copies, but that is the host's way. */
    struct fuse_copy_file_range_in copy = {
        .fh_in = handle, .off_in = 10, .fh_out = handle, .off_out = 0, .len = 3};
    struct fuse_write_out copied;
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "log"), O_RDONLY, &copy.fh_in), 0);
    bench.flags = O_WRONLY | O_APPEND;
    assert_int_equal(fs_write_at(&bench, handle, 0, "d", 1), 1);
    assert_int_equal(fs_call(&bench, FUSE_COPY_FILE_RANGE, 0, (struct fs_parts){FS_FIXED(copy)},
                             &copied, sizeof(copied)),
                     sizeof(copied));
    assert_string_equal(fs_host_read(&bench, "log"), "abc4567890abcd");
}

static bool set_append_only(const char *name, bool on)
{
    int fd = open(fs_path(&bench, name), O_RDONLY);
    int flags = 0;
    bool done = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
    flags = on ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
    done = done && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    close(fd);
    return done;
}

static void fs_appends_to_what_can_only_be_appended_to(void **state)
{
    uint64_t handle, none;
    fs_host_write(&bench, "log", "one");
    if (!set_append_only("log", true))
        skip(); /* takes root, and some file systems have no such thing */
    uint64_t node = fs_find(&bench, "log");
    int ret = fs_open_node(&bench, node, O_WRONLY | O_APPEND, &handle);
    int refused = fs_open_node(&bench, node, O_WRONLY, &none);
    const struct fuse_write_in in = {.fh = handle, .size = 3, .flags = O_WRONLY | O_APPEND};
    struct fuse_write_out out = {0};
    int appended =
        fs_call(&bench, FUSE_WRITE, node,
                (struct fs_parts){FS_FIXED(in), .data = "two", .data_bytes = 3}, &out, sizeof(out));
    int written = fs_write_at(&bench, handle, 0, "ONE", 3);
    set_append_only("log", false);
    assert_int_equal(ret, 0);
    assert_int_equal(refused, -EPERM);
    assert_int_equal(appended, sizeof(out));
    assert_int_equal(written, -EPERM);
    assert_string_equal(fs_host_read(&bench, "log"), "onetwo");
}

static void fs_creates_files(void **state)
{
    struct fuse_entry_out entry;
    struct stat stat_;
    uint64_t handle;
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR | O_EXCL, 0606, &entry, &handle), 0);
    assert_int_equal(stat(fs_path(&bench, "f"), &stat_), 0);
    assert_int_equal(stat_.st_mode, S_IFREG | 0606);
    assert_int_equal(entry.attr.ino, stat_.st_ino);
    assert_int_equal(fs_write_at(&bench, handle, 0, "abc", 3), 3);
    /* It is there now: opened without O_EXCL, and emptied on request. */
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR | O_EXCL, 0600, &entry, &handle),
                     -EEXIST);
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR, 0600, &entry, &handle), 0);
    assert_string_equal(fs_host_read(&bench, "f"), "abc");
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR | O_TRUNC, 0600, &entry, &handle), 0);
    assert_string_equal(fs_host_read(&bench, "f"), "");
}

static void fs_creates_nothing_through_a_link(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle;
    char target[128];
    snprintf(target, sizeof(target), "%s.outside", bench.directory);
    assert_int_equal(symlink(target, fs_path(&bench, "link")), 0);
    assert_int_equal(fs_create_file(&bench, ROOT, "link", O_RDWR, 0600, &entry, &handle), -ELOOP);
    assert_int_equal(access(target, F_OK), -1);
}

/* Opening a FIFO would wait for its other end, and a socket or device is the host's. */
static void fs_opens_no_special_files(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle;
    assert_int_equal(mkfifo(fs_path(&bench, "fifo"), 0666), 0);
    assert_int_equal(fs_open_node(&bench, fs_find(&bench, "fifo"), O_RDONLY, &handle), -ENXIO);
    assert_int_equal(fs_create_file(&bench, ROOT, "fifo", O_RDWR, 0600, &entry, &handle), -ENXIO);
}

static void fs_seeks_allocates_and_copies(void **state)
{
    struct fuse_entry_out entry;
    uint64_t from, to;
    struct fuse_write_out copied;
    assert_int_equal(fs_create_file(&bench, ROOT, "from", O_RDWR, 0600, &entry, &from), 0);
    assert_int_equal(fs_create_file(&bench, ROOT, "to", O_RDWR, 0600, &entry, &to), 0);
    assert_int_equal(fs_write_at(&bench, from, 0, "0123456789", 10), 10);
    struct fuse_fallocate_in allocate = {.fh = from, .length = 4096};
    assert_int_equal(
        fs_call(&bench, FUSE_FALLOCATE, 0, (struct fs_parts){FS_FIXED(allocate)}, NULL, 0), 0);
    struct stat stat_;
    assert_int_equal(stat(fs_path(&bench, "from"), &stat_), 0);
    assert_int_equal(stat_.st_size, 4096);
    allocate.mode = FALLOC_FL_COLLAPSE_RANGE;
    assert_int_equal(
        fs_call(&bench, FUSE_FALLOCATE, 0, (struct fs_parts){FS_FIXED(allocate)}, NULL, 0),
        -EOPNOTSUPP);
    const struct fuse_lseek_in seek = {.fh = from, .offset = 5, .whence = SEEK_DATA};
    struct fuse_lseek_out at;
    assert_int_equal(
        fs_call(&bench, FUSE_LSEEK, 0, (struct fs_parts){FS_FIXED(seek)}, &at, sizeof(at)),
        sizeof(at));
    assert_int_equal(at.offset, 5);
    const struct fuse_copy_file_range_in copy = {
        .fh_in = from, .off_in = 2, .fh_out = to, .off_out = 1, .len = 3};
    assert_int_equal(fs_call(&bench, FUSE_COPY_FILE_RANGE, 0, (struct fs_parts){FS_FIXED(copy)},
                             &copied, sizeof(copied)),
                     sizeof(copied));
    assert_int_equal(copied.size, 3);
    char text[4];
    assert_int_equal(fs_read_at(&bench, to, 0, 4, text), 4);
    assert_memory_equal(text,
                        "\0"
                        "234",
                        4);
}

static mode_t mode_after(uint32_t opcode, uint32_t uid)
{
    struct fuse_entry_out entry;
    struct fuse_write_out copied;
    struct stat stat_;
    uint64_t from, to;
    assert_int_equal(fs_create_file(&bench, ROOT, "from", O_RDWR, 0600, &entry, &from), 0);
    assert_int_equal(fs_create_file(&bench, ROOT, "to", O_RDWR, 0755, &entry, &to), 0);
    assert_int_equal(fs_write_at(&bench, from, 0, "0123", 4), 4);
    assert_int_equal(chmod(fs_path(&bench, "to"), 06755), 0);
    const struct fuse_fallocate_in allocate = {.fh = to, .length = 4096};
    const struct fuse_copy_file_range_in copy = {.fh_in = from, .fh_out = to, .len = 3};
    bench.uid = uid;
    if (opcode == FUSE_FALLOCATE)
        assert_int_equal(fs_call(&bench, opcode, 0, (struct fs_parts){FS_FIXED(allocate)}, NULL, 0),
                         0);
    else
        assert_int_equal(
            fs_call(&bench, opcode, 0, (struct fs_parts){FS_FIXED(copy)}, &copied, sizeof(copied)),
            sizeof(copied));
    bench.uid = 0;
    assert_int_equal(stat(fs_path(&bench, "to"), &stat_), 0);
    return stat_.st_mode & 07777;
}

/* To copy into a file is to write to it. */
static void fs_takes_suid_off_what_users_allocate_and_copy(void **state)
{
    if (geteuid() != 0)
        skip(); /* the host's kernel does it then, for anybody */
    assert_int_equal(mode_after(FUSE_FALLOCATE, 1000), 0755);
    assert_int_equal(mode_after(FUSE_COPY_FILE_RANGE, 1000), 0755);
    assert_int_equal(mode_after(FUSE_FALLOCATE, 0), 06755);
    assert_int_equal(mode_after(FUSE_COPY_FILE_RANGE, 0), 06755);
}

static void fs_flushes_and_syncs(void **state)
{
    struct fuse_entry_out entry;
    uint64_t handle, directory;
    assert_int_equal(fs_create_file(&bench, ROOT, "f", O_RDWR, 0600, &entry, &handle), 0);
    assert_int_equal(fs_open_directory(&bench, ROOT, &directory), 0);
    const struct fuse_flush_in flush = {.fh = handle};
    const struct fuse_fsync_in sync = {.fh = handle, .fsync_flags = FUSE_FSYNC_FDATASYNC};
    const struct fuse_fsync_in sync_directory = {.fh = directory};
    const struct fuse_fsync_in nothing = {.fh = 12345};
    const struct fuse_syncfs_in all = {0};
    assert_int_equal(fs_call(&bench, FUSE_FLUSH, 0, (struct fs_parts){FS_FIXED(flush)}, NULL, 0),
                     0);
    assert_int_equal(fs_call(&bench, FUSE_FSYNC, 0, (struct fs_parts){FS_FIXED(sync)}, NULL, 0), 0);
    assert_int_equal(
        fs_call(&bench, FUSE_FSYNCDIR, 0, (struct fs_parts){FS_FIXED(sync_directory)}, NULL, 0), 0);
    assert_int_equal(fs_call(&bench, FUSE_FSYNC, 0, (struct fs_parts){FS_FIXED(nothing)}, NULL, 0),
                     -EBADF);
    assert_int_equal(fs_call(&bench, FUSE_SYNCFS, ROOT, (struct fs_parts){FS_FIXED(all)}, NULL, 0),
                     0);
}

/* ---- extended attributes ---- */

static int get_xattr(uint64_t node, const char *name, void *to, uint32_t size)
{
    const struct fuse_getxattr_in in = {.size = size};
    return fs_call(&bench, FUSE_GETXATTR, node, (struct fs_parts){FS_FIXED(in), .name = name}, to,
                   size ? size : sizeof(struct fuse_getxattr_out));
}

static int set_xattr(uint64_t node, const char *name, const char *value)
{
    const uint32_t in[2] = {(uint32_t)strlen(value), 0};
    return fs_call(
        &bench, FUSE_SETXATTR, node,
        (struct fs_parts){FS_FIXED(in), .name = name, .data = value, .data_bytes = strlen(value)},
        NULL, 0);
}

static void fs_keeps_attributes_of_users_alone(void **state)
{
    char text[64];
    struct fuse_getxattr_out length;
    fs_host_write(&bench, "f", "");
    uint64_t node = fs_find(&bench, "f");
    if (setxattr(fs_path(&bench, "f"), "user.host", "there", 5, 0) < 0)
        skip(); /* this file system has none */
    assert_int_equal(set_xattr(node, "user.guest", "value"), 0);
    assert_int_equal(getxattr(fs_path(&bench, "f"), "user.guest", text, sizeof(text)), 5);
    assert_int_equal(get_xattr(node, "user.host", &length, 0), sizeof(length));
    assert_int_equal(length.size, 5);
    assert_int_equal(get_xattr(node, "user.host", text, 64), 5);
    assert_int_equal(get_xattr(node, "user.host", text, 2), -ERANGE);
    assert_int_equal(get_xattr(node, "user.none", text, 64), -ENODATA);
    static const char *const others[] = {"security.capability", "trusted.x",
                                         "system.posix_acl_access", "x", ""};
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        assert_int_equal(get_xattr(node, others[i], text, 64), -EOPNOTSUPP);
        assert_int_equal(set_xattr(node, others[i], "x"), -EOPNOTSUPP);
    }
    const struct fuse_getxattr_in list = {.size = 64};
    int got = fs_call(&bench, FUSE_LISTXATTR, node, (struct fs_parts){FS_FIXED(list)}, text, 64);
    assert_int_equal(got, sizeof("user.host") + sizeof("user.guest"));
    assert_int_equal(
        fs_call(&bench, FUSE_REMOVEXATTR, node, (struct fs_parts){.name = "user.guest"}, NULL, 0),
        0);
    assert_int_equal(get_xattr(node, "user.guest", text, 64), -ENODATA);
}

/* ---- directories ---- */

/* Reads with answers of `room` bytes. Returns how many entries came, and marks those called N. */
static unsigned read_directory(bool plus, size_t room, bool *seen, unsigned most, unsigned *nodes)
{
    static uint8_t reply[FS_ROOM];
    const size_t head = plus ? sizeof(struct fuse_entry_out) : 0;
    struct fuse_read_in in = {.size = (uint32_t)room};
    unsigned entries = 0;
    int got;
    assert_int_equal(fs_open_directory(&bench, ROOT, &in.fh), 0);
    while ((got = fs_call(&bench, plus ? FUSE_READDIRPLUS : FUSE_READDIR, ROOT,
                          (struct fs_parts){FS_FIXED(in)}, reply, room)) > 0) {
        for (size_t at = 0; at < (size_t)got;) {
            const struct fuse_dirent *entry = (void *)(reply + at + head);
            unsigned number;
            char name[256] = {0};
            memcpy(name, entry->name, entry->namelen);
            if (sscanf(name, "file%u", &number) == 1 && number < most) {
                assert_false(seen[number]); /* once each */
                seen[number] = true;
                assert_int_equal(entry->type, DT_REG);
            }
            if (plus && ((struct fuse_entry_out *)(void *)(reply + at))->nodeid)
                ++*nodes;
            entries++;
            in.offset = entry->off;
            at += head + FUSE_DIRENT_SIZE(entry);
        }
    }
    assert_int_equal(got, 0);
    fs_close(&bench, in.fh);
    return entries;
}

#define MANY 300u

static void fs_lists_every_entry_once(void **state)
{
    static const size_t rooms[] = {300, 4096, 65536, 131072};
    char name[16];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "file%u", i);
        fs_host_write(&bench, name, "");
    }
    for (size_t i = 0; i < 2 * ARRAY_SIZE(rooms); i++) {
        bool seen[MANY] = {false}, plus = i & 1;
        unsigned nodes = 0;
        assert_int_equal(read_directory(plus, rooms[i / 2], seen, MANY, &nodes), MANY + 2);
        for (unsigned j = 0; j < MANY; j++)
            assert_true(seen[j]);
        assert_int_equal(nodes, plus ? MANY : 0); /* not for . and .. */
    }
}

static void fs_lists_two_directories_in_turns(void **state)
{
    struct fuse_read_in in[2] = {{.size = 24 + 16}, {.size = 24 + 16}};
    unsigned counts[2] = {0};
    fs_host_mkdir(&bench, "a");
    fs_host_mkdir(&bench, "b");
    fs_host_write(&bench, "a/1", "");
    fs_host_write(&bench, "b/1", "");
    fs_host_write(&bench, "b/2", "");
    assert_int_equal(fs_open_directory(&bench, fs_find(&bench, "a"), &in[0].fh), 0);
    assert_int_equal(fs_open_directory(&bench, fs_find(&bench, "b"), &in[1].fh), 0);
    for (unsigned turn = 0; turn < 12; turn++) {
        unsigned which = turn & 1;
        uint8_t reply[40];
        int got = fs_call(&bench, FUSE_READDIR, 0, (struct fs_parts){FS_FIXED(in[which])}, reply,
                          sizeof(reply));
        assert_true(got >= 0);
        if (got == 0)
            continue;
        in[which].offset = ((struct fuse_dirent *)(void *)reply)->off;
        counts[which]++;
    }
    assert_int_equal(counts[0], 3);
    assert_int_equal(counts[1], 4);
}

static void fs_tells_nothing_of_what_is_above_the_root(void **state)
{
    uint8_t reply[4096];
    struct fuse_read_in in = {.size = sizeof(reply)};
    struct fuse_attr root;
    assert_int_equal(fs_get(&bench, ROOT, &root), 0);
    assert_int_equal(fs_open_directory(&bench, ROOT, &in.fh), 0);
    int got =
        fs_call(&bench, FUSE_READDIR, ROOT, (struct fs_parts){FS_FIXED(in)}, reply, sizeof(reply));
    assert_int_equal(got, 64); /* . and .. */
    for (size_t at = 0; at < 64; at += 32)
        assert_int_equal(((struct fuse_dirent *)(void *)(reply + at))->ino, root.ino);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(fs_reads_and_writes),
        PROMISE(fs_tells_what_the_guest_may_keep),
        PROMISE(fs_writes_from_many_descriptors),
        PROMISE(fs_appends_at_the_end_wherever_that_is),
        PROMISE(fs_appends_to_what_can_only_be_appended_to),
        PROMISE(fs_creates_files),
        PROMISE(fs_creates_nothing_through_a_link),
        PROMISE(fs_opens_no_special_files),
        PROMISE(fs_seeks_allocates_and_copies),
        PROMISE(fs_takes_suid_off_what_users_allocate_and_copy),
        PROMISE(fs_flushes_and_syncs),
        PROMISE(fs_keeps_attributes_of_users_alone),
        PROMISE(fs_lists_every_entry_once),
        PROMISE(fs_lists_two_directories_in_turns),
        PROMISE(fs_tells_nothing_of_what_is_above_the_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
