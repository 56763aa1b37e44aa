/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/root_cache.h"

#include "base/own.h"
#include "cmocka_nido.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>

#define KEY "1-sha256-00"

static char home[64];
static bool no_nameless_files;
/* Called once, when a file has been made. */
static void (*meanwhile)(int directory_fd, const char *path);

/* A file system that has no files without a name, such as NFS. The linker sends calls here. */
int __real_openat64(int directory_fd, const char *path, int flags, ...);
int __wrap_openat64(int directory_fd, const char *path, int flags, ...);

int __wrap_openat64(int directory_fd, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (no_nameless_files && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    int fd = __real_openat64(directory_fd, path, flags, mode);
    void (*happens)(int, const char *) = meanwhile;
    if (fd >= 0 && happens && (flags & O_EXCL)) {
        meanwhile = NULL;
        happens(directory_fd, path);
    }
    return fd;
}

static int set_up(void **state)
{
    strcpy(home, "/tmp/nido-roots-XXXXXX");
    assert_non_null(mkdtemp(home));
    setenv("XDG_CACHE_HOME", home, 1);
    no_nameless_files = false;
    /* An overlay has none on older kernels. */
    int fd = open(home, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    no_nameless_files = fd < 0;
    return 0;
}

static int set_up_without_nameless_files(void **state)
{
    set_up(state);
    no_nameless_files = true;
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", home);
    assert_int_equal(system(command), 0);
    return 0;
}

static void open_cache(struct root_cache *cache)
{
    assert_int_equal(root_cache_open(cache, NULL), 0);
}

static unsigned entries(const struct root_cache *cache)
{
    unsigned count = 0;
    DIR *listing = opendir(cache->directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));)
        count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static void begin(const struct root_cache *cache, struct root_making *making)
{
    assert_int_equal(root_cache_begin(cache, making, NULL), 0);
    assert_int_equal(write(making->fd, "image", 5), 5);
}

static void root_cache_has_an_image_once_it_is_kept(void **state)
{
    own_root_cache struct root_cache cache;
    struct root_making making, other;
    char path[PATH_MAX], text[8] = "";
    open_cache(&cache);
    begin(&cache, &making);
    begin(&cache, &other);
    assert_false(root_cache_find(&cache, KEY, path));
    assert_int_equal(root_cache_keep(&cache, &making, KEY, path, NULL), 0);
    root_cache_end(&cache, &making);
    assert_true(root_cache_find(&cache, KEY, path));
    /* Whoever made the same meanwhile has it as well. */
    assert_int_equal(root_cache_keep(&cache, &other, KEY, path, NULL), 0);
    root_cache_end(&cache, &other);
    assert_int_equal(entries(&cache), 1);
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof(text)), 5);
    assert_string_equal(text, "image");
}

static void root_cache_has_nothing_of_what_is_given_up(void **state)
{
    own_root_cache struct root_cache cache;
    struct root_making making;
    open_cache(&cache);
    begin(&cache, &making);
    root_cache_end(&cache, &making);
    assert_int_equal(entries(&cache), 0);
}

