# SPDX-License-Identifier: Apache-2.0
# The balloon: memory that a guest has used and does not need any more is the host's again.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# In KiB, of the running guest.
resident() { awk '/^VmRSS:/ { print $2 }' "/proc/$guest_pid/status"; }

# falls_below KIB: the patience is the test runner's.
falls_below() {
    while (($(resident) >= $1)); do
        kill -0 "$guest_pid" || fail 'the guest ended'
        pause 0.2
    done
}

# Takes and frees 512 MiB when it is told to, and stays.
use_memory='mount -t tmpfs -o size=600M tmpfs /tmp; echo ready; read word
dd if=/dev/zero of=/tmp/big bs=1M count=512 2>/dev/null; echo full; read word
rm /tmp/big; echo 3 >/proc/sys/vm/drop_caches; echo empty; read word; echo done'

# use NIDO-FLAG...: leaves $before and $full, the resident memory in KiB; the guest waits for a line on 7 to end.
use() {
    mkfifo keyboard
    exec 7<>keyboard
    start_guest --mem 768M "$@" -- "$use_memory" <keyboard
    wait_for ready
    before=$(resident)
    echo >&7
    wait_for full
    full=$(resident)
    ((full - before > 480 * 1024)) || fail "the guest did not use its memory: $before KiB, then $full KiB"
    echo >&7
    wait_for empty
}

leave() {
    echo >&7
    finish_guest
    expect_status 0
    expect_out 'done'
}

test_freed_memory_is_the_hosts_again() {
    use --balloon on
    falls_below $((full - 512 * 1024 * 9 / 10))
    leave
}

test_without_a_balloon_freed_memory_stays() {
    use
    sleep 4
    (($(resident) >= full - 16 * 1024)) || fail "memory went back by itself: from $full KiB to $(resident) KiB"
    leave
}

test_inflating_takes_memory_away() {
    # The guest fills its memory before it has a balloon's driver, then the driver comes and gives up half.
    guest --mem 512M --balloon target=256M,no-reporting -- \
        'echo total=$(sed -n "s/^MemTotal: *\([0-9]*\).*/\1/p" /proc/meminfo)
        free() { sed -n "s/^MemFree: *\([0-9]*\).*/\1/p" /proc/meminfo; }
        while [ $(free) -gt 262144 ]; do sleep 0.1; done; echo shrunk'
    expect_status 0
    expect_out shrunk
}

test_inflating_gives_memory_back_to_the_host() {
    mkfifo keyboard
    exec 7<>keyboard
    start_guest --mem 768M --balloon target=512M,no-reporting -- 'rmmod virtio_balloon; mount -t tmpfs -o size=600M tmpfs /tmp
        dd if=/dev/zero of=/tmp/big bs=1M count=512 2>/dev/null; rm /tmp/big; echo 3 >/proc/sys/vm/drop_caches; echo full; read word
        modprobe virtio_balloon; echo asked; read word; echo done' <keyboard
    wait_for full
    full=$(resident)
    ((full > 512 * 1024)) || fail "the guest did not use its memory: $full KiB"
    echo >&7
    wait_for asked
    falls_below $((full - 512 * 1024 * 9 / 10))
    leave
}

# balloon_is FIELD BYTES: waits until it is.
balloon_is() {
    until [[ $(nido balloon m --json | jq -r "$1") == "$2" ]]; do
        kill -0 "$guest_pid" || fail 'the guest ended'
        pause 0.2
    done
}

test_the_target_can_be_changed_while_it_runs() {
    mkfifo keyboard
    exec 7<>keyboard
    start_guest --mem 768M --name m --balloon no-reporting -- 'free() { sed -n "s/^MemFree: *\([0-9]*\).*/\1/p" /proc/meminfo; }
        mount -t tmpfs -o size=600M tmpfs /tmp; dd if=/dev/zero of=/tmp/big bs=1M count=512 2>/dev/null; rm /tmp/big
        echo 3 >/proc/sys/vm/drop_caches; echo "full=$(free)"; read word; echo "less=$(free)"; read word; echo "back=$(free)"' <keyboard
    wait_for full=
    full=$(resident)
    nido balloon m 512M >said
    grep -qx 'target_bytes *536870912' said || fail "the answer is: $(cat said)"
    balloon_is .actual_bytes 536870912
    falls_below $((full - 512 * 1024 * 9 / 10))
    # What the guest says of itself comes on request.
    until (($(nido stats m --json | jq -r '."balloon.guest_free_bytes" // 0') > 0)); do pause 0.2; done
    same "$(nido status m --json | jq -r .balloon_bytes)" 536870912 'the balloon in the status'
    echo >&7
    wait_for less=
    nido balloon m 0 >said
    balloon_is .actual_bytes 0
    echo >&7
    finish_guest
    expect_status 0
    (($(value_of full) - $(value_of less) > 512 * 1024 * 9 / 10)) || fail "the guest kept its memory: $(value_of full) KiB, then $(value_of less) KiB"
    (($(value_of back) - $(value_of less) > 512 * 1024 * 9 / 10)) || fail "the guest did not get it back: $(value_of less) KiB, then $(value_of back) KiB"
}

test_a_machine_with_reserved_pages_has_no_balloon() {
    refused --kernel "$kernel" --hugepages --balloon on
    expect_err '--balloon: .*leave out --hugepages'
}
