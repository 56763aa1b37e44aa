# SPDX-License-Identifier: Apache-2.0
# nido run --root ROOT -- COMMAND, as a user who may open /dev/kvm and nothing else.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# The user's own places. Everything of a test happens as this user.
prepare() {
    getent passwd nobody >/dev/null
    chmod 666 /dev/kvm
    mkdir -p home run
    chmod 755 /tmp . ..
    make_root root.ext4
    chown -R nobody: .
}

as_user() {
    ${as:-} setpriv --reuid nobody --regid nogroup --clear-groups \
        env HOME="$PWD/home" XDG_RUNTIME_DIR="$PWD/run" XDG_DATA_HOME="$PWD/home/data" PATH="$PATH" "$@"
}

# make_tree: a busybox with its commands.
make_tree() {
    mkdir -p tree/{bin,etc,proc,sys,dev,tmp,root}
    cp "$(command -v busybox)" tree/bin/
    # Hard links of one call: a symbolic link each would be a process each, four hundred times.
    (cd tree/bin && busybox --install .)
    printf 'root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1235:worker:/home/worker:/bin/sh\n' >tree/etc/passwd
    printf 'root:x:0:\nworker:x:1235:\nextra:x:77:worker\n' >tree/etc/group
    echo 'no program' >tree/bin/text
}

# make_root FILE: the same as an ext4 image.
make_root() {
    make_tree
    mke2fs -q -F -t ext4 -d tree "$1" 64M
    rm -rf tree
}

# job [FLAG]... -- COMMAND...: leaves out, err and $status; what stands on file descriptor 0 is its input.
job() {
    status=0
    as_user nido run --root "${root:-root.ext4}" "$@" >out 2>err || status=$?
}

test_streams_stay_apart_and_the_status_is_the_commands() {
    prepare
    job -- sh -c 'echo out; echo err >&2; exit 7'
    expect_status 7
    same "$(cat out)" out 'standard output'
    same "$(cat err)" err 'standard error'
}

# result KEY: of the record.
result() { jq -r ".$1" result.json; }

# start_job ...: the same in the background, and its process in $pid: nido's own, for signals.
start_job() {
    rm -f out err
    as='exec' as_user nido run --root root.ext4 "$@" >out 2>err &
    pid=$!
    wait_to_show out ready $pid
}

wait_job() {
    status=0
    wait "$pid" || status=$?
}

test_first_job_takes_the_hosts_kernel() {
    prepare
    same "$(as_user nido kernel ls)" '' 'kernels at first'
    # What a nido that was killed has left.
    as_user mkdir -p home/data/nido/kernels/.new-1
    as_user touch home/data/nido/kernels/.new-1/vmlinuz
    job -- uname -r
    expect_status 0
    same "$(cat out)" "$(uname -r)" 'kernel in the guest'
    same "$(as_user nido kernel ls)" "$(uname -r)  (default)" 'kernels afterwards'
    same "$(ls -A home/data/nido/kernels)" "$(uname -r)"$'\n'default "what is in the store"
    as_user nido kernel rm "$(uname -r)"
    same "$(as_user nido kernel ls)" '' 'kernels at last'
}

test_kernel_that_insists_on_signatures_gets_them() {
    prepare
    # Bit 13 of what taints a kernel is a module without a signature.
    job --cmdline module.sig_enforce=1 -- sh -c 'cat /sys/module/module/parameters/sig_enforce; echo $(($(cat /proc/sys/kernel/tainted) & 8192))'
    expect_status 0
    same "$(tr '\n' ' ' <out)" 'Y 0 ' 'sig_enforce, and what taints the kernel'
}

test_every_byte_of_standard_input_arrives() {
    prepare
    status=0
    random_file data 4
    chmod 644 data
    as_user nido run --root root.ext4 -- md5sum <data >out 2>err || status=$?
    expect_status 0
    same "$(cut -d' ' -f1 out)" "$(md5sum data | cut -d' ' -f1)" 'checksum in the guest'
    { yes || true; } | head -c "${NIDO_E2E_JOB_MIB:-32}M" | as_user nido run --root root.ext4 -- wc -c >out 2>err || status=$?
    expect_status 0
    same "$(cat out)" "$((${NIDO_E2E_JOB_MIB:-32} << 20))" 'bytes in the guest'
}

