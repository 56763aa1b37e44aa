# SPDX-License-Identifier: Apache-2.0
# Machines that are started and left, and the commands that look after them: as somebody who may open /dev/kvm and
# nothing else.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

kvm_group=107

# Echoes what it reads, and powers off when its button is pressed.
obedient="($listen; echo ready; $pressed; poweroff -f) &"'
while read line; do echo "got $line"; done; sleep 10000'

# Stands before the program of that name, as a user whose runtime directory is run.
nido() {
    local as=(setpriv --reuid 1000 --regid 1000 --groups "$kvm_group" --no-new-privs
        env HOME=/nowhere XDG_RUNTIME_DIR="${runtime:-$PWD/run}")
    # In a process of its own, as a job of ours, so that $! is nido itself.
    if [[ $BASHPID != "$$" ]]; then exec "${as[@]}" nido "$@"; fi
    "${as[@]}" nido "$@"
}

as_user() {
    chgrp "$kvm_group" /dev/kvm
    chmod 660 /dev/kvm
    mkdir -p run
    chmod 711 .. .
    chown 1000:1000 run .
}

# machine NAME COMMAND-TEXT [NIDO-FLAG]...: starts it and leaves it.
machine() {
    local name=$1
    pack_command "$2"
    mv guest.img "$name.img"
    shift 2
    nido run --detach --name "$name" --kernel "$kernel" --initrd "$name.img" --cmdline "$base_cmdline" "$@" >said
    same "$(<said)" "$name" 'what --detach prints'
}

# field NAME KEY: of its status.
field() { nido status "$1" --json | jq -r ".$2"; }

names() { nido ps --json | jq -r '.[].name' | tr '\n' ' '; }

# fails_with STATUS WORDS COMMAND...: standard error says the words.
fails_with() {
    local expected=$1 words=$2
    shift 2
    status=0
    "$@" </dev/null >said 2>err || status=$?
    expect_status "$expected"
    expect_err "$words"
}

# console_shows NAME TEXT: waits until it does; what is typed meanwhile comes from the file `typed`.
console_shows() {
    local viewer
    touch typed
    rm -f screen
    nido console "$1" <typed >screen &
    viewer=$!
    wait_to_show screen "$2" "$viewer"
    kill "$viewer"
    wait "$viewer" || true
}

# expect_gone PID: soon, and no zombie.
expect_gone() {
    while [[ -e /proc/$1 ]]; do pause 0.1; done
}

test_three_machines_are_looked_after_by_name() {
    as_user
    machine one "$obedient"
    machine two "$obedient" --cpus 2
    machine three "$obedient" --mem 128M
    same "$(names)" 'one three two ' 'the list'
    nido ps >said
    same "$(wc -l <said)" 4 'lines of the list'
    grep -qE '^two +[0-9]+ running +2 +256M +[0-9]+s$' said || fail "the list says: $(cat said)"
    same "$(field two cpus)" 2 cpus
    same "$(field three mem_bytes)" $((128 << 20)) memory
    nido status one >said
    grep -qE '^state +running$' said || fail "the status says: $(cat said)"
    nido stats one >said
    grep -qE '^exits\.(io|mmio) +[1-9]' said || fail "the counters say: $(cat said)"

    console_shows two ready
    printf 'first\nsecond\n' >typed
    console_shows two 'got second'
    rm typed

    console_shows one ready
    nido stop one
    same "$(names)" 'three two ' 'the list after a stop'

    # One that is killed leaves a socket, which is in nobody's way.
    local killed
    killed=$(field two pid)
    kill -9 "$killed"
    expect_gone "$killed"
    same "$(names)" 'three ' 'the list after a kill'
    machine two "$obedient"
    console_shows two ready
    nido stop two
    nido stop three --force
    same "$(names)" '' 'the list at the end'
    same "$(ls run/nido)" '' 'what is left of it'
}

