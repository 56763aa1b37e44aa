/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a shared directory: what it holds, and what it does without. */
#include "tests/unit/share_bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what is held ---- */

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

#define MANY 3000u

static void share_holds_thousands_and_lets_go(void **state)
{
    static uint64_t nodes[MANY];
    char name[32];
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "shared/f%u", i);
        share_host_file(name, "");
        nodes[i] = share_find_node(SHARE_ROOT, name + strlen("shared/"));
    }
    assert_int_equal(open_descriptors(), before + MANY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_true(share_find_node(SHARE_ROOT, name) == nodes[i]);
    }
    for (unsigned i = 0; i < MANY; i += 2)
        share_forget(share, nodes[i], 2);
    assert_int_equal(open_descriptors(), before + MANY / 2);
    assert_int_equal(share_count(share).nodes, 1 + MANY / 2);
    for (unsigned i = 1; i < MANY; i += 2) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_true(share_find_node(SHARE_ROOT, name) == nodes[i]);
    }
    share_reset(share);
    assert_int_equal(open_descriptors(), before);
}

/* ---- more files than descriptors ---- */

#define FEW 50u

static const char *numbered(char name[32], unsigned number)
{
    snprintf(name, 32, "f%u", number);
    return name;
}

/* Their texts are their names. */
static void make_numbered(unsigned count)
{
    char name[48];
    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "shared/f%u", i);
        share_host_file(name, name + strlen("shared/"));
    }
}

static void reads(uint64_t node, const char *text)
{
    char got[33] = "";
    uint64_t handle;
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), 0);
    const struct iovec iov = {got, sizeof(got) - 1};
    assert_int_equal(share_read(share, handle, &iov, 1, 0), strlen(text));
    assert_string_equal(got, text);
    share_release(share, handle);
}

/* NIDO_TEST_SHARE_FILES says how many. */
static void share_knows_more_files_than_it_may_open(void **state)
{
    const char *wanted = getenv("NIDO_TEST_SHARE_FILES");
    const unsigned count = wanted ? (unsigned)strtoul(wanted, NULL, 10) : MANY;
    uint64_t *nodes = calloc(count, sizeof(*nodes));
    struct statx attr;
    char name[32];
    make_numbered(count);
    share_open_with(FEW, count + 1);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < count; i++) {
        nodes[i] = share_find_node(SHARE_ROOT, numbered(name, i));
        assert_true(share_count(share).descriptors <= FEW);
    }
    assert_true(open_descriptors() <= before + FEW);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(share_stat(share, nodes[i], &attr), 0);
        reads(nodes[i], numbered(name, i));
        assert_true(share_find_node(SHARE_ROOT, name) == nodes[i]);
        assert_true(share_count(share).descriptors <= FEW);
    }
    assert_int_equal(share_count(share).nodes, 1 + count);
    for (unsigned i = 0; i < count; i++)
        share_forget(share, nodes[i], 2);
    assert_int_equal(share_count(share).nodes, 1);
    assert_int_equal(open_descriptors(), before);
    free(nodes);
}

/* Has the node of `name` closed. */
static uint64_t closed(const char *name)
{
    char other[32];
    uint64_t node = share_find_node(SHARE_ROOT, name);
    for (unsigned i = 0; i < 2 * FEW; i++)
        share_forget(share, share_find_node(SHARE_ROOT, numbered(other, i)), 1);
    for (unsigned i = 0; i < FEW; i++)
        share_find_node(SHARE_ROOT, numbered(other, i));
    assert_int_equal(share_count(share).descriptors, FEW);
    return node;
}

static void share_finds_no_other_file_for_one_that_it_closed(void **state)
{
    struct statx attr;
    uint64_t handle;
    make_numbered(2 * FEW);
    share_host_file("outside", "secret");
    share_host_file("shared/other", "other");
    share_host_file("shared/mine", "mine");
    share_open_with(FEW, 1000);
    uint64_t node = closed("mine");
    assert_int_equal(rename(share_path("shared/mine"), share_path("shared/kept")), 0);
    assert_int_equal(share_stat(share, node, &attr), -ESTALE);
    assert_int_equal(rename(share_path("shared/other"), share_path("shared/mine")), 0);
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), -ESTALE);
    assert_int_equal(unlink(share_path("shared/mine")), 0);
    assert_int_equal(symlink(share_path("outside"), share_path("shared/mine")), 0);
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), -ESTALE);
    /* Looked up by the name that it has now, it is known again. */
    assert_true(share_find_node(SHARE_ROOT, "kept") == node);
    reads(node, "mine");
}

/* A program of the guest may go on with a file that it has open, whatever becomes of its name. */
static void share_keeps_open_what_has_handles(void **state)
{
    struct statx attr;
    uint64_t handle;
    make_numbered(2 * FEW);
    share_host_file("shared/mine", "mine");
    share_open_with(FEW, 1000);
    uint64_t node = share_find_node(SHARE_ROOT, "mine");
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), 0);
    assert_int_equal(share_unlink(share, SHARE_ROOT, "mine"), 0);
    closed("f0");
    assert_int_equal(share_stat(share, node, &attr), 0);
    assert_int_equal(attr.stx_nlink, 0);
    share_release(share, handle);
    for (unsigned i = 0; i < 2; i++)
        closed("f0");
    assert_int_equal(share_stat(share, node, &attr), -ESTALE);
}

