# SPDX-License-Identifier: Apache-2.0
# nido cp: files into a machine of nido run --root, and out of it. The root has busybox, and no other tar.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# box: a machine of that name, whose command waits. Everything happens in this directory.
box() {
    export HOME=$PWD/home XDG_RUNTIME_DIR=$PWD/run
    mkdir -p home run tree/{bin,etc,proc,sys,dev,tmp,root}
    cp "$(command -v busybox)" tree/bin/
    (cd tree/bin && for name in sh sleep ls cat chmod ln mkdir find sort stat id readlink md5sum touch; do ln -s busybox $name; done)
    printf 'root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1235:worker:/:/bin/sh\n' >tree/etc/passwd
    nido run --root tree --name box -- sh -c 'chmod 1777 /tmp; echo ready; sleep 100000' >out 2>err &
    pid=$!
    wait_to_show out ready $pid
}

# in_box COMMAND-TEXT
in_box() { nido exec box -- sh -c "$1"; }

# cp_fails STATUS WORDS ARGUMENT...
cp_fails() {
    local want=$1 words=$2
    shift 2
    status=0
    nido cp "$@" >cp.out 2>cp.err || status=$?
    expect_status "$want"
    grep -qE -- "$words" cp.err || fail "standard error does not say '$words': $(cat cp.err)"
}

make_things() {
    mkdir -p "things/a dir/deep" things/empty
    random_file 'things/a dir/deep/big' 2
    echo text >things/file
    echo dash >things/-dash
    echo nl >"things/$(printf 'a\nb')"
    ln -s ../nowhere 'things/a dir/link'
    chmod 640 things/file
    chmod 4755 things/-dash
    touch -d '2001-02-03 04:05:06' things/file things/empty
}

# listing DIRECTORY: all that is to be the same on both sides.
listing() {
    (cd "$1" && find . ! -name . -printf '%p %y %m %Ts %l\n' | sort && find . -type f -exec md5sum {} + | sort)
}

test_tree_goes_in_and_comes_back() {
    box
    make_things
    nido cp things box:/tmp
    same "$(in_box 'cd /tmp/things && stat -c "%a %u %Y" file; readlink "a dir/link"; stat -c %a -- -dash')" \
        "$(printf '640 0 981173106\n../nowhere\n755')" 'what is in the guest'
    nido cp box:/tmp/things back
    chmod 755 things/-dash
    same "$(listing back)" "$(listing things)" 'what came back'
    same "$(stat -c %u:%g back/file)" "$(id -u):$(id -g)" 'its owner'
    # Into a directory that is there, under its own name; what is inside alone; several at once.
    mkdir in inside several
    nido cp box:/tmp/things in
    same "$(listing in/things)" "$(listing things)" 'what came into a directory'
    nido cp box:/tmp/things/. inside
    same "$(listing inside)" "$(listing things)" 'what was inside'
    nido cp box:/tmp/things/file box:/etc/passwd several
    cmp several/passwd tree/etc/passwd
    (cd things && nido cp -- -dash "$(printf 'a\nb')" box:/tmp)
    same "$(in_box 'cat /tmp/-dash "/tmp/$(printf "a\nb")"')" "$(printf 'dash\nnl')" 'strange names'
    # No name at the other end: its own; a name: that.
    nido cp things/file box:/tmp/renamed
    same "$(in_box 'cat /tmp/renamed')" text 'a file under another name'
}

test_tar_streams_go_both_ways() {
    box
    make_things
    tar -cf - -C things . | nido cp - box:/tmp
    same "$(in_box 'cat /tmp/file')" text 'a file of the stream'
    nido cp box:/tmp/file 'box:/tmp/a dir' - >out.tar
    mkdir back
    tar -xpf out.tar -C back
    cmp 'back/a dir/deep/big' 'things/a dir/deep/big'
    same "$(stat -c '%a %Y' back/file)" '640 981173106' 'mode and time'
    head -c 70000 out.tar >cut.tar
    cp_fails 1 'box: .*ends too soon' - box:/tmp <cut.tar
    cp_fails 1 'no tar archive' - box:/tmp <"$(command -v busybox)"
    cp_fails 1 'No such file' - box:/tmp/none <out.tar
}

