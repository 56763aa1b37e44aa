# SPDX-License-Identifier: Apache-2.0
# virtio-blk on raw images and block devices: what the guest was told is written is there, and what the host cannot do
# becomes an I/O error in the guest and nothing worse.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

mount_disk='mkdir -p /m; mount /dev/vda /m'

test_synced_data_survives_the_death_of_nido() {
    ext4_image disk.img 64M
    start_guest --disk disk.img -- "$mount_disk; head -c 8388608 /dev/urandom >/m/data; echo sum=\$(sha256sum </m/data); sync; echo synced; sleep 10000"
    wait_for synced
    kill -9 "$guest_pid"
    finish_guest
    local before
    before=$(value_of sum)
    guest --disk disk.img -- "$mount_disk; echo sum=\$(sha256sum </m/data)"
    expect_status 0
    same "$(value_of sum)" "$before" 'checksum after the crash'
    e2fsck -fn disk.img >fsck.log 2>&1 || fail "the file system is broken: $(cat fsck.log)"
}

test_what_the_guest_writes_is_in_the_file() {
    truncate -s 32M disk.img
    guest --disk disk.img -- 'head -c 16777216 /dev/urandom >/tmp/d; dd if=/tmp/d of=/dev/vda bs=1M seek=8 conv=fsync 2>/dev/null; echo sum=$(sha256sum </tmp/d)'
    expect_status 0
    same "$(dd if=disk.img bs=1M skip=8 count=16 status=none | sum_of -)" "$(value_of sum)" 'checksum of the file'
}

test_what_is_in_the_file_the_guest_reads() {
    random_file disk.img 32
    guest --disk disk.img -- 'echo sum=$(sha256sum </dev/vda)'
    expect_status 0
    same "$(value_of sum)" "$(sum_of disk.img)" 'checksum in the guest'
}

test_disk_has_the_size_of_its_file() {
    truncate -s $((12345 * 512)) disk.img
    guest --disk disk.img -- cat /sys/block/vda/size
    expect_status 0
    expect_out 12345
}

test_read_only_disk_refuses_writes() {
    random_file disk.img 8
    local before
    before=$(sum_of disk.img)
    chmod 444 disk.img
    guest --disk disk.img,ro -- 'echo ro=$(cat /sys/block/vda/ro); dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync || echo refused; echo sum=$(sha256sum </dev/vda)'
    expect_status 0
    same "$(value_of ro)" 1 'read-only flag'
    expect_out refused
    same "$(sum_of disk.img)" "$before" 'checksum of the file'
    same "$(value_of sum)" "$before" 'checksum in the guest'
}

test_serial_number_is_the_id() {
    truncate -s 1M a.img b.img
    guest --disk a.img,id=twenty-letters-longx --disk b.img -- 'cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo'
    expect_status 0
    expect_out twenty-letters-longx
    expect_out vdb
}

test_disks_keep_their_order() {
    local number flags=()
    for number in 1 2 3 4 5 6 7 8; do
        truncate -s ${number}M disk$number.img
        flags+=(--disk "disk$number.img")
    done
    guest "${flags[@]}" -- 'for d in a b c d e f g h; do echo $(($(cat /sys/block/vd$d/size) / 2048)); done'
    expect_status 0
    same "$(grep -x '[0-9]*' out | tr '\n' ' ')" '1 2 3 4 5 6 7 8 ' 'sizes in order'
}

test_a_disk_is_found_by_its_id_wherever_it_stands() {
    local find='for d in /sys/block/vd*; do [ "$(cat $d/serial)" = data ] && echo "data is ${d##*/}: $(head -n 1 /dev/${d##*/})"; done'
    truncate -s 1M root.img more.img data.img
    echo found | dd of=data.img conv=notrunc status=none
    guest --disk root.img,id=root --disk data.img,id=data -- "$find"
    expect_status 0
    expect_out 'data is vdb: found'
    guest --disk more.img,id=more --disk root.img,id=root,ro --disk data.img,id=data,ro -- "$find"
    expect_status 0
    expect_out 'data is vdc: found'
    guest --disk data.img,id=data,overlay --disk root.img,id=root -- "$find"
    expect_status 0
    expect_out 'data is vda: found'
    refused --kernel "$kernel" --disk data.img,id=data --disk root.img,id=data
    expect_err 'id=data is taken by data.img'
}

test_disk_has_the_queues_asked_for() {
    truncate -s 8M disk.img
    guest --cpus 2 --disk disk.img,queues=2 -- 'ls /sys/block/vda/mq | wc -l'
    expect_status 0
    expect_out 2
}

test_several_queues_at_once_mix_nothing_up() {
    truncate -s 64M disk.img
    guest --cpus 2 --mem 512M --disk disk.img,queues=2 -- 'for i in 0 1 2 3; do (head -c 16777216 /dev/urandom >/tmp/d$i;
        dd if=/tmp/d$i of=/dev/vda bs=64k seek=$((i * 256)) conv=notrunc,fsync 2>/dev/null) & done; wait
        for i in 0 1 2 3; do echo sum$i=$(sha256sum </tmp/d$i); done'
    expect_status 0
    local number
    for number in 0 1 2 3; do
        same "$(dd if=disk.img bs=16M skip=$number count=1 status=none | sum_of -)" "$(value_of sum$number)" "checksum of part $number"
    done
}

test_discard_gives_the_space_back() {
    random_file disk.img 32
    guest --disk disk.img -- 'cat /sys/block/vda/queue/discard_max_bytes; blkdiscard -o 4194304 -l 25165824 /dev/vda && echo discarded; sync'
    expect_status 0
    expect_out discarded
    local kib
    kib=$(du -k disk.img | cut -f1)
    ((kib < 12 * 1024)) || fail "the file still takes $kib KiB of 32 MiB"
}

