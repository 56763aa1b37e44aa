/* SPDX-License-Identifier: Apache-2.0 */
/* The life of machines that were started and left: names, ps, stop, pause, results. */
#include "base/checked.h"
#include "named.h"
#include "unit/cmocka_nido.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void detached_machines_are_listed_and_stopped_by_name(void **state)
{
    start("spin", "one");
    start("spin", "two");
    start("spin", "three");
    tell("ps", NULL);
    assert_non_null(strstr(r.out_text, "one "));
    assert_non_null(strstr(r.out_text, "two "));
    assert_non_null(strstr(r.out_text, "three "));
    tell("stop", "--force", "two", NULL);
    assert_int_equal(r.status, 0);
    tell("ps", NULL);
    assert_non_null(strstr(r.out_text, "one "));
    assert_null(strstr(r.out_text, "two "));
    tell("stop", "--force", "one", NULL);
    tell("stop", "--force", "three", NULL);
}

static void a_killed_machine_is_gone_and_its_name_is_free(void **state)
{
    start("spin", "m");
    kill((pid_t)status_of("m", "pid"), SIGKILL);
    do
        tell("status", "m", NULL);
    while (r.status == 0);
    tell("ps", NULL);
    assert_null(strstr(r.out_text, "\nm "));
    start("spin", "m");
    tell("stop", "--force", "m", NULL);
}

static void a_name_in_use_is_refused(void **state)
{
    start("spin", "m");
    runner_run(&r, "hello", ARGS("--name", "m"));
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "--name m"));
    tell("stop", "--force", "m", NULL);
    assert_int_equal(r.status, 0);
}

static void every_command_helps(void **state)
{
    static const char *const commands[] = {"ps", "stop", "exec", "cp", "kernel", "console"};
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        tell(commands[i], i % 2 ? "-h" : "--help", NULL);
        assert_int_equal(r.status, 0);
        assert_non_null(strstr(r.out_text, commands[i]));
        assert_string_equal(r.err_text, "");
    }
}

static void a_full_disk_is_told(void **state)
{
    int status = system("\"$NIDO\" ps >/dev/full 2>/dev/null");
    assert_int_equal(WEXITSTATUS(status), 125);
}

static void unknown_names_and_bad_ones_are_told(void **state)
{
    tell("stop", "nobody", NULL);
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "'nobody'"));
    tell("status", "../x", NULL);
    assert_int_equal(r.status, 125);
    tell("pause", NULL);
    assert_int_equal(r.status, 125);
    runner_run(&r, "hello", ARGS("--name", "a/b"));
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "--name a/b"));
}

static void pause_holds_and_resume_lets_go(void **state)
{
    start("echo", "m");
    tell("pause", "m", NULL);
    json_int_t then = status_of("m", "exits");
    assert_int_equal(status_of("m", "exits"), then);
    tell("resume", "m", NULL);
    while (status_of("m", "exits") <= then)
        ;
    tell("stop", "m", "--force", NULL);
    assert_int_equal(r.status, 0);
}

static void stats_count_exits_and_what_devices_did(void **state)
{
    start("echo", "m");
    json_int_t exits = 0;
    while (exits == 0) { /* it may not have come to its first one */
        tell("stats", "m", "--json", NULL);
        assert_int_equal(r.status, 0);
        json_t *stats = json_loads(r.out_text, 0, NULL);
        exits = json_integer_value(json_object_get(stats, "exits.io"));
        assert_non_null(json_object_get(stats, "rng.kicks"));
        json_decref(stats);
    }
    tell("stop", "m", "--force", NULL);
}

static void a_detached_console_shows_what_was_and_takes_keys(void **state)
{
    static struct runner viewer;
    const char *const console[] = {"console", "m", NULL};
    start("echo", "m");
    runner_start_command(&viewer, console);
    runner_send(&viewer, "hello", 5);
    assert_true(runner_wait_for(&viewer, "hello"));
    kill(viewer.pid, SIGKILL);
    runner_finish(&viewer);
    runner_start_command(&viewer, console);
    assert_true(runner_wait_for(&viewer, "hello"));
    runner_send(&viewer, "again.", 6); /* the dot ends the guest, and with it the console */
    runner_finish(&viewer);
    assert_string_equal(viewer.out_text, "helloagain");
    assert_int_equal(viewer.status, 0);
}

static void a_detached_start_that_fails_says_why(void **state)
{
    runner_run(&r, NULL, ARGS("--detach", "--kernel=/does/not/exist"));
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "/does/not/exist"));
}

