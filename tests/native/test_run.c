/* SPDX-License-Identifier: Apache-2.0 */
/* What `nido run` promises, kept with tiny guests on this host's own /dev/kvm. */
#include "base/checked.h"
#include "runner.h"
#include "unit/cmocka_nido.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS(...) ((const char *const[]){"--mem=32M", ##__VA_ARGS__, NULL})

static struct runner r; /* 128 KiB: too much for a stack */

static void guest_output_and_reset_reach_the_user(void **state)
{
    runner_run(&r, "hello", ARGS());
    assert_string_equal(r.out_text, "hello\n");
    assert_string_equal(r.err_text, "");
    assert_int_equal(r.status, 0);
}

static void power_off_ends_with_status_0_and_the_command_line_arrives(void **state)
{
    runner_run(&r, "power_off", ARGS("--cmdline", "a=b -- c d"));
    assert_string_equal(r.out_text, "a=b -- c d\n");
    assert_int_equal(r.status, 0);
}

static void a_crash_ends_with_status_123_and_a_report(void **state)
{
    runner_run(&r, "crash", ARGS());
    assert_int_equal(r.status, 123);
    assert_non_null(strstr(r.err_text, "vCPU 0: "));
    assert_non_null(strstr(r.err_text, "rip "));
    assert_non_null(strstr(r.err_text, "instruction: "));
    assert_non_null(strstr(r.err_text, "This usually means: "));
}

static void piped_input_arrives_whole(void **state)
{
    enum { COUNT = 20000 };
    static char sent[COUNT + 1];
    for (size_t i = 0; i < COUNT; i++)
        sent[i] = (char)('a' + i * 7 % 26);
    runner_start(&r, "echo", ARGS());
    runner_send(&r, sent, COUNT);
    runner_send(&r, ".", 1);
    runner_finish(&r);
    assert_int_equal(r.out_length, COUNT);
    assert_memory_equal(r.out_text, sent, COUNT);
    assert_int_equal(r.status, 0);
}

static void a_guest_that_touches_everything_goes_on(void **state)
{
    runner_run(&r, "probe_bus", ARGS());
    assert_string_equal(r.out_text, "still here\n");
    assert_int_equal(r.status, 0);
}

static void random_bytes_differ_from_run_to_run(void **state)
{
    char first[80];
    runner_run(&r, "virtio_rng", ARGS());
    assert_int_equal(r.out_length, 65);
    assert_null(strchr(r.out_text, ' '));
    memcpy(first, r.out_text, 65);
    runner_run(&r, "virtio_rng", ARGS());
    assert_int_equal(r.out_length, 65);
    assert_memory_not_equal(first, r.out_text, 64);
}

/* The path of a new file of `bytes` zero bytes; to be unlinked and freed. */
static char *make_disk(off_t bytes)
{
    char *path = strdup("/tmp/nido-native-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
    return path;
}

static void drop_disk(char *path)
{
    unlink(path);
    free(path);
}

static void what_the_guest_writes_is_in_the_file(void **state)
{
    char *path = make_disk(1 << 20);
    runner_run(&r, "virtio_blk", ARGS("--disk", path));
    assert_string_equal(r.out_text, "written flushed read back\n");
    assert_int_equal(r.status, 0);

    uint32_t words[1024] = {0};
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, words, sizeof(words), 8 * 512), sizeof(words));
    close(fd);
    for (uint32_t i = 0; i < 1024; i++)
        assert_int_equal(words[i], i * 0x01000193);
    drop_disk(path);
}

static void a_read_only_disk_stays_as_it_is(void **state)
{
    char option[80];
    char *path = make_disk(1 << 20);
    snprintf(option, sizeof(option), "%s,ro", path);
    runner_run(&r, "virtio_blk", ARGS("--disk", option));
    assert_non_null(strstr(r.out_text, "write failed"));
    assert_int_equal(r.status, 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    drop_disk(path);
}

static void a_disk_is_written_by_one_machine_only(void **state)
{
    static struct runner second;
    char *path = make_disk(1 << 20);
    runner_start(&r, "spin", ARGS("--disk", path));
    assert_true(runner_wait_for(&r, "spinning"));
    runner_run(&second, "hello", ARGS("--disk", path));
    assert_int_equal(second.status, 125);
    assert_non_null(strstr(second.err_text, path));
    kill(r.pid, SIGKILL);
    runner_finish(&r);
    runner_run(&second, "hello", ARGS("--disk", path));
    assert_int_equal(second.status, 0);
    drop_disk(path);
}

static void sigterm_stops_a_deaf_guest_after_the_grace_time(void **state)
{
    runner_start(&r, "spin", ARGS("--grace=0"));
    assert_true(runner_wait_for(&r, "spinning"));
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_int_equal(r.status, 128 + SIGTERM);
    assert_non_null(strstr(r.err_text, "did not power off"));
}

static void a_second_signal_does_not_wait_for_the_grace_time(void **state)
{
    runner_start(&r, "spin", ARGS("--grace=3600"));
    assert_true(runner_wait_for(&r, "spinning"));
    kill(r.pid, SIGINT);
    usleep(100000); /* two equal pending signals would count as one */
    kill(r.pid, SIGINT);
    runner_finish(&r);
    assert_int_equal(r.status, 128 + SIGINT);
}

static void a_console_that_nobody_reads_any_more_ends_the_machine(void **state)
{
    runner_start(&r, "echo", ARGS("--grace=0"));
    runner_send(&r, "x", 1);
    assert_true(runner_wait_for(&r, "x"));
    close(r.out);
    r.out = -1;
    runner_send(&r, "y", 1);
    runner_finish(&r);
    assert_int_equal(r.status, 128 + SIGPIPE);
}

/* The reader is there and sleeps: neither SIGTERM nor a time limit waits for it. */
static void a_console_that_nobody_reads_does_not_keep_the_machine(void **state)
{
    static const struct {
        const char *flag;
        int signal, status;
    } ends[] = {{"--grace=0", SIGTERM, 128 + SIGTERM}, {"--timeout=1", 0, 124}};
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        siginfo_t info;
        runner_start(&r, "flood", ARGS(ends[i].flag));
        assert_true(fcntl(r.out, F_SETPIPE_SZ, 4096) >= 0);
        assert_true(runner_wait_for(&r, "water"));
        usleep(300000); /* the pipe fills up; were it slower, the test would prove less */
        if (ends[i].signal)
            kill(r.pid, ends[i].signal);
        assert_int_equal(waitid(P_PID, (id_t)r.pid, &info, WEXITED | WNOWAIT), 0);
        runner_finish(&r);
        assert_int_equal(r.status, ends[i].status);
    }
}

