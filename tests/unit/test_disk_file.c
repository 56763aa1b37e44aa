/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a disk's file: what is refused, with which next step, and who may open it at once. */
#include "base/checked.h"
#include "base/own.h"
#include "host/disk.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/loop_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Kernels before 6.1 do not tell what O_DIRECT needs. */
static bool hide_alignment;

int statx(int fd, const char *path, int flags, unsigned mask, struct statx *stx)
{
    if (hide_alignment)
        mask &= ~STATX_DIOALIGN;
    return (int)syscall(SYS_statx, fd, path, flags, mask, stx);
}

struct bench {
    struct loop *loop;
    char directory[128];
    char path[160]; /* an image of 1 MiB */
};

static int set_up(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    const char *base = getenv("TMPDIR");
    snprintf(bench->directory, sizeof(bench->directory), "%s/nido-disk-XXXXXX", base ? base : ".");
    assert_non_null(mkdtemp(bench->directory));
    snprintf(bench->path, sizeof(bench->path), "%s/image", bench->directory);
    own_fd int fd = open(bench->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)MIB), 0);
    assert_int_equal(loop_create(&bench->loop, "loop/test", NULL), 0);
    *state = bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    unlink(bench->path);
    rmdir(bench->directory);
    loop_destroy(bench->loop);
    free(bench);
    return 0;
}

static struct disk *open_disk(struct bench *bench, const char *path, bool read_only)
{
    struct nido_error err;
    struct disk *disk = NULL;
    struct disk_config config = {.path = path, .read_only = read_only};
    if (disk_open_raw(&disk, &config, bench->loop, &err) < 0)
        fail_msg("%s", err.text);
    return disk;
}

/* The sentence must name the file and contain `words`. */
static void expect_refusal(struct bench *bench, const char *path, bool read_only, int code,
                           const char *words)
{
    struct nido_error err = {0};
    struct disk *disk = NULL;
    struct disk_config config = {.path = path, .read_only = read_only};
    assert_int_equal(disk_open_raw(&disk, &config, bench->loop, &err), -code);
    assert_null(disk);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, path) || !strstr(err.text, words))
        fail_msg("'%s' does not name %s and '%s'", err.text, path, words);
}

static void replace_with(struct bench *bench, int made)
{
    assert_int_equal(made, 0);
    expect_refusal(bench, bench->path, false, EINVAL, "name an image file or a block device");
    unlink(bench->path);
}

/* ---- what is no disk ---- */

static void disk_refuses_what_is_no_file_or_block_device(void **state)
{
    struct bench *bench = *state;
    expect_refusal(bench, bench->directory, true, EISDIR, "this is a directory");
    expect_refusal(bench, "/dev/null", false, EINVAL, "this is a character device");
    unlink(bench->path);
    replace_with(bench, mkfifo(bench->path, 0600));
    replace_with(bench, mknod(bench->path, S_IFSOCK | 0600, 0));
}

static void disk_refuses_a_missing_file(void **state)
{
    struct bench *bench = *state;
    unlink(bench->path);
    expect_refusal(bench, bench->path, false, ENOENT, "truncate -s 10G");
}

static void disk_refuses_an_empty_or_odd_size(void **state)
{
    struct bench *bench = *state;
    assert_int_equal(truncate(bench->path, 0), 0);
    expect_refusal(bench, bench->path, false, EINVAL, "it is empty");
    assert_int_equal(truncate(bench->path, 1000), 0);
    expect_refusal(bench, bench->path, false, EINVAL, "truncate -s %512");
}

/* Root may write anything, so it steps down for a moment. */
static void disk_names_the_permission_that_it_lacks(void **state)
{
    struct bench *bench = *state;
    const uid_t old = geteuid();
    assert_int_equal(chmod(bench->directory, 0755), 0);
    assert_int_equal(chmod(bench->path, 0444), 0);
    if (old == 0) {
        assert_int_equal(seteuid(65534), 0);
        if (access(bench->path, F_OK) < 0 ||
            faccessat(AT_FDCWD, bench->path, R_OK, AT_EACCESS) < 0) {
            assert_int_equal(seteuid(old), 0);
            print_message("nobody cannot reach the test's directory\n");
            skip();
        }
    }
    expect_refusal(bench, bench->path, false, EACCES, "attach it read-only with ,ro");
    disk_close(open_disk(bench, bench->path, true));
    assert_int_equal(seteuid(old), 0);
    assert_int_equal(chmod(bench->path, 0), 0);
    if (old == 0)
        assert_int_equal(seteuid(65534), 0);
    expect_refusal(bench, bench->path, true, EACCES, "no permission to read it");
    assert_int_equal(seteuid(old), 0);
}

