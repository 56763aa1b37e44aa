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
