# SPDX-License-Identifier: Apache-2.0
# What the end-to-end tests share. Sourced by tests/e2e/run in the bed, before a topic file.
# shellcheck shell=bash
#
# A test is a function test_PROMISE. It runs in a process, a directory and a network of its own, with -e: a command
# that fails fails the test. It leaves nothing behind that the runner would not clean up.

# Every console byte is an exit, and exits are dear under emulation; the kernel's cipher self-tests are not ours.
base_cmdline="console=$NIDO_CONSOLE quiet panic=-1 cryptomgr.notests"
kernel=$NIDO_VMLINUX
initrd=$NIDO_INITRD

# shellcheck source=/dev/null disable=SC2154 # here comes from tests/e2e/run
. "$here/arch/$NIDO_ARCH.sh"

# What the files in arch/ tell of a machine:
#   packed_kernel         leaves the stock kernel, in the packed form that distributions have, in $kernel
#   broken_kernels        makes files that are kernels but for what is missing or wrong; prints their names
#   ways_to_reboot        what a guest's kernel may be told by reboot=, and the machine ends
#   clock_source          what the guest's kernel takes for its clock
#   panic_status          nido's exit status when the guest's kernel panics
#   usual_warnings        a filter: takes out of `dmesg -r` what Debian's kernel says wherever it runs
#   needs_THING           skips the test where the machine has no THING

fail() {
    echo "$*"
    exit 1
}

# skip WHY
skip() {
    echo "$*"
    exit 77
}

# What a guest's shell does until its power button is pressed: it listens when $listen is done, and not only soon after.
# shellcheck disable=SC2034,SC2016
listen='for e in /dev/input/event*; do exec 3<$e; head -c 24 <&3 >/tmp/key & done'
# shellcheck disable=SC2034
pressed='wait -n 2>/dev/null || wait'

# guest [NIDO-FLAG]... -- COMMAND-TEXT: runs COMMAND-TEXT in a guest until it powers off. Leaves $status and the files
# out (the console, without carriage returns) and err. kernel=, initrd= and base_cmdline= may be set for one call.
guest() {
    start_guest "$@"
    finish_guest
}

# pack_command TEXT: leaves the initrd guest.img that runs it. In a file, because the kernel's command line takes no
# more than 32 words for init; the kernel unpacks archives that follow each other.
pack_command() {
    [[ $1 ]] || {
        cp "$initrd" guest.img
        return
    }
    printf '%s\n' "$1" >'command'
    cat "$initrd" <(echo command | cpio -o -H newc --quiet) >guest.img
}

# start_guest, finish_guest: the same in two halves, for tests that do something meanwhile. The guest's console is
# read by `wait_for`; what comes in through file descriptor 0 of the caller is its keyboard.
start_guest() {
    local flags=()
    while [[ $1 != -- ]]; do
        flags+=("$1")
        shift
    done
    shift
    rm -f out out.raw err
    pack_command "$*"
    # <&0, because a shell gives its background commands /dev/null instead.
    nido run --kernel "$kernel" --initrd guest.img --cmdline "$base_cmdline" "${flags[@]}" \
        <&0 >out.raw 2>err &
    guest_pid=$!
}

finish_guest() {
    status=0
    wait "$guest_pid" || status=$?
    tr -d '\r' <out.raw >out
}

# A pipe that nobody writes to. Its other end is open here, and so it has no end.
exec {nothing}<> <(:)

# pause SECONDS: sleep, but it starts no program; an emulated CPU has none to spare while a guest boots.
pause() { read -rt "$1" -u "$nothing" || true; }

# shows FILE TEXT: whether it is in there; starts no program either.
shows() {
    local text=''
    [[ -e $1 ]] || return
    IFS='' read -rd '' text <"$1" || true
    [[ $text == *"$2"* ]]
}

# wait_to_show FILE TEXT PID: until it is in there; fails when the process ends without. A file of an earlier one must be gone.
wait_to_show() {
    until shows "$1" "$2"; do
        kill -0 "$3" 2>/dev/null || {
            shows "$1" "$2" && return
            cat "$1"
            fail "it ended before '$2' was in $1"
        }
        pause 0.1
    done
}

# wait_for TEXT: until the guest has printed it; fails when the guest ends without.
wait_for() { wait_to_show out.raw "$1" "$guest_pid"; }

# refused FLAGS...: nido must refuse to start; leaves err.
refused() {
    status=0
    nido run "$@" </dev/null >out 2>err || status=$?
    expect_status 125
    [[ ! -s out ]] || fail "nido printed on standard output while refusing"
    [[ -s err ]] || fail "nido refused without a word: $*"
}

expect_status() { [[ $status == "$1" ]] || fail "nido's exit status is $status, and should be $1"; }

# expect_out LINE: a whole line of the console.
expect_out() { grep -qxF -- "$1" out || fail "the console does not show the line '$1'"; }

# expect_err WORDS: an extended regular expression.
expect_err() { grep -qE -- "$1" err || fail "standard error does not say '$1'"; }

same() { [[ $1 == "$2" ]] || fail "${3:-value}: '$1' should be '$2'"; }

# value_of KEY: the first word of VALUE in the console line KEY=VALUE.
value_of() { sed -n "s/^$1=\([^ ]*\).*/\1/p" out | tail -n 1; }

sum_of() { sha256sum "$1" | cut -d' ' -f1; }

# ext4_image FILE SIZE
ext4_image() {
    truncate -s "$2" "$1"
    mkfs.ext4 -q -F "$1"
}

# random_file FILE MIB
random_file() { head -c "$(($2 << 20))" /dev/urandom >"$1"; }

# initrd_with PROGRAM...: the usual initrd and these programs of the bed, with their libraries, where they are in the
# bed (the guest looks for commands in /bin only). Leaves its name in $initrd.
initrd_with() {
    local program file
    for program; do
        program=$(command -v "$program")
        echo "$program"
        ldd "$program" | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p'
    done | sort -u | while read -r file; do
        mkdir -p "extra$(dirname "$file")"
        cp -L "$file" "extra$file"
    done
    # The initrd's own /bin must stay a directory of its own, so /usr/bin and /sbin go in under /usr/bin.
    (cd extra && find . -mindepth 1 | cpio -o -H newc --quiet) >extra.cpio
    cat "$NIDO_INITRD" extra.cpio >with-extra.img
    initrd=$PWD/with-extra.img
}

# initrd_with_python FILE...: an initrd with Python (/usr/bin/python3 -S -E) and these programs, in /.
initrd_with_python() {
    local library
    library=$(python3 -c 'import os; print(os.path.dirname(os.__file__))')
    mkdir -p "extra$library/lib-dynload"
    cp "$@" extra/
    # What Python starts with; the rest of its library would only make the guest's boot longer.
    cp "$library"/*.py "extra$library/"
    cp -r "$library"/{encodings,collections,importlib} "extra$library/"
    cp "$library"/lib-dynload/mmap.*.so "extra$library/lib-dynload/"
    [[ ! -d $library/__pycache__ ]] || cp -r "$library/__pycache__" "extra$library/"
    initrd_with python3
}

# tap NAME ADDRESS/BITS: a TAP in this test's own network, with an address for our side.
tap() {
    ip tuntap add "$1" mode tap
    [[ -z ${2:-} ]] || ip addr add "$2" dev "$1"
    ip link set "$1" up
}
