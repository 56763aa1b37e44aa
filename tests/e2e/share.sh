# SPDX-License-Identifier: Apache-2.0
# virtio-fs: directories of the host, mounted with the guest's own driver. The host's end of most tests is the directory
# `shared` in the test's own; what the guest prints as KEY=VALUE is compared with what the host finds there.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

megabytes=${NIDO_E2E_SHARE_MIB:-32}
mount_it='mkdir -p /mnt; mount -t virtiofs share0 /mnt'

# share_guest COMMAND-TEXT: a guest that has `shared` on /mnt; $options are those of --share.
options=''
share_guest() {
    mkdir -p shared
    guest --mem 512M --share "$PWD/shared:/mnt$options" -- "$mount_it && $1"
}

test_guest_reads_what_the_host_has() {
    mkdir shared shared/deep
    random_file shared/data "$megabytes"
    echo 'good morning' >shared/deep/hello
    ln -s deep/hello shared/link
    : >shared/empty
    share_guest 'echo sum=$(sha256sum </mnt/data); echo text=$(cat /mnt/link | tr " " _); ls -R /mnt | tr "\n" ,; echo
        echo empty=$(wc -c </mnt/empty); mount | grep /mnt'
    expect_status 0
    same "$(value_of sum)" "$(sum_of shared/data)" 'checksum in the guest'
    same "$(value_of text)" good_morning
    same "$(value_of empty)" 0
    expect_out '/mnt:,data,deep,empty,link,,/mnt/deep:,hello,'
    grep -q '^share0 on /mnt type virtiofs (rw' out || fail 'the mount is not listed'
}

test_host_reads_what_the_guest_writes() {
    share_guest "head -c $((megabytes << 20)) /dev/urandom >/mnt/data; echo sum=\$(sha256sum </mnt/data)
        mkdir /mnt/a; echo one >/mnt/a/file; echo two >>/mnt/a/file; ln -s file /mnt/a/link; ln /mnt/a/file /mnt/a/twin
        mv /mnt/a /mnt/b; sync; stat -c 'links=%h' /mnt/b/file"
    expect_status 0
    same "$(value_of sum)" "$(sum_of shared/data)" 'checksum on the host'
    same "$(cat shared/b/link)" $'one\ntwo'
    same "$(stat -c %h shared/b/file)" 2 'links'
    same "$(value_of links)" 2
    [[ ! -e shared/a ]] || fail 'a is still there'
}

# The same questions to the bed's ext4 and to a share that lies on it.
test_share_answers_as_ext4_does() {
    mkdir shared
    initrd_with_python "$here/share_conform.py"
    /usr/bin/python3 -S -E "$here/share_conform.py" "$PWD/native"
    guest --mem 512M --share "$PWD/shared:/mnt" -- "$mount_it && /usr/bin/python3 -S -E /share_conform.py /mnt/asked"
    expect_status 0
    grep -qx '== all asked' native.answers || fail 'ext4 was not asked to the end'
    diff -a native.answers shared/asked.answers || fail 'ext4 (<) and the share (>) differ'
}

test_guest_runs_programs_and_maps_files() {
    mkdir shared
    cp "$(command -v busybox)" shared/
    share_guest 'mkdir /mnt/bin; cp /mnt/busybox /mnt/bin/; echo sum=$(/mnt/bin/busybox sha256sum </mnt/bin/busybox)'
    expect_status 0
    same "$(value_of sum)" "$(sum_of shared/busybox)"
}

test_read_only_share_stays_as_it_is() {
    mkdir shared
    echo text >shared/file
    options=,ro
    share_guest 'cat /mnt/file; echo x >/mnt/new; echo x >>/mnt/file; rm /mnt/file; mkdir /mnt/d; mv /mnt/file /mnt/f
        ln -s x /mnt/l; chmod 0 /mnt/file; touch /mnt/file; truncate -s 0 /mnt/file; echo files=$(ls /mnt | tr "\n" ,)'
    expect_status 0
    expect_out text
    same "$(grep -c 'Read-only file system' out)" 9 'refusals'
    same "$(value_of files)" file,
    same "$(cat shared/file)" text
}