/* File systems give a number out again once its file is gone. */
static void share_tells_a_new_file_from_an_old_one_of_that_number(void **state)
{
    struct stat before, after = {0};
    make_numbered(2 * FEW);
    share_open_with(FEW, 1000);
    for (unsigned i = 0; i < 100; i++) {
        share_host_file("shared/mine", "old");
        uint64_t node = closed("mine");
        assert_int_equal(stat(share_path("shared/mine"), &before), 0);
        assert_int_equal(unlink(share_path("shared/mine")), 0);
        usleep(10000); /* the clock that files are born by ticks */
        share_host_file("shared/mine", "new");
        assert_int_equal(stat(share_path("shared/mine"), &after), 0);
        uint64_t now = share_find_node(SHARE_ROOT, "mine");
        assert_true(now != node);
        if (before.st_ino == after.st_ino)
            return;
    }
    skip(); /* not this file system */
}

/* Those of proc(5) have no time of birth. */
static void share_keeps_open_what_it_could_not_tell_from_another(void **state)
{
    struct share_entry entry;
    struct statx attr;
    struct dirent *file;
    uint64_t nodes[FEW];
    unsigned count = 0;
    int ret = 0;
    snprintf(share_directory, sizeof(share_directory), "/proc/sys/net/ipv4");
    share_open_with(FEW, 1000);
    DIR *directory = opendir(share_directory);
    assert_non_null(directory);
    while (ret == 0 && count < FEW && (file = readdir(directory))) {
        if (file->d_type != DT_REG)
            continue;
        ret = share_lookup(share, SHARE_ROOT, file->d_name, &entry);
        if (ret == 0)
            nodes[count++] = entry.node;
    }
    closedir(directory);
    assert_int_equal(ret, -ENFILE);
    assert_int_equal(count, FEW - 1);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(share_stat(share, nodes[i], &attr), 0);
}

static void share_is_full_of_directories_and_open_files(void **state)
{
    struct share_entry entry;
    uint64_t handle;
    char name[32];
    share_open_with(FEW, 1000);
    for (unsigned i = 0; i < FEW - 1; i++)
        assert_int_equal(share_mkdir(share, SHARE_ROOT, numbered(name, i), 0755, &nobody, &entry),
                         0);
    share_host_file("shared/mine", "mine");
    assert_int_equal(share_lookup(share, SHARE_ROOT, "mine", &entry), -ENFILE);
    assert_int_equal(share_mkdir(share, SHARE_ROOT, "d", 0755, &nobody, &entry), -ENFILE);
    assert_int_equal(access(share_path("shared/d"), F_OK), -1);
    assert_int_equal(share_rmdir(share, SHARE_ROOT, name), 0);
    share_forget(share, share_find_node(SHARE_ROOT, "f0"), 2);
    uint64_t node = share_find_node(SHARE_ROOT, "mine");
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), -ENFILE);
    assert_int_equal(share_stat(share, node, &entry.attr), 0);
}

/* As somebody reads who has no room for each second entry. */
static void share_lists_an_entry_once_more(void **state)
{
    struct share_dirent entry;
    uint64_t handle, offset = 0;
    char first[NAME_MAX + 1];
    unsigned count = 0;
    int ret;
    make_numbered(MANY); /* more than fit one reading */
    assert_int_equal(share_open_directory(share, SHARE_ROOT, &handle), 0);
    while ((ret = share_read_directory(share, handle, offset, &entry)) == 1) {
        snprintf(first, sizeof(first), "%s", entry.name);
        for (unsigned again = 0; again < count % 3; again++) {
            assert_int_equal(share_read_directory(share, handle, offset, &entry), 1);
            assert_string_equal(entry.name, first);
        }
        offset = entry.next_offset;
        count++;
    }
    assert_int_equal(ret, 0);
    assert_int_equal(count, MANY + 2);
}

static void share_holds_no_descriptor_of_a_failure(void **state)
{
    struct share_entry entry;
    struct statx attr;
    uint64_t handle;
    char text[8];
    share_host_file("shared/f", "");
    uint64_t node = share_find_node(SHARE_ROOT, "f");
    unsigned before = open_descriptors();
    const struct share_changes size = {.what = SHARE_SET_SIZE, .size_bytes = INT64_MAX};
    for (unsigned i = 0; i < 10; i++) {
        share_lookup(share, SHARE_ROOT, "none", &entry);
        share_open_directory(share, node, &handle);
        share_change(share, node, &size, &attr);
        share_mkdir(share, SHARE_ROOT, "f", 0755, &nobody, &entry);
        share_create(share, SHARE_ROOT, "f", O_RDWR | O_EXCL, false, 0600, &nobody, &entry,
                     &handle);
        share_readlink(share, node, text, sizeof(text));
        share_sync_all(share, node);
    }
    assert_int_equal(open_descriptors(), before);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, share_set_up, share_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(share_holds_thousands_and_lets_go),
        PROMISE(share_knows_more_files_than_it_may_open),
        PROMISE(share_finds_no_other_file_for_one_that_it_closed),
        PROMISE(share_keeps_open_what_has_handles),
        PROMISE(share_tells_a_new_file_from_an_old_one_of_that_number),
        PROMISE(share_keeps_open_what_it_could_not_tell_from_another),
        PROMISE(share_is_full_of_directories_and_open_files),
        PROMISE(share_lists_an_entry_once_more),
        PROMISE(share_holds_no_descriptor_of_a_failure),
    };
    share_may_open_all_it_can();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