static void the_time_limit_ends_a_machine_with_status_124(void **state)
{
    runner_run(&r, "spin", ARGS("--timeout=1"));
    assert_int_equal(r.status, 124);
    assert_non_null(strstr(r.err_text, "time limit"));
}

static void a_reboot_can_restart_the_machine(void **state)
{
    runner_start(&r, "hello", ARGS("--on-reboot=restart"));
    assert_true(runner_wait_for(&r, "hello\nhello\nhello\n"));
    kill(r.pid, SIGTERM);
    usleep(10000);
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_true(r.status == 0 || r.status == 128 + SIGTERM);
}

static void what_a_panic_does_is_ones_own_choice(void **state)
{
    runner_run(&r, "panic", ARGS());
    assert_int_equal(r.status, 123);
    assert_non_null(strstr(r.err_text, "the guest's kernel panicked"));
    runner_run(&r, "panic", ARGS("--on-panic=continue"));
    assert_string_equal(r.out_text, "panic\nand on\n");
    assert_int_equal(r.status, 0);
    runner_start(&r, "panic", ARGS("--on-panic=restart", "--grace=0"));
    assert_true(runner_wait_for(&r, "panic\npanic\npanic\n"));
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_true(r.status == 123 || r.status == 128 + SIGTERM);
}

/* What --result says after `guest`; the caller's to free. */
static json_t *result_of(const char *guest, const char *more)
{
    char option[96], path[80];
    snprintf(path, sizeof(path), "%s/result", directory);
    snprintf(option, sizeof(option), "--result=%s", path);
    runner_run(&r, guest, ARGS(option, more));
    json_t *result = json_load_file(path, 0, NULL);
    assert_non_null(result);
    assert_int_equal(json_integer_value(json_object_get(result, "code")), r.status);
    return result;
}

static void the_result_file_counts_bytes(void **state)
{
    static const struct {
        const char *key;
        json_int_t bytes;
    } expected[] = {
        {"disk_read_bytes", 4096}, {"disk_written_bytes", 4096}, {"net_received_bytes", 0},
        {"net_sent_bytes", 0},     {"moved_bytes", 8192},        {"restarts", 0},
    };
    char option[96], path[80];
    snprintf(path, sizeof(path), "%s/disk", directory);
    snprintf(option, sizeof(option), "--disk=%s", path);
    FILE *disk = fopen(path, "w");
    assert_non_null(disk);
    assert_int_equal(ftruncate(fileno(disk), 1 << 20), 0);
    fclose(disk);
    json_t *result = result_of("virtio_blk", option);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        assert_int_equal(json_integer_value(json_object_get(result, expected[i].key)),
                         expected[i].bytes);
    json_decref(result);
}

/* Whoever starts nido may be large; that is not the machine's memory. */
static void the_result_files_peak_memory_is_nidos_own(void **state)
{
    enum { LARGE = 300 << 20 };
    char *large = malloc(LARGE);
    assert_non_null(large);
    memset(large, 1, LARGE);
    json_t *result = result_of("hello", NULL);
    json_int_t peak = json_integer_value(json_object_get(result, "peak_memory_bytes"));
    assert_in_range(peak, 100 << 10, 150 << 20);
    json_decref(result);
    free(large);
}

static void a_result_that_cannot_be_written_is_told_at_the_start(void **state)
{
    runner_run(&r, "hello", ARGS("--result=/does/not/exist/result"));
    assert_int_equal(r.status, 125);
    assert_string_equal(r.out_text, "");
    assert_non_null(strstr(r.err_text, "/does/not/exist/result"));
}

static void a_machine_that_cannot_start_leaves_a_result(void **state)
{
    json_t *result = result_of("hello", "--disk=/does/not/exist");
    assert_string_equal(json_string_value(json_object_get(result, "reason")), "failed");
    assert_non_null(
        strstr(json_string_value(json_object_get(result, "report")), "/does/not/exist"));
    assert_int_equal(r.status, 125);
    json_decref(result);
}

/* JSON is UTF-8 text, and a file's name may be none. */
static void a_name_of_any_bytes_leaves_a_result(void **state)
{
    json_t *result = result_of("hello", "--disk=/does/not/exist\xff");
    assert_non_null(
        strstr(json_string_value(json_object_get(result, "report")), "/does/not/exist?"));
    json_decref(result);
}

/* Also what is refused before anything of a machine is there takes the place of an older record. */
static void what_is_refused_early_leaves_a_result(void **state)
{
    static const char *const refused[] = {"--mem=1", "--no-such-flag", "--name=a/b", "--tty"};
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        json_t *result = result_of("hello", refused[i]);
        assert_string_equal(json_string_value(json_object_get(result, "reason")), "failed");
        json_decref(result);
    }
}