test_every_byte_of_standard_output_arrives() {
    prepare
    job -- sh -c 'yes | head -c 20000000'
    expect_status 0
    same "$(md5sum <out)" "$({ yes || true; } | head -c 20000000 | md5sum)" 'checksum of the output'
}

test_what_cannot_run_is_told_apart() {
    prepare
    job --result result.json -- nonesuch
    expect_status 127
    expect_err 'nonesuch: cannot be run: No such file'
    same "$(result reason)" not-found reason
    job --result result.json -- /bin/text
    expect_status 126
    same "$(result reason)" not-runnable reason
    job --user nobody-here -- true
    expect_status 126
    expect_err 'no such user'
    job --workdir /none -- true
    expect_status 126
    expect_err 'the directory that it is to start in is not there'
}

test_kernels_console_is_there_to_look_at() {
    prepare
    start_job --name box -- sh -c 'echo words of the kernel >/dev/kmsg; echo "<0>and an urgent one" >/dev/kmsg; echo ready; exec sleep 1000'
    as='exec' as_user nido console box >shown 2>&1 < <(sleep 1000) &
    local viewer=$!
    wait_to_show shown 'and an urgent one' $viewer
    kill $viewer
    kill -TERM $pid
    wait_job
    expect_status 143
    # Whoever ends by itself has no last words.
    same "$(grep -c 'end of the guest' err)" 0 'lines of the console'
}

test_job_gets_the_signal() {
    prepare
    start_job --result result.json -- sh -c 'trap "echo got it; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    kill -TERM $pid
    wait_job
    expect_status 9
    expect_out 'got it'
    same "$(result reason)" exited reason
    start_job --result result.json -- sh -c 'echo ready; exec sleep 1000'
    kill -INT $pid
    wait_job
    expect_status 130
    same "$(result reason) $(result signal)" 'killed 2' 'reason and signal'
}

# nothing_is_left: in the run directory and of temporary files.
nothing_is_left() {
    same "$(ls -A run/nido scratch)" "$(printf 'run/nido:\n\nscratch:')" 'what is left'
}

test_signals_leave_nothing_behind() {
    prepare
    local signal
    mkdir scratch
    chown nobody: scratch
    export TMPDIR=$PWD/scratch
    for signal in TERM INT HUP QUIT; do
        start_job --scratch 64M --name box -- sh -c 'echo ready; exec sleep 1000'
        kill -$signal $pid
        wait_job
        expect_status $((128 + $(kill -l $signal)))
        nothing_is_left
    done
    # A command that does not care has its grace time; two more signals are enough for who has none.
    for signal in TERM HUP; do
        start_job --grace 1 --name box -- sh -c 'trap "" TERM HUP; echo ready; while :; do sleep 1; done'
        kill -$signal $pid
        wait_job
        expect_status $((128 + $(kill -l $signal)))
    done
    start_job --grace 1000 --scratch 64M --name box -- sh -c 'trap "" TERM; echo ready; while :; do sleep 1; done'
    kill -TERM $pid
    sleep 2
    kill -TERM $pid
    wait_job
    expect_status 143
    nothing_is_left
}

# network: a way out for --net user.
network() {
    ip link add ext0 type dummy
    ip addr add 10.9.0.1/24 dev ext0
    ip link set ext0 up
    ip route add default via 10.9.0.254
}

test_killed_nido_leaves_what_ps_removes() {
    prepare
    network
    local tries=0
    mkdir scratch
    chown nobody: scratch
    export TMPDIR=$PWD/scratch
    cp /proc/self/mounts before
    start_job --scratch 64M --net user --name box -- sh -c 'echo ready; exec sleep 1000'
    pgrep -u nobody passt >/dev/null || fail 'no passt is there'
    kill -KILL $pid
    wait_job
    while pgrep -u nobody . >leftover; do
        ((++tries < 100)) || fail "still there: $(ps -u nobody -o args=)"
        pause 0.1
    done
    same "$(as_user nido ps --json)" '[]' 'machines'
    nothing_is_left
    diff before /proc/self/mounts
    # And the name is free again.
    job --name box -- sh -c 'exit 3'
    expect_status 3
}

