# SPDX-License-Identifier: Apache-2.0
# nido under CI systems, as a user who may open /dev/kvm and nothing else: GitLab's driver against a stand-in of its runner,
# and what docs/ci.md tells people to write.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# The files that these tests are about lie beside tests/e2e in the bed.
driver=$here/../nido-gitlab
page=$here/../ci.md
patience=400

# The user's own places, and a root of a busybox. Everything of a test happens as this user.
prepare() {
    [[ -e $driver && -e $page ]] || fail 'scripts/bed: say --put scripts/nido-gitlab --put docs/ci.md as well'
    top=$PWD
    chmod 666 /dev/kvm
    mkdir -p home run tmp roots
    chmod 755 /tmp . ..
    make_tree tree
    mke2fs -q -F -t ext4 -d tree roots/small 64M
    rm -rf tree
    printf 'roots=%q\nimage=small\nflags=(--mem 128M --timeout 600)\n' "$PWD/roots" >conf
    chown -R nobody: .
    make_driver
}

# make_tree DIR
make_tree() {
    mkdir -p "$1"/{bin,etc,proc,sys,dev,tmp,root}
    cp "$(command -v busybox)" "$1/bin/"
    (cd "$1/bin" && busybox --install .)
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$1/etc/passwd"
}

# With the settings of these tests.
make_driver() {
    printf '#!/bin/sh\nexec %q --config %q "$@"\n' "$driver" "$PWD/conf" >driver
    chmod 755 driver
}

as_user() {
    ${as:-} setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$top/home" XDG_RUNTIME_DIR="$top/run" \
        XDG_DATA_HOME="$top/home/data" TMPDIR="$top/tmp" PATH="$PATH" "$@"
}

# new_job DIR: where its scripts and its log go; run_job DIR runs it.
new_job() {
    mkdir "$1"
    chown nobody: "$1"
}

run_job() { as_user "$here/gitlab_runner" "$PWD/driver" "$PWD/$1" >"$1.end" 2>"$1.err" </dev/null; }

# expect_end DIR END
expect_end() {
    [[ $(tail -n 1 "$1.end") == "$2" ]] || {
        cat "$1/stages" "$1/trace" "$1.err"
        fail "the job's end: '$(tail -n 1 "$1.end")' should be '$2'"
    }
}

expect_trace() { grep -qxF -- "$2" "$1/trace" || { cat "$1/trace" && fail "$1: its log has no line '$2'"; }; }

# Processes, sockets and files of jobs.
leftovers() {
    grep -lsz "^XDG_RUNTIME_DIR=$PWD/run$" /proc/[0-9]*/environ || true
    find run/nido tmp -mindepth 1
}

expect_nothing_left() {
    local left tries=0
    # What was killed takes a moment.
    while left=$(leftovers) && [[ $left ]]; do
        ((++tries < 50)) || fail "left behind: $left"
        pause 0.2
    done
}

test_job_passes_and_its_stages_share_a_machine() {
    prepare
    new_job one
    touch one/{prepare_script,restore_cache,download_artifacts,archive_cache,upload_artifacts_on_success,cleanup_file_variables}
    echo 'mkdir -p /builds/group/project; cd /builds/group/project; echo "from get_sources" >file; uname -n >/tmp/machine' >one/get_sources
    # A command that reads standard input must not get the rest of the script.
    printf '%s\n' 'cd /builds/group/project' 'cat file' 'cat' 'test "$(uname -n)" = "$(cat /tmp/machine)"' \
        "echo 'quotes \"and\" \\backslash'" 'id -u' >one/build_script
    { printf 'data="' && head -c 1500000 /dev/zero | tr '\0' x && printf '"\necho "${#data} bytes"\n'; } >one/after_script
    # What a job may choose is not to be believed, and nothing in it to be run.
    export CUSTOM_ENV_CI_JOB_ID=$'7; touch oops\n' CUSTOM_ENV_CI_JOB_NAME=$'a "job"\n$(touch oops) `touch oops`' CUSTOM_ENV_TMPDIR=/nowhere
    run_job one
    expect_end one success
    expect_trace one 'from get_sources'
    expect_trace one 'quotes "and" \backslash'
    expect_trace one 0
    expect_trace one '1500000 bytes'
    same "$(cut -d' ' -f1 one/stages | tr '\n' ' ')" 'config prepare prepare_script get_sources restore_cache download_artifacts '\
'build_script after_script archive_cache upload_artifacts_on_success cleanup_file_variables cleanup ' stages
    jq -e '.driver.name == "nido" and .builds_dir == "/builds" and (.hostname | startswith("gitlab-job-"))' one/config >jq.out
    [[ -z $(find . -name 'oops*') ]] || fail 'something of a variable was run'
    expect_nothing_left
}