static void a_result_replaces_nothing_but_a_file(void **state)
{
    char fifo[128], option[160];
    struct stat there;
    snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const paths[] = {fifo, "/dev/null", directory};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        snprintf(option, sizeof(option), "--result=%s", paths[i]);
        runner_run(&r, "hello", ARGS(option));
        assert_int_equal(r.status, 125);
        assert_non_null(strstr(r.err_text, "no regular file"));
        assert_int_equal(r.out_length, 0);
        assert_int_equal(stat(paths[i], &there), 0);
        assert_false(S_ISREG(there.st_mode));
    }
    assert_int_equal(unlink(fifo), 0);
}

/* It may be that of a machine which runs. */
static void a_pidfile_is_removed_by_whom_it_names_alone(void **state)
{
    char path[128], option[160];
    snprintf(path, sizeof(path), "%s/pid", directory);
    snprintf(option, sizeof(option), "--pidfile=%s", path);
    start_with("spin", "m", option);
    runner_run(&r, "no_such_guest", ARGS(option));
    assert_int_equal(r.status, 125);
    assert_int_equal(access(path, F_OK), 0);
    runner_run(&r, "hello", ARGS(option, "--name=m"));
    assert_int_equal(r.status, 125);
    assert_int_equal(access(path, F_OK), 0);
    tell("stop", "--force", "m", NULL);
}

static void a_trace_that_cannot_be_written_is_told_at_the_start(void **state)
{
    runner_run(&r, "hello", ARGS("--trace=/does/not/exist/trace"));
    assert_int_equal(r.status, 125);
    assert_int_equal(r.out_length, 0);
    assert_non_null(strstr(r.err_text, "/does/not/exist/trace"));
}

static void what_the_guest_could_swap_is_not_trusted(void **state)
{
    char share[96], path[96], option[128];
    struct stat file;
    snprintf(share, sizeof(share), "--share=%s:/m", directory);
    snprintf(option, sizeof(option), "--vsock=cid=3,path=%s/vsock", directory);
    runner_run(&r, "hello", ARGS(share, option));
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "lies in a share that the guest can write to"));

    static const char *const refused[] = {"--port=p,pipe=", "--port=p,socket="};
    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
        snprintf(option, sizeof(option), "%s%s/p", refused[i], directory);
        runner_run(&r, "hello", ARGS(share, option));
        assert_int_equal(r.status, 125);
        assert_non_null(strstr(r.err_text, "lies in a share that the guest can write to"));
    }

    static const char *const outputs[] = {
        "--trace=", "--pidfile=", "--console=file=", "--port=p,file="};
    snprintf(path, sizeof(path), "%s/link", directory);
    for (unsigned i = 0; i < ARRAY_SIZE(outputs); i++) {
        snprintf(option, sizeof(option), "%s/victim", directory);
        assert_int_equal(symlink(option, path), 0);
        snprintf(option, sizeof(option), "%s%s", outputs[i], path);
        runner_run(&r, "hello", ARGS(share, option));
        assert_int_equal(r.status, 125);
        assert_non_null(strstr(r.err_text, "symbolic links"));
        assert_int_equal(unlink(path), 0);
        /* Where no link is, a share is as good a place as any. */
        runner_run(&r, "hello", ARGS(share, option));
        assert_int_equal(r.status, 0);
        unlink(path); /* the pidfile went with its machine */
    }
    snprintf(path, sizeof(path), "%s/victim", directory);
    assert_int_equal(stat(path, &file), -1);
}

/* While the machine runs: the directory on the way becomes a link to another. */
static void what_is_left_at_the_end_goes_through_no_link(void **state)
{
    char share[96], result[128], pidfile[128];
    snprintf(share, sizeof(share), "--share=%s:/m", directory);
    snprintf(result, sizeof(result), "--result=%s/sub/r", directory);
    snprintf(pidfile, sizeof(pidfile), "--pidfile=%s/sub/pid", directory);
    assert_int_equal(chdir(directory), 0);
    assert_int_equal(system("mkdir sub victim && echo mine >victim/r && echo mine >victim/pid"), 0);
    runner_start(&r, "spin", ARGS(share, result, pidfile, "--grace=0"));
    assert_true(runner_wait_for(&r, "spinning"));
    assert_int_equal(system("test -s sub/pid && mv sub moved && ln -s victim sub"), 0);
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_non_null(strstr(r.err_text, "sub/r: cannot be written"));
    assert_int_equal(system("echo mine | cmp - victim/r && echo mine | cmp - victim/pid && "
                            "test \"$(ls victim)\" = \"$(printf 'pid\\nr')\" && "
                            "rm -r sub moved victim"),
                     0);
    assert_int_equal(chdir("/"), 0);
}

