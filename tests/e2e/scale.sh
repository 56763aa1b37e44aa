# SPDX-License-Identifier: Apache-2.0
# Many jobs: at once, one after the other, and killed at any moment. Each has its own output and status, and none leaves
# anything on the host.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# NIDO_E2E_JOBS: how many in a row.
jobs_in_a_row=${NIDO_E2E_JOBS:-5}
# How many at once; up to 120, as each has its own exit status.
jobs_at_once=${NIDO_E2E_JOBS_AT_ONCE:-20}
# Of these so many are on their way at a time: an emulated CPU takes minutes for a hundred kernels, and nido waits three.
jobs_starting=20
jobs_killed=10
patience=3000

prepare() {
    chmod 666 /dev/kvm
    mkdir -p home run tmp tree/{bin,dev,etc,proc,root,sys,tmp}
    chmod 755 /tmp . ..
    cp "$(command -v busybox)" tree/bin/
    (cd tree/bin && busybox --install .)
    mke2fs -q -F -t ext4 -d tree root.ext4 16M
    rm -rf tree
    chown -R nobody: .
    as_user nido kernel add
}

as_user() {
    ${as:-} setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$PWD/home" XDG_RUNTIME_DIR="$PWD/run" \
        XDG_DATA_HOME="$PWD/home/data" TMPDIR="$PWD/tmp" PATH="$PATH" "$@"
}

# job [FLAG]... -- COMMAND...
job() { as_user nido run --root root.ext4 --mem 96M "$@"; }

# wait_for_job NUMBER: until it has said that it runs.
wait_for_job() {
    until [[ -s out$1 ]]; do
        kill -0 "${pids[$1]}" 2>/dev/null || fail "job $1 has ended: $(cat "err$1")"
        pause 0.2
    done
}

test_many_jobs_run_at_once() {
    prepare
    local number pids=() status
    for ((number = 1; number <= jobs_at_once; number++)); do
        ((number <= jobs_starting)) || wait_for_job $((number - jobs_starting))
        mkfifo "in$number"
        job --name "job$number" -- sh -c 'echo "here $1"; read line; echo "$line" >&2; exit $1' sh "$number" \
            <>"in$number" >"out$number" 2>"err$number" &
        pids[number]=$!
    done
    # All of them are there before the first one may end.
    for ((number = 1; number <= jobs_at_once; number++)); do wait_for_job $number; done
    same "$(as_user nido ps --json | jq length)" "$jobs_at_once" 'machines at once'
    for ((number = 1; number <= jobs_at_once; number++)); do echo "go $number" >"in$number"; done
    for ((number = 1; number <= jobs_at_once; number++)); do
        status=0
        wait "${pids[number]}" || status=$?
        same "$status" $number "status of job $number"
        same "$(cat "out$number")" "here $number" "output of job $number"
        same "$(cat "err$number")" "go $number" "errors of job $number"
    done
    same "$(leftovers)" '' 'what is left'
}

# ksm FIELD: pages, as the host's merging has them.
ksm() { cat "/sys/kernel/mm/ksm/$1"; }