test_job_fails_with_its_own_status() {
    prepare
    local status
    # Statuses that nido has a meaning for as well.
    for status in 42 125; do
        new_job "job$status"
        echo "echo before; exit $status" >"job$status/build_script"
        echo 'echo afterwards' >"job$status/after_script"
        touch "job$status"/upload_artifacts_on_{success,failure}
        CUSTOM_ENV_CI_JOB_ID=$status run_job "job$status"
        expect_end "job$status" "script $status"
        expect_trace "job$status" before
        expect_trace "job$status" afterwards
        grep '^upload' "job$status/stages" >said
        same "$(<said)" 'upload_artifacts_on_failure 0' 'what is uploaded'
    done
    same "$(jq -r .hostname job42/config | cut -d- -f1,2)" gitlab-42 'name of the machine'
    expect_nothing_left
}

# start_job DIR: in the background, until it has said ready.
start_job() {
    as='exec' run_job "$1" &
    pid=$!
    wait_to_show "$1/trace-part" ready $pid
}

test_cancelled_job_ends_at_once() {
    prepare
    new_job one
    echo 'echo ready; sleep 7777; echo "slept well"' >one/build_script
    echo 'echo "after: $(pgrep -f "sleep 7777")"' >one/after_script
    start_job one
    kill -TERM $pid
    wait $pid || true
    expect_end one cancelled
    # The machine is still there for what comes after, and what was cancelled is not.
    expect_trace one 'after: '
    grep -q '^build_script 31$' one/stages
    ! grep -q 'slept well' one/trace || fail 'it was not cancelled'
    expect_nothing_left
}

test_machine_that_is_killed_is_the_systems_failure() {
    prepare
    new_job one
    echo 'echo ready; sleep 7777' >one/build_script
    echo 'echo afterwards' >one/after_script
    start_job one
    kill -KILL "$(pgrep -u nobody -f "^nido run .*--result $PWD/tmp/")"
    wait $pid || true
    expect_end one system
    expect_trace one 'nido-gitlab: the machine has ended (killed from outside)'
    # Its later stages have no machine, and say so.
    grep -q '^after_script 32$' one/stages
    expect_nothing_left
}

test_machine_that_the_job_ends_is_its_own_failure() {
    prepare
    new_job one
    echo 'echo b >/proc/sysrq-trigger; sleep 1000' >one/build_script
    run_job one
    expect_end one 'script 123'
    expect_nothing_left
    sed -i 's,--timeout 600,--timeout 40,' conf
    new_job two
    echo 'sleep 1000' >two/build_script
    run_job two
    expect_end two 'script 124'
    expect_nothing_left
}