static bool is_alive(pid_t pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 'Z';
    if (file)
        fclose(file);
    return state != 'Z';
}

static pid_t child_of(pid_t pid)
{
    char path[64];
    long child = 0;
    snprintf(path, sizeof(path), "/proc/%ld/task/%ld/children", (long)pid, (long)pid);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%ld", &child) != 1)
        child = 0;
    if (file)
        fclose(file);
    return (pid_t)child;
}

/* nido run --detach, that writes to a pipe; its process, and where it has made one that process's child. */
static pid_t begin(const char *guest, int *out_fd, pid_t *child)
{
    char kernel[256];
    int out[2];
    siginfo_t ended = {0};
    snprintf(kernel, sizeof(kernel), "--kernel=%s/%s.elf", getenv("NIDO_GUESTS"), guest);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        execl(getenv("NIDO"), "nido", "run", "--detach", "--name=m", "--mem=32M", kernel,
              (char *)NULL);
        _exit(1);
    }
    close(out[1]);
    *out_fd = out[0];
    for (*child = 0; !*child && !ended.si_pid; *child = child_of(pid))
        waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT);
    return pid;
}

/* Who has called it is gone before the machine has said its name. */
static void nobody_waits_so_nothing_is_left(void **state)
{
    pid_t child = 0;
    ssize_t said = 1;
    /* One that was too fast has said the name, and another is tried. */
    for (unsigned i = 0; said > 0 && i < 100; i++) {
        char name[32];
        int out_fd;
        tell("stop", "--force", "m", NULL);
        pid_t pid = begin("spin", &out_fd, &child);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        said = read(out_fd, name, sizeof(name));
        close(out_fd);
    }
    assert_int_equal(said, 0);
    assert_true(child > 0);
    for (unsigned i = 0; i < 3000 && is_alive(child); i++)
        usleep(10000);
    bool alive = is_alive(child);
    kill(child, SIGKILL);
    assert_false(alive);
}

static void a_machine_that_is_over_at_once_has_started(void **state)
{
    char name[32];
    int out_fd, status;
    pid_t child, pid = begin("hello", &out_fd, &child);
    kill(pid, SIGSTOP);
    for (unsigned i = 0; child && i < 3000 && is_alive(child); i++)
        usleep(10000);
    kill(pid, SIGCONT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(out_fd, name, sizeof(name)), 2);
    assert_memory_equal(name, "m\n", 2);
    close(out_fd);
}

static void the_result_file_says_how_it_ended(void **state)
{
    static const struct {
        const char *guest, *more, *reason;
    } cases[] = {
        {"power_off", NULL, "powered-off"}, {"hello", NULL, "reset"},
        {"crash", NULL, "crashed"},         {"panic", NULL, "panicked"},
        {"spin", "--timeout=1", "timeout"},
    };
    static const struct {
        const char *grace, *flag, *reason;
        int code;
    } stops[] = {{"--grace=0", NULL, "grace", 143}, {"--grace=3600", "--force", "stopped", 137}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        json_t *result = result_of(cases[i].guest, cases[i].more);
        assert_string_equal(json_string_value(json_object_get(result, "reason")), cases[i].reason);
        assert_true(json_real_value(json_object_get(result, "wall_s")) > 0);
        assert_true(json_real_value(json_object_get(result, "cpu_s")) > 0);
        assert_true(json_is_null(json_object_get(result, "signal")));
        assert_true(json_integer_value(json_object_get(result, "peak_memory_bytes")) > 0);
        json_decref(result);
    }
    for (size_t i = 0; i < ARRAY_SIZE(stops); i++) {
        char option[96], path[80];
        snprintf(path, sizeof(path), "%s/result", directory);
        snprintf(option, sizeof(option), "--result=%s", path);
        runner_run(&r, "spin", ARGS("--detach", "--name=m", option, stops[i].grace));
        tell("stop", "m", stops[i].flag, NULL);
        json_t *result = json_load_file(path, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(result, "reason")), stops[i].reason);
        assert_int_equal(json_integer_value(json_object_get(result, "code")), stops[i].code);
        assert_int_equal(json_integer_value(json_object_get(result, "signal")),
                         stops[i].code - 128);
        json_decref(result);
    }
}

