# SPDX-License-Identifier: Apache-2.0
# What the scripts share: how they speak, where they cache, how they build nido. Sourced, never run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prog=$(basename "$0")

say() { printf '%s: %s\n' "$prog" "$*" >&2; }

# die MESSAGE [STATUS]: the message names the object, the cause and the next step.
die() {
    say "$1"
    exit "${2:-1}"
}

# usage: the comment block at the top of a script is its --help.
usage() { sed -n '3,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

need() {
    local tool
    for tool; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
            die "$tool: not found; run scripts/setup to install what the scripts need"
    done
}

cache_dir() { printf '%s/nido\n' "${XDG_CACHE_HOME:-$HOME/.cache}"; }

# key_of WORD-OR-FILE...: one short name for a content; a file counts by what is in it.
key_of() {
    local item
    for item; do
        if [[ -f $item ]]; then cat "$item"; else printf '%s\n' "$item"; fi
    done | sha256sum | cut -c1-16
}

# cached DIR BUILDER ARG...: runs `BUILDER ARG... TMPDIR` unless DIR is there. The rename at the end makes DIR
# appear whole or not at all, and the lock keeps two callers from building the same thing.
cached() {
    local dir=$1 tmp
    shift
    [[ -d $dir ]] && return
    mkdir -p "$(dirname "$dir")"
    (
        flock 9
        [[ -d $dir ]] && exit
        tmp=$(mktemp -d "$dir.tmp.XXXXXX")
        chmod 755 "$tmp"
        trap 'rm -rf "$tmp"' EXIT
        trap 'exit 130' INT TERM HUP
        "$@" "$tmp" && mv -T "$tmp" "$dir"
    ) 9>"$dir.lock" || die "$(basename "$dir"): could not be built; the lines above say why" 125
}

# as_root COMMAND...: through sudo when we are not root.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed for: $*; run that as root, then run $prog again"
    fi
}

build_dir() { realpath -m "${NIDO_BUILD:-$top/build}"; }

# build_nido DIR [MESON-OPTION...]: configures DIR when it is new and builds what is stale; all of it, or only the
# programs that $build_targets names.
build_nido() {
    local dir=$1 log targets
    shift
    read -ra targets <<<"${build_targets:-}"
    need meson ninja
    mkdir -p "$dir"
    log=$dir/nido-build.log
    (
        flock 9
        [[ -f $dir/build.ninja ]] || meson setup "$dir" "$top" "$@" || exit
        ninja -C "$dir" "${targets[@]}"
    ) 9>"$dir/.lock" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        die "nido does not build in $dir; the compiler's lines are above and in $log" 125
    }
}

# nido_binary DIR: where the build put it.
nido_binary() {
    local dir=$1 place
    for place in "$dir/nido" "$dir/src/nido" "$dir/src/cli/nido"; do
        if [[ -x $place && -f $place ]]; then
            printf '%s\n' "$place"
            return
        fi
    done
    die "nido: no such program in $dir; build it with: ninja -C $dir" 125
}
