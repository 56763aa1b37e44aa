# SPDX-License-Identifier: Apache-2.0
# Stock Debian kernels boot, in every form they come in, and see the machine that was asked for.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

kernel_version() {
    local name
    name=$(basename "$NIDO_KERNEL")
    echo "${name#vmlinuz-}"
}

test_guest_prints_uname() {
    guest -- uname -r
    expect_status 0
    expect_out "$(kernel_version)"
}

test_packed_kernel_boots() {
    packed_kernel
    guest -- uname -r
    expect_status 0
    expect_out "$(kernel_version)"
}

test_default_command_line_boots() {
    status=0
    nido run --kernel "$NIDO_VMLINUX" --initrd "$NIDO_INITRD_PLAIN" </dev/null >out 2>err || status=$?
    expect_status 0
    grep -q '^guest is up' out || fail 'the guest did not reach its init'
}

test_two_cpus_come_up() {
    guest --cpus 2 -- nproc
    expect_status 0
    expect_out 2
}

test_four_cpus_boot_from_a_packed_kernel() {
    packed_kernel
    guest --cpus 4 -- nproc
    expect_status 0
    expect_out 4
}

test_sixteen_cpus_come_up() {
    needs_cpus 16
    guest --cpus 16 --mem 512M -- nproc
    expect_status 0
    expect_out 16
}

test_more_cpus_than_the_interrupt_controller_serves_are_refused() {
    needs_a_limit_of_cpus
    guest --cpus 8 --mem 512M -- nproc
    expect_status 0
    expect_out 8
    refused --kernel "$kernel" --cpus 9
    expect_err "--cpus 9: this host's interrupt controller is a GICv2, which serves 8"
}

test_guest_sees_its_memory() {
    guest --mem 512M -- 'read x kib y </proc/meminfo; echo kib=$kib'
    expect_status 0
    local kib
    kib=$(value_of kib)
    ((kib > 440000 && kib < 524288)) || fail "the guest sees $kib KiB of 512 MiB"
}

test_guest_sees_memory_above_four_gib() {
    (($(awk '/MemAvailable/ { print $2 }' /proc/meminfo) > 5600000)) || skip 'the bed has not the memory; give it --mem 8G'
    guest --mem 5G -- 'read x kib y </proc/meminfo; echo kib=$kib; grep -c "System RAM" /proc/iomem;
        dd if=/dev/zero of=/dev/null bs=1M count=1; dmesg | grep -c "0x0000000100000000-.*usable"'
    expect_status 0
    local kib
    kib=$(value_of kib)
    ((kib > 4900000 && kib < 5242880)) || fail "the guest sees $kib KiB of 5 GiB"
}

test_memory_of_a_big_guest_holds_what_is_written() {
    (($(awk '/MemAvailable/ { print $2 }' /proc/meminfo) > 5600000)) || skip 'the bed has not the memory; give it --mem 8G'
    # Filled from the top: the second half of this lies above 4 GiB.
    guest --mem 5G -- 'mkdir /m; mount -t tmpfs -o size=4G tmpfs /m; seq 1 1000000 >/m/a; sha256sum </m/a | cut -c1-64'
    expect_status 0
    expect_out "$(seq 1 1000000 | sha256sum | cut -c1-64)"
}

test_panic_for_want_of_an_init_ends_the_machine() {
    base_cmdline="console=$NIDO_CONSOLE quiet panic=-1 cryptomgr.notests rdinit=/nothing root=/dev/nothing"
    guest --
    [[ $status == 0 || $status == 123 ]] || fail "exit status $status"
    grep -q 'Kernel panic' out || fail 'no panic on the console'
}

test_guest_clock_is_the_hosts() {
    local now
    now=$(date +%s)
    guest -- 'echo rtc=$(cat /sys/class/rtc/rtc0/since_epoch); echo source=$(cat /sys/devices/system/clocksource/*/current_clocksource)'
    expect_status 0
    local rtc
    rtc=$(value_of rtc)
    # Not a measurement: a clock that is wrong is wrong by hours or years.
    ((rtc >= now - 5 && rtc < now + 3600)) || fail "the guest's clock says $rtc, the host's said $now"
    same "$(value_of source)" "$clock_source" 'clock source'
}

test_guest_kernel_has_nothing_to_warn_of() {
    truncate -s 16M disk.img
    tap tap0
    guest --cpus 2 --disk disk.img --net tap=tap0 -- 'dmesg -r | grep "^<[0-4]>"; echo searched'
    expect_status 0
    expect_out searched
    usual_warnings <out | grep '^<' >warnings || true
    [[ ! -s warnings ]] || fail "the guest's kernel warns: $(cat warnings)"
}

test_hardware_random_numbers_are_there() {
    guest -- 'echo source=$(cat /sys/class/misc/hw_random/rng_current); echo bytes=$(head -c 4096 /dev/hwrng | wc -c);
        head -c 64 /dev/hwrng | sha256sum; head -c 64 /dev/hwrng | sha256sum'
    expect_status 0
    [[ $(value_of source) == virtio_rng* ]] || fail "the guest's source of randomness is $(value_of source)"
    same "$(value_of bytes)" 4096 'bytes read'
    same "$(grep -c -- ' -$' out)" "$(grep -- ' -$' out | sort -u | wc -l)" 'different random numbers'
}

test_acpi_tables_are_well_formed() {
    needs_acpi
    mkdir tables
    guest --cpus 2 --dump-acpi tables -- true
    expect_status 0
    local table count=0
    for table in tables/*; do
        # The RSDP is a pointer and no table; iasl does not read it alone.
        [[ $table != */rsdp.dat ]] || continue
        iasl -d "$table" >iasl.log 2>&1 || fail "$table: $(tail -n 5 iasl.log)"
        ! grep -qiE 'error|invalid|checksum.*should' iasl.log || fail "$table: $(grep -iE 'error|invalid|checksum' iasl.log)"
        count=$((count + 1))
    done
    ((count >= 3)) || fail "only $count tables"
    local source
    source=$(grep -l DefinitionBlock tables/*.dsl | head -n 1)
    iasl -p rebuilt "$source" >iasl.log 2>&1 || fail "the DSDT does not compile again: $(tail -n 20 iasl.log)"
    grep -q '0 Errors' iasl.log || fail "$(tail -n 5 iasl.log)"
}

test_doctor_says_that_linux_runs_here() {
    nido doctor >out || fail "nido doctor: exit status $?: $(cat out)"
    grep -q 'can run here' out || fail "nido doctor does not say so: $(cat out)"
}

# answering_no NTH COMMAND...: its NTH question to KVM is answered with no; leaves the question in $lacking.
answering_no() {
    status=0
    strace -f -o log -P /dev/kvm -e trace=ioctl -e "inject=ioctl:retval=0:when=$1" "${@:2}" </dev/null >out 2>err || status=$?
    lacking=$(sed -n 's/.*KVM_CHECK_EXTENSION, \(KVM_CAP_[A-Z0-9_]*\)) = 0 (INJECTED)$/\1/p' log)
    [[ $lacking ]] || fail "question $1 is for no capability: $(cat log)"
}

test_capability_that_kvm_lacks_is_named() {
    local nth lacking
    # The first question is for the version of its interface.
    for nth in {2..8}; do
        answering_no "$nth" nido run --kernel "$kernel"
        expect_status 125
        expect_err "^nido: /dev/kvm: the host's KVM lacks $lacking \("
    done
    answering_no 2 nido doctor
    expect_status 125
    grep -q "/dev/kvm: the host's KVM lacks $lacking" out || fail "nido doctor does not name $lacking: $(cat out)"
}