/* A guest that can write to the result's directory knows the name that it has at first. */
static void a_link_in_the_results_way_is_not_followed(void **state)
{
    char option[96], path[80], way[96], other[80];
    snprintf(path, sizeof(path), "%s/result", directory);
    snprintf(option, sizeof(option), "--result=%s", path);
    snprintf(other, sizeof(other), "%s/other", directory);
    runner_start(&r, "spin", ARGS(option, "--grace=0"));
    assert_true(runner_wait_for(&r, "spinning"));
    snprintf(way, sizeof(way), "%s.%ld", path, (long)r.pid);
    assert_int_equal(symlink(other, way), 0);
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_int_equal(access(other, F_OK), -1);
    json_t *result = json_load_file(path, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(result, "code")), 143);
    json_decref(result);
}

static void the_trace_is_json_with_steps_and_exits(void **state)
{
    char option[96], path[80];
    snprintf(path, sizeof(path), "%s/trace", directory);
    snprintf(option, sizeof(option), "--trace=%s", path);
    runner_run(&r, "hello", ARGS(option));
    assert_int_equal(r.status, 0);
    json_t *trace = json_load_file(path, 0, NULL), *event;
    json_t *events = json_object_get(trace, "traceEvents");
    size_t index;
    unsigned exits = 0, steps = 0;
    json_array_foreach(events, index, event)
    {
        const char *name = json_string_value(json_object_get(event, "name"));
        exits += strcmp(name, "io") == 0;
        steps += strcmp(name, "kernel and initrd") == 0;
    }
    assert_int_equal(exits, 7); /* "hello\n" and the reset */
    assert_int_equal(steps, 1);
    json_decref(trace);
}

static void the_timeline_names_the_steps(void **state)
{
    runner_run(&r, "virtio_rng", ARGS("--timeline"));
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.err_text, "kernel and initrd"));
    assert_non_null(strstr(r.err_text, "guest  rng"));
    assert_non_null(strstr(r.err_text, "guest  runs"));
}

static void the_pidfile_lives_as_long_as_the_machine(void **state)
{
    char option[96], path[80];
    long pid = 0;
    snprintf(path, sizeof(path), "%s/pid", directory);
    snprintf(option, sizeof(option), "--pidfile=%s", path);
    runner_start(&r, "spin", ARGS(option, "--grace=0"));
    assert_true(runner_wait_for(&r, "spinning"));
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld", &pid), 1);
    fclose(file);
    assert_int_equal(pid, r.pid);
    kill(r.pid, SIGTERM);
    runner_finish(&r);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("/dev/kvm cannot be opened here\n");
        return 77; /* meson: skipped */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detached_machines_are_listed_and_stopped_by_name),
        cmocka_unit_test(a_killed_machine_is_gone_and_its_name_is_free),
        cmocka_unit_test(a_name_in_use_is_refused),
        cmocka_unit_test(every_command_helps),
        cmocka_unit_test(nobody_waits_so_nothing_is_left),
        cmocka_unit_test(a_machine_that_is_over_at_once_has_started),
        cmocka_unit_test(what_is_left_at_the_end_goes_through_no_link),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(unknown_names_and_bad_ones_are_told),
        cmocka_unit_test(pause_holds_and_resume_lets_go),
        cmocka_unit_test(stats_count_exits_and_what_devices_did),
        cmocka_unit_test(a_detached_console_shows_what_was_and_takes_keys),
        cmocka_unit_test(a_detached_start_that_fails_says_why),
        cmocka_unit_test(the_time_limit_ends_a_machine_with_status_124),
        cmocka_unit_test(a_reboot_can_restart_the_machine),
        cmocka_unit_test(what_a_panic_does_is_ones_own_choice),
        cmocka_unit_test(the_result_file_says_how_it_ended),
        cmocka_unit_test(the_result_file_counts_bytes),
        cmocka_unit_test(the_result_files_peak_memory_is_nidos_own),
        cmocka_unit_test(a_result_that_cannot_be_written_is_told_at_the_start),
        cmocka_unit_test(a_machine_that_cannot_start_leaves_a_result),
        cmocka_unit_test(a_name_of_any_bytes_leaves_a_result),
        cmocka_unit_test(what_is_refused_early_leaves_a_result),
        cmocka_unit_test(a_result_replaces_nothing_but_a_file),
        cmocka_unit_test(a_pidfile_is_removed_by_whom_it_names_alone),
        cmocka_unit_test(a_trace_that_cannot_be_written_is_told_at_the_start),
        cmocka_unit_test(what_the_guest_could_swap_is_not_trusted),
        cmocka_unit_test(a_link_in_the_results_way_is_not_followed),
        cmocka_unit_test(the_trace_is_json_with_steps_and_exits),
        cmocka_unit_test(the_timeline_names_the_steps),
        cmocka_unit_test(the_pidfile_lives_as_long_as_the_machine),
    };
    return cmocka_run_group_tests(tests, named_set_up, named_tear_down);
}