test_images_are_names_and_no_paths() {
    prepare
    local image number=0
    mkdir roots/.hidden
    ln -s / roots/small.d
    for image in nonesuch ../roots/small small/../small /etc .hidden . '' $'small\n' 'sm all' '$(touch oops)' "$(printf 'x%.0s' {1..300})"; do
        new_job $((++number))
        [[ $image ]] || sed -i '/^image=/d' conf
        CUSTOM_ENV_CI_JOB_IMAGE=$image run_job $number
        expect_end $number 'script 1'
        # Not once more: it is the job's mistake.
        same "$(tr '\n' ';' <$number/stages)" 'config 0;prepare 31;cleanup 0;' "stages with the image '$image'"
    done
    [[ -z $(find . -name 'oops*') ]] || fail 'something of a variable was run'
    expect_nothing_left
}

test_image_with_a_tag_is_one_of_a_layout() {
    prepare
    make_tree tree
    tar -cf tree.tar -C tree .
    "$here/oci_layout.py" roots/tools "$(case $NIDO_ARCH in x86_64) echo amd64 ;; *) echo arm64 ;; esac)" \
        '{"Env": ["GREETING=hello"]}' 1.2 tree.tar
    chown -R nobody: roots
    new_job one
    echo 'echo "$GREETING from the image"' >one/build_script
    CUSTOM_ENV_CI_JOB_IMAGE=tools:1.2 run_job one
    expect_end one success
    expect_trace one 'hello from the image'
    local image
    for image in tools:1x2 tools: tools:1.2:1.2; do
        new_job "$image"
        CUSTOM_ENV_CI_JOB_IMAGE=$image run_job "$image"
        expect_end "$image" 'script 1'
    done
    expect_nothing_left
}

test_root_that_does_not_start_is_told_and_tried_again() {
    prepare
    mkdir roots/bare
    : >roots/bare/proc
    new_job one
    CUSTOM_ENV_CI_JOB_IMAGE=bare run_job one
    expect_end one system
    grep -q 'the guest: the root has no directory /proc' one/trace
    same "$(grep -c '^prepare 32$' one/stages)" 3 tries
    same "$(grep -c '^cleanup 0$' one/stages)" 3 'clean-ups'
    expect_nothing_left
}

test_two_jobs_at_once_do_not_meet() {
    prepare
    local name
    for name in one two; do
        new_job $name
        echo "echo ready; echo I am $name >/tmp/name; until [ -e /tmp/go ]; do sleep 0.2; done; cat /tmp/name" >$name/build_script
    done
    # The same number: another project's variable may say so. And they are the first ones on this host, so both look for a
    # kernel to take in.
    CUSTOM_ENV_CI_JOB_ID=5 run_job one &
    local first=$!
    CUSTOM_ENV_CI_JOB_ID=5 start_job two
    wait_to_show one/trace-part ready $first
    same "$(as_user nido ps --json | jq length)" 2 'machines'
    for name in $(as_user nido ps --json | jq -r '.[].name'); do as_user nido exec "$name" -- touch /tmp/go; done
    wait $first $pid
    expect_end one success
    expect_end two success
    expect_trace one 'I am one'
    expect_trace two 'I am two'
    expect_nothing_left
}

# stage ARGUMENT...: of the driver alone.
stage() {
    status=0
    as_user env TMPDIR="$PWD/tmp/job" BUILD_FAILURE_EXIT_CODE=31 SYSTEM_FAILURE_EXIT_CODE=32 ./driver "$@" </dev/null >out 2>err || status=$?
}