/* Leaves what a process that was killed would, and a living one has. */
static void root_cache_sweeps_what_the_dead_left(void **state)
{
    own_root_cache struct root_cache cache, again;
    struct root_making making;
    int status;
    open_cache(&cache);
    pid_t pid = fork();
    if (pid == 0) {
        root_cache_begin(&cache, &making, NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(entries(&cache), no_nameless_files ? 1 : 0);
    begin(&cache, &making);
    open_cache(&again);
    assert_int_equal(entries(&cache), no_nameless_files ? 1 : 0);
    root_cache_end(&cache, &making);
    assert_int_equal(entries(&cache), 0);
}

static void another_sweeps(int directory_fd, const char *path)
{
    own_root_cache struct root_cache again;
    open_cache(&again);
}

static int sweeper_fd = -1;

static void another_is_about_to_remove(int directory_fd, const char *path)
{
    sweeper_fd = openat(directory_fd, path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(sweeper_fd, LOCK_EX | LOCK_NB), 0);
}

static void root_cache_takes_another_name_where_one_was_swept(void **state)
{
    void (*const events[])(int, const char *) = {another_sweeps, another_is_about_to_remove};
    own_root_cache struct root_cache cache, again;
    struct root_making making;
    struct stat st;
    open_cache(&cache);
    for (unsigned i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        meanwhile = events[i];
        begin(&cache, &making);
        assert_null(meanwhile);
        if (sweeper_fd >= 0)
            close(sweeper_fd);
        open_cache(&again);
        root_cache_close(&again);
        assert_int_equal(fstat(making.fd, &st), 0);
        assert_int_equal(st.st_nlink, 1);
        assert_int_equal(entries(&cache), 1);
        root_cache_end(&cache, &making);
    }
}

static void root_cache_remembers_a_file_that_has_settled(void **state)
{
    own_root_cache struct root_cache cache, again;
    struct root_making making;
    struct stat st;
    char path[PATH_MAX], key[ROOT_KEY_BYTES];
    open_cache(&cache);
    begin(&cache, &making);
    assert_int_equal(root_cache_keep(&cache, &making, KEY, path, NULL), 0);
    root_cache_end(&cache, &making);
    assert_int_equal(stat(path, &st), 0);
    /* Just written: it could be written again, and look the same. */
    root_cache_remember(&cache, &st, KEY);
    assert_false(root_cache_recall(&cache, &st, key));
    st.st_ctim.tv_sec -= 10;
    root_cache_remember(&cache, &st, KEY);
    assert_true(root_cache_recall(&cache, &st, key));
    assert_string_equal(key, KEY);
    st.st_mtim.tv_nsec ^= 1;
    assert_false(root_cache_recall(&cache, &st, key));
    /* With the image, the memory goes. */
    assert_int_equal(unlink(path), 0);
    open_cache(&again);
    assert_int_equal(entries(&cache), 0);
}

static void keep(const struct root_cache *cache, const char *key)
{
    struct root_making making;
    char path[PATH_MAX];
    begin(cache, &making);
    assert_int_equal(root_cache_keep(cache, &making, key, path, NULL), 0);
    root_cache_end(cache, &making);
}

static void set_age(const struct root_cache *cache, const char *name, time_t age_s)
{
    const struct timespec times[2] = {{time(NULL) - age_s, 0}, {time(NULL) - age_s, 0}};
    assert_int_equal(utimensat(cache->directory_fd, name, times, AT_SYMLINK_NOFOLLOW), 0);
}

static bool has(const struct root_cache *cache, const char *name)
{
    struct stat st;
    return fstatat(cache->directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void root_cache_keeps_what_is_used(void **state)
{
    own_root_cache struct root_cache cache;
    char path[PATH_MAX];
    open_cache(&cache);
    keep(&cache, "1-used");
    keep(&cache, "1-young");
    keep(&cache, "1-old");
    set_age(&cache, "1-used.squashfs", ROOT_CACHE_UNUSED_S + 60);
    set_age(&cache, "1-young.squashfs", ROOT_CACHE_UNUSED_S - 60);
    set_age(&cache, "1-old.squashfs", ROOT_CACHE_UNUSED_S + 60);
    assert_true(root_cache_find(&cache, "1-used", path));
    assert_true(has(&cache, "1-old.squashfs"));
    assert_int_equal(mkdirat(cache.directory_fd, "1-of-the-user", 0700), 0);
    set_age(&cache, "1-of-the-user", ROOT_CACHE_UNUSED_S + 60);
    keep(&cache, "1-new");
    assert_true(has(&cache, "1-used.squashfs"));
    assert_true(has(&cache, "1-young.squashfs"));
    assert_true(has(&cache, "1-new.squashfs"));
    assert_true(has(&cache, "1-of-the-user"));
    assert_false(has(&cache, "1-old.squashfs"));
}

static void link_of(const struct root_cache *cache, char name[NAME_MAX])
{
    *name = '\0';
    DIR *listing = opendir(cache->directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strncmp(entry->d_name, "seen-", 5) == 0)
            snprintf(name, NAME_MAX, "%.254s", entry->d_name);
    closedir(listing);
    assert_true(*name);
}

/* One that is downloaded anew for each job leaves many. */
static void root_cache_forgets_files_that_are_not_asked_for(void **state)
{
    own_root_cache struct root_cache cache, again, later;
    struct stat st = {.st_size = 1};
    char key[ROOT_KEY_BYTES], name[NAME_MAX];
    open_cache(&cache);
    keep(&cache, KEY);
    root_cache_remember(&cache, &st, KEY);
    link_of(&cache, name);
    set_age(&cache, name, ROOT_CACHE_UNUSED_S + 60);
    assert_true(root_cache_recall(&cache, &st, key));
    open_cache(&again);
    assert_true(root_cache_recall(&cache, &st, key));
    set_age(&cache, name, ROOT_CACHE_UNUSED_S + 60);
    open_cache(&later);
    assert_false(root_cache_recall(&cache, &st, key));
    assert_int_equal(entries(&cache), 1);
}

static void root_cache_trusts_nothing_of_others(void **state)
{
    struct nido_error err;
    own_root_cache struct root_cache cache, again;
    char path[PATH_MAX], outside[80];
    open_cache(&cache);
    snprintf(outside, sizeof(outside), "%s/outside", home);
    snprintf(path, sizeof(path), "%.200s/" KEY ".squashfs", cache.directory);
    assert_int_equal(symlink(outside, path), 0);
    assert_false(root_cache_find(&cache, KEY, path));
    struct root_making making;
    begin(&cache, &making);
    assert_int_equal(root_cache_keep(&cache, &making, KEY, path, &err), -EEXIST);
    root_cache_end(&cache, &making);
    assert_int_equal(chmod(cache.directory, 0770), 0);
    assert_int_equal(root_cache_open(&again, &err), -EPERM);
    assert_non_null(strstr(err.text, "others may write there"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(root_cache_has_an_image_once_it_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(root_cache_has_nothing_of_what_is_given_up, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(root_cache_sweeps_what_the_dead_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(root_cache_remembers_a_file_that_has_settled, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(root_cache_trusts_nothing_of_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(root_cache_keeps_what_is_used, set_up, tear_down),
        cmocka_unit_test_setup_teardown(root_cache_forgets_files_that_are_not_asked_for, set_up,
                                        tear_down),
        {"root_cache_has_an_image_once_it_is_kept_under_a_name",
         root_cache_has_an_image_once_it_is_kept, set_up_without_nameless_files, tear_down, NULL},
        {"root_cache_has_nothing_of_what_is_given_up_under_a_name",
         root_cache_has_nothing_of_what_is_given_up, set_up_without_nameless_files, tear_down,
         NULL},
        {"root_cache_sweeps_what_the_dead_left_under_a_name", root_cache_sweeps_what_the_dead_left,
         set_up_without_nameless_files, tear_down, NULL},
        cmocka_unit_test_setup_teardown(root_cache_takes_another_name_where_one_was_swept,
                                        set_up_without_nameless_files, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
