/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/exposure.h"

#include "lib/shares.h"
#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPEND (O_WRONLY | O_CREAT | O_APPEND)

/*
 * directory/              where the test runs
 *     shared/             what the guest can write to
 *         sub/
 *         link -> ../secret, out -> .., pipe
 *     secret, beside/
 *     to-shared -> shared, elsewhere -> beside/file, ring -> ring
 *     to-new -> to-shared/new, to-link -> shared/link, around -> (directory)/shared/out/beside
 */
static char directory[] = "/tmp/nido-exposure-XXXXXX";
static struct nido_config config;

static int set_up(void **state)
{
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    config = (struct nido_config){.share_count = 1, .shares = {{.path = "shared"}}};
    return mkdtemp(directory) && chdir(directory) == 0
               ? system("mkdir -p shared/sub beside && echo mine >secret && mkfifo shared/pipe && "
                        "ln -s ../secret shared/link && ln -s .. shared/out && ln -s shared "
                        "to-shared && ln -s beside/file elsewhere && ln -s ring ring && "
                        "ln -s to-shared/new to-new && ln -s shared/link to-link && "
                        "ln -s $PWD/shared/out/beside around")
               : -1;
}

static int tear_down(void **state)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -r %s", directory);
    return chdir("/") == 0 ? system(command) : -1;
}

static void expect_opened(const char *path, const char *file)
{
    int fd = exposure_open(&config, path, APPEND, 0600);
    struct stat opened, there;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &opened), 0);
    assert_int_equal(stat(file, &there), 0);
    assert_int_equal(opened.st_ino, there.st_ino);
    close(fd);
}

static void what_lies_in_a_share_is_exposed(void **state)
{
    static const char *const exposed[] = {"shared/new",     "./shared/sub/new",     "shared//new",
                                          "to-shared/new",  "beside/../shared/new", "shared/../new",
                                          "shared/out/new", "shared/sub/no/such",   "to-new",
                                          "to-link",        "around/file"};
    static const char *const others[] = {"new",    "beside/new", "elsewhere",
                                         "shared", "/dev/null",  "no/such/shared/new",
                                         "ring",   "ring/new",   "to-shared"};
    char path[128];
    for (size_t i = 0; i < sizeof(exposed) / sizeof(exposed[0]); i++) {
        if (!exposure_is_exposed(&config, exposed[i]))
            fail_msg("%s", exposed[i]);
        snprintf(path, sizeof(path), "%s/%s", directory, exposed[i]);
        assert_true(exposure_is_exposed(&config, path));
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (exposure_is_exposed(&config, others[i]))
            fail_msg("%s", others[i]);
    assert_int_equal(chdir("shared/sub"), 0);
    config.shares[0].path = "..";
    assert_true(exposure_is_exposed(&config, "new"));
}

static void what_the_guest_cannot_write_to_is_not(void **state)
{
    config.shares[0].read_only = true;
    assert_false(exposure_is_exposed(&config, "shared/new"));
    expect_opened("shared/link", "secret");
    /* Nothing is left to be reached by a link. */
    config.shares[0] = (struct nido_share){.path = "/"};
    assert_false(exposure_is_exposed(&config, "shared/new"));
    /* One file alone cannot be replaced. */
    config.shares[0].path = "secret";
    assert_false(exposure_is_exposed(&config, "secret"));
}

static void links_of_the_guest_lead_nowhere(void **state)
{
    assert_int_equal(exposure_open(&config, "shared/link", APPEND, 0600), -ELOOP);
    assert_int_equal(exposure_open(&config, "shared/out/secret", APPEND, 0600), -ELOOP);
    assert_int_equal(exposure_open(&config, "to-shared/link", APPEND, 0600), -ELOOP);
    assert_int_equal(exposure_open(&config, "to-link", APPEND, 0600), -ELOOP);
    assert_int_equal(exposure_open(&config, "around/file", APPEND, 0600), -ELOOP);
    assert_int_equal(access("beside/file", F_OK), -1);
    assert_int_equal(exposure_open(&config, "shared/../secret", APPEND, 0600), -EXDEV);
    /* Neither waits for a reader nor finds one. */
    assert_int_equal(exposure_open(&config, "shared/pipe", APPEND, 0600), -ENXIO);
    assert_int_equal(exposure_open(&config, "shared/pipe", O_RDWR, 0), -EINVAL);
}

static void files_and_links_of_the_host_are_opened(void **state)
{
    expect_opened("shared/sub/new", "shared/sub/new");
    expect_opened("to-shared/new", "shared/new");
    expect_opened("to-new", "shared/new");
    expect_opened("elsewhere", "beside/file");
    expect_opened("/dev/stderr", "/dev/stderr");
    assert_int_equal(exposure_open(&config, "no/such", APPEND, 0600), -ENOENT);
    assert_int_equal(exposure_open(&config, "shared/no/such", APPEND, 0600), -ENOENT);
}

static void expect_found(const char *path, const char *file)
{
    int fd = exposure_find(&config, path);
    struct stat found, there;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &found), 0);
    assert_int_equal(stat(file, &there), 0);
    assert_int_equal(found.st_ino, there.st_ino);
    close(fd);
}