test_stages_out_of_order_do_no_harm() {
    prepare
    stage cleanup
    expect_status 0
    mkdir -m 700 tmp/job
    chown nobody: tmp/job
    stage cleanup
    expect_status 0
    echo true >script
    stage run "$PWD/script" build_script
    expect_status 32
    expect_err 'there was no prepare'
    stage run
    expect_status 32
    stage frobnicate
    expect_status 32
    # Two prepares in a row leave one machine, two cleanups none.
    stage prepare
    expect_status 0
    stage prepare
    expect_status 0
    same "$(as_user nido ps --json | jq length)" 1 machines
    stage run "$PWD/script" build_script
    expect_status 0
    stage cleanup
    expect_status 0
    stage cleanup
    expect_status 0
    same "$(ls -A tmp/job)" '' 'what is left of the job'
    # A prepare that takes too long gets a signal, and its machine goes with it.
    as='exec' as_user env TMPDIR="$PWD/tmp/job" BUILD_FAILURE_EXIT_CODE=31 SYSTEM_FAILURE_EXIT_CODE=32 ./driver prepare >out 2>err &
    until compgen -G 'run/nido/*.sock' >/dev/null; do pause 0.05; done
    kill -TERM $!
    status=0
    wait $! || status=$?
    expect_status 31
    stage cleanup
    # A directory that others can write to could hold anybody's names.
    chmod 777 tmp/job
    stage prepare
    expect_status 32
    expect_err 'TMPDIR'
    rmdir tmp/job
    expect_nothing_left
}

test_detached_command_runs_when_nido_returns() {
    prepare
    as_user nido run --detach --name box --mem 128M --root roots/small -- sh -c 'echo lost; echo here >/tmp/note; cat; sleep 1000' >out 2>err
    same "$(cat out err)" box 'what --detach prints'
    same "$(as_user nido exec box -- cat /tmp/note)" here 'the note of its command'
    as_user nido stop --force box || true
    mkdir roots/bare
    : >roots/bare/proc
    status=0
    as_user nido run --detach --mem 128M --root roots/bare -- true >out 2>err || status=$?
    expect_status 123
    expect_err 'the guest: the root has no directory /proc'
    status=0
    as_user nido run --detach --mem 128M --root roots/small -- nonesuch >out 2>err || status=$?
    expect_status 127
    expect_err 'nonesuch: cannot be run'
    expect_nothing_left
}

test_detached_start_that_is_given_up_leaves_no_machine() {
    prepare
    as_user nido kernel add
    as='exec' as_user nido run --detach --name box --mem 128M --root roots/small -- sleep 1000 >out 2>err &
    local starter=$!
    until [[ -e run/nido/box.sock ]]; do pause 0.05; done
    kill -KILL $starter
    expect_nothing_left
}

# how FILE: reason and signal of a record.
how() { jq -r '"\(.reason) \(.code) \(.signal)"' "$1"; }

test_exec_tells_the_commands_end_from_the_machines() {
    prepare
    as_user nido run --detach --name box --mem 128M --root roots/small -- sleep 1000 >out
    mkdir results
    chown nobody: results
    local ended
    as_user nido exec --result results/1 box -- sh -c 'exit 123' || true
    same "$(how results/1)" 'exited 123 null' 'a status like that of a lost machine'
    as_user nido exec --result results/2 box -- sh -c 'kill -9 $$' || true
    same "$(how results/2)" 'killed 137 9' 'a signal'
    as_user nido exec --result results/3 box -- nonesuch 2>err || true
    same "$(how results/3)" 'not-found 127 null' 'a command that is missing'
    as='exec' as_user nido exec --result results/4 box -- sh -c 'echo ready; sleep 1000' >out 2>err &
    ended=$!
    wait_to_show out ready $ended
    as_user nido stop --force box || true
    status=0
    wait $ended || status=$?
    expect_status 123
    same "$(how results/4)" 'machine-ended 123 null' "the machine's end"
    status=0
    as_user nido exec --result results/5 box -- true 2>err || status=$?
    expect_status 125
    same "$(how results/5)" 'failed 125 null' 'no machine'
    expect_nothing_left
}

# ---- what docs/ci.md tells people to write ----

# snippet NAME: the block behind that mark.
snippet() {
    awk -v mark="<!-- tested: $1 -->" '$0 == mark { wanted = 1; next }
        wanted && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$page" | grep . || fail "docs/ci.md has no block '$1'"
}

# dedent: standard input without the blanks that its first line begins with.
dedent() { awk 'NR == 1 { match($0, /^ */); n = RLENGTH } { print substr($0, n + 1) }'; }