test_write_zeroes_writes_zeroes_and_nothing_else() {
    random_file disk.img 16
    cp disk.img expected.img
    dd if=/dev/zero of=expected.img bs=1M seek=4 count=8 conv=notrunc status=none
    initrd_with blkdiscard
    guest --disk disk.img -- 'echo most=$(cat /sys/block/vda/queue/write_zeroes_max_bytes); /usr/sbin/blkdiscard -z -o 4194304 -l 8388608 /dev/vda && echo zeroed'
    expect_status 0
    expect_out zeroed
    (($(value_of most) > 0)) || fail 'the disk offers no write-zeroes'
    cmp disk.img expected.img || fail 'the file holds something else'
}

test_direct_disk_keeps_its_data() {
    truncate -s 32M disk.img
    guest --disk disk.img,direct -- 'head -c 16777216 /dev/urandom >/tmp/d; dd if=/tmp/d of=/dev/vda bs=1M conv=fsync 2>/dev/null; echo sum=$(sha256sum </tmp/d);
        dd if=/tmp/d of=/dev/vda bs=1536 seek=11000 count=3 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; echo back=$(head -c 16777216 /dev/vda | sha256sum)'
    expect_status 0
    same "$(head -c 16777216 disk.img | sum_of -)" "$(value_of sum)" 'checksum of the file'
}

test_image_in_use_is_refused() {
    truncate -s 8M disk.img
    start_guest --disk disk.img -- 'echo ready; sleep 10000'
    wait_for ready
    refused --kernel "$kernel" --initrd "$initrd" --disk disk.img
    expect_err disk.img
    kill -0 "$guest_pid" || fail 'the first machine did not survive'
    kill -9 "$guest_pid"
}

test_image_is_free_again_after_the_machine() {
    truncate -s 8M disk.img
    guest --disk disk.img -- true
    expect_status 0
    guest --disk disk.img -- true
    expect_status 0
}

test_read_only_image_can_be_shared() {
    random_file disk.img 2
    start_guest --disk disk.img,ro -- 'echo ready; sleep 10000'
    wait_for ready
    local first=$guest_pid
    mkdir second
    cd second || exit
    guest --disk ../disk.img,ro -- 'echo sum=$(sha256sum </dev/vda)'
    expect_status 0
    same "$(value_of sum)" "$(sum_of ../disk.img)" 'checksum in the second guest'
    kill -9 "$first"
}

test_full_host_disk_is_an_io_error_in_the_guest() {
    mkdir small
    mount -t tmpfs -o size=8M tmpfs small
    truncate -s 64M small/disk.img
    guest --disk small/disk.img -- 'dd if=/dev/zero of=/dev/vda bs=1M count=32 conv=fsync 2>&1 || echo failed; echo alive'
    expect_status 0
    expect_out failed
    expect_out alive
    same "$(grep -c . err)" "$(grep -c . err | awk '{ print ($1 > 20 ? 20 : $1) }')" 'lines of complaint, twenty at most'
}

test_image_truncated_underneath_is_an_io_error_in_the_guest() {
    random_file disk.img 32
    mkfifo keyboard
    exec 7<>keyboard
    start_guest --disk disk.img -- 'echo ready; read x; dd if=/dev/vda of=/dev/null bs=1M skip=16 count=4 2>&1 || echo failed; echo alive' <keyboard
    wait_for ready
    truncate -s 8M disk.img
    echo >&7
    finish_guest
    expect_status 0
    expect_out failed
    expect_out alive
}

test_block_device_is_a_disk() {
    random_file backing.img 16
    local device
    device=$(losetup -f --show backing.img)
    guest --disk "$device" -- 'echo sum=$(sha256sum </dev/vda); cat /sys/block/vda/size; echo written | dd of=/dev/vda bs=512 conv=fsync 2>/dev/null'
    local before=$status
    losetup -d "$device"
    status=$before
    expect_status 0
    expect_out 32768
    grep -aq '^written' <(head -c 512 backing.img) || fail 'the write did not reach the device'
}

test_file_system_on_a_disk_is_the_guests_root() {
    ext4_image root.img 32M
    mkdir mnt
    mount -o loop root.img mnt
    mkdir -p mnt/bin mnt/proc mnt/sys mnt/dev mnt/sbin
    cp /bin/busybox mnt/bin/busybox
    printf '#!/bin/busybox sh\n/bin/busybox echo root is $(/bin/busybox grep -o "^[^ ]* / ext4 r[ow]" /proc/mounts)\n/bin/busybox stty opost\n/bin/busybox poweroff -f\n' >mnt/sbin/init
    chmod +x mnt/sbin/init
    umount mnt
    base_cmdline="$base_cmdline root=/dev/vda rw"
    guest --disk root.img --
    expect_status 0
    expect_out 'root is /dev/vda / ext4 rw'
}

test_disk_can_be_read_by_many_at_once() {
    random_file disk.img 16
    guest --cpus 2 --disk disk.img -- 'for i in 1 2 3 4; do (dd if=/dev/vda bs=4k skip=$((i * 700)) count=512 2>/dev/null | sha256sum >/tmp/$i) & done; wait; for i in 1 2 3 4; do echo sum$i=$(cat /tmp/$i); done'
    expect_status 0
    local number
    for number in 1 2 3 4; do
        same "$(value_of sum$number)" "$(dd if=disk.img bs=4k skip=$((number * 700)) count=512 status=none | sum_of -)" "checksum $number"
    done
}
