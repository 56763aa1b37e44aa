/* SPDX-License-Identifier: Apache-2.0 */
/* What nido's kernels take in, and which one a machine gets. */
#include "cli/kernels.h"

#include "base/own.h"
#include "cli/kernel_package.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char home[64];

static int set_up(void **state)
{
    strcpy(home, "/tmp/nido-kernels-XXXXXX");
    assert_non_null(mkdtemp(home));
    setenv("XDG_DATA_HOME", home, 1);
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

/* One of the two is this host's. */
static void a_kernel_for_this_host_is_taken_in(void **state)
{
    char modules[128], name[KERNEL_NAME_BYTES], chosen[KERNEL_NAME_BYTES];
    own_blob struct blob x86 = image_bzimage_of(UNPACK_GZIP, &image_small_kernel);
    own_blob struct blob arm64 = image_arm64_make(0, 4096, 4096);
    own_image_file struct image_file x86_file = image_file_make(x86.at, x86.length);
    own_image_file struct image_file arm64_file = image_file_make(arm64.at, arm64.length);
    write_modules(modules);
    int taken = kernels_add_file(x86_file.path, modules, name, NULL) == 0;
    taken += kernels_add_file(arm64_file.path, modules, name, NULL) == 0;
    assert_int_equal(taken, 1);
    assert_int_equal(kernel_store_default(chosen, NULL), 0);
    assert_string_equal(chosen, "modules");
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
