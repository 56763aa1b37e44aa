/* SPDX-License-Identifier: Apache-2.0 */
/* What nido's kernels take in, and which one a machine gets. */
#include "cli/kernels.h"

#include "base/own.h"
#include "cli/cli.h"
#include "cli/helper.h"
#include "cli/kernel_package.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char home[64];
static bool no_exchange;
static unsigned exchanges, syncs;

/* The linker sends calls here. */
int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (no_exchange && (flags & RENAME_EXCHANGE)) {
        errno = EINVAL;
        return -1;
    }
    int ret = __real_renameat2(from_fd, from, to_fd, to, flags);
    exchanges += ret == 0 && (flags & RENAME_EXCHANGE);
    return ret;
}

int __wrap_fdatasync(int fd)
{
    syncs++;
    return __real_fdatasync(fd);
}

static int set_up(void **state)
{
    strcpy(home, "/tmp/nido-kernels-XXXXXX");
    assert_non_null(mkdtemp(home));
    setenv("XDG_DATA_HOME", home, 1);
    no_exchange = false;
    exchanges = syncs = 0;
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", home);
    assert_int_equal(system(command), 0);
    return 0;
}

static const char *write_text(char path[128], const char *name, const char *text)
{
    snprintf(path, 128, "%s/%s", home, name);
    own_file FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    return path;
}

/* Modules that guests can start with. */
static const char *write_modules(char path[128])
{
    static const char *const files[] = {"virtio", "virtio_mmio", "virtio_blk",
                                        "vsock",  "overlay",     "vmw_vsock_virtio_transport"};
    char name[64], index[512] = "";
    snprintf(path, 128, "%s/modules", home);
    mkdir(path, 0700);
    for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "modules/%s.ko", files[i]);
        write_text(path, name, "a module");
        strcat(strcat(index, name + strlen("modules/")), ":\n");
    }
    write_text(path, "modules/modules.dep", index);
    *strrchr(path, '/') = '\0';
    return path;
}

static void refuse_file(const char *path, const char *modules, const char *sentence)
{
    struct nido_error err = {0};
    char name[KERNEL_NAME_BYTES], expected[NIDO_ERROR_TEXT_BYTES];
    int ret = kernels_add_file(path, modules, name, &err);
    snprintf(expected, sizeof(expected), "kernel %s: %s", path, sentence);
    if (ret >= 0 || !strstr(err.text, expected))
        fail_msg("\"%s\" (%d) is not \"%s ...\"", err.text, ret, expected);
    assert_int_equal(kernel_store_default(name, NULL), -ENOENT);
}

static void a_file_that_is_no_kernel_is_not_taken_in(void **state)
{
    char modules[128], path[128];
    write_modules(modules);
    refuse_file(write_text(path, "junk-1.0", "junk\n"), modules, "not a");
    /* Whatever its name tells of its modules. */
    refuse_file(path, NULL, "not a");
    refuse_file(write_text(path, "junk", "junk\n"), NULL, "not a");
    refuse_file("/nowhere/vmlinuz-6.1", NULL, "cannot be opened: No such file");
}

static void refuse_package(const char *path, const char *sentence)
{
    struct nido_error err = {0};
    char name[KERNEL_NAME_BYTES], *files[] = {strdupa(path)};
    assert_true(kernel_is_package(path));
    assert_true(kernel_package_add(files, 1, name, &err) < 0);
    assert_ptr_equal(strstr(err.text, path), err.text);
    assert_non_null(strstr(err.text, sentence));
}

static void what_is_called_a_package_is_to_be_one(void **state)
{
    char path[128];
    refuse_package("/nowhere/linux-image-6.1_amd64.deb", ": cannot be opened: No such file");
    refuse_package(write_text(path, "image-6.1.deb", "no package, but a text of some length\n"),
                   ": this is no Debian package");
    refuse_package(write_text(path, "image-6.2.deb", "!<arch>"), ": this is no Debian package");
    assert_false(kernel_is_package(write_text(path, "image-6.1", "no package\n")));
    assert_true(kernel_is_package(write_text(path, "image-6.3", "!<arch>\ndebian-binary   ")));
}

static void a_kernel_is_chosen_where_none_is_the_default(void **state)
{
    struct nido_error err = {0};
    struct stored_kernel kernel;
    char path[PATH_MAX], command[PATH_MAX + 32];
    assert_int_equal(kernel_store_path(path, NULL), 0);
    snprintf(command, sizeof(command), "mkdir -p %s/6.1", path);
    assert_int_equal(system(command), 0);
    assert_int_equal(kernels_choose(NULL, &kernel, &err), -ENOENT);
    assert_non_null(strstr(err.text, "nido kernel default NAME"));
}

