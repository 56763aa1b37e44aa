# SPDX-License-Identifier: Apache-2.0
# A guest whose kernel panics: with its pvpanic driver loaded, nido hears of it.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

test_a_panic_is_an_exit_status() {
    guest -- 'echo c >/proc/sysrq-trigger'
    expect_status 123
    expect_err "kernel panicked"
    grep -q 'Kernel panic' out || fail 'no panic on the console'
}

test_a_panic_ends_a_guest_that_would_stand_still() {
    base_cmdline="console=$NIDO_CONSOLE quiet panic=0 cryptomgr.notests"
    guest --cpus 2 -- 'echo c >/proc/sysrq-trigger'
    expect_status 123
    expect_err "kernel panicked"
}

test_a_panic_without_the_driver_is_what_the_guest_makes_of_it() {
    guest -- 'rmmod pvpanic_mmio; echo c >/proc/sysrq-trigger'
    expect_status 0
}
