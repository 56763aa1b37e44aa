/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-fs: sessions, names and attributes, as a guest's kernel that means well uses it. */
#include "tests/unit/fs_bench.h"

#include "base/checked.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/virtio_mmio.h>
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

/* ---- the device, and the first words ---- */

static void fs_tells_its_tag_and_one_request_queue(void **state)
{
    uint8_t config[40];
    assert_int_equal(guest_read32(&bench.guest, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_FS);
    guest_read_config(&bench.guest, 0, config, sizeof(config));
    assert_memory_equal(config, "share0\0\0", 8);
    assert_memory_equal(config + 36, "\1\0\0\0", 4);
}

static void fs_agrees_on_a_version(void **state)
{
    struct fuse_init_out out;
    assert_int_equal(fs_init(&bench, 31, &out), 0);
    assert_int_equal(out.major, 7);
    assert_true(out.minor >= 31);
    /* Pages and four more descriptors fit into the largest queue. */
    assert_int_equal(out.max_pages, VIRTQ_SIZE_MAX - 4);
    assert_int_equal(out.max_write, out.max_pages * 4096);
    assert_int_equal(out.max_readahead, 131072);
    assert_true(out.flags & FUSE_MAX_PAGES && out.flags & FUSE_AUTO_INVAL_DATA);
    assert_false(out.flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_EXPORT_SUPPORT));
    assert_int_equal(fs_init(&bench, 30, &out), -EPROTO);
}

static void fs_answers_a_newer_kernel_in_its_own_version(void **state)
{
    const struct fuse_init_in in = {.major = 8};
    struct fuse_init_out out;
    struct fuse_attr attr;
    assert_int_equal(
        fs_call(&bench, FUSE_INIT, 0, (struct fs_parts){FS_FIXED(in)}, &out, sizeof(out)),
        sizeof(out));
    assert_int_equal(out.major, 7);
    /* And waits for another INIT. */
    assert_int_equal(fs_get(&bench, ROOT, &attr), -EPROTO);
    assert_int_equal(fs_init(&bench, 31, &out), 0);
    assert_int_equal(fs_get(&bench, ROOT, &attr), 0);
}

static void fs_takes_the_short_init_of_old_kernels(void **state)
{
    const uint32_t in[4] = {7, 31, 4096, 0};
    struct fuse_init_out out;
    assert_int_equal(
        fs_call(&bench, FUSE_INIT, 0, (struct fs_parts){FS_FIXED(in)}, &out, sizeof(out)),
        sizeof(out));
    assert_int_equal(out.max_readahead, 4096);
    assert_int_equal(out.flags, 0);
}

/* ---- names ---- */

static void fs_finds_what_the_host_has(void **state)
{
    struct fuse_entry_out entry, again;
    struct stat stat_;
    fs_host_mkdir(&bench, "d");
    fs_host_write(&bench, "d/file", "12345");
    assert_int_equal(fs_look(&bench, ROOT, "d", &entry), 0);
    assert_true(S_ISDIR(entry.attr.mode));
    assert_int_equal(fs_look(&bench, entry.nodeid, "file", &again), 0);
    assert_int_equal(stat(fs_path(&bench, "d/file"), &stat_), 0);
    assert_int_equal(again.attr.size, 5);
    assert_int_equal(again.attr.ino, stat_.st_ino);
    assert_int_equal(again.attr.mode, stat_.st_mode);
    assert_int_equal(again.attr.mtime, stat_.st_mtime);
    assert_int_equal(again.attr.uid, 0);
    /* Names for a second; a file's attributes for a tick, a directory's longer. */
    assert_int_equal(again.entry_valid, 1);
    assert_true(again.attr_valid == 0 && again.attr_valid_nsec > 0);
    assert_int_equal(entry.attr_valid, 1);
    assert_int_equal(fs_look(&bench, ROOT, "nothing", &entry), -ENOENT);
    assert_int_equal(fs_look(&bench, again.nodeid, "x", &entry), -ENOTDIR);
}

static void fs_knows_hard_links_as_one_node(void **state)
{
    fs_host_write(&bench, "a", "");
    assert_int_equal(link(fs_path(&bench, "a"), fs_path(&bench, "b")), 0);
    assert_true(fs_find(&bench, "a") == fs_find(&bench, "b"));
}

static void fs_gives_the_text_of_a_link_and_follows_none(void **state)
{
    char text[PATH_MAX];
    struct fuse_entry_out entry;
    uint64_t handle;
    assert_int_equal(symlink("/etc/passwd", fs_path(&bench, "link")), 0);
    assert_int_equal(fs_look(&bench, ROOT, "link", &entry), 0);
    assert_true(S_ISLNK(entry.attr.mode));
    assert_int_equal(fs_call(&bench, FUSE_READLINK, entry.nodeid, FS_NOTHING, text, PATH_MAX), 11);
    assert_memory_equal(text, "/etc/passwd", 11);
    assert_int_equal(fs_open_node(&bench, entry.nodeid, O_RDONLY, &handle), -ELOOP);
    assert_int_equal(fs_look(&bench, entry.nodeid, "x", &entry), -ENOTDIR);
}

