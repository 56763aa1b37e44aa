/* SPDX-License-Identifier: Apache-2.0 */
/* A program that makes machines itself, several in one process. */
#include "unit/cmocka_nido.h"

#include <errno.h>
#include <nido/machine.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char kernel_path[512];

static struct nido_machine *create(const char *guest)
{
    snprintf(kernel_path, sizeof(kernel_path), "%s/%s.elf", getenv("NIDO_GUESTS"), guest);
    const struct nido_config config = {
        .kernel = kernel_path, .mem_bytes = 32u << 20, .console = NIDO_CONSOLE_NONE};
    struct nido_machine *machine = NULL;
    struct nido_error err;
    assert_int_equal(nido_machine_create(&machine, &config, &err), 0);
    return machine;
}

static enum nido_end wait_for_end(struct nido_machine *machine, const char **report)
{
    struct pollfd end = {.fd = nido_machine_fd(machine), .events = POLLIN};
    assert_int_equal(poll(&end, 1, 60000), 1);
    return nido_machine_end(machine, report);
}

static void a_machine_can_be_made_again_and_again(void **state)
{
    for (int i = 0; i < 3; i++) {
        struct nido_machine *machine = create("power_off");
        assert_int_equal(nido_machine_end(machine, NULL), NIDO_RUNNING);
        assert_int_equal(nido_machine_start(machine, NULL), 0);
        assert_int_equal(wait_for_end(machine, NULL), NIDO_POWERED_OFF);
        nido_machine_destroy(machine);
    }
}

static void a_machine_that_cannot_be_is_refused(void **state)
{
    static const struct {
        struct nido_config config;
        const char *why;
    } cases[] = {
        {{.console = NIDO_CONSOLE_NONE}, "no kernel"},
        {{.kernel = "k", .cpus = NIDO_CPUS_MAX + 1}, "too many"},
        {{.kernel = "k", .disk_count = NIDO_DISKS_MAX + 1}, "too many"},
        {{.kernel = "k", .mem_bytes = 64 << 20, .balloon = {.target_bytes = 64 << 20}}, "balloon"},
        {{.kernel = "k", .huge_pages = true, .mem_merge = true}, "merged"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nido_machine *machine = NULL;
        struct nido_error err;
        assert_int_equal(nido_machine_create(&machine, &cases[i].config, &err), -EINVAL);
        assert_non_null(strstr(err.text, cases[i].why));
        assert_null(machine);
    }
}

static void two_machines_live_in_one_process(void **state)
{
    struct nido_machine *first = create("spin"), *second = create("hello");
    assert_int_equal(nido_machine_start(first, NULL), 0);
    assert_int_equal(nido_machine_start(second, NULL), 0);
    assert_int_equal(wait_for_end(second, NULL), NIDO_RESET);
    assert_int_equal(nido_machine_end(first, NULL), NIDO_RUNNING);
    nido_machine_stop(first);
    assert_int_equal(wait_for_end(first, NULL), NIDO_STOPPED);
    nido_machine_destroy(second);
    nido_machine_destroy(first);
}

static void a_machine_that_never_started_is_destroyed_cleanly(void **state)
{
    nido_machine_destroy(create("hello"));
    nido_machine_destroy(NULL);
}

static void a_crash_leaves_a_report(void **state)
{
    const char *report;
    struct nido_machine *machine = create("crash");
    assert_int_equal(nido_machine_start(machine, NULL), 0);
    assert_int_equal(wait_for_end(machine, &report), NIDO_CRASHED);
    assert_non_null(report);
    nido_machine_destroy(machine);
}

static void the_status_counts(void **state)
{
    struct nido_status status;
    struct nido_machine *machine = create("hello");
    assert_int_equal(nido_machine_start(machine, NULL), 0);
    wait_for_end(machine, NULL);
    nido_machine_status(machine, &status);
    assert_int_equal(status.cpus, 1);
    assert_int_equal(status.mem_bytes, 32u << 20);
    assert_true(status.exits >= 7); /* six bytes and the reset */
    assert_true(status.uptime_ns > 0);
    nido_machine_destroy(machine);
}

static uint64_t exits(struct nido_machine *machine)
{
    struct nido_status status;
    nido_machine_status(machine, &status);
    return status.exits;
}

static void wait_for_more_exits(struct nido_machine *machine, uint64_t than)
{
    while (exits(machine) <= than)
        usleep(1000);
}

static void a_paused_machine_stands_still_and_goes_on(void **state)
{
    struct nido_machine *machine = create("echo"); /* which looks at its serial port all the time */
    assert_int_equal(nido_machine_start(machine, NULL), 0);
    for (int i = 0; i < 20; i++) {
        wait_for_more_exits(machine, exits(machine));
        nido_machine_pause(machine);
        uint64_t then = exits(machine);
        usleep(5000);
        assert_int_equal(exits(machine), then);
        nido_machine_resume(machine);
        wait_for_more_exits(machine, then);
    }
    nido_machine_destroy(machine);
}

static void a_paused_machine_can_be_stopped(void **state)
{
    struct nido_machine *machine = create("spin");
    assert_int_equal(nido_machine_start(machine, NULL), 0);
    nido_machine_pause(machine);
    nido_machine_stop(machine);
    assert_int_equal(nido_machine_end(machine, NULL), NIDO_STOPPED);
    nido_machine_destroy(machine);
}

static void a_machine_that_has_ended_can_be_paused(void **state)
{
    struct nido_machine *machine = create("hello");
    assert_int_equal(nido_machine_start(machine, NULL), 0);
    wait_for_end(machine, NULL);
    nido_machine_pause(machine);
    nido_machine_resume(machine);
    nido_machine_destroy(machine);
}

int main(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("/dev/kvm cannot be opened here\n");
        return 77; /* meson: skipped */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_machine_that_cannot_be_is_refused),
        cmocka_unit_test(a_machine_can_be_made_again_and_again),
        cmocka_unit_test(two_machines_live_in_one_process),
        cmocka_unit_test(a_machine_that_never_started_is_destroyed_cleanly),
        cmocka_unit_test(a_crash_leaves_a_report),
        cmocka_unit_test(the_status_counts),
        cmocka_unit_test(a_paused_machine_stands_still_and_goes_on),
        cmocka_unit_test(a_paused_machine_can_be_stopped),
        cmocka_unit_test(a_machine_that_has_ended_can_be_paused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