# One kernel and one root, in the memory of several machines: the host keeps what is alike once.
test_machines_that_are_alike_share_memory() {
    prepare
    local number pids=() status machines=4 looks=0
    for ((number = 1; number <= machines; number++)); do
        mkfifo "in$number"
        job --mem-merge -- sh -c 'cat /bin/busybox | wc -c; read line; cat /bin/busybox | sha256sum; exit $1' sh "$number" \
            <>"in$number" >"out$number" 2>"err$number" &
        pids[number]=$!
    done
    for ((number = 1; number <= machines; number++)); do wait_for_job $number; done
    same "$(ksm pages_sharing)" 0 'pages shared before anybody merges'
    echo 5000 >/sys/kernel/mm/ksm/pages_to_scan
    echo 1 >/sys/kernel/mm/ksm/run
    # 8 MiB that are not like each other, as empty pages are; each stands for pages of at least two machines.
    until (($(ksm pages_shared) > 2048)); do
        ((++looks < 300)) || fail "only $(ksm pages_shared) pages are shared, after $(ksm full_scans) looks at all of them"
        sleep 1
    done
    # What one writes is its own, and what it reads is what it was.
    for ((number = 1; number <= machines; number++)); do echo go >"in$number"; done
    for ((number = 1; number <= machines; number++)); do
        status=0
        wait "${pids[number]}" || status=$?
        same "$status" $number "status of job $number"
        same "$(tail -n 1 "out$number")" "$(sum_of "$(command -v busybox)")  -" "what job $number read"
    done
    # What the host was looking at when it ended goes with its next look.
    looks=0
    until (($(ksm pages_sharing) == 0)); do
        ((++looks < 60)) || fail "$(ksm pages_sharing) pages are shared when all have ended"
        sleep 1
    done
}

# Processes, sockets and files of jobs.
leftovers() {
    grep -lsz "^XDG_RUNTIME_DIR=$PWD/run$" /proc/[0-9]*/environ || true
    find run/nido tmp -mindepth 1
    find /tmp /var/tmp /dev/shm -user nobody -not -path "$PWD*" 2>/dev/null || true
}

# kib FIELD: of /proc/meminfo.
kib() { sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo; }

# Pages that are free, but in the lists of a CPU, which do not count as such: up to 80 MiB.
kib_in_lists() { awk '$1 == "count:" { pages += $2 } END { print 4 * pages }' /proc/zoneinfo; }

# Leaves what is there now in available, slab (KiB) and mounts. Compaction empties the lists of pages that are to be freed.
look() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    echo 1 >/proc/sys/vm/compact_memory
    available=$(($(kib MemAvailable) + $(kib_in_lists))) slab=$(kib Slab) mounts=$(sort /proc/self/mounts)
}

# expect_as_before: as the last look was. One machine's RAM, as the jobs fill it, would be more than the slack.
expect_as_before() {
    local available_before=$available slab_before=$slab mounts_before=$mounts tries=0
    # What was killed takes a moment, and so does what the kernel frees later.
    until look && [[ -z $(leftovers) ]] && ((available_before - available < 24576 && slab - slab_before < 8192)); do
        ((++tries < 30)) || fail "left behind: $(leftovers) $((available_before - available)) KiB of memory, $((slab - slab_before)) KiB of slab"
        pause 0.5
    done
    same "$mounts" "$mounts_before" mounts
}

# Touches memory, besides what the kernel has for itself.
filling='dd if=/dev/zero of=/tmp/full bs=1M count=16 2>/dev/null; echo "$1"; exit $1'

test_jobs_in_a_row_leave_nothing() {
    prepare
    local number status flags
    job -- sh -c "$filling" sh 0 >out 2>err
    look
    for ((number = 1; number <= jobs_in_a_row; number++)); do
        status=0
        flags=()
        ((number % 10)) || flags=(--scratch 64M)
        job "${flags[@]}" -- sh -c "$filling" sh $((number % 100)) </dev/null >out 2>err || status=$?
        same "$status $(cat out err)" "$((number % 100)) $((number % 100))" "status and output of job $number"
    done
    expect_as_before
}

test_killed_jobs_leave_nothing() {
    prepare
    local number pid flags
    job -- true
    look
    for ((number = 1; number <= jobs_killed; number++)); do
        flags=()
        ((number % 3)) || flags=(--scratch 64M)
        as='exec' job "${flags[@]}" --name "job$number" -- sh -c "$filling" sh 0 </dev/null >out 2>err &
        pid=$!
        sleep "$((RANDOM % 3)).$((RANDOM % 10))"
        kill -KILL $pid 2>/dev/null || true
        wait $pid || true
    done
    # Whoever looks removes the sockets of those that cannot do it any more.
    same "$(as_user nido ps --json)" '[]' machines
    expect_as_before
}