static void fs_makes_directories_links_and_nodes(void **state)
{
    struct fuse_entry_out directory, entry;
    struct stat stat_;
    char text[64];
    assert_int_equal(fs_make_directory(&bench, ROOT, "d", &directory), 0);
    assert_int_equal(fs_make_directory(&bench, ROOT, "d", &entry), -EEXIST);
    assert_int_equal(fs_call(&bench, FUSE_SYMLINK, directory.nodeid,
                             (struct fs_parts){.name = "l", .name2 = "../target"}, &entry,
                             sizeof(entry)),
                     sizeof(entry));
    assert_int_equal(readlink(fs_path(&bench, "d/l"), text, sizeof(text)), 9);
    const struct fuse_mknod_in fifo = {.mode = S_IFIFO | 0622};
    assert_int_equal(fs_call(&bench, FUSE_MKNOD, directory.nodeid,
                             (struct fs_parts){FS_FIXED(fifo), .name = "fifo"}, &entry,
                             sizeof(entry)),
                     sizeof(entry));
    assert_int_equal(stat(fs_path(&bench, "d/fifo"), &stat_), 0);
    assert_int_equal(stat_.st_mode, S_IFIFO | 0622); /* whatever the umask here */
    const struct fuse_link_in link_in = {.oldnodeid = entry.nodeid};
    assert_int_equal(fs_call(&bench, FUSE_LINK, ROOT,
                             (struct fs_parts){FS_FIXED(link_in), .name = "twin"}, &entry,
                             sizeof(entry)),
                     sizeof(entry));
    assert_int_equal(entry.nodeid, link_in.oldnodeid);
    assert_int_equal(entry.attr.nlink, 2);
}

static void fs_makes_no_devices(void **state)
{
    struct fuse_entry_out entry;
    static const mode_t kinds[] = {S_IFCHR, S_IFBLK, S_IFDIR, 0};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        const struct fuse_mknod_in in = {.mode = kinds[i] | 0666, .rdev = 0x103};
        assert_int_equal(fs_call(&bench, FUSE_MKNOD, ROOT,
                                 (struct fs_parts){FS_FIXED(in), .name = "null"}, &entry,
                                 sizeof(entry)),
                         -EPERM);
    }
    assert_false(fs_host_has(&bench, "null"));
}

static void fs_removes_names(void **state)
{
    fs_host_mkdir(&bench, "d");
    fs_host_write(&bench, "d/f", "");
    assert_int_equal(fs_call(&bench, FUSE_RMDIR, ROOT, (struct fs_parts){.name = "d"}, NULL, 0),
                     -ENOTEMPTY);
    assert_int_equal(fs_remove(&bench, ROOT, "d"), -EISDIR);
    assert_int_equal(fs_remove(&bench, fs_find(&bench, "d"), "f"), 0);
    assert_int_equal(fs_call(&bench, FUSE_RMDIR, ROOT, (struct fs_parts){.name = "d"}, NULL, 0), 0);
    assert_false(fs_host_has(&bench, "d"));
}

static void fs_renames(void **state)
{
    fs_host_mkdir(&bench, "d");
    fs_host_write(&bench, "a", "A");
    fs_host_write(&bench, "b", "B");
    uint64_t directory = fs_find(&bench, "d");
    assert_int_equal(fs_move(&bench, ROOT, "a", ROOT, "b", 1 /* NOREPLACE */), -EEXIST);
    assert_int_equal(fs_move(&bench, ROOT, "a", ROOT, "b", 2 /* EXCHANGE */), 0);
    assert_string_equal(fs_host_read(&bench, "a"), "B");
    assert_int_equal(fs_move(&bench, ROOT, "a", directory, "c", 0), 0);
    assert_string_equal(fs_host_read(&bench, "d/c"), "B");
    assert_int_equal(fs_move(&bench, ROOT, "b", ROOT, "x", 4 /* WHITEOUT */), -EINVAL);
    const struct fuse_rename_in in = {.newdir = ROOT};
    assert_int_equal(fs_call(&bench, FUSE_RENAME, directory,
                             (struct fs_parts){FS_FIXED(in), .name = "c", .name2 = "b"}, NULL, 0),
                     0);
    assert_string_equal(fs_host_read(&bench, "b"), "B");
}