test_time_limit_has_its_own_end() {
    prepare
    job --result result.json --timeout 20 -- sleep 1000
    expect_status 124
    same "$(result reason) $(result oom)" 'timeout false' 'time limit'
}

test_want_of_memory_has_its_own_end() {
    prepare
    job --result result.json --mem 128M -- sh -c 'exec tail /dev/zero'
    expect_status 137
    same "$(result reason) $(result signal) $(result oom)" 'killed 9 true' 'out of memory'
}

test_panic_has_its_own_end() {
    prepare
    job --result result.json -- sh -c 'echo c >/proc/sysrq-trigger; sleep 1000'
    expect_status 123
    # With a panic device or without.
    same "$(result reason)" panicked 'a panic'
    expect_err 'the end of the guest.s console'
    expect_err '    .*Kernel panic - not syncing: sysrq'
}

test_result_tells_where_the_time_went() {
    prepare
    make_tree
    echo 0123456789 >tree/file
    chown -R nobody: tree
    root=tree
    mkdir work
    chown nobody: work
    job --result result.json --share "$PWD/work:/work" -- sh -c 'cat /file >/work/copy; sleep 2'
    expect_status 0
    same "$(jq -c '.steps_s | keys_unsorted' result.json)" '["start","boot","ready","command","end"]' 'the steps'
    jq -e '.steps_s.command >= 2 and .steps_s.boot > 0 and .steps_s.end >= 0' result.json
    # They are all of it.
    jq -e '([.steps_s[]] | add) - .wall_s | fabs < 0.001' result.json
    jq -e '.share_written_bytes == 11 and .share_read_bytes > 100000 and .peak_memory_bytes > 10000000 and .cpu_s > 0' result.json
    job --result result.json -- nonesuch
    jq -e '.steps_s.command >= 0' result.json
    job --result result.json --timeout 20 -- sleep 1000
    jq -e '.steps_s.command > 1 and .steps_s.end == null' result.json
}

test_terminal_is_a_shells() {
    export HOME=$PWD/home XDG_RUNTIME_DIR=$PWD/run
    mkdir -p home run
    make_root root.ext4
    python3 "$here/terminal.py" nido run --root root.ext4 --name box --tty -- sh
    nido run --root root.ext4 --name box -- sh -c 'echo ready; sleep 1000' >out &
    pid=$!
    wait_to_show out ready $pid
    python3 "$here/terminal.py" nido exec --tty box -- sh
    # The shell that was there has left that one running.
    nido exec box -- sh -c 'ps | grep "[s]leep 5555"'
    python3 -c 'import pty; pty.spawn(["nido", "exec", "--tty", "box", "--", "seq", "20000"])' </dev/null >all
    same "$(tr -d '\r' <all | md5sum)" "$(seq 20000 | md5sum)" 'all that a command wrote to its terminal'
    kill -TERM $pid
}

test_machine_that_is_gone_has_its_own_end() {
    prepare
    job --result result.json -- sh -c 'poweroff -f; sleep 1000'
    expect_status 123
    same "$(result reason)" powered-off 'a machine that is gone'
    # With more on its console than anybody has read.
    job --result result.json -- sh -c 'yes >/dev/console & sleep 3; poweroff -f; sleep 1000'
    expect_status 123
    same "$(result reason)" powered-off 'a machine that is gone in the middle of a word'
}

test_closed_output_ends_the_job() {
    prepare
    as_user nido run --root root.ext4 --result result.json -- yes 2>err | head -n 1 >first || true
    same "$(cat first)" y 'the first line'
    same "$(result reason) $(result signal)" 'killed 13' 'reason and signal'
}

