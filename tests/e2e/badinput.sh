# SPDX-License-Identifier: Apache-2.0
# What nido is given and cannot use, it refuses before anything starts: exit status 125, nothing on standard output,
# and a sentence that names the flag or the file.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# refuses REGEX FLAG...
refuses() {
    local words=$1
    shift
    refused "$@"
    expect_err "$words"
    (($(wc -l <err) <= 3)) || fail "more than three lines for: $*: $(cat err)"
}

# with_kernel REGEX FLAG...: the same beside a good kernel and initrd.
with_kernel() {
    local words=$1
    shift
    refuses "$words" --kernel "$NIDO_VMLINUX" --initrd "$NIDO_INITRD" "$@"
}

test_flags_that_are_not_are_refused() {
    refuses 'kernel' --cpus 1
    with_kernel '--frobnicate' --frobnicate
    with_kernel '--frobnicate' --frobnicate=3
    with_kernel 'word' word
    with_kernel '-z' -z
    with_kernel '--initrd' --initrd
    with_kernel '--mem' --mem
    with_kernel '--kernel' --kernel other
}

test_numbers_out_of_range_are_refused() {
    local value
    for value in 0 65 -1 1.5 x 1x '' 4294967297 99999999999999999999; do with_kernel '--cpus' --cpus "$value"; done
    for value in 0 31M -1 x 12Q 1.5G 9999999G 18446744073709551615 18014398509481984K 33M1 '' 32769K; do with_kernel '--mem' --mem "$value"; done
    with_kernel '--grace' --grace x
    with_kernel '--grace' --grace -1
    with_kernel '--log' --log loud
    with_kernel '--console' --console screen
    with_kernel '--console' --console file=
}

test_disks_that_cannot_be_are_refused() {
    truncate -s 1M disk.img
    : >empty.img
    mkdir folder
    with_kernel 'nothere.img' --disk nothere.img
    with_kernel 'folder' --disk folder
    with_kernel 'empty.img' --disk empty.img
    with_kernel 'fast' --disk disk.img,fast
    with_kernel 'queues' --disk disk.img,queues=0
    with_kernel 'queues' --disk disk.img,queues=17
    with_kernel 'id' --disk disk.img,id=
    with_kernel 'id' --disk disk.img,id=123456789012345678901
    with_kernel 'format' --disk disk.img,format=vmdk
    with_kernel 'ro' --disk disk.img,ro=1
    with_kernel 'id' --disk disk.img,id=a --disk empty.img,id=a
    with_kernel 'disk.img' --disk disk.img --disk disk.img
    with_kernel '--disk' --disk ,ro
}

test_qcow2_given_as_raw_is_recognised() {
    qemu-img create -q -f qcow2 disk.qcow2 8M
    with_kernel 'qcow2' --disk disk.qcow2
}

test_networks_that_cannot_be_are_refused() {
    with_kernel 'mac' --net tap=tap0,mac=01:00:00:00:00:01
    with_kernel 'mac' --net tap=tap0,mac=zz
    with_kernel '--net' --net tap
    with_kernel '--net' --net tap=
    with_kernel '--net' --net carrier-pigeon
    with_kernel 'averyveryverylongname' --net tap=averyveryverylongname
    with_kernel 'fd' --net fd=77
    with_kernel 'fd' --net fd=x
    with_kernel '--net' --net none --net tap=tap0
    exec 5</dev/null
    with_kernel '--net|fd' --net fd=5
}

test_kernels_that_are_none_are_refused() {
    local file
    mkdir folder
    : >empty
    random_file noise 1
    for file in nothere folder empty noise $(broken_kernels) /bin/true /dev/null; do
        refuses "$file" --kernel "$file" --initrd "$NIDO_INITRD"
    done
    refuses nothere --kernel "$NIDO_VMLINUX" --initrd nothere
    refuses folder --kernel "$NIDO_VMLINUX" --initrd folder
}

test_too_little_memory_is_said_before_the_guest_starts() {
    truncate -s 16M large.img
    refuses 'say --mem' --kernel "$NIDO_VMLINUX" --initrd large.img --mem 32M
    truncate -s 300M large.img
    refuses 'large.img|initrd' --kernel "$NIDO_VMLINUX" --initrd large.img --mem 256M
}

test_command_line_too_long_for_the_kernel_is_refused() {
    with_kernel 'cmdline' --cmdline "$(head -c 5000 /dev/zero | tr '\0' x)"
}

test_help_and_version_are_there() {
    nido help >out
    nido help run >out
    grep -q -- --kernel out || fail 'help run does not name --kernel'
    nido version | grep -q '^nido [0-9]' || fail 'no version'
    status=0
    nido frobnicate >out 2>err || status=$?
    expect_status 125
    expect_err frobnicate
    status=0
    nido >out 2>err || status=$?
    expect_status 125
}

test_missing_kvm_is_named() {
    # A file that is no KVM, in this test's own mount namespace.
    mount --bind /dev/null /dev/kvm
    refuses '/dev/kvm' --kernel "$NIDO_VMLINUX" --initrd "$NIDO_INITRD"
}
