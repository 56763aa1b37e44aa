# SPDX-License-Identifier: Apache-2.0
# What the scripts take out of Debian's archive: for this architecture or another, from where this machine's apt gets its
# own packages, with its proxies and keys. Sourced after scripts/lib.sh.
# shellcheck shell=bash

# this_arch: as `uname -m` says it, and --arch, and meson.
this_arch() { uname -m; }

# other_arch: nido runs on two.
other_arch() { if [[ $(this_arch) == x86_64 ]]; then echo aarch64; else echo x86_64; fi; }

# bed_emulator ARCH: the package of the machine that the bed for ARCH runs in.
bed_emulator() { if [[ $1 == x86_64 ]]; then echo qemu-system-x86; else echo qemu-system-arm; fi; }

# debian_arch ARCH: what Debian calls it.
debian_arch() {
    case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "$1: not one of the architectures that nido runs on, x86_64 and aarch64" 2 ;;
    esac
}

# The files in /etc/apt that serve this release's own main archive. Third-party lists are left out: a bed
# should be the same on every machine.
debian_sources() {
    local suite=$1 file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -s $file ]] || continue
        grep -v '^#' "$file" | grep -Eq "(^|[[:space:]])$suite([[:space:]]|$)" || continue
        grep -v '^#' "$file" | grep -Eq '(^|[[:space:]])main([[:space:]]|$)' && printf '%s\n' "$file"
    done
}

# debian_tree ARCH TAR [MMDEBSTRAP-OPTION...]: a small Debian of this machine's release, as a tar. For this machine's
# architecture it is installed. For another, packages are unpacked and none of their programs runs, so nothing is configured.
# Options add packages (--include) and hooks.
debian_tree() {
    local arch=$1 tar=$2 suite sources status=0
    shift 2
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [[ $suite ]] || die "/etc/os-release: names no VERSION_CODENAME; run this on Debian 12 or later"
    mapfile -t sources < <(debian_sources "$suite")
    ((${#sources[@]})) || die "/etc/apt/sources.list*: no archive for $suite main; add one there"
    need mmdebstrap
    apt-config dump Acquire >"$tar.conf"
    local tool=(mmdebstrap --variant=minbase)
    if [[ $arch != "$(this_arch)" ]]; then
        # Chrootless: nothing in the tree runs, so nothing has to look as if it stood in one.
        tool=(mmdebstrap --variant=extract --mode=chrootless "--architectures=$(debian_arch "$arch")")
        [[ $(id -u) -eq 0 ]] || { need fakeroot && tool=(fakeroot "${tool[@]}"); }
    fi
    "${tool[@]}" --format=tar --aptopt="$tar.conf" --aptopt='Apt::Install-Recommends "false"' "$@" \
        "$suite" "$tar" "${sources[@]}" >"$tar.log" 2>&1 || status=$?
    ((status == 0)) || tail -n 40 "$tar.log" >&2
    rm "$tar.conf" "$tar.log"
    ((status == 0)) || die "$(basename "$(dirname "$tar")"): mmdebstrap failed; its lines are above. Not root? scripts/setup installs uidmap and fakechroot, one of which it needs"
}