static void expect_directory(const char *path, const char *directory_path, const char *name)
{
    const char *found_name;
    struct stat found, there;
    int fd = exposure_find_directory(&config, path, &found_name);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &found), 0);
    assert_int_equal(stat(directory_path, &there), 0);
    assert_int_equal(found.st_ino, there.st_ino);
    assert_string_equal(found_name, name);
    close(fd);
}

/* A share that lies in another. */
static void what_a_guest_put_in_the_place_of_a_share_is_not_found(void **state)
{
    const char *name;
    expect_found("shared", "shared");
    expect_found("shared/", "shared");
    expect_found("to-shared", "shared");
    expect_found("shared/sub", "shared/sub");
    expect_found("shared/sub/", "shared/sub");
    expect_found("to-shared/sub", "shared/sub");
    expect_found("shared/pipe", "shared/pipe");
    expect_found("shared/../beside", "beside");
    expect_found("shared/..", ".");
    expect_found("shared/../shared/sub", "shared/sub");
    assert_int_equal(exposure_find(&config, "shared/sub/../../beside"), -EXDEV);
    assert_int_equal(exposure_find(&config, "shared/../shared/out"), -ELOOP);
    assert_int_equal(chdir("shared"), 0);
    config.shares[0].path = ".";
    expect_found("../beside", "../beside");
    expect_found("..", "..");
    expect_found(".", ".");
    assert_int_equal(chdir(".."), 0);
    config.shares[0].path = "shared";
    assert_int_equal(rmdir("shared/sub"), 0);
    assert_int_equal(symlink("/", "shared/sub"), 0);
    assert_int_equal(exposure_find(&config, "shared/sub"), -ELOOP);
    assert_int_equal(exposure_find(&config, "to-shared/sub/etc"), -ELOOP);
    assert_int_equal(exposure_find(&config, "shared/no"), -ENOENT);
    expect_directory("shared/new", "shared", "new");
    expect_directory("/new", "/", "new");
    expect_directory("new", ".", "new");
    assert_int_equal(exposure_find_directory(&config, "shared/sub/new", &name), -ELOOP);
    config.shares[0].read_only = true;
    expect_found("shared/sub", "/");
}

static void a_share_is_not_opened_where_a_guest_leads(void **state)
{
    struct shares shares = {0};
    struct virtio_device *device = NULL;
    struct nido_error err = {0};
    assert_int_equal(rmdir("shared/sub"), 0);
    assert_int_equal(symlink("/", "shared/sub"), 0);
    config = (struct nido_config){
        .share_count = 2,
        .shares = {{.path = "shared/sub", .read_only = true}, {.path = "shared"}}};
    assert_int_equal(shares_add(&shares, &config, NULL, NULL, &device, &err), -ELOOP);
    assert_non_null(strstr(err.text, "share shared/sub: a guest can write to where it lies"));
    shares_destroy(&shares);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_lies_in_a_share_is_exposed),
        TEST(what_the_guest_cannot_write_to_is_not),
        TEST(links_of_the_guest_lead_nowhere),
        TEST(files_and_links_of_the_host_are_opened),
        TEST(what_a_guest_put_in_the_place_of_a_share_is_not_found),
        TEST(a_share_is_not_opened_where_a_guest_leads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
