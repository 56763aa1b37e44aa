/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/kernel_cache.h"

#include "base/own.h"
#include "cmocka_nido.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BYTES 1000

struct bench {
    char home[64], directory[96], path[96];
    struct bootfile packed;
    uint8_t unpacked[BYTES];
};

static int set_up(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    strcpy(bench->home, "/tmp/nido-cache-XXXXXX");
    assert_non_null(mkdtemp(bench->home));
    snprintf(bench->directory, sizeof(bench->directory), "%s/deep/kernels", bench->home);
    snprintf(bench->path, sizeof(bench->path), "%s/packed", bench->home);
    bench->packed = (struct bootfile){open(bench->path, O_RDWR | O_CREAT, 0600), 3};
    assert_int_equal(write(bench->packed.fd, "abc", 3), 3);
    memset(bench->unpacked, 0x5a, BYTES);
    *state = bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    char command[128];
    bootfile_close(&bench->packed);
    snprintf(command, sizeof(command), "rm -rf %s", bench->home);
    assert_int_equal(system(command), 0);
    free(bench);
    return 0;
}

static bool is_there(struct bench *bench, uint64_t size_bytes)
{
    uint8_t back[BYTES];
    struct bootfile unpacked;
    if (!kernel_cache_open(bench->directory, &bench->packed, size_bytes, &unpacked))
        return false;
    assert_int_equal(bootfile_read(&unpacked, 0, back, BYTES, NULL), 0);
    assert_memory_equal(back, bench->unpacked, BYTES);
    bootfile_close(&unpacked);
    return true;
}

static void store(struct bench *bench)
{
    kernel_cache_store(bench->directory, &bench->packed, bench->unpacked, BYTES);
}

static unsigned entries(const struct bench *bench)
{
    char command[160], line[16];
    snprintf(command, sizeof(command), "ls -A %s | wc -l", bench->directory);
    FILE *listing = popen(command, "r");
    assert_non_null(fgets(line, sizeof(line), listing));
    pclose(listing);
    return (unsigned)atoi(line);
}

static void kernel_cache_gives_back_what_was_stored(void **state)
{
    assert_false(is_there(*state, BYTES));
    store(*state);
    assert_true(is_there(*state, BYTES));
    assert_int_equal(entries(*state), 1);
}

static void kernel_cache_knows_a_changed_file_by_its_times(void **state)
{
    struct bench *bench = *state;
    store(bench);
    usleep(20000); /* a tick of the file system's clock */
    assert_int_equal(pwrite(bench->packed.fd, "x", 1, 0), 1);
    assert_false(is_there(bench, BYTES));
}

static void kernel_cache_passes_over_an_entry_of_another_size(void **state)
{
    store(*state);
    assert_false(is_there(*state, BYTES + 1));
}

static void kernel_cache_trusts_no_directory_that_others_can_write(void **state)
{
    struct bench *bench = *state;
    store(bench);
    assert_int_equal(chmod(bench->directory, 0770), 0);
    assert_false(is_there(bench, BYTES));
    assert_int_equal(chmod(bench->directory, 0700), 0);
    assert_true(is_there(bench, BYTES));
}

static void kernel_cache_is_optional(void **state)
{
    struct bench *bench = *state;
    struct bootfile unpacked;
    kernel_cache_store(NULL, &bench->packed, bench->unpacked, BYTES);
    assert_false(kernel_cache_open(NULL, &bench->packed, BYTES, &unpacked));
    kernel_cache_store("/proc/no/such", &bench->packed, bench->unpacked, BYTES);
    assert_false(kernel_cache_open("/proc/no/such", &bench->packed, BYTES, &unpacked));
}

static void kernel_cache_stays_small(void **state)
{
    struct bench *bench = *state;
    for (unsigned i = 0; i < KERNEL_CACHE_ENTRIES_MAX + 3; i++) {
        assert_int_equal(ftruncate(bench->packed.fd, 10 + i), 0);
        usleep(5000); /* a tick of the file system's clock */
        store(bench);
        assert_true(is_there(bench, BYTES));
    }
    assert_int_equal(entries(bench), KERNEL_CACHE_ENTRIES_MAX);
}

static const char *in_cache(const struct bench *bench, const char *name)
{
    static char path[192];
    snprintf(path, sizeof(path), "%s/%s", bench->directory, name);
    return path;
}

static void leave(const struct bench *bench, const char *name, time_t age_s)
{
    const struct timespec times[2] = {{time(NULL) - age_s, 0}, {time(NULL) - age_s, 0}};
    own_fd int fd = open(in_cache(bench, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "begun", 5), 5);
    assert_int_equal(futimens(fd, times), 0);
}

/* Those that store at once see the same oldest one. */
static void kernel_cache_becomes_small_again(void **state)
{
    struct bench *bench = *state;
    char name[32];
    store(bench);
    for (unsigned i = 0; i < KERNEL_CACHE_ENTRIES_MAX + 3; i++) {
        snprintf(name, sizeof(name), "%u.vmlinux", i);
        leave(bench, name, 60 + i);
    }
    assert_int_equal(ftruncate(bench->packed.fd, 10), 0);
    store(bench);
    assert_true(is_there(bench, BYTES));
    assert_int_equal(entries(bench), KERNEL_CACHE_ENTRIES_MAX);
}

/* A process in another container may have the same number. */
static void kernel_cache_leaves_others_theirs(void **state)
{
    struct bench *bench = *state;
    struct stat st;
    char name[32];
    store(bench);
    snprintf(name, sizeof(name), "making-%ld", (long)getpid());
    leave(bench, name, 60);
    store(bench);
    assert_int_equal(entries(bench), 2);
    assert_int_equal(stat(in_cache(bench, name), &st), 0);
    assert_int_equal(st.st_size, 5);
}

static void kernel_cache_sweeps_what_the_dead_left(void **state)
{
    struct bench *bench = *state;
    store(bench);
    leave(bench, "making-1", 7200);
    leave(bench, "making-1-2-3", 7200);
    leave(bench, "making-1-2-4", 60);
    store(bench);
    assert_int_equal(entries(bench), 2);
    assert_int_equal(access(in_cache(bench, "making-1-2-4"), F_OK), 0);
    assert_true(is_there(bench, BYTES));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kernel_cache_gives_back_what_was_stored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_knows_a_changed_file_by_its_times, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_passes_over_an_entry_of_another_size, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_trusts_no_directory_that_others_can_write,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_is_optional, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_stays_small, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_becomes_small_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_leaves_others_theirs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kernel_cache_sweeps_what_the_dead_left, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