static void fs_takes_names_of_255_bytes_and_no_more(void **state)
{
    char name[257];
    struct fuse_entry_out entry;
    memset(name, 'n', sizeof(name));
    name[255] = '\0';
    assert_int_equal(fs_make_directory(&bench, ROOT, name, &entry), 0);
    assert_int_equal(fs_look(&bench, ROOT, name, &entry), 0);
    name[255] = 'n';
    name[256] = '\0';
    assert_int_equal(fs_look(&bench, ROOT, name, &entry), -ENAMETOOLONG);
    assert_int_equal(fs_make_directory(&bench, ROOT, name, &entry), -ENAMETOOLONG);
}

/* ---- attributes ---- */

static void fs_sets_attributes(void **state)
{
    struct fuse_attr attr;
    struct stat stat_;
    fs_host_write(&bench, "f", "1234567");
    uint64_t node = fs_find(&bench, "f");
    const struct fuse_setattr_in in = {
        .valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME_NOW,
        .mode = 0640,
        .size = 3,
        .atime = 1000000000,
        .atimensec = 5,
    };
    assert_int_equal(fs_set(&bench, node, &in, &attr), 0);
    assert_int_equal(attr.size, 3);
    assert_int_equal(attr.mode, S_IFREG | 0640);
    assert_int_equal(attr.atime, 1000000000);
    assert_int_equal(attr.atimensec, 5);
    assert_int_equal(stat(fs_path(&bench, "f"), &stat_), 0);
    assert_int_equal(stat_.st_size, 3);
    assert_true(stat_.st_mtime > 1000000000);
    const struct fuse_setattr_in huge = {.valid = FATTR_SIZE, .size = UINT64_MAX};
    assert_int_equal(fs_set(&bench, node, &huge, &attr), -EFBIG);
    const struct fuse_setattr_in directory = {.valid = FATTR_SIZE};
    assert_int_equal(fs_set(&bench, ROOT, &directory, &attr), -EISDIR);
}

static void fs_truncates_by_handle(void **state)
{
    struct fuse_attr attr;
    uint64_t handle;
    fs_host_write(&bench, "f", "1234567");
    uint64_t node = fs_find(&bench, "f");
    assert_int_equal(fs_open_node(&bench, node, O_RDWR, &handle), 0);
    struct fuse_setattr_in in = {.valid = FATTR_SIZE | FATTR_FH, .size = 2, .fh = handle};
    assert_int_equal(fs_set(&bench, node, &in, &attr), 0);
    assert_string_equal(fs_host_read(&bench, "f"), "12");
    in.fh++;
    assert_int_equal(fs_set(&bench, node, &in, &attr), -EBADF);
}

static void fs_takes_suid_off_when_asked(void **state)
{
    struct fuse_attr attr;
    uint64_t handle;
    fs_host_write(&bench, "f", "x");
    assert_int_equal(chmod(fs_path(&bench, "f"), 06755), 0);
    uint64_t node = fs_find(&bench, "f");
    assert_int_equal(fs_open_node(&bench, node, O_RDWR, &handle), 0);
    const struct fuse_write_in in = {
        .fh = handle, .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    struct fuse_write_out out;
    assert_int_equal(fs_call(&bench, FUSE_WRITE, node,
                             (struct fs_parts){FS_FIXED(in), .data = "y", .data_bytes = 1}, &out,
                             sizeof(out)),
                     sizeof(out));
    assert_int_equal(fs_get(&bench, node, &attr), 0);
    assert_int_equal(attr.mode, S_IFREG | 0755);
    assert_int_equal(chmod(fs_path(&bench, "f"), 06755), 0);
    const struct fuse_open_in truncate = {.flags = O_RDWR | O_TRUNC,
                                          .open_flags = FUSE_OPEN_KILL_SUIDGID};
    struct fuse_open_out opened;
    assert_int_equal(fs_call(&bench, FUSE_OPEN, node, (struct fs_parts){FS_FIXED(truncate)},
                             &opened, sizeof(opened)),
                     sizeof(opened));
    assert_int_equal(fs_get(&bench, node, &attr), 0);
    assert_int_equal(attr.mode, S_IFREG | 0755);
}

/* A file that the guest did not know of is there; and one that is not there gets the mode asked for. */
static void fs_takes_suid_off_what_is_there_already(void **state)
{
    static const struct {
        const char *name;
        uint32_t mode;
    } expected[] = {{"f", 0755}, {"new", 06755}};
    struct stat stat_;
    fs_host_write(&bench, "f", "x");
    assert_int_equal(chmod(fs_path(&bench, "f"), 06755), 0);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        const struct fuse_create_in in = {.flags = O_WRONLY | O_TRUNC,
                                          .mode = S_IFREG | 06755,
                                          .open_flags = FUSE_OPEN_KILL_SUIDGID};
        const struct fs_parts parts = {FS_FIXED(in), .name = expected[i].name};
        uint8_t out[sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)];
        assert_int_equal(fs_call(&bench, FUSE_CREATE, ROOT, parts, out, sizeof(out)), sizeof(out));
        assert_int_equal(stat(fs_path(&bench, expected[i].name), &stat_), 0);
        assert_int_equal(stat_.st_mode, S_IFREG | expected[i].mode);
    }
    assert_string_equal(fs_host_read(&bench, "f"), "");
}

