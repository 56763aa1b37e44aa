# SPDX-License-Identifier: Apache-2.0
# --net user, as somebody who may open /dev/kvm and nothing else. Every test has a network of its own, with an interface
# that leads nowhere: 10.9.0.1 is ours, and so the guest's; what the guest sends to the gateway, 10.9.0.254, is for us.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

kvm_group=107
guest_up='ip link set eth0 up; ip link set lo up; udhcpc -q -n -i eth0 -s /dhcp 2>/dev/null'
megabytes=${NIDO_E2E_NET_MIB:-8}

# Before the guest sends much. passt (2023) drops what a socket of the host does not take at once and waits for the guest to
# send it again, so the guest keeps no more on the way than a socket always takes.
send_little_at_once='echo 4096 65536 131072 >/proc/sys/net/ipv4/tcp_wmem'

# receive_on PORT FILE: one connection of the guest's. It greets, because passt (2023) resets a connection on which the guest
# has heard nothing yet, when the guest pauses for two seconds the eighth time; a busy host makes such pauses.
receive_on() { socat -t 60 "TCP-LISTEN:$1,bind=127.0.0.1" SYSTEM:"echo welcome; cat >$2"; }

# Stands before the program of that name: `guest` and its like run it as a user.
nido() {
    local as=(setpriv --reuid 1000 --regid 1000 --groups "$kvm_group" env HOME=/nowhere PATH="${where:-$PATH}")
    [[ ${as_root:-} ]] && as=(env)
    # In a process of its own, as a job of ours, so that $guest_pid is nido itself.
    if [[ $BASHPID != "$$" ]]; then exec "${as[@]}" nido "$@"; fi
    "${as[@]}" nido "$@"
}

# user_network PROGRAM...
user_network() {
    chgrp "$kvm_group" /dev/kvm
    chmod 660 /dev/kvm
    ip link add ext0 type dummy
    ip addr add 10.9.0.1/24 dev ext0
    ip addr add fd09::1/64 dev ext0 nodad
    ip link set ext0 up
    ip route add default via 10.9.0.254
    ip -6 route add default via fd09::fe
    # A receiver of ours has room for all that a test sends. passt (2023) takes long to tell the guest when one that was
    # full has room again, and in the end resets the connection, whatever machine monitor it serves.
    echo 4096 268435456 268435456 >/proc/sys/net/ipv4/tcp_rmem
    touch /etc/resolv.conf
    echo 'nameserver 10.9.0.53' >resolv.conf
    mount --bind resolv.conf /etc/resolv.conf
    initrd_with_dhcp "$@"
}

# initrd_with_dhcp PROGRAM...: the guest's own hand in getting an address, beside what initrd_with does.
initrd_with_dhcp() {
    mkdir extra
    cat >extra/dhcp <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "lease: $ip/$mask $router $dns"
SCRIPT
    chmod 755 extra/dhcp
    initrd_with "$@"
    chmod 711 .. . # the user is to read it
}

# The passt of $guest_pid.
passt_of_guest() { pgrep -P "$guest_pid" passt; }

# expect_gone PID: within ten seconds, and no zombie.
expect_gone() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        [[ -e /proc/$1 ]] || return 0
        pause 0.05
    done
    fail "process $1 is still there: $(tr '\0' ' ' <"/proc/$1/cmdline") $(grep State "/proc/$1/status")"
}

# Asks until the guest, which says when it is ready but not when its server is, answers WORD.
expect_answer() {
    local word=$1 tries
    shift
    for ((tries = 0; tries < 40; tries++)); do
        [[ $(socat -t 2 "$@" 2>/dev/null) == "$word" ]] && return
        pause 0.25
    done
    fail "no answer '$word' from $*"
}

test_guest_gets_the_hosts_address_and_name_server() {
    user_network
    guest --net user -- "$guest_up"
    expect_status 0
    expect_out 'lease: 10.9.0.1/24 10.9.0.254 10.9.0.53'
}

