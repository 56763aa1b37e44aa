# SPDX-License-Identifier: Apache-2.0
# Building nido for another architecture than this machine's: with Debian's cross compiler, and that architecture's
# libraries unpacked in the cache and installed nowhere. Sourced after scripts/lib.sh and scripts/archive.sh.
# shellcheck shell=bash

cross_libraries=(libc6-dev linux-libc-dev liburing-dev libjansson-dev libzstd-dev liblz4-dev liblzma-dev zlib1g-dev
    libfdt-dev libseccomp-dev libcmocka-dev libarchive-dev nettle-dev)

# cross_sysroot ARCH: sets cross_file, for `meson setup --cross-file`.
cross_sysroot() {
    local arch=$1 dir
    dir=$(cache_dir)/cross-$arch-$(key_of "${cross_libraries[*]}" "${BASH_SOURCE[0]}" /etc/os-release)
    cross_file=$dir/meson.ini
    [[ -d $dir ]] || say "fetching the libraries that nido for $arch is built with, once (some seconds)"
    cached "$dir" build_sysroot "$arch" "$dir"
}

# build_sysroot ARCH HOME NEW: in NEW, for its life in HOME.
build_sysroot() {
    local arch=$1 home=$2 new=$3
    debian_tree "$arch" "$new/root.tar" --include="$(IFS=,; echo "${cross_libraries[*]}")" || return
    mkdir "$new/root" && tar -xf "$new/root.tar" -C "$new/root" --exclude='./dev/*' && rm "$new/root.tar" || return
    bend_links "$new/root"
    print_cross_file "$arch" "$home/root" >"$new/meson.ini"
}

# bend_links TREE: a link to /lib/... would lead out of it.
bend_links() {
    local tree=$1 link target
    while read -r link; do
        target=$tree$(readlink "$link")
        if [[ -e $target ]]; then ln -sfrn "$target" "$link"; fi
    done < <(find "$tree" -type l -lname '/*')
}

# print_cross_file ARCH SYSROOT: pkg-config knows nothing but what is in there.
print_cross_file() {
    local arch=$1 root=$2 triplet=$1-linux-gnu
    cat <<INI
# For meson setup --cross-file; made by scripts/setup --cross.
[binaries]
c = ['$triplet-gcc', '--sysroot=$root']
ar = '$triplet-gcc-ar'
strip = '$triplet-strip'
objcopy = '$triplet-objcopy'
pkgconfig = 'pkg-config'

[properties]
sys_root = '$root'
pkg_config_libdir = '$root/usr/lib/$triplet/pkgconfig'

[host_machine]
system = 'linux'
cpu_family = '$arch'
cpu = '$arch'
endian = 'little'
INI
}

# build_dir_for ARCH
build_dir_for() {
    if [[ $1 == "$(this_arch)" ]]; then build_dir; else realpath -m "${NIDO_BUILD:-$top/build-$1}"; fi
}

# build_nido_for ARCH DIR [MESON-OPTION...]: build_nido, with a cross compiler where it takes one. A program of one file:
# add -Dprefer_static=true -Dc_link_args=-static -Dtests=false.
build_nido_for() {
    local arch=$1 dir=$2
    shift 2
    if [[ $arch != "$(this_arch)" ]]; then
        need "$arch-linux-gnu-gcc"
        cross_sysroot "$arch"
        set -- --cross-file "$cross_file" "$@"
    fi
    build_nido "$dir" "$@"
}
