/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a running machine, and what asks through it: clients that misbehave, the balloon, stop. */
#include "base/checked.h"
#include "named.h"
#include "unit/cmocka_nido.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address_of(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/nido/%s", directory, name);
    return address;
}

static int connect_to_control(void)
{
    const struct sockaddr_un address = address_of("m.sock");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void silent_clients_keep_nobody_out(void **state)
{
    int fds[40];
    start("spin", "m");
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = connect_to_control();
    tell("status", "m", NULL);
    assert_int_equal(r.status, 0);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        close(fds[i]);
    tell("stop", "m", "--force", NULL);
}

static void nonsense_on_the_control_socket_is_answered_or_cut_off(void **state)
{
    static char flood[1 << 16], deep[3000];
    memset(flood, 'x', sizeof(flood));
    memset(deep, '[', sizeof(deep));
    deep[sizeof(deep) - 1] = '\n';
    static const struct {
        const char *bytes;
        size_t count;
        const char *answer; /* "": none */
    } cases[] = {
        {"\n", 1, "\"ok\":false"},
        {"{}\n", 3, "a request is a line like"},
        {"[1]\n", 4, "a request is a line like"},
        {"{\"do\":7}\n", 9, "a request is a line like"},
        {"{\"do\":\"dance\"}\n", 15, "it does not know 'dance'"},
        {"{\"do\":\"stop\",\"grace_s\":\"x\"}\n", 29, "grace_s is a number"},
        {"{\"do\":\"stop\",\"grace_s\":-1}\n", 28, "grace_s is a number"},
        {"\xff\xfe\x01\n", 4, "\"ok\":false"},
        {deep, sizeof(deep), "\"ok\":false"},
        {flood, sizeof(flood), ""},
    };
    start("spin", "m");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char answer[512] = "";
        int fd = connect_to_control();
        send(fd, cases[i].bytes, cases[i].count, MSG_NOSIGNAL);
        ssize_t n = recv(fd, answer, sizeof(answer) - 1, 0);
        close(fd);
        if (cases[i].answer[0] ? !strstr(answer, cases[i].answer) : n > 0)
            fail_msg("%zu: '%s'", i, answer);
    }
    tell("status", "m", NULL);
    assert_int_equal(r.status, 0);
    tell("stop", "m", "--force", NULL);
}

/* Far more than socket and machine keep for a viewer. */
static void a_viewer_that_never_reads_holds_nothing_up(void **state)
{
    static const char request[] = "{\"do\":\"console\"}\n";
    start("flood", "m");
    int fd = connect_to_control();
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    while (status_of("m", "exits") < 200000)
        usleep(1000);
    runner_start_command(&r, (const char *const[]){"console", "m", NULL});
    assert_true(runner_wait_for(&r, "water"));
    kill(r.pid, SIGKILL);
    runner_finish(&r);
    close(fd);
    tell("stop", "m", "--force", NULL);
    assert_int_equal(r.status, 0);
}

/* While machines come and go, somebody looks: a socket is never taken for one that was left behind. */
static void a_look_at_the_list_takes_no_machines_socket_away(void **state)
{
    static struct runner looking;
    for (int i = 0; i < 20; i++) {
        runner_start_command(&looking, (const char *const[]){"ps", NULL});
        runner_run(&r, "spin", ARGS("--detach", "--name=m"));
        runner_finish(&looking);
        tell("stop", "--force", "m", NULL);
        assert_int_equal(r.status, 0);
    }
}

/* Of a machine that was killed: nobody answers there. */
static void leave_socket(const char *name)
{
    const struct sockaddr_un address = address_of(name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
}

static void a_start_removes_what_killed_machines_left(void **state)
{
    static const char *const left[] = {"dead.vsock_28265", "dead.vsock", "dead.sock", "m.vsock"};
    start("spin", "m");
    for (size_t i = 0; i < ARRAY_SIZE(left); i++)
        leave_socket(left[i]);
    start("spin", "other");
    for (size_t i = 0; i < ARRAY_SIZE(left); i++)
        assert_int_equal(access(address_of(left[i]).sun_path, F_OK), i < 3 ? -1 : 0);
    tell("stop", "--force", "other", NULL);
    assert_int_equal(r.status, 0);
    tell("stop", "--force", "m", NULL);
    assert_int_equal(r.status, 0);
    unlink(address_of("m.vsock").sun_path);
}

static void a_runtime_directory_of_another_kind_is_refused(void **state)
{
    char path[80];
    snprintf(path, sizeof(path), "%s/other", directory);
    setenv("XDG_RUNTIME_DIR", path, 1); /* not there */
    runner_run(&r, "hello", ARGS());
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "set XDG_RUNTIME_DIR"));
    assert_int_equal(mkdir(path, 0700), 0);
    strcat(path, "/nido");
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(chmod(path, 0777), 0); /* anybody's */
    tell("ps", NULL);
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "only you can write"));
    setenv("XDG_RUNTIME_DIR", directory, 1);
}

