# SPDX-License-Identifier: Apache-2.0
# qcow2 images and overlays: what QEMU's tools make, nido reads; what nido leaves, however it ends, they find in order.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034
patience=900

# A guest that fills and empties an ext4, and says after each sync which file is safe. First it says what it finds.
workload='mkdir -p /m; mount /dev/vda /m && cd /m || exit
for sum in *.sum; do [ -e "$sum" ] || continue; sha256sum -cs "$sum" && echo "whole ${sum%.sum}" || echo "broken ${sum%.sum}"; done
for sum in $(ls *.sum | tail -n +6); do echo "drop ${sum%.sum}"; rm "$sum" "${sum%.sum}"; done
echo ready
n=0
while :; do
    n=$((n + 1)); file=$(cut -c 1-8 /proc/sys/kernel/random/uuid)
    head -c $(($(od -An -N2 -tu2 /dev/urandom) * 8)) /dev/urandom >"$file"; sha256sum "$file" >"$file.sum"; sync
    echo "safe $file"
    head -c 300000 /dev/urandom >unsafe$((n % 5))
    [ $((n % 3)) != 0 ] || { old=$(ls *.sum | head -n 1); echo "drop ${old%.sum}"; rm "$old" "${old%.sum}"; fstrim /m 2>/dev/null; }
done'

# kill_rounds IMAGE ROUNDS NIDO-FLAG...: kills as many machines, and looks after each.
kill_rounds() {
    local image=$1 rounds=$2 round
    shift 2
    : >safe
    for ((round = 1; round <= rounds; round++)); do
        start_guest "$@" -- "$workload"
        wait_for ready
        sleep "$((RANDOM % 2)).$((RANDOM % 1000))"
        kill -9 "$guest_pid"
        finish_guest
        qemu-img check "$image" >check.log 2>&1 || fail "round $round: qemu-img check: $(cat check.log)"
        expect_safe_files "$round"
        # What this round has added and taken away. A line that the kill cut off says nothing.
        sed -n 's/^safe \([0-9a-f]\{8\}\)$/\1/p' out >>safe
        sed -n 's/^drop \([0-9a-f]\{8\}\)$/\1/p' out >dropped
        grep -vxFf dropped safe >left || true
        mv left safe
    done
    [[ -s safe ]] || fail 'the guest never got as far as a sync'
}

expect_safe_files() {
    local file
    if grep '^broken' out; then fail "round $1: files that were synced are damaged"; fi
    while read -r file; do
        grep -qxF "whole $file" out || fail "round $1: the synced file $file is gone"
    done <safe
}

# Taken apart by QEMU's tools, the image is the disk that the guest sees.
expect_sound() {
    qemu-img convert -O raw "$1" copy.raw
    qemu-img compare "$1" copy.raw >/dev/null || fail 'qemu-img compare: the copy differs'
    e2fsck -fp copy.raw >fsck.log 2>&1 || (($? == 1)) || fail "the file system is broken: $(cat fsck.log)"
}

# ext4_qcow2 FILE SIZE [OPTIONS]
ext4_qcow2() {
    ext4_image plain.raw "$2"
    qemu-img convert -O qcow2 ${3:+-o "$3"} plain.raw "$1"
}

# NIDO_E2E_KILLS: how many of each kind of image.
rounds=${NIDO_E2E_KILLS:-4}

test_an_image_is_in_order_after_any_kill() {
    ext4_qcow2 disk.qcow2 64M
    kill_rounds disk.qcow2 "$rounds" --disk disk.qcow2,format=qcow2
    expect_sound disk.qcow2
}

test_an_image_of_small_clusters_is_in_order_after_any_kill() {
    ext4_qcow2 disk.qcow2 64M cluster_size=4k,lazy_refcounts=on
    kill_rounds disk.qcow2 "$rounds" --disk disk.qcow2,format=qcow2
    expect_sound disk.qcow2
}

test_an_overlay_is_in_order_after_any_kill() {
    ext4_image base.raw 64M
    qemu-img convert -c -O qcow2 base.raw base.qcow2
    local before
    before=$(sum_of base.qcow2)
    kill_rounds top.qcow2 "$rounds" --disk base.qcow2,format=qcow2,overlay=top.qcow2
    expect_sound top.qcow2
    same "$(sum_of base.qcow2)" "$before" 'checksum of the base'
}

