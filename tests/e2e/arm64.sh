# SPDX-License-Identifier: Apache-2.0
# What only arm64 has: its kernels' wrappings, its device tree, its ways to crash, its clock.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

needs_arm64() { [[ $NIDO_ARCH == aarch64 ]] || skip 'for arm64'; }

# le NUMBER BYTES: the number, little-endian.
le() {
    local number=$1 count=$2 octal
    while ((count--)); do
        printf -v octal '%03o' $((number & 255))
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\$octal"
        number=$((number >> 8))
    done
}

zeroes() { head -c "$1" /dev/zero; }

# image INSTRUCTION...: an arm64 Image of these words.
image() {
    local word
    le 0x14000010 4 # b over the header
    le 0 12
    le 0x1000 8 # its size in memory
    le 0xa 8
    zeroes 24
    printf 'ARM\144'
    zeroes 4
    for word; do le "$word" 4; done
}

test_zboot_program_boots() {
    needs_arm64
    gzip -1 <"$NIDO_KERNEL" >packed
    {
        printf 'MZ\0\0zimg'
        le 64 4
        le "$(stat -c %s packed)" 4
        zeroes 8
        printf 'gzip'
        zeroes 36
        cat packed
    } >vmlinuz.efi
    kernel=$PWD/vmlinuz.efi
    guest -- 'echo hello from $(uname -m)'
    expect_status 0
    expect_out 'hello from aarch64'
}

test_guest_kernel_lies_where_nobody_knows() {
    needs_arm64
    guest -- 'echo text=$(grep " _stext$" /proc/kallsyms | cut -d" " -f1)'
    expect_status 0
    local first
    first=$(value_of text)
    [[ $first =~ ^ffff[0-9a-f]{12}$ ]] || fail "the kernel's address is '$first'"
    guest -- 'echo text=$(grep " _stext$" /proc/kallsyms | cut -d" " -f1)'
    expect_status 0
    [[ $(value_of text) != "$first" ]] || fail "the kernel lies at $first twice"
}

test_device_tree_is_well_formed() {
    needs_arm64
    truncate -s 1M disk.img
    tap tap0
    guest --cpus 2 --disk disk.img --net tap=tap0 --dump-dtb tree.dtb -- true
    expect_status 0
    dtc -I dtb -O dts -o tree.dts tree.dtb 2>complaints || fail "dtc cannot read it: $(cat complaints)"
    [[ ! -s complaints ]] || fail "dtc complains: $(cat complaints)"
    same "$(grep -c 'compatible = "virtio,mmio"' tree.dts)" 4 'virtio devices: disk, network card, random numbers, power button'
}

test_device_tree_says_what_the_flags_say() {
    needs_arm64
    guest --cpus 2 --mem 300M --dump-dtb tree.dtb -- 'cd /proc/device-tree; echo cpus=$(ls -d cpus/cpu@* | wc -l);
        echo bytes=$(od -An -tx1 memory@40000000/reg | tr -d " "); tr "\0" "\n" <chosen/bootargs; grep System.RAM /proc/iomem'
    expect_status 0
    same "$(value_of cpus)" 2 'CPUs'
    same "$(value_of bytes)" "00000000400000000000000012c00000" 'the memory node'
    expect_out "$base_cmdline"
    same "$(od -An -tx1 -N4 tree.dtb | tr -d ' ')" d00dfeed 'the first word of the file'
    grep -qaF "$base_cmdline" tree.dtb || fail 'no command line in the file'
}

test_power_button_is_a_key() {
    needs_arm64
    guest -- 'cat /sys/class/input/input*/name; cat /sys/class/input/input*/capabilities/key'
    expect_status 0
    expect_out 'nido power button'
    expect_out '10000000000000 0'
}

test_access_that_kvm_cannot_decode_is_a_crash() {
    needs_arm64
    image 0xd2800062 0xa9400440 0x14000000 >wild # mov x2, #3; ldp x0, x1, [x2]; b .
    status=0
    nido run --kernel wild --mem 32M --result result.json </dev/null >out 2>err || status=$?
    expect_status 123
    grep -q 'KVM_EXIT_ARM_NISV' err || fail "the report does not name the exit: $(cat err)"
    grep -q 'x2 *0000000000000003' err || fail "the report has no x2: $(cat err)"
    grep -q 'instruction: a9400440' err || fail "the report has not the instruction: $(cat err)"
}

# No time is judged here, but that of the pause against that of the guest.
test_clock_of_the_guest_stands_still_in_a_pause() {
    needs_arm64
    local since elapsed pause_s=8
    mkfifo keys
    exec 5<>keys
    since=$(date +%s)
    start_guest --name sleeper -- 'echo ready; read line; read up idle </proc/uptime; echo up=${up%.*}' <keys
    wait_for ready
    nido pause sleeper
    sleep "$pause_s"
    nido resume sleeper
    echo >&5
    finish_guest
    elapsed=$(($(date +%s) - since))
    expect_status 0
    (($(value_of up) <= elapsed - pause_s + 1)) ||
        fail "the guest counted $(value_of up) s of $elapsed, though it was paused for $pause_s"
}

# features FILE: those of the first CPU that concern what KVM gives its guests only when it is asked.
features() { sed -n '/^Features/{p;q}' "$1" | tr -s ' \t' '\n' | grep -xE 'sve|paca|pacg' | tr '\n' ' '; }

test_guest_has_the_vectors_and_pointer_authentication_of_the_host() {
    needs_arm64
    local cpus
    [[ $(features /proc/cpuinfo) ]] || skip 'the host has neither; a bed has them with --cpu max,pauth-impdef=on'
    for cpus in 1 2; do
        guest --cpus "$cpus" -- 'grep Features /proc/cpuinfo'
        expect_status 0
        same "$(grep -c Features out)" "$cpus" 'CPUs'
        same "$(features out)" "$(features /proc/cpuinfo)" 'the features'
    done
}

test_host_without_an_interrupt_controller_is_told() {
    needs_arm64
    status=0
    # Of the new VM's calls, those that ask for the one kind and for the other.
    strace -f -o log -P anon_inode:kvm-vm -e trace=ioctl -e inject=ioctl:error=ENODEV:when=2..3 \
        nido run --kernel "$kernel" </dev/null >out 2>err || status=$?
    same "$(grep -c 'KVM_CREATE_DEVICE.*(INJECTED)' log)" 2 'controllers that were refused'
    expect_status 125
    expect_err "^nido: /dev/kvm: this host's KVM has no interrupt controller for guests, neither GICv3 nor GICv2; "
}
