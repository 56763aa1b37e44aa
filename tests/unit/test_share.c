/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a shared directory: races and owners. */
#include "base/checked.h"
#include "tests/unit/share_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OTHER_ID 12345u

/* ---- opening ---- */

static void share_opens_directories_and_files_only(void **state)
{
    struct nido_error err = {0};
    share_close(share);
    share = NULL;
    assert_int_equal(share_open_it("nothing", false, &err), -ENOENT);
    assert_non_null(strstr(err.text, share_path("nothing")));
    assert_int_equal(mkfifo(share_path("fifo"), 0600), 0);
    assert_int_equal(share_open_it("fifo", false, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "neither a directory nor a regular file"));
    /* What names the share may be a link: that is its owner's choice. */
    assert_int_equal(symlink("shared", share_path("link")), 0);
    assert_int_equal(share_open_it("link", false, &err), 0);
    share_host_file("shared/f", "");
    share_find_node(SHARE_ROOT, "f");
}

/* ---- somebody who changes the directory at the same time ---- */

static _Atomic bool swapping;

/* "d" is a directory with a file `f`, or a link to the outside, where another `f` is. */
static void *swap(void *self)
{
    while (swapping) {
        renameat2(AT_FDCWD, share_path("shared/d"), AT_FDCWD, share_path("shared/other"),
                  RENAME_EXCHANGE);
        sched_yield();
    }
    return NULL;
}

static void share_is_not_left_by_links_that_appear(void **state)
{
    struct share_entry entry, inner;
    struct stat outside;
    pthread_t thread;
    unsigned found = 0, links = 0;
    uint64_t handle;
    assert_int_equal(mkdir(share_path("outside"), 0755), 0);
    share_host_file("outside/f", "secret");
    assert_int_equal(stat(share_path("outside/f"), &outside), 0);
    assert_int_equal(mkdir(share_path("shared/d"), 0755), 0);
    share_host_file("shared/d/f", "ours");
    assert_int_equal(symlink(share_path("outside"), share_path("shared/other")), 0);
    swapping = true;
    assert_int_equal(pthread_create(&thread, NULL, swap, NULL), 0);
    for (unsigned i = 0; i < 200000 && (i < 2000 || !found || !links); i++) {
        assert_int_equal(share_lookup(share, SHARE_ROOT, "d", &entry), 0);
        int ret = share_lookup(share, entry.node, "f", &inner);
        if (ret == 0) {
            found++;
            assert_true(inner.attr.stx_ino != outside.st_ino);
            share_forget(share, inner.node, 1);
        } else {
            links++;
            assert_int_equal(ret, -ENOTDIR);
        }
        ret = share_create(share, entry.node, "new", O_RDWR, false, 0600, &nobody, &inner, &handle);
        if (ret == 0) {
            share_release(share, handle);
            share_forget(share, inner.node, 1);
        }
        share_forget(share, entry.node, 1);
    }
    swapping = false;
    pthread_join(thread, NULL);
    assert_true(found && links); /* both were met */
    assert_int_equal(access(share_path("outside/new"), F_OK), -1);
}

static void *swap_for_fifo(void *self)
{
    while (swapping) {
        renameat2(AT_FDCWD, share_path("shared/file"), AT_FDCWD, share_path("shared/fifo"),
                  RENAME_EXCHANGE);
        sched_yield();
    }
    return NULL;
}

/* To open a FIFO would be to wait, or to take part in what others say there. */
static void share_opens_no_fifo_that_appears(void **state)
{
    struct share_entry entry;
    pthread_t thread;
    uint64_t handle;
    unsigned opened = 0, refused = 0;
    share_host_file("shared/file", "");
    assert_int_equal(mkfifo(share_path("shared/fifo"), 0600), 0);
    swapping = true;
    assert_int_equal(pthread_create(&thread, NULL, swap_for_fifo, NULL), 0);
    for (unsigned i = 0; i < 200000 && (i < 2000 || !opened || !refused); i++) {
        int ret = share_create(share, SHARE_ROOT, "file", O_RDONLY, false, 0600, &nobody, &entry,
                               &handle);
        if (ret == 0) {
            opened++;
            assert_true(S_ISREG(entry.attr.stx_mode));
            share_release(share, handle);
            share_forget(share, entry.node, 1);
        } else {
            refused++;
            assert_int_equal(ret, -ENXIO);
        }
    }
    swapping = false;
    pthread_join(thread, NULL);
    assert_true(opened && refused);
}

/* A directory that was moved out is the one that the guest knows; from there, too, no way leads up. */
static void share_keeps_to_a_directory_that_was_moved(void **state)
{
    struct share_entry entry;
    assert_int_equal(mkdir(share_path("shared/d"), 0755), 0);
    uint64_t node = share_find_node(SHARE_ROOT, "d");
    assert_int_equal(rename(share_path("shared/d"), share_path("moved")), 0);
    assert_int_equal(share_lookup(share, node, "..", &entry), -EINVAL);
    assert_int_equal(share_lookup(share, node, "shared", &entry), -ENOENT);
    assert_int_equal(share_lookup(share, SHARE_ROOT, "d", &entry), -ENOENT);
}

/* ---- modes and owners ---- */

/* In another thread or process, which cmocka cannot jump out of. */
#define EXPECTS(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void *make_with_any_mode(void *self)
{
    struct share_entry entry;
    EXPECTS(share_adopt_thread() == 0);
    EXPECTS(share_mkdir(share, SHARE_ROOT, "open", 01777, &nobody, &entry) == 0);
    return NULL;
}