test_pause_holds_a_machine_and_its_time_stays_sane() {
    as_user
    machine one 'echo ready; while read line; do echo "time $(date +%s) $(cut -d. -f1 /proc/uptime) now"; done; sleep 10000'
    console_shows one ready
    echo >typed
    console_shows one now
    local before after exits
    before=$(tr -d '\r' <screen | sed -n 's/^time \(.*\) now$/\1/p' | tail -n 1)
    nido pause one
    same "$(field one state)" paused state
    exits=$(field one exits)
    sleep 6
    same "$(field one exits)" "$exits" 'exits of a machine that is paused'
    nido resume one
    same "$(field one state)" running state
    until (($(tr -d '\r' <screen | grep -c '^time .* now$') > 1)); do console_shows one now; done
    after=$(tr -d '\r' <screen | sed -n 's/^time \(.*\) now$/\1/p' | tail -n 1)
    ((${after% *} >= ${before% *})) || fail "its clock went back: $before, then $after"
    ((${after#* } >= ${before#* })) || fail "its uptime went back: $before, then $after"
    ((${after% *} - $(date +%s) < 60 && $(date +%s) - ${after% *} < 60)) || fail "its clock says ${after% *}, ours $(date +%s)"
    ! grep -E 'soft lockup|stall|unstable' screen || fail 'the guest complains about the time'
    nido stop one --force
}

test_a_paused_machine_can_be_stopped() {
    as_user
    machine one "$obedient"
    console_shows one ready
    nido pause one
    nido stop one
    same "$(names)" '' 'the list at the end'
}

test_stop_tells_when_the_plug_was_pulled() {
    as_user
    machine deaf 'echo ready; sleep 10000' --result result
    console_shows deaf ready
    fails_with 124 "machine 'deaf': did not power off within its grace time" nido stop deaf --grace 1
    same "$(jq -r '.reason, .code, .signal' result | tr '\n' ' ')" 'grace 143 15 ' 'the record'
    machine deaf 'echo ready; sleep 10000' --result result
    nido stop deaf --force
    same "$(jq -r '.reason, .code, .signal' result | tr '\n' ' ')" 'stopped 137 9 ' 'the record'
}

test_a_guest_that_crashes_while_it_is_stopped_is_told() {
    needs_a_panic_device
    as_user
    machine one "($listen; echo ready; $pressed; echo c >/proc/sysrq-trigger) & sleep 10000"
    console_shows one ready
    fails_with 123 "machine 'one': its kernel panicked" nido stop one
}

test_pidfile_time_limit_and_sigterm_work_for_detached_machines() {
    as_user
    machine one "$obedient" --pidfile pid
    same "$(cat pid)" "$(field one pid)" 'the pidfile'
    console_shows one ready
    kill -TERM "$(cat pid)"
    while [[ -e pid ]]; do pause 0.1; done
    machine one 'echo ready; sleep 10000' --timeout 2 --result result
    while [[ ! -e result ]]; do pause 0.1; done
    same "$(jq -r '.reason, .code' result | tr '\n' ' ')" 'timeout 124 ' 'the record'
    guest --timeout 1 -- 'sleep 10000'
    expect_status 124
    expect_err 'its time limit'
}

test_the_network_helper_of_a_killed_machine_is_gone() {
    as_user
    ip link add ext0 type dummy
    ip addr add 10.9.0.1/24 dev ext0
    ip link set ext0 up
    ip route add default via 10.9.0.254
    machine one 'echo ready; sleep 10000' --net user
    local pid helper
    pid=$(field one pid)
    helper=$(pgrep -P "$pid" passt)
    [[ $helper ]] || fail 'there is no passt'
    kill -9 "$pid"
    expect_gone "$helper"
    machine one 'echo ready; sleep 10000' --net user
    helper=$(pgrep -P "$(field one pid)" passt)
    nido stop one --force
    expect_gone "$helper"
}

test_nonsense_is_refused_by_name() {
    as_user
    machine one "$obedient"
    fails_with 125 "'nobody'" nido stop nobody
    fails_with 125 "'nobody'" nido console nobody
    fails_with 125 '--name one: a running machine has this name' \
        nido run --name one --kernel "$kernel" --initrd one.img
    fails_with 125 '--name one' nido run --detach --name one --kernel "$kernel" --initrd one.img
    fails_with 125 'no balloon' nido balloon one
    fails_with 125 'cannot be a name' nido status ../one
    same "$(field one state)" running 'the first one'
    runtime=/root/none fails_with 125 'set XDG_RUNTIME_DIR' nido ps
    mkdir -p elsewhere/nido
    runtime=$PWD/elsewhere fails_with 125 'only you can write' nido ps
    runtime=$PWD/elsewhere fails_with 125 'only you can write' nido run --kernel "$kernel" --initrd one.img
    nido stop one --force
}

test_clients_that_misbehave_do_no_harm() {
    as_user
    machine one 'echo ready; while read line; do echo "got $line"; seq 1 3000; echo "end $line"; done'
    local number
    # What is typed before somebody listens there is lost.
    console_shows one ready
    # Garbage, in one line and in many; clients that only sit there; one that asks for the console and never reads.
    head -c 100000 /dev/urandom | socat -u - UNIX-CONNECT:run/nido/one.sock 2>&1 || true
    head -c 100000 /dev/zero | socat -u - UNIX-CONNECT:run/nido/one.sock 2>&1 || true
    for number in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1000 | socat - UNIX-CONNECT:run/nido/one.sock >/dev/null 2>&1 &
    done
    python3 -c 'import socket, time
s = socket.socket(socket.AF_UNIX)
s.connect("run/nido/one.sock")
s.sendall(b"{\"do\":\"console\"}\nflood\n")
open("asked", "w").close()
time.sleep(1000)' &
    while [[ ! -e asked ]]; do pause 0.1; done
    same "$(field one state)" running state
    # The guest has written all of it although nobody reads; the next viewer takes the console over.
    echo more >typed
    console_shows one 'end more'
    nido stop one --force
}

test_the_record_counts_what_disks_and_networks_moved() {
    truncate -s 32M disk.img
    tap tap0 10.9.0.1/24
    unset -f nido
    guest --disk disk.img --net tap=tap0 --result result -- 'ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0
        dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
        dd if=/dev/vda of=/dev/null bs=1M count=16 2>/dev/null; ping -c 5 -s 1000 10.9.0.1 >/dev/null && echo answered'
    expect_status 0
    expect_out answered
    same "$(jq .disk_written_bytes result)" $((8 << 20)) 'bytes written'
    (($(jq .disk_read_bytes result) >= 16 << 20)) || fail "bytes read: $(jq .disk_read_bytes result)"
    (($(jq .net_sent_bytes result) > 5000)) || fail "bytes sent: $(jq .net_sent_bytes result)"
    (($(jq .net_received_bytes result) > 5000)) || fail "bytes received: $(jq .net_received_bytes result)"
    same "$(jq '.disk_read_bytes + .disk_written_bytes + .net_sent_bytes + .net_received_bytes' result)" "$(jq .moved_bytes result)" 'the sum'
    (($(jq .peak_memory_bytes result) > 32 << 20)) || fail "memory: $(jq .peak_memory_bytes result)"
}