/* One of the two is this host's. Its name is "modules". */
static void add_kernel_with(const char *modules)
{
    char name[KERNEL_NAME_BYTES];
    own_blob struct blob x86 = image_bzimage_of(UNPACK_GZIP, &image_small_kernel);
    own_blob struct blob arm64 = image_arm64_make(0, 4096, 4096);
    own_image_file struct image_file x86_file = image_file_make(x86.at, x86.length);
    own_image_file struct image_file arm64_file = image_file_make(arm64.at, arm64.length);
    int taken = kernels_add_file(x86_file.path, modules, name, NULL) == 0;
    taken += kernels_add_file(arm64_file.path, modules, name, NULL) == 0;
    assert_int_equal(taken, 1);
    assert_string_equal(name, "modules");
}

static void add_kernel(void)
{
    char modules[128];
    add_kernel_with(write_modules(modules));
}

static void a_kernel_for_this_host_is_taken_in(void **state)
{
    char chosen[KERNEL_NAME_BYTES];
    add_kernel();
    assert_int_equal(kernel_store_default(chosen, NULL), 0);
    assert_string_equal(chosen, "modules");
}

/* As shells complete it. */
static void modules_may_have_a_slash_behind_them(void **state)
{
    char modules[128], path[160];
    snprintf(path, sizeof(path), "%s//", write_modules(modules));
    add_kernel_with(path);
}

static const char *in_store(const char *file)
{
    static char path[160];
    snprintf(path, sizeof(path), "%s/nido/kernels/%s", home, file);
    return path;
}

static bool is_in_store(const char *file)
{
    struct stat st;
    return lstat(in_store(file), &st) == 0;
}

static unsigned count_in_store(void)
{
    unsigned count = 0;
    DIR *listing = opendir(in_store(""));
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(listing);
    return count;
}

static bool succeeds(const char *what, const char *name)
{
    char *words[] = {strdupa("kernel"), strdupa(what), strdupa(name), NULL};
    return cmd_kernel(3, words) == 0;
}

static void count(const char *name, bool is_default, void *self)
{
    ++*(unsigned *)self;
}

/* They are printed. */
static void names_are_harmless(void **state)
{
    static const char *const bad[] = {"",    ".6",  "-6",       "default",    "6/1",
                                      "6 1", "6\n", "6\x1b[2J", "6\302\2332J"};
    struct nido_error err;
    unsigned kernels = 0;
    add_kernel();
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(kernel_store_set_default(bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "is no name for a kernel"));
        assert_null(strpbrk(err.text, "\n\x1b\x9b"));
    }
    assert_int_equal(kernel_store_set_default("6.1-aZ+b~2_rc1", &err), -ENOENT);
    /* As another program may have made it. */
    assert_int_equal(mkdir(in_store("6\x1b[2J"), 0700), 0);
    assert_int_equal(kernel_store_each(count, &kernels, NULL), 0);
    assert_int_equal(kernels, 1);
}

static void what_a_helper_says_is_harmless(void **state)
{
    char *words[] = {strdupa("sh"), strdupa("-c"),
                     strdupa("printf 'caf\\303\\251\\033[2J\\302\\2332J\\n\\2332J\\n' >&2; exit 1"),
                     NULL};
    struct nido_error err;
    char answer[8];
    assert_int_equal(helper_ask("/bin/sh", words, answer, sizeof(answer), &err), -EIO);
    assert_string_equal(err.text, "caf\xc3\xa9?[2J??2J;?2J");
}

/* It still writes when nobody wants to know more. */
static void a_helper_that_says_too_much_is_not_waited_for(void **state)
{
    char *words[] = {strdupa("sh"), strdupa("-c"), strdupa("exec yes"), NULL};
    struct nido_error err;
    char answer[8];
    alarm(10);
    assert_int_equal(helper_ask("/bin/sh", words, answer, sizeof(answer), &err), -E2BIG);
    alarm(0);
    assert_string_equal(err.text, "the answer is longer than 7 bytes");
}

/* With another of its name, of which nothing is left. A machine may be about to start with it. */
static void replace_kernel(void)
{
    struct stored_kernel kernel;
    char path[128];
    assert_int_equal(kernel_store_find("modules", &kernel, NULL), 0);
    write_text(path, "nido/kernels/modules/initrd-of-the-old.img", "old");
    add_kernel();
    assert_int_equal(access(kernel.kernel_path, R_OK), 0);
    assert_int_equal(access(kernel.initrd_path, R_OK), 0);
    assert_true(is_in_store("modules/vmlinuz"));
    assert_true(is_in_store("modules/modules.cpio"));
    assert_false(is_in_store("modules/initrd-of-the-old.img"));
    assert_int_equal(count_in_store(), 2);
}