/* The guest's kernel has applied its umask; nido's is for nido's own files. */
static void share_applies_no_umask_of_its_own(void **state)
{
    struct stat stat_;
    pthread_t thread;
    mode_t before = umask(077);
    assert_int_equal(pthread_create(&thread, NULL, make_with_any_mode, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(umask(before), 077);
    assert_int_equal(stat(share_path("shared/open"), &stat_), 0);
    assert_int_equal(stat_.st_mode, S_IFDIR | 01777);
}

static void *make_for_another(void *self)
{
    const struct share_owner owner = {OTHER_ID, OTHER_ID + 1};
    struct share_entry entry;
    uint64_t handle;
    EXPECTS(share_adopt_thread() == 0);
    /* Others may not write there, but their guest's kernel has let them. */
    EXPECTS(share_mkdir(share, SHARE_ROOT, "d", 0755, &owner, &entry) == 0);
    EXPECTS(entry.attr.stx_uid == OTHER_ID);
    EXPECTS(share_create(share, SHARE_ROOT, "f", O_RDWR, false, 0644, &owner, &entry, &handle) ==
            0);
    EXPECTS(share_symlink(share, SHARE_ROOT, "l", "x", &owner, &entry) == 0);
    EXPECTS(share_mkdir(share, SHARE_ROOT, "root", 0755, &nobody, &entry) == 0);
    EXPECTS(entry.attr.stx_uid == 0);
    const struct share_owner impossible = {UINT32_MAX, 0};
    EXPECTS(share_mkdir(share, SHARE_ROOT, "no", 0755, &impossible, &entry) == -EPERM);
    return NULL;
}

static void share_of_root_keeps_owners(void **state)
{
    static const char *const names[] = {"shared/d", "shared/f", "shared/l"};
    struct statx attr;
    struct stat stat_;
    pthread_t thread;
    if (geteuid() != 0)
        skip();
    assert_int_equal(pthread_create(&thread, NULL, make_for_another, NULL), 0);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(lstat(share_path(names[i]), &stat_), 0);
        assert_int_equal(stat_.st_uid, OTHER_ID);
        assert_int_equal(stat_.st_gid, OTHER_ID + 1);
    }
    assert_int_equal(access(share_path("shared/no"), F_OK), -1);
    const struct share_changes changes = {
        .what = SHARE_SET_UID | SHARE_SET_GID, .uid = 7, .gid = 8};
    assert_int_equal(share_change(share, share_find_node(SHARE_ROOT, "d"), &changes, &attr), 0);
    assert_int_equal(attr.stx_uid, 7);
    assert_int_equal(attr.stx_gid, 8);
}

static void set_owner(const char *name, uint32_t uid, int expected)
{
    const struct share_changes changes = {
        .what = SHARE_SET_UID | SHARE_SET_GID, .uid = uid, .gid = UINT32_MAX};
    struct share_entry entry;
    struct statx attr;
    EXPECTS(share_lookup(share, SHARE_ROOT, name, &entry) == 0);
    EXPECTS(share_change(share, entry.node, &changes, &attr) == expected);
}

/* A process of its own, for it cannot become root again. */
static void unprivileged(void)
{
    struct share_entry entry;
    const struct share_owner guest_user = {1000, 1000};
    EXPECTS(setgroups(0, NULL) == 0 || geteuid() != 0);
    EXPECTS(setresgid(OTHER_ID, OTHER_ID, OTHER_ID) == 0);
    EXPECTS(setresuid(OTHER_ID, OTHER_ID, OTHER_ID) == 0);
    EXPECTS(share_open_it("shared", false, NULL) == 0);
    EXPECTS(share_adopt_thread() == 0);
    EXPECTS(share_lookup(share, SHARE_ROOT, "others", &entry) == 0);
    EXPECTS(entry.attr.stx_uid == SHARE_NOBODY && entry.attr.stx_gid == SHARE_NOBODY);
    EXPECTS(share_mkdir(share, SHARE_ROOT, "mine", 0755, &guest_user, &entry) == 0);
    EXPECTS(entry.attr.stx_uid == 0 && entry.attr.stx_gid == 0);
    set_owner("mine", 0, 0);
    set_owner("mine", 1000, -EPERM);
    set_owner("others", SHARE_NOBODY, 0);
    set_owner("others", 0, -EPERM);
    share_close(share);
    _exit(0);
}

static void share_of_a_user_shows_his_files_as_roots(void **state)
{
    int status = 0;
    if (geteuid() != 0)
        skip();
    share_host_file("shared/others", "");
    assert_int_equal(chmod(share_directory, 0777), 0);
    pid_t child = fork();
    if (child == 0)
        unprivileged();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct stat stat_;
    assert_int_equal(stat(share_path("shared/mine"), &stat_), 0);
    assert_int_equal(stat_.st_uid, OTHER_ID);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, share_set_up, share_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(share_opens_directories_and_files_only),
        PROMISE(share_is_not_left_by_links_that_appear),
        PROMISE(share_opens_no_fifo_that_appears),
        PROMISE(share_keeps_to_a_directory_that_was_moved),
        PROMISE(share_applies_no_umask_of_its_own),
        PROMISE(share_of_root_keeps_owners),
        PROMISE(share_of_a_user_shows_his_files_as_roots),
    };
    share_may_open_all_it_can();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