# Of systemd-resolved, say. Nothing else of the host's answers at that address.
test_the_hosts_own_resolver_answers_the_guest() {
    user_network socat
    echo 'nameserver 127.0.0.53' >resolv.conf
    socat UDP4-RECVFROM:53,bind=127.0.0.53,fork EXEC:'echo answered' &
    socat TCP4-LISTEN:53,bind=127.0.0.53,fork EXEC:'echo secret' &
    socat UDP4-RECVFROM:54,bind=127.0.0.53,fork EXEC:'echo secret' &
    socat TCP4-LISTEN:5000,bind=127.0.0.1,fork EXEC:'echo secret' &
    guest --net user -- "$guest_up; echo x | /usr/bin/socat -t 3 -T 3 STDIO UDP4:169.254.1.1:53
        for to in UDP4:169.254.1.1:54 TCP4:169.254.1.1:53,connect-timeout=3 TCP4:169.254.1.1:5000,connect-timeout=3; do
            echo x | /usr/bin/socat -t 3 -T 3 STDIO \$to; done; echo over"
    expect_status 0
    expect_out answered
    expect_out over
    ! grep -q secret out || fail 'more of the host is in reach'
}

test_guest_gets_an_ipv6_address_too() {
    user_network
    guest --net user -- "ip link set eth0 up; n=0; until ip -6 addr show dev eth0 | grep -q 'inet6 fd09:' || [ \$n = 100 ]; do sleep 0.2; n=\$((n+1)); done
        ip -6 addr show dev eth0 | grep -o 'inet6 fd09:' | head -n 1; ip -6 route | grep -o '^default via fe80' | head -n 1"
    expect_status 0
    expect_out 'inet6 fd09:'
    expect_out 'default via fe80'
}

test_mtu_is_passts_own() {
    user_network
    guest --net user -- cat /sys/class/net/eth0/mtu
    expect_status 0
    expect_out 65520
}

test_every_byte_to_the_guest_arrives() {
    user_network
    random_file data "$megabytes"
    socat -u FILE:data TCP-LISTEN:5000,bind=127.0.0.1 &
    guest --net user,host-loopback -- "$guest_up; echo sum=\$(nc 10.9.0.254 5000 | sha256sum)"
    expect_status 0
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
}

test_every_byte_from_the_guest_arrives() {
    user_network
    receive_on 5000 data &
    local listener=$!
    guest --mem 512M --net user,host-loopback -- "$guest_up; $send_little_at_once; head -c $((megabytes << 20)) /dev/urandom >/tmp/data;
        echo sum=\$(sha256sum </tmp/data); nc 10.9.0.254 5000 </tmp/data >/dev/null"
    expect_status 0
    wait $listener
    same "$(sum_of data)" "$(value_of sum)" 'checksum on the host'
}

test_both_directions_at_once_with_two_cpus() {
    user_network
    random_file data "$((megabytes * 2))"
    socat -u FILE:data TCP-LISTEN:5000,bind=127.0.0.1 &
    receive_on 5001 back &
    local listener=$!
    guest --cpus 2 --net user,host-loopback -- "$guest_up; $send_little_at_once; head -c $((megabytes << 19)) /dev/urandom >/tmp/data; nc 10.9.0.254 5001 </tmp/data >/dev/null &
        echo sum=\$(nc 10.9.0.254 5000 | sha256sum); wait; echo sent=\$(sha256sum </tmp/data)"
    expect_status 0
    wait $listener
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
    same "$(sum_of back)" "$(value_of sent)" 'checksum on the host'
}

test_the_hosts_own_services_are_out_of_reach() {
    user_network
    echo secret | socat -u - TCP-LISTEN:5000,bind=127.0.0.1 &
    local listener=$!
    guest --net user -- "$guest_up; timeout 10 nc 10.9.0.254 5000 || echo nothing"
    expect_status 0
    expect_out nothing
    kill $listener || fail 'somebody has reached the host'
}

test_small_frames_arrive_too() {
    user_network
    random_file data 8
    socat -u FILE:data TCP-LISTEN:5000,bind=127.0.0.1 &
    guest --net user,host-loopback -- "$guest_up; ip link set eth0 mtu 1500; echo sum=\$(nc 10.9.0.254 5000 | sha256sum)"
    expect_status 0
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
}

test_published_ports_lead_into_the_guest() {
    user_network socat
    start_guest --net user,host-loopback,publish=127.0.0.1:8080:80,publish=8081:81,publish='[::1]:8082:82,publish=127.0.0.1:5353:53/udp' -- \
        "$guest_up; (while :; do echo eighty | nc -l -p 80; done) & (while :; do echo eightyone | nc -l -p 81; done) &
        /usr/bin/socat UDP4-LISTEN:53 EXEC:cat & /usr/bin/socat TCP6-LISTEN:82,fork EXEC:'echo eightytwo' & echo ready; sleep 10000"
    wait_for ready
    expect_answer eighty STDIO TCP4:127.0.0.1:8080 </dev/null
    expect_answer eightyone STDIO TCP4:10.9.0.1:8081 </dev/null
    expect_answer eightytwo STDIO 'TCP6:[::1]:8082' </dev/null
    expect_answer echo STDIO UDP4:127.0.0.1:5353 <<<echo
    ! socat STDIO TCP4:10.9.0.1:8080,connect-timeout=5 </dev/null || fail 'the port of 127.0.0.1 is open on 10.9.0.1 too'
    kill -9 "$guest_pid"
    finish_guest
}