static void a_kernel_is_replaced_in_one_step(void **state)
{
    add_kernel();
    assert_int_equal(exchanges, 0);
    replace_kernel();
    assert_int_equal(exchanges, 1);
}

static void a_kernel_is_replaced_where_files_cannot_be_exchanged(void **state)
{
    no_exchange = true;
    add_kernel();
    replace_kernel();
    assert_int_equal(exchanges, 0);
}

/* As one that a nido of another program has taken in. */
static void forget_initrd(void)
{
    struct stored_kernel kernel;
    assert_int_equal(kernel_store_find("modules", &kernel, NULL), 0);
    assert_int_equal(unlink(kernel.initrd_path), 0);
}

static void a_kernel_that_is_in_place_is_on_the_disk(void **state)
{
    struct stored_kernel kernel;
    add_kernel();
    assert_int_equal(syncs, 3);
    forget_initrd();
    assert_int_equal(kernel_store_find("modules", &kernel, NULL), 0);
    assert_int_equal(syncs, 4);
}

static void leave(const char *name, time_t age_s)
{
    const struct timespec times[2] = {{time(NULL) - age_s, 0}, {time(NULL) - age_s, 0}};
    char path[128], below_home[96];
    snprintf(below_home, sizeof(below_home), "nido/kernels/modules/%s", name);
    write_text(path, below_home, "begun");
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* A process in another container may have the same number. */
static void an_initrd_is_made_beside_what_others_make(void **state)
{
    struct stored_kernel kernel;
    char name[32], path[64];
    snprintf(name, sizeof(name), "new-initrd-%ld", (long)getpid());
    snprintf(path, sizeof(path), "modules/%s", name);
    add_kernel();
    forget_initrd();
    leave(name, 60);
    leave("new-initrd-1", 7200);
    leave("initrd-0.img", 7200);
    leave("initrd-1.img", 60);
    assert_int_equal(kernel_store_find("modules", &kernel, NULL), 0);
    assert_int_equal(access(kernel.initrd_path, R_OK), 0);
    assert_true(is_in_store(path));
    assert_true(is_in_store("modules/initrd-1.img"));
    assert_false(is_in_store("modules/new-initrd-1"));
    assert_false(is_in_store("modules/initrd-0.img"));
    assert_true(is_in_store("modules/vmlinuz"));
    assert_true(is_in_store("modules/modules.cpio"));
}

/* Whoever takes the lock removes what others left. */
static void whoever_changes_the_store_has_its_lock(void **state)
{
    add_kernel();
    assert_int_equal(mkdir(in_store(".new-1"), 0700), 0);
    assert_true(succeeds("default", "modules"));
    assert_false(is_in_store(".new-1"));
    assert_int_equal(mkdir(in_store(".new-1"), 0700), 0);
    assert_true(succeeds("rm", "modules"));
    assert_false(is_in_store(".new-1"));
    assert_false(is_in_store("modules"));
    assert_false(is_in_store("default"));
}

/* As one leaves it that is killed while it makes a kernel the default. */
static void a_link_that_was_left_leads_to_no_loss(void **state)
{
    add_kernel();
    assert_int_equal(symlink("modules", in_store(".new-default")), 0);
    own_fd int lock_fd = kernel_store_lock(NULL);
    assert_true(lock_fd >= 0);
    assert_true(is_in_store("modules/vmlinuz"));
    assert_true(is_in_store("modules/modules.cpio"));
    assert_false(is_in_store(".new-default"));
}

static void a_default_that_cannot_be_made_leaves_nothing(void **state)
{
    add_kernel();
    assert_int_equal(unlink(in_store("default")), 0);
    assert_int_equal(mkdir(in_store("default"), 0700), 0);
    assert_false(succeeds("default", "modules"));
    assert_false(is_in_store(".new-default"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_that_is_no_kernel_is_not_taken_in, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_called_a_package_is_to_be_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_is_chosen_where_none_is_the_default, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_for_this_host_is_taken_in, set_up, tear_down),
        cmocka_unit_test_setup_teardown(modules_may_have_a_slash_behind_them, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_are_harmless, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_helper_says_is_harmless, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_helper_that_says_too_much_is_not_waited_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_is_replaced_in_one_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_is_replaced_where_files_cannot_be_exchanged,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_that_is_in_place_is_on_the_disk, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_initrd_is_made_beside_what_others_make, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(whoever_changes_the_store_has_its_lock, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_that_was_left_leads_to_no_loss, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_default_that_cannot_be_made_leaves_nothing, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