test_compressed_images_of_both_kinds_are_read() {
    random_file disk.raw 4
    seq 1000000 >>disk.raw
    truncate -s 12M disk.raw
    local kind
    for kind in zlib zstd; do
        qemu-img convert -c -O qcow2 -o compression_type=$kind disk.raw $kind.qcow2
    done
    guest --disk zlib.qcow2,format=qcow2,ro --disk zstd.qcow2,format=qcow2 -- \
        'echo a=$(sha256sum </dev/vda); echo b=$(sha256sum </dev/vdb)'
    expect_status 0
    same "$(value_of a)" "$(sum_of disk.raw)" 'checksum of the zlib image'
    same "$(value_of b)" "$(sum_of disk.raw)" 'checksum of the zstd image'
}

test_what_the_guest_writes_qemu_reads() {
    qemu-img create -q -f qcow2 -o lazy_refcounts=on disk.qcow2 64M
    guest --disk disk.qcow2,format=qcow2 -- 'head -c 16777216 /dev/urandom >/tmp/d; dd if=/tmp/d of=/dev/vda bs=1M seek=8 conv=fsync 2>/dev/null; echo sum=$(sha256sum </tmp/d)'
    expect_status 0
    qemu-img check -q disk.qcow2
    qemu-img convert -O raw disk.qcow2 copy.raw
    same "$(dd if=copy.raw bs=1M skip=8 count=16 status=none | sum_of -)" "$(value_of sum)" 'checksum'
}

test_overlays_that_are_thrown_away_leave_the_disk_alone() {
    ext4_image disk.img 32M
    local before files number
    before=$(sum_of disk.img)
    files=$(ls -A)
    for number in 1 2; do
        guest --overlay disk.img -- 'mkdir -p /m; mount /dev/vda /m; ls /m; echo mine >/m/file; sync; cat /m/file'
        expect_status 0
        expect_out mine
        if grep -x file out; then fail 'the second machine sees what the first has written'; fi
    done
    same "$(sum_of disk.img)" "$before" 'checksum of the disk'
    rm -f out out.raw err guest.img command
    same "$(ls -A)" "$files" 'files'
}

test_an_overlay_that_is_kept_goes_on() {
    ext4_image disk.img 32M
    local before
    before=$(sum_of disk.img)
    guest --disk disk.img,overlay=top.qcow2 -- 'mkdir -p /m; mount /dev/vda /m; echo mine >/m/file; umount /m'
    expect_status 0
    guest --disk disk.img,overlay=top.qcow2 -- 'mkdir -p /m; mount /dev/vda /m; cat /m/file'
    expect_status 0
    expect_out mine
    same "$(sum_of disk.img)" "$before" 'checksum of the disk'
    qemu-img check -q top.qcow2
}

test_a_full_host_costs_new_writes_only() {
    mkdir small
    mount -t tmpfs -o size=24M tmpfs small
    qemu-img create -q -f qcow2 small/disk.qcow2 256M
    guest --disk small/disk.qcow2,format=qcow2 -- 'head -c 8388608 /dev/urandom >/tmp/d; dd if=/tmp/d of=/dev/vda bs=1M conv=fsync 2>/dev/null && echo sum=$(sha256sum </tmp/d)
        dd if=/dev/urandom of=/dev/vda bs=1M seek=64 count=32 conv=fsync 2>/dev/null || echo refused
        echo 3 >/proc/sys/vm/drop_caches; echo back=$(head -c 8388608 /dev/vda | sha256sum)'
    expect_status 0
    expect_out refused
    expect_err 'disk small/disk.qcow2.*No space'
    same "$(value_of back)" "$(value_of sum)" 'checksum in the guest'
    qemu-img check -q small/disk.qcow2
    qemu-img convert -O raw small/disk.qcow2 copy.raw
    same "$(head -c 8388608 copy.raw | sum_of -)" "$(value_of sum)" 'checksum of the image'
}

test_a_disk_that_is_qcow2_is_not_taken_for_raw() {
    qemu-img create -q -f qcow2 disk.qcow2 16M
    refused --kernel "$kernel" --disk disk.qcow2
    expect_err 'say format=qcow2'
    head -c 1M /dev/zero >disk.img
    refused --kernel "$kernel" --disk disk.img,format=qcow2
    expect_err 'this is not a qcow2 image'
}