test_command_runs_as_it_is_told() {
    prepare
    INHERITED=here job --env GIVEN=there --env INHERITED --workdir /etc --user worker --cpus 2 -- \
        sh -c 'id; pwd; echo $GIVEN $INHERITED $HOME; nproc; ulimit -n 100000 && ulimit -n'
    expect_status 0
    expect_out 'uid=1234(worker) gid=1235(worker) groups=77(extra)'
    expect_out /etc
    expect_out 'there here /home/worker'
    expect_out 2
    expect_out 100000
}

test_streams_are_the_users() {
    prepare
    job --user worker -- sh -c 'cat /dev/stdin >/dev/stdout; echo err >/dev/stderr' <<<in
    expect_status 0
    same "$(cat out) $(cat err)" 'in err' 'what went through'
    as_user python3 -c 'import pty, sys; pty.spawn(sys.argv[1:])' nido run --root root.ext4 --user worker --tty -- \
        sh -c 'echo by its name >$(tty); stat -c %u $(tty)' </dev/null >all
    same "$(tr -d '\r' <all | tr '\n' ' ')" 'by its name 1234 ' 'what came from the terminal'
}

test_a_hangup_that_is_ignored_stays_ignored() {
    prepare
    trap '' HUP
    start_job -- sh -c 'echo ready; exec sleep 1000'
    trap - HUP
    kill -HUP "$pid"
    sleep 1
    kill -TERM "$pid"
    wait_job
    expect_status 143
}

test_root_is_as_before_and_nothing_stays() {
    prepare
    local before
    before=$(sum_of root.ext4)
    chmod 444 root.ext4
    job -- sh -c 'echo new >/etc/new && cat /etc/new && rm /bin/text && ! ls /bin/text; (sleep 1000; echo late) & exit 3'
    expect_status 3
    same "$(cat out)" new output
    same "$(sum_of root.ext4)" "$before" 'the image'
    same "$(ls run/nido)" '' 'what is left in the run directory'
}

test_directory_is_a_root() {
    prepare
    make_tree
    mkdir work
    echo before >work/file
    chown -R nobody: tree work
    local before
    before=$(ls -lR tree)
    root=tree
    job --share "$PWD/work:/work/here" -- sh -c 'ls -d /bin/busybox; echo new >/etc/new; rm /bin/text; cat /work/here/file; echo after >/work/here/file'
    expect_status 0
    expect_out /bin/busybox
    expect_out before
    same "$(ls -lR tree)" "$before" 'the directory'
    same "$(cat work/file)" after 'the share'
}

test_write_lets_changes_through_to_a_directory() {
    prepare
    make_tree
    rmdir tree/tmp
    chown -R nobody: tree
    root=tree
    job --write -- sh -c 'echo new >/etc/new; rm /bin/text; mkdir /deep; ln -s x /deep/link; echo mem >/run/gone'
    expect_status 0
    same "$(cat tree/etc/new)" new 'the new file'
    same "$(readlink tree/deep/link)" x 'the new link'
    [[ ! -e tree/bin/text ]] || fail 'what was removed is there'
    [[ ! -e tree/run/gone ]] || fail 'what is memory has come through'
    same "$(stat -c %U tree/etc/new)" nobody 'its owner'
    job -- sh -c 'cat /etc/new; rm /etc/new'
    expect_out new
    same "$(cat tree/etc/new)" new 'without --write'
}

test_write_lets_changes_through_to_an_image() {
    prepare
    job --write -- sh -c 'echo new >/etc/new; (while :; do echo x >>/etc/busy; done) & sleep 1; exit 4'
    expect_status 4
    # Clean: nothing is to be replayed, and nothing to be repaired.
    dumpe2fs -h root.ext4 2>/dev/null | grep -i '^filesystem features' >features
    ! grep -q needs_recovery features || fail 'its journal is to be replayed'
    e2fsck -fn root.ext4 >fsck 2>&1 || fail "$(cat fsck)"
    job -- cat /etc/new
    same "$(cat out)" new 'the new file'
    # Nobody else writes or reads meanwhile.
    start_job --write -- sh -c 'echo ready; exec sleep 1000'
    status=0
    as_user nido run --root root.ext4 -- true 2>err2 || status=$?
    expect_status 125
    grep -q 'root.ext4: another process is using it' err2 || fail "$(cat err2)"
    kill -TERM $pid
    wait_job
}