# What is said to be seen within a second is looked for until it is.
test_what_the_host_changes_is_seen() {
    mkdir shared
    echo old >shared/file
    echo kept >shared/kept
    start_guest --mem 512M --share "$PWD/shared:/mnt" -- "$mount_it; cat /mnt/file /mnt/kept; ls /mnt >/dev/null; echo ready
        while [ ! -e /mnt/go ]; do sleep 0.1; done
        until [ \"\$(cat /mnt/file)\" = 'new and longer' ]; do sleep 0.1; done; cat /mnt/file
        while [ -e /mnt/kept ]; do sleep 0.1; done; echo gone; cat /mnt/deep/er"
    wait_for ready
    echo new and longer >shared/file
    rm shared/kept
    mkdir shared/deep
    echo made meanwhile >shared/deep/er
    touch shared/go
    finish_guest
    expect_status 0
    expect_out 'new and longer'
    expect_out gone
    expect_out 'made meanwhile'
}

# Containers stand on one, and its ways are its own.
test_an_overlay_of_the_host_is_shared_as_well() {
    mkdir shared lower upper work
    modprobe overlay
    echo below >lower/file
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work shared
    start_guest --mem 512M --share "$PWD/shared:/mnt" -- "$mount_it; cat /mnt/file; echo changed >>/mnt/file; exec 3>>/mnt/log
        echo one >&3; echo ready; while [ ! -e /mnt/go ]; do sleep 0.1; done; echo three >&3; mkdir /mnt/a; mv /mnt/file /mnt/a/; cat /mnt/a/file"
    wait_for ready
    echo 'two, from the host' >>shared/log
    touch shared/go
    finish_guest
    expect_status 0
    same "$(cat shared/log)" $'one\ntwo, from the host\nthree'
    same "$(cat upper/a/file)" $'below\nchanged'
    expect_out changed
    same "$(cat lower/file)" below
}

test_cache_always_and_none_work_too() {
    mkdir shared
    echo text >shared/file
    guest --mem 512M --share "$PWD/shared:/a,cache=always" --share "$PWD/shared:/n,cache=none,tag=now" -- 'mkdir /a /n
        mount -t virtiofs share0 /a; mount -t virtiofs now /n
        cat /a/file; cat /a/none; echo one >/n/file; cat /n/file; echo two >/n/file; cat /n/file; ls /a; cat /n/none'
    expect_status 0
    expect_out text
    expect_out one
    expect_out two
    same "$(grep -c 'No such file' out)" 2 'complaints'
}

test_one_file_is_alone_in_its_directory() {
    mkdir shared
    echo text >shared/one
    echo secret >shared/two
    guest --mem 512M --share "$PWD/shared/one:/mnt" -- "$mount_it; ls /mnt; cat /mnt/one; echo more >>/mnt/one
        cat /mnt/two; echo x >/mnt/new; rm /mnt/one; cat /mnt/../mnt/one
        touch /target; mount --bind /mnt/one /target; cat /target | wc -l"
    expect_status 0
    expect_out text
    expect_out 2
    ! grep -q secret out || fail 'the file beside it was shown'
    same "$(cat shared/one)" $'text\nmore'
    same "$(echo shared/*)" 'shared/one shared/two'
}

test_links_lead_nowhere_on_the_host() {
    mkdir shared
    echo 'of the host' >outside
    ln -s "$PWD/outside" shared/absolute
    ln -s ../outside shared/relative
    ln -s / shared/root
    share_guest "mkdir -p $PWD; echo 'of the guest' >$PWD/outside; cat /mnt/absolute; cat /mnt/relative; ls -d /mnt/root/init"
    expect_status 0
    expect_out 'of the guest'
    expect_out /mnt/root/init
    ! grep -q 'of the host' out || fail 'a link led out'
}

# As a user of the group kvm, and nothing more.
test_files_of_a_user_are_roots_in_the_guest() {
    mkdir shared
    echo mine >shared/mine
    echo others >shared/others
    chown 1000:1000 shared shared/mine
    chmod 711 . ..
    chgrp 107 /dev/kvm
    chmod 660 /dev/kvm
    pack_command "$mount_it"'; cd /mnt; stat -c %n=%u:%g mine others; echo more >>mine; echo x >new; mkdir dir; chmod 600 new
        echo x >>others; chown 5 new; chown 0:0 new && echo chown=fine; stat -c %n=%u:%g:%a new; mknod null c 1 3; mv new dir/'
    status=0
    setpriv --reuid 1000 --regid 1000 --groups 107 env HOME=/nowhere nido run --kernel "$kernel" \
        --initrd guest.img --cmdline "$base_cmdline" --mem 512M --share shared:/mnt </dev/null >out.raw 2>err || status=$?
    tr -d '\r' <out.raw >out
    expect_status 0
    expect_out mine=0:0
    expect_out others=65534:65534
    expect_out chown=fine
    expect_out new=0:0:600
    same "$(grep -c -e "others: Permission denied" -e "new: Operation not permitted" -e 'null: Operation not permitted' out)" 3 refusals
    same "$(stat -c %u:%a shared/dir/new)" 1000:600
    same "$(cat shared/mine)" $'mine\nmore'
    same "$(cat shared/others)" others
}

# Directories stay open, all of them.
test_too_many_directories_are_told_and_nothing_breaks() {
    mkdir shared
    (cd shared && seq -f dir%g 1 900 | xargs mkdir)
    ulimit -n 500
    share_guest 'set -- /mnt/*; echo names=$#; for i in $(seq 1 900); do [ -e /mnt/dir$i ] && echo; done >/tmp/found
        echo found=$(wc -l </tmp/found); ls /mnt/dir900
        umount /mnt; mount -t virtiofs share0 /mnt; echo good again >/mnt/dir900/file'
    expect_status 0
    same "$(value_of names)" 900
    (($(value_of found) > 200 && $(value_of found) < 250)) || fail "found $(value_of found) of 900"
    grep -q 'Too many open files in system' out || fail 'nobody was told'
    same "$(cat shared/dir900/file)" 'good again'
}

# NIDO_E2E_SHARE_FILES says how many.
test_a_directory_of_very_many_files_is_listed_and_changed() {
    local files=${NIDO_E2E_SHARE_FILES:-20000}
    mkdir shared
    mount -t tmpfs -o size=80%,nr_inodes=2M tmpfs shared
    mkdir shared/many
    (cd shared/many && seq -f '%0200g' 1 "$files" | xargs touch)
    # Names of 200 bytes: a request of the guest holds but a few of them.
    share_guest "echo names=\$(find /mnt/many -type f | wc -l); echo read >/mnt/many/\$(printf %0200d $((files / 2)))
        cd /mnt/many; for i in \$(seq 1 100); do rm \$(printf %0200d \$i) || echo failed; done; ls \$(printf %0200d 100)
        echo left=\$(find . -type f | wc -l)"
    expect_status 0
    same "$(value_of names)" "$files" 'names in the guest'
    same "$(value_of left)" $((files - 100)) 'names after some are gone'
    ! grep -q '^failed' out || fail 'a file could not be removed'
    grep -q '0100: No such file' out || fail 'a file that was removed is still there'
    same "$(find shared/many -type f | wc -l)" $((files - 100)) 'names on the host'
    same "$(cat shared/many/"$(printf %0200d $((files / 2)))")" read
}

# nido may open six hundred files here, in all.
test_guest_has_more_files_in_mind_than_nido_may_open() {
    mkdir -p shared/in shared/to
    for i in $(seq 1 2000); do echo "$i" >"shared/in/$i"; done
    ulimit -n 600
    share_guest 'cd /mnt/in; exec 5<7; ls -l | grep -c ^-r | sed s/^/listed=/
        echo sum=$(cat $(seq 1 2000) | sha256sum); ln 1 ../to/1; mv 2 ../to/2; mv 3 4
        chmod 600 $(seq 5 2000) || echo failed; rm 7 8; read text <&5; echo text=$text
        cat 1 ../to/1 ../to/2 4 5 | tr "\n" , | sed s/^/after=/; echo; cat 3 2 2>&1 | grep -c "No such" | sed s/^/gone=/'
    expect_status 0
    same "$(value_of listed)" 2000 'files in the guest'
    same "$(value_of sum)" "$(seq 1 2000 | sha256sum | cut -d " " -f 1)"
    same "$(value_of after)" 1,1,2,3,5,
    same "$(value_of text)" 7 'a file that was open when its name went'
    same "$(value_of gone)" 2
    ! grep -q '^failed' out || fail 'a mode could not be changed'
    same "$(find shared -type f -perm 600 | wc -l)" 1994 'files that were changed'
}

test_share_that_disappears_gives_errors() {
    mkdir shared
    echo text >shared/file
    start_guest --mem 512M --share "$PWD/shared:/mnt" -- "$mount_it; cat /mnt/file; echo ready; while ls /mnt/file; do sleep 0.2; done >/dev/null
        echo x >/mnt/new; mkdir /mnt/dir; ls -A /mnt; echo done"
    wait_for ready
    rm -r shared
    finish_guest
    expect_status 0
    expect_out 'done'
    grep -q 'new: nonexistent directory' out || grep -q 'new: No such file' out || fail 'no error of the write'
}

test_file_systems_of_the_host_stay_apart() {
    mkdir -p shared/inner
    mount -t tmpfs tmpfs shared/inner
    echo 'on tmpfs' >shared/inner/file
    share_guest 'cat /mnt/inner/file; [ "$(stat -c %d /mnt)" != "$(stat -c %d /mnt/inner)" ] && echo two devices
        mv /mnt/inner/file /mnt/ && echo moved; ln /mnt/file /mnt/inner/x'
    expect_status 0
    expect_out 'on tmpfs'
    expect_out 'two devices'
    expect_out moved
    grep -q 'ross-device link\|nvalid cross' out || fail 'a link across file systems'
    same "$(cat shared/file)" 'on tmpfs'
}

test_share_survives_a_reboot_of_the_guest() {
    mkdir shared
    guest --mem 512M --on-reboot restart --share "$PWD/shared:/mnt" -- "$mount_it; echo boot >>/mnt/log
        [ \$(wc -l </mnt/log) = 1 ] && { exec 3>/mnt/open; reboot -f; }; echo again"
    expect_status 0
    expect_out again
    same "$(grep -c boot shared/log)" 2
}

# The guest of the first boot can write to where the other share lies.
test_a_share_in_another_is_not_what_the_guest_made_of_it() {
    mkdir -p shared/inner
    echo text >shared/inner/file
    guest --mem 512M --on-reboot restart --share "$PWD/shared:/mnt" --share "$PWD/shared/inner:/in" -- "$mount_it
        mkdir /in; mount -t virtiofs share1 /in; cat /in/file; ls /in; mv /mnt/inner /mnt/was; ln -s / /mnt/inner; reboot -f"
    expect_status 125
    same "$(grep -cx text out)" 1 'boots'
    expect_err 'share .*/shared/inner: a guest can write to where it lies'
}

test_stats_tell_what_a_share_does() {
    mkdir shared
    start_guest --mem 512M --name sharing --share "$PWD/shared:/mnt" -- "$mount_it; head -c 1000000 /dev/zero >/mnt/f; echo ready; sleep 10000"
    wait_for ready
    nido stats sharing >counters
    nido stop --force sharing
    finish_guest
    grep -qE '^fs share0.written-bytes +1000000$' counters || fail "$(cat counters)"
    grep -qE '^fs share0.files-known +2$' counters || fail "$(cat counters)"
}

test_what_cannot_be_shared_is_refused() {
    refused --kernel "$kernel" --share "$PWD/none:/mnt"
    expect_err 'share .*/none: cannot open it: No such file'
    refused --kernel "$kernel" --share /dev/null:/mnt
    expect_err 'neither a directory nor a regular file'
    refused --kernel "$kernel" --share /tmp:/a --share /tmp:/b,tag=share0
    expect_err 'tag=share0 is taken by /tmp'
}
