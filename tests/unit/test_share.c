/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a shared directory: races, owners, and what it holds. */
#include "host/share.h"

#include "base/checked.h"

#include "cmocka_nido.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define OTHER_ID 12345u

static char top[64];    /* holds all of it */
static char shared[80]; /* top/shared */
static struct share *share;

static const char *path(const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned next;
    char *to = paths[next++ % 4];
    snprintf(to, PATH_MAX, "%s/%s", top, name);
    return to;
}

static void host_file(const char *name, const char *text)
{
    FILE *file = fopen(path(name), "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int open_it(const char *name, bool read_only, struct nido_error *err)
{
    const struct share_config config = {
        .path = path(name), .read_only = read_only, .descriptors_max = 10000, .nodes_max = 10000};
    return share_open(&share, &config, err);
}

static void open_with(unsigned descriptors_max, unsigned nodes_max)
{
    const struct share_config config = {
        .path = shared, .descriptors_max = descriptors_max, .nodes_max = nodes_max};
    share_close(share);
    assert_int_equal(share_open(&share, &config, NULL), 0);
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(top, sizeof(top), "%s/nido-share.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(top));
    assert_int_equal(chmod(top, 0755), 0);
    snprintf(shared, sizeof(shared), "%s/shared", top);
    assert_int_equal(mkdir(shared, 0755), 0);
    share = NULL;
    return open_it("shared", false, NULL);
}

static int remove_it(const char *at, const struct stat *stat, int type, struct FTW *ftw)
{
    return remove(at);
}

static int tear_down(void **state)
{
    share_close(share);
    nftw(top, remove_it, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static uint64_t find(uint64_t directory, const char *name)
{
    struct share_entry entry;
    assert_int_equal(share_lookup(share, directory, name, &entry), 0);
    return entry.node;
}

static const struct share_owner nobody = {0, 0};

/* ---- opening ---- */

static void share_opens_directories_and_files_only(void **state)
{
    struct nido_error err = {0};
    share_close(share);
    share = NULL;
    assert_int_equal(open_it("nothing", false, &err), -ENOENT);
    assert_non_null(strstr(err.text, path("nothing")));
    assert_int_equal(mkfifo(path("fifo"), 0600), 0);
    assert_int_equal(open_it("fifo", false, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "neither a directory nor a regular file"));
    /* What names the share may be a link: that is its owner's choice. */
    assert_int_equal(symlink("shared", path("link")), 0);
    assert_int_equal(open_it("link", false, &err), 0);
    host_file("shared/f", "");
    find(SHARE_ROOT, "f");
}

/* ---- somebody who changes the directory at the same time ---- */

static _Atomic bool swapping;

/* "d" is a directory with a file `f`, or a link to the outside, where another `f` is. */
static void *swap(void *self)
{
    while (swapping) {
        renameat2(AT_FDCWD, path("shared/d"), AT_FDCWD, path("shared/other"), RENAME_EXCHANGE);
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
    assert_int_equal(mkdir(path("outside"), 0755), 0);
    host_file("outside/f", "secret");
    assert_int_equal(stat(path("outside/f"), &outside), 0);
    assert_int_equal(mkdir(path("shared/d"), 0755), 0);
    host_file("shared/d/f", "ours");
    assert_int_equal(symlink(path("outside"), path("shared/other")), 0);
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
        ret = share_create(share, entry.node, "new", O_RDWR, 0600, &nobody, &inner, &handle);
        if (ret == 0) {
            share_release(share, handle);
            share_forget(share, inner.node, 1);
        }
        share_forget(share, entry.node, 1);
    }
    swapping = false;
    pthread_join(thread, NULL);
    assert_true(found && links); /* both were met */
    assert_int_equal(access(path("outside/new"), F_OK), -1);
}

static void *swap_for_fifo(void *self)
{
    while (swapping) {
        renameat2(AT_FDCWD, path("shared/file"), AT_FDCWD, path("shared/fifo"), RENAME_EXCHANGE);
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
    host_file("shared/file", "");
    assert_int_equal(mkfifo(path("shared/fifo"), 0600), 0);
    swapping = true;
    assert_int_equal(pthread_create(&thread, NULL, swap_for_fifo, NULL), 0);
    for (unsigned i = 0; i < 200000 && (i < 2000 || !opened || !refused); i++) {
        int ret = share_create(share, SHARE_ROOT, "file", O_RDONLY, 0600, &nobody, &entry, &handle);
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
    assert_int_equal(mkdir(path("shared/d"), 0755), 0);
    uint64_t node = find(SHARE_ROOT, "d");
    assert_int_equal(rename(path("shared/d"), path("moved")), 0);
    assert_int_equal(share_lookup(share, node, "..", &entry), -EINVAL);
    assert_int_equal(share_lookup(share, node, "shared", &entry), -ENOENT);
    assert_int_equal(share_lookup(share, SHARE_ROOT, "d", &entry), -ENOENT);
}

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
        host_file(name, "");
        nodes[i] = find(SHARE_ROOT, name + strlen("shared/"));
    }
    assert_int_equal(open_descriptors(), before + MANY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_true(find(SHARE_ROOT, name) == nodes[i]);
    }
    for (unsigned i = 0; i < MANY; i += 2)
        share_forget(share, nodes[i], 2);
    assert_int_equal(open_descriptors(), before + MANY / 2);
    assert_int_equal(share_count(share).nodes, 1 + MANY / 2);
    for (unsigned i = 1; i < MANY; i += 2) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_true(find(SHARE_ROOT, name) == nodes[i]);
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
    char name[32];
    assert_int_equal(chdir(shared), 0);
    for (unsigned i = 0; i < count; i++) {
        FILE *file = fopen(numbered(name, i), "we");
        assert_non_null(file);
        fputs(name, file);
        fclose(file);
    }
    assert_int_equal(chdir("/"), 0);
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

/* NIDO_TEST_SHARE_FILES says how many: a million has been seen to pass. */
static void share_knows_more_files_than_it_may_open(void **state)
{
    const char *wanted = getenv("NIDO_TEST_SHARE_FILES");
    const unsigned count = wanted ? (unsigned)strtoul(wanted, NULL, 10) : MANY;
    uint64_t *nodes = calloc(count, sizeof(*nodes));
    struct statx attr;
    char name[32];
    make_numbered(count);
    open_with(FEW, count + 1);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < count; i++) {
        nodes[i] = find(SHARE_ROOT, numbered(name, i));
        assert_true(share_count(share).descriptors <= FEW);
    }
    assert_true(open_descriptors() <= before + FEW);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(share_stat(share, nodes[i], &attr), 0);
        reads(nodes[i], numbered(name, i));
        assert_true(find(SHARE_ROOT, name) == nodes[i]);
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
    uint64_t node = find(SHARE_ROOT, name);
    for (unsigned i = 0; i < 2 * FEW; i++)
        share_forget(share, find(SHARE_ROOT, numbered(other, i)), 1);
    for (unsigned i = 0; i < FEW; i++)
        find(SHARE_ROOT, numbered(other, i));
    assert_int_equal(share_count(share).descriptors, FEW);
    return node;
}

static void share_finds_no_other_file_for_one_that_it_closed(void **state)
{
    struct statx attr;
    uint64_t handle;
    make_numbered(2 * FEW);
    host_file("outside", "secret");
    host_file("shared/other", "other");
    host_file("shared/mine", "mine");
    open_with(FEW, 1000);
    uint64_t node = closed("mine");
    assert_int_equal(rename(path("shared/mine"), path("shared/kept")), 0);
    assert_int_equal(share_stat(share, node, &attr), -ESTALE);
    assert_int_equal(rename(path("shared/other"), path("shared/mine")), 0);
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), -ESTALE);
    assert_int_equal(unlink(path("shared/mine")), 0);
    assert_int_equal(symlink(path("outside"), path("shared/mine")), 0);
    assert_int_equal(share_open_file(share, node, O_RDONLY, false, &handle), -ESTALE);
    /* Looked up by the name that it has now, it is known again. */
    assert_true(find(SHARE_ROOT, "kept") == node);
    reads(node, "mine");
}

/* A program of the guest may go on with a file that it has open, whatever becomes of its name. */
static void share_keeps_open_what_has_handles(void **state)
{
    struct statx attr;
    uint64_t handle;
    make_numbered(2 * FEW);
    host_file("shared/mine", "mine");
    open_with(FEW, 1000);
    uint64_t node = find(SHARE_ROOT, "mine");
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
    open_with(FEW, 1000);
    for (unsigned i = 0; i < 100; i++) {
        host_file("shared/mine", "old");
        uint64_t node = closed("mine");
        assert_int_equal(stat(path("shared/mine"), &before), 0);
        assert_int_equal(unlink(path("shared/mine")), 0);
        usleep(10000); /* the clock that files are born by ticks */
        host_file("shared/mine", "new");
        assert_int_equal(stat(path("shared/mine"), &after), 0);
        uint64_t now = find(SHARE_ROOT, "mine");
        assert_true(now != node);
        if (before.st_ino == after.st_ino)
            return;
    }
    skip(); /* not this file system */
}

static void share_is_full_of_directories_and_open_files(void **state)
{
    struct share_entry entry;
    uint64_t handle;
    char name[32];
    open_with(FEW, 1000);
    for (unsigned i = 0; i < FEW - 1; i++)
        assert_int_equal(share_mkdir(share, SHARE_ROOT, numbered(name, i), 0755, &nobody, &entry),
                         0);
    host_file("shared/mine", "mine");
    assert_int_equal(share_lookup(share, SHARE_ROOT, "mine", &entry), -ENFILE);
    assert_int_equal(share_mkdir(share, SHARE_ROOT, "d", 0755, &nobody, &entry), -ENFILE);
    assert_int_equal(access(path("shared/d"), F_OK), -1);
    assert_int_equal(share_rmdir(share, SHARE_ROOT, name), 0);
    share_forget(share, find(SHARE_ROOT, "f0"), 2);
    uint64_t node = find(SHARE_ROOT, "mine");
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
    host_file("shared/f", "");
    uint64_t node = find(SHARE_ROOT, "f");
    unsigned before = open_descriptors();
    const struct share_changes size = {.what = SHARE_SET_SIZE, .size_bytes = INT64_MAX};
    for (unsigned i = 0; i < 10; i++) {
        share_lookup(share, SHARE_ROOT, "none", &entry);
        share_open_directory(share, node, &handle);
        share_change(share, node, &size, &attr);
        share_mkdir(share, SHARE_ROOT, "f", 0755, &nobody, &entry);
        share_create(share, SHARE_ROOT, "f", O_RDWR | O_EXCL, 0600, &nobody, &entry, &handle);
        share_readlink(share, node, text, sizeof(text));
        share_sync_all(share, node);
    }
    assert_int_equal(open_descriptors(), before);
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
    assert_int_equal(stat(path("shared/open"), &stat_), 0);
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
    EXPECTS(share_create(share, SHARE_ROOT, "f", O_RDWR, 0644, &owner, &entry, &handle) == 0);
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
        assert_int_equal(lstat(path(names[i]), &stat_), 0);
        assert_int_equal(stat_.st_uid, OTHER_ID);
        assert_int_equal(stat_.st_gid, OTHER_ID + 1);
    }
    assert_int_equal(access(path("shared/no"), F_OK), -1);
    const struct share_changes changes = {
        .what = SHARE_SET_UID | SHARE_SET_GID, .uid = 7, .gid = 8};
    assert_int_equal(share_change(share, find(SHARE_ROOT, "d"), &changes, &attr), 0);
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
    EXPECTS(open_it("shared", false, NULL) == 0);
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
    host_file("shared/others", "");
    assert_int_equal(chmod(shared, 0777), 0);
    pid_t child = fork();
    if (child == 0)
        unprivileged();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct stat stat_;
    assert_int_equal(stat(path("shared/mine"), &stat_), 0);
    assert_int_equal(stat_.st_uid, OTHER_ID);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(share_opens_directories_and_files_only),
        PROMISE(share_is_not_left_by_links_that_appear),
        PROMISE(share_opens_no_fifo_that_appears),
        PROMISE(share_keeps_to_a_directory_that_was_moved),
        PROMISE(share_holds_thousands_and_lets_go),
        PROMISE(share_knows_more_files_than_it_may_open),
        PROMISE(share_finds_no_other_file_for_one_that_it_closed),
        PROMISE(share_keeps_open_what_has_handles),
        PROMISE(share_tells_a_new_file_from_an_old_one_of_that_number),
        PROMISE(share_is_full_of_directories_and_open_files),
        PROMISE(share_lists_an_entry_once_more),
        PROMISE(share_holds_no_descriptor_of_a_failure),
        PROMISE(share_applies_no_umask_of_its_own),
        PROMISE(share_of_root_keeps_owners),
        PROMISE(share_of_a_user_shows_his_files_as_roots),
    };
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