test_what_cannot_be_written_is_refused_by_name() {
    prepare
    printf 'hsqs%04096d' 0 >root.squashfs
    refused --root root.squashfs --write -- true
    expect_err 'root.squashfs: squashfs images cannot be written'
    refused --root root.ext4 --write --scratch 64M -- true
    expect_err 'and not to --scratch'
    chmod 444 root.ext4
    job --write -- true
    expect_status 125
    expect_err 'root.ext4'
}

test_a_single_file_is_shared_as_a_file() {
    prepare
    echo secret >neighbour
    echo before >file
    echo only >other
    chown nobody: file neighbour other
    job --share "$PWD/file:/work/deep/name" --share "$PWD/other:/etc/passwd,ro" -- \
        sh -c 'ls /work/deep; cat /work/deep/name; echo after >/work/deep/name; cat /etc/passwd; echo x >/etc/passwd || echo refused; ls /work; ls -A /run/nido'
    expect_status 0
    same "$(tr '\n' ' ' <out)" 'name before only refused deep ' output
    same "$(cat file) $(cat other)" 'after only' 'the files'
    expect_err 'Read-only file system'
    job --share "$PWD/file:/etc" -- true
    expect_status 123
    expect_err 'share0 cannot be mounted at /etc: Is a directory'
}

test_the_hosts_own_root_is_a_root() {
    prepare
    root=/
    job -- sh -c 'echo "$(id -u) $(ls /proc/self/comm) $(cat /etc/hostname >/dev/null && echo etc)"; echo new >/etc/new; test -c /dev/null && exit 7'
    expect_status 7
    expect_out '0 /proc/self/comm etc'
    [[ ! -e /etc/new ]] || fail 'the host has a new file'
}

test_a_root_that_lacks_something_is_told() {
    prepare
    mkdir bare
    : >bare/proc
    chown -R nobody: bare
    root=bare
    job -- true
    expect_status 123
    expect_err 'the guest: the root has no directory /proc'
    mkdir empty
    chown nobody: empty
    root=empty
    job -- true
    expect_status 123
    expect_err 'the guest: the root is empty'
    # Nothing but the program itself is enough: /proc, /dev and the like are made.
    mkdir -p least
    cp "$(command -v busybox)" least/
    printf '#!/bin/nonesuch\necho no\n' >least/script
    chmod 755 least/script
    chown -R nobody: least
    root=least
    job -- /busybox sh -c 'test -c /dev/null && test -d /proc/1 && test -d /tmp && echo good'
    expect_status 0
    same "$(cat out)" good 'in a root of one program'
    job -- sh -c true
    expect_status 127
    expect_err 'sh: cannot be run: No such file'
    job -- /script
    expect_status 126
    expect_err '/script: cannot be run: it is there, but the loader or interpreter'
}

network_with_names() {
    network
    touch /etc/resolv.conf
    echo 'nameserver 10.9.0.53' >resolv.conf
    mount --bind resolv.conf /etc/resolv.conf
}

test_network_is_ready_when_the_command_starts() {
    prepare
    network_with_names
    job --net user -- sh -c 'ip -4 addr show eth0 | grep -o "inet [^ ]*"; ip route | grep -o "default via [^ ]*"; cat /etc/resolv.conf'
    expect_status 0
    expect_out 'inet 10.9.0.1/24'
    expect_out 'default via 10.9.0.254'
    expect_out 'nameserver 10.9.0.53'
    # One of the host's own, which no DHCP tells of.
    echo 'nameserver 127.0.0.53' >resolv.conf
    job --net user -- cat /etc/resolv.conf
    same "$(cat out)" 'nameserver 169.254.1.1' 'with a resolver of the host alone'
}