test_published_port_that_is_taken_is_refused() {
    user_network
    socat TCP4-LISTEN:8080,bind=127.0.0.1 STDIO </dev/null &
    sleep 1
    refused --kernel "$kernel" --net user,publish=127.0.0.1:8080:80
    expect_err '--net user: publish=127.0.0.1:8080:80: TCP port 8080 of this host is in use'
    refused --kernel "$kernel" --net user,publish=8080:80
    expect_err 'TCP port 8080 of this host is in use'
    refused --kernel "$kernel" --net user,publish=80:80
    expect_err "ip_unprivileged_port_start=80"
    refused --kernel "$kernel" --net user,publish=9.9.9.9:8081:80
    expect_err 'this host has no address 9.9.9.9'
    refused --kernel "$kernel" --net user,publish=8081:80 --net user,publish=127.0.0.1:8081:81
    expect_err 'TCP port 8081 of the host is published twice'
    ! pgrep --ns $$ --nslist net passt || fail 'a passt is left'
}

test_passt_that_is_missing_is_asked_for() {
    user_network
    where=/bed/bin # nothing but nido
    refused --kernel "$kernel" --net user
    expect_err '^nido: --net user: passt is not installed; apt install passt$'
}

test_host_without_a_network_is_told_so() {
    user_network
    ip link del ext0
    refused --kernel "$kernel" --net user
    expect_err '--net user: passt: .* default route'
}

test_passt_ends_when_the_guest_powers_off() {
    user_network
    start_guest --net user -- 'echo ready; sleep 10'
    wait_for ready
    local passt
    passt=$(passt_of_guest)
    finish_guest
    expect_status 0
    [[ ! -e /proc/$passt ]] || fail 'passt is still there'
    [[ ! -s err ]] || fail 'nido had something to say'
}

test_passt_ends_when_nido_is_killed() {
    user_network
    start_guest --net user -- "$guest_up; echo ready; sleep 10000"
    wait_for ready
    local passt
    passt=$(passt_of_guest)
    kill -9 "$guest_pid"
    expect_gone "$passt"
    finish_guest
}

test_guest_lives_on_when_passt_dies() {
    user_network
    start_guest --net user -- "$guest_up; echo ready; until [ \"\$(cat /sys/class/net/eth0/carrier)\" = 0 ]; do sleep 0.1; done; ping -c 2 -W 1 10.9.0.254 >/dev/null; echo alive"
    wait_for ready
    local passt
    passt=$(passt_of_guest)
    kill -9 "$passt"
    expect_gone "$passt"
    finish_guest
    expect_status 0
    expect_out alive
    expect_err 'warning: net net0: passt .* is gone'
    same "$(wc -l <err)" 1 'lines of warning'
}

test_keyboard_signals_do_not_reach_passt() {
    user_network
    start_guest --net user -- "$guest_up; echo ready; sleep 10000"
    wait_for ready
    local passt
    passt=$(passt_of_guest)
    [[ $(ps -o pgid= -p "$passt") != "$(ps -o pgid= -p "$guest_pid")" ]] || fail 'a Ctrl-C would end both'
    kill -9 "$guest_pid"
    finish_guest
}

test_root_has_it_too() {
    user_network
    as_root=1
    start_guest --net user,publish=127.0.0.1:80:80 -- "$guest_up; (while :; do echo eighty | nc -l -p 80; done) & echo ready; sleep 10000"
    wait_for ready
    expect_answer eighty STDIO TCP4:127.0.0.1:80 </dev/null
    local passt
    passt=$(passt_of_guest)
    same "$(awk '/^Uid/ {print $2}' "/proc/$passt/status")" 65534 "passt's user"
    kill -9 "$guest_pid"
    expect_gone "$passt"
    finish_guest
    tr -d '\r' <out.raw | grep -q '^lease: 10.9.0.1/24' || fail 'no lease'
}