# prepare_project COMMAND: a root where the page has one, and a project whose ./test that is. The root is the bed's own.
prepare_project() {
    prepare
    mkdir -p /var/lib/nido/roots project
    ln -sfn / /var/lib/nido/roots/debian-12
    printf '#!/bin/sh\n%s\n' "$1" >project/test
    chmod 755 project/test
    chown -R nobody: project
}

# in_project COMMAND...: leaves $status, out and err.
in_project() {
    status=0
    (cd project && as_user "$@") >out 2>err </dev/null || status=$?
}

test_page_makefile_runs() {
    prepare_project 'echo "it runs as $(id -u) in $PWD"; echo done >result; exit $(cat wanted)'
    snippet make >project/Makefile
    echo 0 >project/wanted
    in_project make -s check
    expect_status 0
    expect_out 'it runs as 0 in /work'
    same "$(cat project/result)" 'done' 'what the job wrote'
    echo 7 >project/wanted
    in_project make -s check
    expect_status 2
    expect_err 'check-here\] Error 7'
    expect_nothing_left
}

test_page_jenkins_step_runs() {
    prepare_project 'echo "build $BUILD_NUMBER in $PWD"; exit 3'
    # As Jenkins does: a script, with sh -xe.
    snippet jenkins | sed -n "/sh '''/,/^ *'''/{//!p}" >project/step
    [[ -s project/step ]] || fail 'the pipeline has no step'
    in_project env WORKSPACE="$PWD/project" BUILD_NUMBER=17 sh -xe step
    expect_status 3
    expect_out 'build 17 in /work'
}

test_page_github_step_runs() {
    prepare_project 'echo "$CI of $GITHUB_SHA in $PWD"; exit 4'
    snippet github | sed '1,/ run: |/d' | dedent >project/step
    [[ -s project/step ]] || fail 'the workflow has no step'
    in_project env GITHUB_WORKSPACE="$PWD/project" CI=true GITHUB_SHA=abc bash --noprofile --norc -eo pipefail step
    expect_status 4
    expect_out 'true of abc in /work'
}

test_page_tells_ends_apart() {
    prepare_project 'exit 75'
    snippet result >project/script
    in_project sh script
    expect_status 75
    same "$(cat err)" '' 'what it says of a job that exits with 75'
    printf '#!/bin/sh\necho o >/proc/sysrq-trigger; sleep 1000\n' >project/test
    in_project sh script
    expect_status 75
    expect_err 'not the job'
    sed -i 's/--timeout 3600/--timeout 15/' project/script
    printf '#!/bin/sh\nsleep 1000\n' >project/test
    in_project sh script
    expect_status 1
    expect_err 'took too long'
}

test_page_gitlab_settings_run() {
    local name
    prepare_project true
    snippet gitlab-conf >conf
    for name in config prepare run cleanup; do
        snippet gitlab-runner | grep -qxF "    ${name}_exec = \"/usr/libexec/nido/nido-gitlab\"" || fail "no ${name}_exec"
        snippet gitlab-runner | grep -qxF "    ${name}_args = [\"$name\"]" || fail "no ${name}_args"
    done
    ip link add ext0 type dummy
    ip addr add 10.9.0.1/24 dev ext0
    ip link set ext0 up
    ip route add default via 10.9.0.254
    new_job one
    printf '%s\n' 'echo "bash ${BASH_VERSION%%.*}, $(nproc) CPUs"' 'ip -4 addr show eth0 | grep -o "inet [^ ]*"' \
        'test "$(df --output=size / | tail -n 1)" -gt 15000000 && echo room' >one/build_script
    CUSTOM_ENV_CI_JOB_IMAGE=debian-12 run_job one
    expect_end one success
    expect_trace one 'bash 5, 2 CPUs'
    expect_trace one 'inet 10.9.0.1/24'
    expect_trace one room
    expect_nothing_left
}
