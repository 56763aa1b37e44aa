# SPDX-License-Identifier: Apache-2.0
# A guest whose kernel panics: with its pvpanic driver loaded, nido hears of it.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

test_a_panic_is_an_exit_status() {
    needs_a_panic_device
    guest -- 'echo c >/proc/sysrq-trigger'
    expect_status 123
    expect_err "kernel panicked"
    grep -q 'Kernel panic' out || fail 'no panic on the console'
}

test_a_panic_ends_a_guest_that_would_stand_still() {
    needs_a_panic_device
    base_cmdline="console=$NIDO_CONSOLE quiet panic=0 cryptomgr.notests"
    guest --cpus 2 -- 'echo c >/proc/sysrq-trigger'
    expect_status 123
    expect_err "kernel panicked"
}

test_a_panic_without_the_driver_is_what_the_guest_makes_of_it() {
    needs_a_panic_device
    guest -- 'rmmod pvpanic_mmio; echo c >/proc/sysrq-trigger'
    expect_status 0
}

# The guest notes on its disk how often it has come up, and panics the first two times.
panics_twice='read boots </dev/vda; boots=$((boots + 1)); echo $boots | dd of=/dev/vda conv=sync,fsync 2>/dev/null
    echo boot $boots; [ $boots -lt 3 ] && echo c >/proc/sysrq-trigger; echo enough'

test_on_panic_restart_boots_the_machine_again() {
    needs_a_panic_device
    echo 0 | dd of=disk.img bs=512 conv=sync status=none
    guest --on-panic restart --disk disk.img --result result -- "$panics_twice"
    expect_status 0
    same "$(grep -x 'boot [0-9]*' out | tr '\n' ' ')" 'boot 1 boot 2 boot 3 ' 'boots'
    expect_out enough
    same "$(grep -c 'kernel panicked' err)" 2 'lines about a panic'
    same "$(jq -r .reason result)" powered-off reason
}

test_on_panic_continue_leaves_a_reboot_to_the_guest() {
    needs_a_panic_device
    guest --on-panic continue -- 'echo c >/proc/sysrq-trigger'
    expect_status 0
    expect_err 'kernel panicked; the machine goes on'
}

test_on_panic_continue_leaves_a_guest_standing_still() {
    needs_a_panic_device
    base_cmdline="console=$NIDO_CONSOLE quiet panic=0 cryptomgr.notests"
    start_guest --on-panic continue --grace 0 -- 'echo c >/proc/sysrq-trigger'
    wait_to_show err 'the machine goes on' "$guest_pid"
    wait_for 'end Kernel panic'
    kill -0 "$guest_pid" || fail 'the machine ended'
    kill -TERM "$guest_pid"
    finish_guest
    expect_status 143
}

test_on_panic_comes_from_a_file_too() {
    needs_a_panic_device
    printf '{ "on-panic": "continue", "disk": [] }' >machine.json
    guest --config machine.json -- 'echo c >/proc/sysrq-trigger'
    expect_status 0
    expect_err 'the machine goes on'
    printf '{ "on-panic": "perhaps" }' >machine.json
    refused --kernel "$kernel" --config machine.json
    expect_err 'on-panic perhaps: say exit, restart or continue'
}