static void fs_tells_the_file_systems_size(void **state)
{
    struct fuse_statfs_out out;
    assert_int_equal(fs_call(&bench, FUSE_STATFS, ROOT, FS_NOTHING, &out, sizeof(out)),
                     sizeof(out));
    assert_true(out.st.blocks > 0 && out.st.bsize > 0 && out.st.namelen >= 255);
}

/* ---- nodes ---- */

static void fs_forgets_what_it_is_told_to(void **state)
{
    struct virtio_fs_stats stats;
    struct fuse_attr attr;
    fs_host_write(&bench, "f", "");
    uint64_t node = fs_find(&bench, "f");
    assert_true(fs_find(&bench, "f") == node);
    fs_forget(&bench, node, 1);
    assert_int_equal(fs_get(&bench, node, &attr), 0); /* known once more */
    fs_forget(&bench, node, 1);
    assert_int_equal(fs_get(&bench, node, &attr), -ESTALE);
    virtio_fs_stats(bench.device, &stats);
    assert_int_equal(stats.nodes, 1);
    /* The next tenant of its place has another number. */
    assert_true(fs_find(&bench, "f") != node);
    assert_int_equal(fs_get(&bench, node, &attr), -ESTALE);
}

static void fs_forgets_many_at_once(void **state)
{
    struct fuse_attr attr;
    fs_host_write(&bench, "a", "");
    fs_host_write(&bench, "b", "");
    const struct {
        struct fuse_in_header header;
        struct fuse_batch_forget_in in;
        struct fuse_forget_one one[2];
    } message = {
        {.len = sizeof(message), .opcode = FUSE_BATCH_FORGET},
        {.count = 2},
        {{fs_find(&bench, "a"), 1}, {fs_find(&bench, "b"), 1}},
    };
    assert_int_equal(fs_send(&bench, FS_HIPRIO, &message, sizeof(message), 0), 0);
    assert_int_equal(fs_get(&bench, message.one[0].nodeid, &attr), -ESTALE);
    assert_int_equal(fs_get(&bench, message.one[1].nodeid, &attr), -ESTALE);
}

static void fs_starts_anew_after_a_reset(void **state)
{
    struct virtio_fs_stats stats;
    struct fuse_init_out out;
    struct fuse_attr attr;
    uint64_t handle;
    fs_host_write(&bench, "f", "");
    uint64_t node = fs_find(&bench, "f");
    assert_int_equal(fs_open_node(&bench, node, O_RDONLY, &handle), 0);
    guest_reset(&bench.guest);
    guest_bring_up(&bench.guest, 0, 2, FS_QUEUE);
    assert_int_equal(fs_get(&bench, ROOT, &attr), -EPROTO);
    assert_int_equal(fs_init(&bench, 36, &out), 0);
    assert_int_equal(fs_get(&bench, node, &attr), -ESTALE);
    virtio_fs_stats(bench.device, &stats);
    assert_int_equal(stats.nodes, 1);
    assert_int_equal(stats.handles, 0);
}

static void fs_ends_a_session_at_destroy(void **state)
{
    struct fuse_attr attr;
    assert_int_equal(fs_call(&bench, FUSE_DESTROY, 0, FS_NOTHING, NULL, 0), 0);
    assert_int_equal(fs_get(&bench, ROOT, &attr), -EPROTO);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(fs_tells_its_tag_and_one_request_queue),
        PROMISE(fs_agrees_on_a_version),
        PROMISE(fs_answers_a_newer_kernel_in_its_own_version),
        PROMISE(fs_takes_the_short_init_of_old_kernels),
        PROMISE(fs_finds_what_the_host_has),
        PROMISE(fs_knows_hard_links_as_one_node),
        PROMISE(fs_gives_the_text_of_a_link_and_follows_none),
        PROMISE(fs_makes_directories_links_and_nodes),
        PROMISE(fs_makes_no_devices),
        PROMISE(fs_removes_names),
        PROMISE(fs_renames),
        PROMISE(fs_takes_names_of_255_bytes_and_no_more),
        PROMISE(fs_sets_attributes),
        PROMISE(fs_truncates_by_handle),
        PROMISE(fs_takes_suid_off_when_asked),
        PROMISE(fs_takes_suid_off_what_is_there_already),
        PROMISE(fs_tells_the_file_systems_size),
        PROMISE(fs_forgets_what_it_is_told_to),
        PROMISE(fs_forgets_many_at_once),
        PROMISE(fs_starts_anew_after_a_reset),
        PROMISE(fs_ends_a_session_at_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