test_owner_is_who_it_is_said_to_be() {
    box
    echo text >file
    nido cp --user worker file box:/tmp/mine
    same "$(in_box 'stat -c "%u:%g" /tmp/mine')" 1234:1235 'owner in the guest'
    cp_fails 1 'box: mine2: Permission denied|box: .*Permission denied' --user worker file box:/etc/mine2
    cp_fails 125 'there is no such user' --user nobody-here file box:/tmp
    in_box 'echo secret >/tmp/secret; chmod 600 /tmp/secret'
    cp_fails 1 'box: /tmp/secret: Permission denied' --user worker box:/tmp/secret .
    [[ ! -e secret ]] || fail 'a file that could not be read is there'
}

test_setuid_comes_when_asked_for() {
    box
    in_box 'echo x >/tmp/program; chmod 6755 /tmp/program'
    nido cp box:/tmp/program without
    nido cp --setuid box:/tmp/program with
    same "$(stat -c %a without with)" "$(printf '755\n6755')" 'modes'
}

test_links_of_the_guest_lead_nowhere() {
    box
    mkdir outside dst
    echo good >outside/file
    in_box 'mkdir /tmp/x; ln -s ../../outside /tmp/x/way; echo evil >/tmp/file'
    nido cp box:/tmp/x dst
    same "$(readlink dst/x/way)" ../../outside 'the link'
    in_box 'busybox rm -r /tmp/x; mkdir -p /tmp/x/way; echo evil >/tmp/x/way/file'
    cp_fails 1 'x/way: .*something else is in its place' box:/tmp/x dst
    same "$(cat outside/file)" good 'a file outside'
    # A link where a file is to be is replaced.
    ln -s outside/file link
    nido cp box:/tmp/file link
    same "$(cat outside/file) $(cat link)" 'good evil' 'the file behind the link, and the one in its place'
}

test_mistakes_of_copies_are_named() {
    box
    echo text >file
    cp_fails 125 'usage' file
    cp_fails 125 'neither .* in a machine' file other
    cp_fails 125 "no machine 'nonesuch' is running" file nonesuch:/tmp
    cp_fails 1 'none: No such file' none box:/tmp
    cp_fails 1 'box: /none: No such file' box:/none .
    cp_fails 1 'box: /none/x: No such file' file box:/none/x
    cp_fails 1 'nowhere/x: No such file' box:/etc/passwd nowhere/x
    cp_fails 1 'file: is no directory' box:/etc/passwd box:/etc/passwd file
    cp_fails 1 'box: /dev/null: neither a file' box:/dev/null .
    cp_fails 125 'one side is the host' box:/etc/passwd box:/tmp
    # A file of the host's with a colon.
    echo colon >a:b
    nido cp ./a:b box:/tmp
    same "$(in_box 'cat /tmp/a:b')" colon 'a file with a colon'
}

test_full_disk_is_told() {
    box
    mkdir small
    mount -t tmpfs -o size=1m tmpfs small
    in_box 'busybox head -c 3000000 /dev/urandom >/tmp/big'
    cp_fails 1 'big: No space left on device' box:/tmp/big small
    umount small
    random_file big 4
    in_box 'mkdir /tmp/small; busybox mount -t tmpfs -o size=1m tmpfs /tmp/small'
    cp_fails 1 'box: big: No space left on device' big box:/tmp/small
}

test_machine_that_ends_during_a_copy_is_told() {
    box
    tar -cf whole.tar -C tree/bin busybox
    nido cp - box:/tmp < <(head -c 100000 whole.tar && sleep 1000) 2>cp.err &
    local copying=$!
    until in_box 'test -s /tmp/busybox'; do pause 0.2; done
    kill -KILL $pid
    status=0
    wait $copying || status=$?
    expect_status 123
    grep -q "machine 'box' has ended" cp.err
}
