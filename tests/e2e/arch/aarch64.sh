# SPDX-License-Identifier: Apache-2.0
# What an arm64 guest sees, beyond what all guests do. lib.sh says what each of these is for.
# shellcheck shell=bash disable=SC2016,SC2034

packed_kernel() {
    gzip -1 <"$NIDO_KERNEL" >Image.gz
    kernel=$PWD/Image.gz
}

# An Image says how much memory it takes, and not how long its file is: what is cut short beyond the header looks whole.
broken_kernels() {
    local kernel
    packed_kernel
    head -c 100000 Image.gz >short-gz
    cp Image.gz broken-gz
    dd if=noise of=broken-gz bs=1 seek=2000000 count=65536 conv=notrunc status=none
    head -c 60 "$NIDO_KERNEL" >stub
    echo short-gz broken-gz stub
}

# There is one, PSCI.
ways_to_reboot='cold warm'
clock_source=arch_sys_counter
# Nobody tells nido: it sees panic=-1 reboot.
panic_status=0

# hrtimer: that a busy host kept the emulated CPU from running.
usual_warnings() { grep -Ev 'Spectre|mitigation|hrtimer: interrupt took|unknown parameters|random: crng'; }

needs_a_panic_device() { skip "Debian's cloud kernel for arm64 has no driver for a panic device"; }
needs_triple_faults() { skip 'there is no triple fault here'; }
needs_acpi() { skip 'no ACPI tables here'; }
needs_cpus() { (($1 <= 8)) || [[ $NIDO_GIC != 2 ]] || skip 'a GICv2 serves eight CPUs at most'; }
needs_a_limit_of_cpus() { [[ $NIDO_GIC == 2 ]] || skip 'a GICv3 serves more CPUs than nido gives'; }