static void closed_standard_descriptors_do_no_harm(void **state)
{
    assert_int_equal(system("\"$NIDO\" run --mem 32M --kernel \"$NIDO_GUESTS/hello.elf\" "
                            "<&- >&- 2>&-"),
                     0);
}

static void sixty_four_vcpus_start_and_stop(void **state)
{
    runner_run(&r, "hello", ARGS("--cpus=64"));
    assert_string_equal(r.out_text, "hello\n");
    assert_int_equal(r.status, 0);
}

static void fifty_machines_run_side_by_side(void **state)
{
    enum { MACHINES = 50 };
    struct runner *all = calloc(MACHINES, sizeof(*all));
    for (int i = 0; i < MACHINES; i++)
        runner_start(&all[i], "hello", ARGS());
    for (int i = 0; i < MACHINES; i++) {
        runner_finish(&all[i]);
        assert_string_equal(all[i].out_text, "hello\n");
        assert_int_equal(all[i].status, 0);
    }
    free(all);
}

static void the_console_can_go_to_a_file_or_nowhere(void **state)
{
    char option[80], text[16] = "";
    char *path = make_disk(0);
    snprintf(option, sizeof(option), "--console=file=%s", path);
    runner_run(&r, "hello", ARGS(option));
    assert_string_equal(r.out_text, "");
    assert_int_equal(r.status, 0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    assert_string_equal(text, "hello\n");
    close(fd);
    drop_disk(path);
    runner_run(&r, "hello", ARGS("--console=none"));
    assert_string_equal(r.out_text, "");
    assert_int_equal(r.status, 0);
}

/* Each is refused before the machine starts, naming the object. */
static void wrong_input_is_refused_by_name(void **state)
{
    static const struct {
        const char *argument, *words;
    } bad[] = {
        {"--kernel=/does/not/exist", "/does/not/exist"},
        {"--kernel=/dev/null", "/dev/null"},
        {"--kernel=/tmp", "/tmp"},
        {"--kernel=/etc/passwd", "/etc/passwd"},
        {"--kernel", "needs a value"},
        {"kernel", "not a flag"},
        {"--frobnicate=1", "--frobnicate"},
        {"--", "the command stands behind it"},
        {"--grace=never", "--grace never"},
        {"--log=loud", "--log loud"},
        {"--cpus=0", "--cpus 0"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        runner_run(&r, NULL, ARGS(bad[i].argument));
        assert_int_equal(r.status, 125);
        assert_string_equal(r.out_text, "");
        assert_non_null(strstr(r.err_text, bad[i].words));
    }
    static const struct {
        const char *argument, *words;
    } bad_with_kernel[] = {
        {"--disk=/does/not/exist", "/does/not/exist"},
        {"--disk=/dev/null", "/dev/null"},
        {"--disk=/tmp", "/tmp"},
        {"--initrd=/does/not/exist", "/does/not/exist"},
        {"--net=tap=a/b", "a/b"},
        {"--net=fd=900", "900"},
        {"--console=file=/does/not/exist/x", "/does/not/exist/x"},
        {"--dump-acpi=/does/not/exist", "/does/not/exist"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad_with_kernel); i++) {
        runner_run(&r, "hello", ARGS(bad_with_kernel[i].argument));
        assert_int_equal(r.status, 125);
        assert_string_equal(r.out_text, "");
        assert_non_null(strstr(r.err_text, bad_with_kernel[i].words));
    }
}

int main(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("/dev/kvm cannot be opened here\n");
        return 77; /* meson: skipped */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_output_and_reset_reach_the_user),
        cmocka_unit_test(power_off_ends_with_status_0_and_the_command_line_arrives),
        cmocka_unit_test(a_crash_ends_with_status_123_and_a_report),
        cmocka_unit_test(piped_input_arrives_whole),
        cmocka_unit_test(a_guest_that_touches_everything_goes_on),
        cmocka_unit_test(random_bytes_differ_from_run_to_run),
        cmocka_unit_test(what_the_guest_writes_is_in_the_file),
        cmocka_unit_test(a_read_only_disk_stays_as_it_is),
        cmocka_unit_test(a_disk_is_written_by_one_machine_only),
        cmocka_unit_test(sigterm_stops_a_deaf_guest_after_the_grace_time),
        cmocka_unit_test(a_second_signal_does_not_wait_for_the_grace_time),
        cmocka_unit_test(a_console_that_nobody_reads_any_more_ends_the_machine),
        cmocka_unit_test(a_console_that_nobody_reads_does_not_keep_the_machine),
        cmocka_unit_test(closed_standard_descriptors_do_no_harm),
        cmocka_unit_test(sixty_four_vcpus_start_and_stop),
        cmocka_unit_test(fifty_machines_run_side_by_side),
        cmocka_unit_test(the_console_can_go_to_a_file_or_nowhere),
        cmocka_unit_test(wrong_input_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
