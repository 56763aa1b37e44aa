# SPDX-License-Identifier: Apache-2.0
# The Debian of `scripts/demo --systemd`: systemd, udev, sshd and Debian's own kernel with the initramfs that
# initramfs-tools makes for it. Nothing in there knows of nido. Sourced by scripts/demo.
# shellcheck shell=bash disable=SC2154 # top comes from scripts/lib.sh

systemd_packages=(systemd systemd-sysv systemd-resolved dbus libpam-systemd udev openssh-server iproute2 procps
    initramfs-tools zstd "linux-image-cloud-$(debian_arch "$(this_arch)")")

# Sets systemd_dir (root.qcow2, vmlinuz, initrd.img and key, the ssh key that root in the guest accepts).
systemd_image() {
    local bed=$top/tests/bed files
    mapfile -t files < <(find "$bed/systemd-root" -type f | LC_ALL=C sort)
    systemd_dir=$(cache_dir)/systemd-$1-$(key_of "${systemd_packages[*]}" "${files[@]}" "$bed/rootfs" "$bed/systemd-image.sh" /etc/os-release)
    [[ -d $systemd_dir ]] || say "building a Debian with systemd, sshd and its own kernel and initramfs, once (a minute or two)"
    cached "$systemd_dir" build_systemd
}

# A service that Debian installs and leaves off.
switch_on() {
    local overlay=$1 target=$2 service=$3
    mkdir -p "$overlay/etc/systemd/system/$target.wants"
    ln -s "/lib/systemd/system/$service" "$overlay/etc/systemd/system/$target.wants/"
}

build_systemd() {
    local dir=$1 overlay=$1/overlay
    cp -r "$top/tests/bed/systemd-root" "$overlay" &&
        ssh-keygen -q -t ed25519 -N '' -C 'made by scripts/demo' -f "$dir/key" &&
        install -d -m 700 "$overlay/root" "$overlay/root/.ssh" &&
        install -m 600 "$dir/key.pub" "$overlay/root/.ssh/authorized_keys" &&
        switch_on "$overlay" multi-user.target systemd-networkd.service &&
        switch_on "$overlay" sockets.target systemd-networkd.socket &&
        switch_on "$overlay" multi-user.target systemd-resolved.service || return
    # With an identity of its own, the first boot is one like the others.
    tr -d - </proc/sys/kernel/random/uuid >"$overlay/etc/machine-id"
    "$top/tests/bed/rootfs" --overlay "$overlay" --size 2G "$dir/root.ext4" "${systemd_packages[@]}" || return
    take_boot_files "$dir"
    # As distributions hand out theirs.
    qemu-img convert -c -O qcow2 -o compression_type=zstd "$dir/root.ext4" "$dir/root.qcow2" || return
    rm -r "$overlay" "$dir/root.ext4"
}

# The kernel and the initramfs, out of the image as Debian's package installed them there.
take_boot_files() {
    local dir=$1 version
    version=$(on_image "$dir" 'ls -p /boot' | sed -n 's,.*/vmlinuz-\([^/]*\)/.*,\1,p' | head -n 1)
    on_image "$dir" "dump /boot/vmlinuz-$version $dir/vmlinuz" >/dev/null
    on_image "$dir" "dump /boot/initrd.img-$version $dir/initrd.img" >/dev/null
    [[ -s $dir/vmlinuz && -s $dir/initrd.img ]] ||
        die "$dir/root.ext4: no kernel with an initramfs in its /boot; was ${systemd_packages[-1]} installed?" 125
}

on_image() { PATH=$PATH:/usr/sbin:/sbin debugfs -R "$2" "$1/root.ext4" 2>/dev/null; }
