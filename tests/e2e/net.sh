# SPDX-License-Identifier: Apache-2.0
# virtio-net on a TAP. Every test has a network of its own; ours is 10.9.0.1, the guest is 10.9.0.2.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

guest_up='ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up'
megabytes=${NIDO_E2E_NET_MIB:-8}

test_guest_and_host_ping_each_other() {
    tap tap0 10.9.0.1/24
    start_guest --net tap=tap0 -- "$guest_up; ping -c 3 10.9.0.1; echo ready; sleep 10000"
    wait_for ready
    ping -c 3 -W 10 10.9.0.2 || fail 'the host cannot reach the guest'
    kill -9 "$guest_pid"
    finish_guest
    grep -q ' 0% packet loss' out || fail 'the guest lost packets'
}

test_every_byte_to_the_guest_arrives() {
    tap tap0 10.9.0.1/24
    random_file data "$megabytes"
    socat -u FILE:data TCP-LISTEN:5000,bind=10.9.0.1 &
    guest --net tap=tap0 -- "$guest_up; echo sum=\$(nc 10.9.0.1 5000 | sha256sum)"
    expect_status 0
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
}

test_every_byte_from_the_guest_arrives() {
    tap tap0 10.9.0.1/24
    socat -u TCP-LISTEN:5000,bind=10.9.0.1 CREATE:data &
    local listener=$!
    guest --mem 512M --net tap=tap0 -- "$guest_up; head -c $((megabytes << 20)) /dev/urandom >/tmp/data;
        echo sum=\$(sha256sum </tmp/data); nc 10.9.0.1 5000 </tmp/data"
    expect_status 0
    wait $listener
    same "$(sum_of data)" "$(value_of sum)" 'checksum on the host'
}

test_both_directions_at_once_with_two_cpus() {
    tap tap0 10.9.0.1/24
    random_file data "$megabytes"
    socat -u FILE:data TCP-LISTEN:5000,bind=10.9.0.1 &
    socat -u TCP-LISTEN:5001,bind=10.9.0.1 CREATE:back &
    local listener=$!
    guest --cpus 2 --net tap=tap0 -- "$guest_up; head -c $((megabytes << 20)) /dev/urandom >/tmp/data; nc 10.9.0.1 5001 </tmp/data &
        echo sum=\$(nc 10.9.0.1 5000 | sha256sum); wait; echo sent=\$(sha256sum </tmp/data)"
    expect_status 0
    wait $listener
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
    same "$(sum_of back)" "$(value_of sent)" 'checksum on the host'
}

test_iperf3_runs_both_ways() {
    tap tap0 10.9.0.1/24
    initrd_with iperf3
    iperf3 -s -B 10.9.0.1 -D
    guest --net tap=tap0 --mem 512M -- "$guest_up; ip link set lo up; /usr/bin/iperf3 -c 10.9.0.1 -n 32M && /usr/bin/iperf3 -R -c 10.9.0.1 -n 32M && echo both ways"
    expect_status 0
    expect_out 'both ways'
}

test_udp_packets_of_every_size_come_back() {
    tap tap0 10.9.0.1/24
    guest --net tap=tap0 -- "$guest_up; for s in 0 1 14 46 500 1472 1473 8000 60000; do ping -c 1 -s \$s 10.9.0.1 | grep -o '[0-9]*% packet loss'; done"
    expect_status 0
    same "$(grep -c '^0% packet loss' out)" 9 'sizes that came back'
}

test_mac_is_the_one_asked_for() {
    tap tap0
    guest --net tap=tap0,mac=52:54:00:12:34:56 -- cat /sys/class/net/eth0/address
    expect_status 0
    expect_out 52:54:00:12:34:56
}

test_networks_keep_their_order() {
    tap tap0
    tap tap1
    guest --net tap=tap0,mac=52:54:00:00:00:01 --net tap=tap1,mac=52:54:00:00:00:02 -- cat /sys/class/net/eth0/address /sys/class/net/eth1/address
    expect_status 0
    same "$(grep ^52 out | tr '\n' ' ')" '52:54:00:00:00:01 52:54:00:00:00:02 ' 'addresses in order'
}

test_open_tap_is_taken_by_its_number() {
    tap tap0 10.9.0.1/24
    python3 - nido run --kernel "$kernel" --initrd "$initrd" --net fd=5 --cmdline "$base_cmdline -- $guest_up; ping -c 2 10.9.0.1" \
        >out.raw 2>err <<'PYTHON' || fail "exit status $?"
import fcntl, os, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x5002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
os.dup2(tun, 5, inheritable=True)
os.execvp(sys.argv[1], sys.argv[1:])
PYTHON
    grep -q ' 0% packet loss' out.raw || fail 'the guest lost packets'
}

test_tap_that_is_not_there_is_made_or_refused_in_words() {
    status=0
    nido run --kernel "$kernel" --initrd "$NIDO_INITRD" --net tap=nothere0 --cmdline "$base_cmdline -- true" </dev/null >out 2>err || status=$?
    [[ $status == 0 ]] || { expect_status 125 && expect_err nothere0; }
}

test_guest_lives_on_when_its_tap_goes_down() {
    tap tap0 10.9.0.1/24
    start_guest --net tap=tap0 -- "$guest_up; echo ready; ping -c 4 -W 1 10.9.0.1 >/dev/null; echo alive"
    wait_for ready
    ip link set tap0 down
    finish_guest
    expect_status 0
    expect_out alive
}

test_guest_lives_on_when_its_tap_is_removed() {
    tap tap0 10.9.0.1/24
    start_guest --net tap=tap0 -- "$guest_up; echo ready; ping -c 4 -W 1 10.9.0.1 >/dev/null; echo alive"
    wait_for ready
    ip link del tap0
    finish_guest
    expect_status 0
    expect_out alive
}
