# SPDX-License-Identifier: Apache-2.0
# Which images the bed is made of, and where they are cached. Sourced by scripts/bed and scripts/demo, after
# scripts/archive.sh.
# shellcheck shell=bash disable=SC2154 # top comes from scripts/lib.sh
#
# Two layers, each keyed by everything it is made from: the Debian root with its kernel (a minute to build), and the
# initrds (a second), so that work on an init program does not build a Debian again.

# bed_images ARCH: sets root_dir (root.ext4, vmlinuz, for x86_64 vmlinux, modules/, kernel-version, busybox, libraries) and
# boot_dir (bed.img, guest.img, plain.img).
bed_images() {
    local arch=$1 bed=$top/tests/bed
    bed_kernel_package=${NIDO_BED_KERNEL:-linux-image-cloud-$(debian_arch "$arch")}
    root_dir=$(cache_dir)/root-$arch-$(key_of "$bed_kernel_package" "$bed/packages" "$bed/rootfs" "$bed/vmlinux" \
        "$top/scripts/archive.sh" /etc/os-release)
    [[ -d $root_dir ]] || say "building the bed's Debian root, once (about a minute)"
    cached "$root_dir" build_root "$arch"
    boot_dir=$(cache_dir)/boot-$arch-$(key_of "$root_dir" "$bed/images.sh" "$bed/initrd" "$bed/bed-init" "$bed/guest-init" "$bed/plain-init")
    cached "$boot_dir" build_boot "$arch"
}

build_root() {
    local packages
    mapfile -t packages < <(sed 's/#.*//; /^[[:space:]]*$/d' "$top/tests/bed/packages")
    "$top/tests/bed/rootfs" --arch "$1" --kernel "$bed_kernel_package" --size 8G "$2/root.ext4" "${packages[@]}"
}

# demo_image ARCH: sets demo_dir (root.ext4): the Debian that scripts/demo boots in nido.
demo_image() {
    local bed=$top/tests/bed
    demo_dir=$(cache_dir)/demo-$1-$(key_of "$bed/rootfs" "$bed/demo-init" "$bed/images.sh" "$top/scripts/archive.sh" /etc/os-release)
    [[ -d $demo_dir ]] || say "building the demo's Debian root disk, once (half a minute)"
    cached "$demo_dir" build_demo "$1"
}

build_demo() {
    local overlay=$2/overlay
    install -D -m 755 "$top/tests/bed/demo-init" "$overlay/usr/local/sbin/demo-init"
    "$top/tests/bed/rootfs" --arch "$1" --overlay "$overlay" --size 1G "$2/root.ext4" \
        iproute2 iputils-ping busybox-static util-linux procps login || return
    rm -r "$overlay"
}

# The drivers that guests in our tests can ask for. ext4 and the serial port are built into Debian's cloud kernels, and the
# one for aarch64 has no driver for a panic device.
guest_modules=(virtio_mmio virtio_pci virtio_blk virtio_net virtio_console virtio-rng virtio_balloon
    vmw_vsock_virtio_transport virtiofs evdev)
# shellcheck disable=SC2034 # build_boot takes the one of its architecture
guest_modules_x86_64=(button pvpanic-mmio)
# shellcheck disable=SC2034
guest_modules_aarch64=(virtio_input)
bed_modules=(virtio_pci virtio_blk virtio_console)

# build_boot ARCH DIR
build_boot() {
    local pack=("$top/tests/bed/initrd" --busybox "$root_dir/busybox")
    local tree=(--modules "$root_dir/modules" --version "$(<"$root_dir/kernel-version")")
    local -n own=guest_modules_$1
    local modules=("${guest_modules[@]}" "${own[@]}")
    "${pack[@]}" "${tree[@]}" --init "$top/tests/bed/bed-init" "$2/bed.img" "${bed_modules[@]}" &&
        "${pack[@]}" "${tree[@]}" --init "$top/tests/bed/guest-init" "$2/guest.img" "${modules[@]}" &&
        "${pack[@]}" --applets 'sh mount reboot' --init "$top/tests/bed/plain-init" "$2/plain.img"
}

# toolchain_image ARCH: sets toolchain_dir (root.ext4): a Debian that can build nido and run its unit tests.
toolchain_image() {
    local packages
    mapfile -t packages < <("$top/scripts/setup" --list | grep -e '-dev$')
    packages+=(gcc meson ninja-build pkg-config python3-minimal)
    toolchain_dir=$(cache_dir)/toolchain-$1-$(key_of "${packages[*]}" "$top/tests/bed/rootfs" "$top/scripts/archive.sh" /etc/os-release)
    [[ -d $toolchain_dir ]] || say "building a Debian with a compiler, once (a minute)"
    cached "$toolchain_dir" build_toolchain "$1" "${packages[@]}"
}

# build_toolchain ARCH PACKAGE... DIR
build_toolchain() { "$top/tests/bed/rootfs" --arch "$1" --size 2G "${!#}/root.ext4" "${@:2:$#-2}"; }