# As the images of Ubuntu and Fedora have it.
test_name_servers_are_found_behind_a_link() {
    local link
    prepare
    network_with_names
    for link in ../run/systemd/resolve/stub-resolv.conf /run/../run/names loop /proc/nowhere/names; do
        make_tree
        ln -s "$link" tree/etc/resolv.conf
        ln -s loop tree/etc/loop
        mke2fs -q -F -t ext4 -d tree root.ext4 64M
        rm -rf tree
        job --net user -- cat /etc/resolv.conf
        same "$(cat out)" 'nameserver 10.9.0.53' "with a link to $link"
    done
    make_tree
    ln -s ../run/systemd/resolve/stub-resolv.conf tree/etc/resolv.conf
    mke2fs -q -F -t ext4 -d tree root.ext4 64M
    chown nobody: root.ext4
    job --net user --write -- sh -c 'cat /etc/resolv.conf; readlink /etc/resolv.conf'
    same "$(cat out)" "nameserver 10.9.0.53"$'\n''../run/systemd/resolve/stub-resolv.conf' 'with --write'
}

test_scratch_disk_takes_more_than_memory() {
    prepare
    mkdir scratch
    chown nobody: scratch
    export TMPDIR=$PWD/scratch
    job --mem 96M --scratch 256M -- sh -c 'dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null && stat -c %s /big'
    expect_status 0
    expect_out $((100 << 20))
    same "$(ls -A scratch)" '' 'what is left of the disk'
}

test_slow_reader_gets_every_byte() {
    prepare
    as_user nido run --root root.ext4 -- sh -c 'yes | head -c 400000' 2>err | { sleep 25; md5sum; } >sum
    same "$(cat sum)" "$({ yes || true; } | head -c 400000 | md5sum)" 'checksum of the output'
}

test_exec_runs_one_more_command() {
    prepare
    start_job --name box -- sh -c 'echo from the first >/tmp/note; echo ready; sleep 1000'
    status=0
    echo input | C=d as_user nido exec --env A=b --env C --env NONE --workdir /tmp --user=worker box -- \
        sh -c 'cat note; cat; echo $A $C ${NONE-none} >&2; pwd; id -u; exit 5' >exec.out 2>exec.err || status=$?
    expect_status 5
    same "$(tr '\n' ' ' <exec.out)" 'from the first input /tmp 1234 ' 'output of the second'
    same "$(cat exec.err)" 'b d none' 'its errors'
    status=0
    as_user nido exec box -- nonesuch 2>exec.err || status=$?
    expect_status 127
    as='exec' as_user nido exec box -- sh -c 'trap "echo got it; exit 8" TERM; echo there; while :; do sleep 0.1; done' >exec.out &
    local second=$!
    wait_to_show exec.out there $second
    kill -TERM $second
    status=0
    wait $second || status=$?
    expect_status 8
    grep -q 'got it' exec.out
    # A client that is gone takes its command along.
    rm exec.out
    as='exec' as_user nido exec box -- sh -c 'echo there; exec sleep 7777' >exec.out &
    second=$!
    wait_to_show exec.out there $second
    kill -KILL $second
    local tries=0
    while as_user nido exec box -- sh -c 'ps | grep "[s]leep 7777"' >exec.out; do
        ((++tries < 50)) || fail 'the command is still there'
        pause 0.2
    done
    kill -TERM $pid
    wait_job
    expect_status 143
    status=0
    as_user nido exec box -- true 2>exec.err || status=$?
    expect_status 125
}

test_a_paused_job_is_ended_like_any_other() {
    prepare
    start_job --name box --grace 60 --result result.json -- sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    as_user nido pause box
    as_user nido stop box
    wait_job
    expect_status 9
    same "$(result reason)" exited 'the reason'
}

test_mistakes_are_named() {
    prepare
    refused --root root.ext4
    expect_err 'say what to run there'
    refused --kernel "$kernel" -- true
    expect_err 'say --root'
    refused -- true
    expect_err 'a command needs a root to run on; say --root'
    refused --disk root.ext4
    expect_err 'no firmware .* say --root root.ext4 -- COMMAND'
    refused
    expect_err 'kernel is needed.* say --root'
    refused --root nowhere -- true
    expect_err 'nowhere: cannot be opened: No such file'
    refused --root root.ext4 --kernel "$kernel" -- true
    expect_err 'nido kernel add'
}
