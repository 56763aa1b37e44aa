# SPDX-License-Identifier: Apache-2.0
# How a machine ends, and what nido's exit status says about it.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# What an init does about the power button: waits for a key event and powers off.
await_button="[ -e /dev/input/event0 ] || exit; $listen; echo ready; $pressed; echo pressed"

test_power_off_ends_with_zero() {
    guest -- poweroff -f
    expect_status 0
}

test_reboot_ends_with_zero() {
    guest -- reboot -f
    expect_status 0
}

test_every_way_of_rebooting_ends_the_machine() {
    local way
    for way in $ways_to_reboot; do
        base_cmdline="console=$NIDO_CONSOLE quiet panic=-1 cryptomgr.notests reboot=$way"
        guest -- reboot -f
        expect_status 0
    done
}

test_triple_fault_is_a_crash() {
    needs_triple_faults
    base_cmdline="console=$NIDO_CONSOLE quiet panic=-1 cryptomgr.notests reboot=t"
    guest -- reboot -f
    expect_status 123
    expect_err 'triple fault'
}

test_kernel_panic_ends_the_machine() {
    guest -- 'echo c >/proc/sysrq-trigger'
    expect_status "$panic_status"
}

test_crash_with_several_cpus_ends_the_machine() {
    guest --cpus 4 -- 'echo c >/proc/sysrq-trigger'
    expect_status "$panic_status"
}

test_sigterm_presses_the_power_button() {
    start_guest -- "$await_button"
    wait_for ready
    kill -TERM "$guest_pid"
    finish_guest
    expect_out pressed
    expect_status 0
}

test_sigterm_stops_a_deaf_guest_after_its_grace() {
    start_guest --grace 1 -- 'echo ready; sleep 10000'
    wait_for ready
    kill -TERM "$guest_pid"
    finish_guest
    expect_status 143
}

test_sigterm_before_the_guest_is_up_is_not_lost() {
    start_guest --grace 1 -- 'echo ready; sleep 10000'
    sleep 0.3
    kill -TERM "$guest_pid"
    finish_guest
    expect_status 143
}

test_machine_ends_with_the_guest_busy_on_every_cpu() {
    start_guest --cpus 2 --grace 1 -- 'while :; do :; done & echo ready; while :; do :; done'
    wait_for ready
    kill -TERM "$guest_pid"
    finish_guest
    expect_status 143
}

test_nothing_is_left_on_the_host() {
    truncate -s 16M disk.img
    tap tap0
    ls /dev/shm /tmp >before
    guest --disk disk.img --net tap=tap0 -- true
    expect_status 0
    ls /dev/shm /tmp >after
    grep -v '^e2e' before >a
    grep -v '^e2e' after >b
    cmp a b || fail "files are left in /tmp or /dev/shm: $(diff a b)"
}