static void disk_refuses_images_of_other_formats(void **state)
{
    static const struct {
        const char *name, *start;
        unsigned length, offset;
    } images[] = {
        {"qcow2", "QFI\xfb\0\0\0\3", 8, 0},
        {"vmdk", "KDMV\1\0\0\0", 8, 0},
        {"vmdk", "# Disk DescriptorFile", 21, 0},
        {"vdi", "\x7f\x10\xda\xbe", 4, 64},
        {"vhdx", "vhdxfile", 8, 0},
        {"vpc", "conectix", 8, 0},
        {"qed", "QED", 4, 0},
    };
    struct bench *bench = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
        char words[64];
        own_fd int fd = open(bench->path, O_RDWR | O_TRUNC | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)MIB), 0);
        assert_int_equal(pwrite(fd, images[i].start, images[i].length, images[i].offset),
                         images[i].length);
        snprintf(words, sizeof(words), "qemu-img convert -f %s -O raw", images[i].name);
        expect_refusal(bench, bench->path, true, EINVAL, words);
    }
}

/* Else a guest could write such a start to its own disk, and be refused from then on. */
static void disk_that_is_raw_for_sure_may_start_with_anything(void **state)
{
    struct bench *bench = *state;
    own_fd int fd = open(bench->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0), 8);
    struct disk_config config = {.path = bench->path, .raw_for_sure = true};
    struct disk *disk = NULL;
    assert_int_equal(disk_open_raw(&disk, &config, bench->loop, NULL), 0);
    disk_close(disk);
}

/* ---- what it learns ---- */

static void disk_learns_size_and_blocks(void **state)
{
    struct bench *bench = *state;
    struct disk *disk = open_disk(bench, bench->path, false);
    assert_int_equal(disk->size_bytes, MIB);
    assert_int_equal(disk->block_bytes, 512);
    assert_int_equal(disk->physical_bytes, 4096);
    assert_true(is_power_of_two(disk->discard_bytes));
    assert_string_equal(disk->path, bench->path);
    disk_close(disk);
    struct stat st;
    assert_int_equal(stat(bench->path, &st), 0);
    assert_int_equal(st.st_size, MIB);
}

static void disk_offers_no_discard_when_read_only(void **state)
{
    struct bench *bench = *state;
    struct disk *disk = open_disk(bench, bench->path, true);
    assert_true(disk->read_only);
    assert_int_equal(disk->discard_bytes, 0);
    disk_close(disk);
}

static void disk_learns_what_direct_needs(void **state)
{
    struct bench *bench = *state;
    struct disk_config config = {.path = bench->path, .direct = true};
    struct disk *told, *probed;
    struct nido_error err;
    if (disk_open_raw(&told, &config, bench->loop, &err) < 0) {
        print_message("%s\n", err.text);
        assert_non_null(strstr(err.text, "leave out direct"));
        skip();
    }
    const uint32_t block_bytes = told->block_bytes;
    disk_close(told);
    hide_alignment = true;
    int ret = disk_open_raw(&probed, &config, bench->loop, &err);
    hide_alignment = false;
    assert_int_equal(ret, 0);
    assert_int_equal(probed->block_bytes, block_bytes);
    disk_close(probed);
}

/* ---- who else has it ---- */

static void disk_is_written_by_one_only(void **state)
{
    struct bench *bench = *state;
    struct disk *writer = open_disk(bench, bench->path, false);
    expect_refusal(bench, bench->path, false, EAGAIN, "another process is using it (write lock)");
    expect_refusal(bench, bench->path, true, EAGAIN, "with ,ro in both");
    disk_close(writer);
    disk_close(open_disk(bench, bench->path, false));
}

static void disk_is_shared_by_readers(void **state)
{
    struct bench *bench = *state;
    struct disk *one = open_disk(bench, bench->path, true);
    struct disk *two = open_disk(bench, bench->path, true);
    expect_refusal(bench, bench->path, false, EAGAIN, "another process is using it");
    disk_close(one);
    expect_refusal(bench, bench->path, false, EAGAIN, "another process is using it");
    disk_close(two);
    disk_close(open_disk(bench, bench->path, false));
}

