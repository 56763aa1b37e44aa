# SPDX-License-Identifier: Apache-2.0
# What an x86-64 guest sees, beyond what all guests do. lib.sh says what each of these is for.
# shellcheck shell=bash disable=SC2016,SC2034

packed_kernel() { kernel=$NIDO_KERNEL; }

broken_kernels() {
    head -c 100000 "$NIDO_KERNEL" >short-bzimage
    head -c 4096 "$NIDO_VMLINUX" >short-elf
    head -c 100 "$NIDO_KERNEL" >stub
    cp "$NIDO_KERNEL" broken-payload
    dd if=noise of=broken-payload bs=1 seek=2000000 count=65536 conv=notrunc status=none
    echo short-bzimage short-elf stub broken-payload
}

ways_to_reboot='acpi kbd'
clock_source=kvm-clock
panic_status=123

# The bed's emulated CPU runs the guest's XSETBV without telling KVM, which would bring CPUID leaf 0xd up to date by it.
# The guest finds the old size there, and says so with a trace and a dump of the leaf. No real CPU does that.
without_the_beds_own_warning() {
    awk '/\[ cut here \]/ { held = ""; holding = 1 }
        holding { held = held $0 "\n"; if (/end trace/) { holding = 0; if (held !~ /XSAVE consistency problem/) printf "%s", held }; next }
        /CPUID\[0d, [0-9a-f]+\]:/ { next }
        { print }
        END { if (holding) printf "%s", held }'
}

# And that there is no PCI bus, which is so.
usual_warnings() {
    without_the_beds_own_warning |
        grep -Ev 'Spectre|Retbleed|RETBleed|mitigation|MDS|MMIO Stale Data|TAA|SRSO|Speculative|microcode|unknown parameters|random: crng' |
        grep -Ev '\] PCI: (Fatal: No config space access function found|System does not support PCI)$'
}

needs_a_panic_device() { :; }
needs_triple_faults() { :; }
needs_acpi() { :; }
needs_cpus() { :; }
needs_a_limit_of_cpus() { skip 'the interrupt controllers serve more CPUs than nido gives'; }
