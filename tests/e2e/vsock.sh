# SPDX-License-Identifier: Apache-2.0
# virtio-vsock: sockets between guest and host. The guest is 42, its kernel's own driver; the host's end is v.sock.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

vsock='--vsock cid=42,path=v.sock'
megabytes=${NIDO_E2E_VSOCK_MIB:-16}
connections=${NIDO_E2E_VSOCK_CONNECTIONS:-200}
peer=$here/vsock_peer.py
guest_peer='/usr/bin/python3 -S -E /vsock_peer.py'

# An initrd with socat.
with_socat() { initrd_with socat; }

# An initrd with vsock_peer.py and a Python to run it.
with_peer() {
    initrd_with_python "$peer"
}

# talk_to PORT TEXT: a client of the host; prints what it is told, and tries until somebody is there.
talk_to() {
    local answer='' tries
    for ((tries = 0; tries < 600; tries++)); do
        answer=$(printf 'CONNECT %s\n%s\n' "$1" "$2" | socat -t 20 - UNIX-CONNECT:v.sock 2>/dev/null) || true
        [[ ! $answer ]] || break
        kill -0 "$guest_pid" 2>/dev/null || fail 'the guest ended'
        pause 0.2
    done
    printf '%s\n' "$answer"
}

test_host_talks_to_a_service_of_the_guest() {
    with_socat
    # shellcheck disable=SC2086
    start_guest $vsock -- '/usr/bin/socat VSOCK-LISTEN:1000 SYSTEM:"read line; echo you said \$line"'
    talk_to 1000 'good morning' >answer
    finish_guest
    expect_status 0
    grep -qE '^OK [0-9]+$' answer || fail "no OK: $(cat answer)"
    grep -qx 'you said good morning' answer || fail "the answer is '$(cat answer)'"
}

test_guest_talks_to_a_service_of_the_host() {
    with_socat
    socat UNIX-LISTEN:v.sock_2000 SYSTEM:'read line; echo you said $line' &
    # shellcheck disable=SC2086
    guest $vsock -- 'echo good morning | /usr/bin/socat -t 20 - VSOCK-CONNECT:2:2000'
    expect_status 0
    expect_out 'you said good morning'
}

test_guest_knows_its_address() {
    with_peer
    # shellcheck disable=SC2086
    guest $vsock -- "$guest_peer cid"
    expect_status 0
    expect_out cid=42
}

test_nobody_there_is_told_at_once() {
    with_socat
    # shellcheck disable=SC2086
    start_guest $vsock -- '/usr/bin/socat - VSOCK-CONNECT:2:2000 </dev/null 2>&1; echo ready; sleep 10000'
    wait_for ready
    same "$(printf 'CONNECT 999\n' | timeout 20 socat -t 20 - UNIX-CONNECT:v.sock)" '' 'answer of nobody'
    kill -9 "$guest_pid"
    finish_guest
    grep -q 'Connection reset by peer' out || fail 'the guest was not told'
}

test_many_clients_of_the_host_at_once() {
    with_peer
    # shellcheck disable=SC2086
    start_guest --mem 512M $vsock -- "$guest_peer serve vsock:4294967295:1000 $connections"
    "$peer" call nido:v.sock:1000 "$connections" >host || fail "$(cat host)"
    finish_guest
    expect_status 0
    expect_out "$connections connections, every byte right"
    grep -qx "$connections connections, every byte right" host
}

test_many_calls_of_the_guest_at_once() {
    with_peer
    "$peer" serve unix:v.sock_2000 "$connections" >host &
    local server=$!
    # shellcheck disable=SC2086
    guest --mem 512M $vsock -- "$guest_peer call vsock:2:2000 $connections"
    expect_status 0
    wait $server || fail "$(cat host)"
    expect_out "$connections connections, every byte right"
}

test_every_byte_to_the_guest_arrives() {
    with_socat
    random_file data "$megabytes"
    # shellcheck disable=SC2086
    start_guest $vsock -- 'echo sum=$(/usr/bin/socat -u VSOCK-LISTEN:1000 - | sha256sum)'
    "$peer" send nido:v.sock:1000 data || fail 'the host could not send'
    finish_guest
    expect_status 0
    same "$(value_of sum)" "$(sum_of data)" 'checksum in the guest'
}

test_every_byte_from_the_guest_arrives() {
    with_socat
    socat -u UNIX-LISTEN:v.sock_2000 - | sha256sum >received &
    local listener=$!
    # shellcheck disable=SC2086
    guest $vsock -- "mkfifo /tmp/copy; sha256sum </tmp/copy >/tmp/sum &
        head -c $((megabytes << 20)) /dev/urandom | tee /tmp/copy | /usr/bin/socat -u - VSOCK-CONNECT:2:2000
        wait; echo sum=\$(cat /tmp/sum)"
    expect_status 0
    wait $listener
    same "$(cut -d' ' -f1 received)" "$(value_of sum)" 'checksum on the host'
}

test_socket_lives_as_long_as_the_machine() {
    # shellcheck disable=SC2086
    start_guest $vsock -- 'echo ready; sleep 10000'
    wait_for ready
    same "$(stat -c '%F %a' v.sock)" 'socket 600' 'v.sock'
    refused --kernel "$kernel" --vsock cid=43,path=v.sock
    expect_err 'v\.sock: another program listens there'
    kill -9 "$guest_pid"
    finish_guest
    [[ -S v.sock ]] || fail 'who removed it?'
    # shellcheck disable=SC2086
    guest $vsock -- true
    expect_status 0
    [[ ! -e v.sock ]] || fail 'v.sock is still there'
}