/* As after a kill: the lock is still there, for a moment. */
static void disk_waits_for_a_lock_that_is_about_to_go(void **state)
{
    struct bench *bench = *state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(bench->path, O_RDWR | O_CLOEXEC);
        fcntl(fd, F_OFD_SETLK, &lock);
        close(ready[1]);
        usleep(100000);
        _exit(0);
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 0);
    close(ready[0]);
    disk_close(open_disk(bench, bench->path, false));
    waitpid(child, NULL, 0);
}

static int lock_byte(int fd, int command, short type, off_t at)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    if (fcntl(fd, command, &lock) < 0)
        return -1;
    return command == F_OFD_GETLK && lock.l_type != F_UNLCK;
}

/* The bytes that QEMU locks; see the front of disk_file.c. */
static void disk_collides_with_a_writing_qemu(void **state)
{
    struct bench *bench = *state;
    own_fd int qemu = open(bench->path, O_RDWR | O_CLOEXEC);
    static const off_t writer[] = {100, 101, 201, 203};
    for (unsigned i = 0; i < ARRAY_SIZE(writer); i++)
        assert_int_equal(lock_byte(qemu, F_OFD_SETLK, F_RDLCK, writer[i]), 0);
    expect_refusal(bench, bench->path, false, EAGAIN, "another process");
    expect_refusal(bench, bench->path, true, EAGAIN, "another process");
}

static void disk_is_shared_with_a_reading_qemu_only_by_readers(void **state)
{
    struct bench *bench = *state;
    own_fd int qemu = open(bench->path, O_RDWR | O_CLOEXEC);
    static const off_t reader[] = {100, 201, 203};
    for (unsigned i = 0; i < ARRAY_SIZE(reader); i++)
        assert_int_equal(lock_byte(qemu, F_OFD_SETLK, F_RDLCK, reader[i]), 0);
    struct disk *disk = open_disk(bench, bench->path, true);
    /* As QEMU asks: does anyone deny reading? does anyone deny writing? */
    assert_int_equal(lock_byte(qemu, F_OFD_GETLK, F_WRLCK, 200), 0);
    assert_int_equal(lock_byte(qemu, F_OFD_GETLK, F_WRLCK, 201), 1);
    disk_close(disk);
    expect_refusal(bench, bench->path, false, EAGAIN, "another process");
}

/* ---- block devices: root and the loop driver are needed ---- */

static void disk_opens_a_block_device_unless_somebody_claimed_it(void **state)
{
    struct bench *bench = *state;
    char path[32];
    int loop = loop_device_attach(bench->path, path, sizeof(path));
    if (loop < 0) {
        print_message("no loop device: %s\n", strerror(errno));
        skip();
    }
    struct disk *disk = open_disk(bench, path, false);
    assert_int_equal(disk->size_bytes, MIB);
    assert_true(disk->block_bytes >= 512);
    disk_close(disk);

    own_fd int claim = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
    assert_true(claim >= 0);
    expect_refusal(bench, path, false, EBUSY, "it is mounted or in use");
    disk_close(open_disk(bench, path, true));
    loop_device_detach(loop);
}

static void disk_keeps_the_blocks_of_a_device_with_4096(void **state)
{
    struct bench *bench = *state;
    char path[32];
    int loop = loop_device_attach(bench->path, path, sizeof(path));
    if (loop < 0 || ioctl(loop, LOOP_SET_BLOCK_SIZE, 4096) < 0) {
        print_message("no loop device with blocks of 4096 bytes: %s\n", strerror(errno));
        skip();
    }
    struct disk *disk = open_disk(bench, path, false);
    assert_int_equal(disk->block_bytes, 4096);
    assert_true(disk->physical_bytes >= 4096);
    disk_close(disk);
    loop_device_detach(loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(disk_refuses_what_is_no_file_or_block_device),
        TEST(disk_refuses_a_missing_file),
        TEST(disk_refuses_an_empty_or_odd_size),
        TEST(disk_names_the_permission_that_it_lacks),
        TEST(disk_refuses_images_of_other_formats),
        TEST(disk_that_is_raw_for_sure_may_start_with_anything),
        TEST(disk_learns_size_and_blocks),
        TEST(disk_offers_no_discard_when_read_only),
        TEST(disk_learns_what_direct_needs),
        TEST(disk_is_written_by_one_only),
        TEST(disk_is_shared_by_readers),
        TEST(disk_waits_for_a_lock_that_is_about_to_go),
        TEST(disk_collides_with_a_writing_qemu),
        TEST(disk_is_shared_with_a_reading_qemu_only_by_readers),
        TEST(disk_opens_a_block_device_unless_somebody_claimed_it),
        TEST(disk_keeps_the_blocks_of_a_device_with_4096),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