static void the_balloons_target_can_be_set(void **state)
{
    start_with("spin", "m", "--balloon=target=4M");
    tell("balloon", "m", NULL);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out_text, "4194304"));
    tell("balloon", "m", "8M", "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *balloon = json_loads(r.out_text, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(balloon, "target_bytes")), 8 << 20);
    assert_int_equal(json_integer_value(json_object_get(balloon, "actual_bytes")), 0);
    json_decref(balloon);
    tell("stats", "m", NULL);
    assert_non_null(strstr(r.out_text, "balloon.target_bytes     8388608"));
    tell("status", "m", NULL);
    assert_non_null(strstr(r.out_text, "balloon_bytes            0"));
    tell("balloon", "m", "32M", NULL); /* all there is */
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "all that the machine has"));
    tell("balloon", "m", "much", NULL);
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "balloon much: "));
    tell("balloon", "m", "1M", "2M", NULL);
    assert_int_equal(r.status, 125);
    tell("stop", "m", "--force", NULL);
    start("spin", "m");
    tell("balloon", "m", NULL);
    assert_int_equal(r.status, 125);
    assert_non_null(strstr(r.err_text, "no balloon"));
    tell("stop", "m", "--force", NULL);
}

/* ---- stop ---- */

static void stop_tells_that_the_grace_time_ended(void **state)
{
    start_with("spin", "m", "--grace=0");
    tell("stop", "m", NULL);
    assert_int_equal(r.status, 124);
    assert_non_null(strstr(r.err_text, "machine 'm': did not power off within its grace time"));
    start_with("spin", "m", "--grace=3600");
    tell("stop", "m", "--grace=0", NULL);
    assert_int_equal(r.status, 124);
}

/* Starts `nido stop m`, and returns once the machine has heard of it. */
static void begin_stop(struct runner *stopping)
{
    runner_start_command(stopping, (const char *const[]){"stop", "m", NULL});
    do
        tell("status", "m", NULL);
    while (!strstr(r.out_text, "stopping"));
}

static void stop_of_a_guest_that_ends_is_a_success(void **state)
{
    static struct runner stopping;
    start_with("echo", "m", "--grace=3600");
    begin_stop(&stopping);
    runner_start_command(&r, (const char *const[]){"console", "m", NULL});
    runner_send(&r, ".", 1);
    runner_finish(&r);
    runner_finish(&stopping);
    assert_string_equal(stopping.err_text, "");
    assert_int_equal(stopping.status, 0);
}

static void a_second_stop_can_be_less_patient(void **state)
{
    static struct runner first;
    start_with("spin", "m", "--grace=3600");
    begin_stop(&first);
    tell("stop", "m", "--grace", "0", NULL);
    assert_int_equal(r.status, 124);
    runner_finish(&first);
    assert_int_equal(first.status, 124);
}

static void stop_of_a_machine_that_is_killed_is_no_success(void **state)
{
    static struct runner stopping;
    start_with("spin", "m", "--grace=3600");
    pid_t pid = (pid_t)status_of("m", "pid");
    begin_stop(&stopping);
    kill(pid, SIGKILL);
    runner_finish(&stopping);
    assert_int_equal(stopping.status, 125);
}

static void stop_refuses_nonsense_by_name(void **state)
{
    static const struct {
        const char *arguments[3], *words;
    } bad[] = {
        {{NULL}, "usage: nido stop NAME"},
        {{"a", "b"}, "'b' is not expected"},
        {{"a", "--now"}, "'--now' is not expected"},
        {{"a", "--grace"}, "--grace: needs a value"},
        {{"a", "--grace", "soon"}, "--grace soon: not a number"},
        {{"a", "--grace=-1"}, "--grace -1: not a number"},
        {{"--force", "a", "--grace=1"}, "contradict"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        const char *const *words = bad[i].arguments;
        tell("stop", words[0], words[1], words[2], NULL);
        assert_int_equal(r.status, 125);
        if (!strstr(r.err_text, bad[i].words))
            fail_msg("'%s' does not say '%s'", r.err_text, bad[i].words);
    }
}

int main(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("/dev/kvm cannot be opened here\n");
        return 77; /* meson: skipped */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silent_clients_keep_nobody_out),
        cmocka_unit_test(nonsense_on_the_control_socket_is_answered_or_cut_off),
        cmocka_unit_test(a_viewer_that_never_reads_holds_nothing_up),
        cmocka_unit_test(a_look_at_the_list_takes_no_machines_socket_away),
        cmocka_unit_test(a_start_removes_what_killed_machines_left),
        cmocka_unit_test(a_runtime_directory_of_another_kind_is_refused),
        cmocka_unit_test(the_balloons_target_can_be_set),
        cmocka_unit_test(stop_tells_that_the_grace_time_ended),
        cmocka_unit_test(stop_of_a_guest_that_ends_is_a_success),
        cmocka_unit_test(a_second_stop_can_be_less_patient),
        cmocka_unit_test(stop_of_a_machine_that_is_killed_is_no_success),
        cmocka_unit_test(stop_refuses_nonsense_by_name),
    };
    return cmocka_run_group_tests(tests, named_set_up, named_tear_down);
}
