# SPDX-License-Identifier: Apache-2.0
# The serial console: every byte arrives, in both directions, whatever is at the other end.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

test_piped_input_arrives_whole() {
    head -c 12288 /dev/urandom | base64 -w 0 >typed
    same "$(stat -c %s typed)" 16384 'size of the input'
    mkfifo keyboard
    exec 7<>keyboard
    start_guest -- 'stty raw -echo; echo ready; head -c 16384 >/tmp/got; stty sane; echo sum=$(sha256sum </tmp/got)' <keyboard
    wait_for ready
    cat typed >&7
    finish_guest
    expect_status 0
    same "$(value_of sum)" "$(sum_of typed)" 'checksum of what was typed'
}

test_end_of_input_leaves_the_guest_alone() {
    start_guest -- 'echo ready; sleep 1; echo still here' <<<'some words'
    finish_guest
    expect_status 0
    expect_out 'still here'
}

# numbers_arrived FILE LAST: all of them, with nothing between and no byte more. The kernel speaks before and after.
numbers_arrived() { sed '0,/^begin$/d; /^end$/,$d' "$1" | cmp - <(seq 1 "$2") || fail 'bytes are missing or wrong'; }

test_output_arrives_whole() {
    guest -- 'stty -opost; echo begin; seq 1 4000; echo end'
    expect_status 0
    numbers_arrived out.raw 4000
}

# A pipe of one page, read in fits and starts: the guest must wait for it again and again.
slow_reader() {
    python3 -c 'import fcntl, os, time
fcntl.fcntl(0, 1031, 4096)  # F_SETPIPE_SZ
while data := os.read(0, 3000):
    os.write(1, data)
    time.sleep(0.2)'
}

test_output_arrives_whole_at_a_slow_reader() {
    status=0
    nido run --kernel "$kernel" --initrd "$initrd" --cmdline "$base_cmdline -- stty -opost; echo begin; seq 1 4000; echo end" </dev/null 2>err |
        slow_reader >out || status=$?
    expect_status 0
    numbers_arrived out 4000
}

test_guest_waits_for_no_reader_for_ever() {
    # Nobody reads for a while; SIGTERM must end the machine all the same.
    mkfifo screen
    exec 7<>screen
    nido run --grace 1 --kernel "$kernel" --initrd "$initrd" --cmdline "$base_cmdline -- seq 1 100000" </dev/null >screen 2>err &
    local nido=$!
    # Until the pipe, made small, has held the same for a second: the kernel counts it in pages, not in bytes.
    python3 -c 'import array, fcntl, termios, time
fcntl.fcntl(7, 1031, 4096)  # F_SETPIPE_SZ
before, now = -1, array.array("i", [0])
while now[0] == 0 or now[0] != before:
    before = now[0]
    time.sleep(1)
    fcntl.ioctl(7, termios.FIONREAD, now)'
    sleep 2
    kill -TERM $nido
    status=0
    wait $nido || status=$?
    expect_status 143
}

test_console_goes_to_a_file() {
    guest --console file=console.log -- 'echo in the file'
    expect_status 0
    [[ ! -s out.raw ]] || fail 'the console came out on standard output as well'
    tr -d '\r' <console.log | grep -qx 'in the file' || fail 'the file does not hold the console'
}

test_console_goes_nowhere() {
    guest --console none -- 'echo nobody hears'
    expect_status 0
    [[ ! -s out.raw ]] || fail 'the console came out on standard output'
}

# python: plays somebody at a terminal. Starts nido on a pseudo terminal and waits for words before it types.
at_a_terminal() {
    python3 - "$@" <<'PYTHON'
import os, pty, re, select, sys, termios
steps, command = sys.argv[1], sys.argv[2:]
pid, terminal = None, None
master, slave = os.openpty()
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    import fcntl
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.closerange(3, 100)
    os.execvp(command[0], command)
seen = b""
def read():
    global seen
    if select.select([master], [], [], 0.2)[0]:
        seen += os.read(master, 65536)
ended = None
def alive():
    global ended
    if ended is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(code)
    return ended is None
mark = 0
for step in steps.split("|"):
    words, keys = step.split("=>")
    # What came before the last keys is no answer to them.
    while words.encode() not in seen[mark:]:
        read()
        if not alive() and words.encode() not in seen[mark:]:
            sys.exit(f"ended with {ended} before '{words}' came:\n{seen.decode(errors='replace')}")
    mark = seen.index(words.encode(), mark) + len(words)
    os.write(master, keys.encode().decode("unicode_escape").encode("latin1"))
while alive():
    read()
while select.select([master], [], [], 0.2)[0]:
    seen += os.read(master, 65536)
after = termios.tcgetattr(slave)
open("screen", "wb").write(seen)
print(f"status={ended}")
print(f"terminal={'restored' if before == after else 'changed'}")
PYTHON
}

# nido_with COMMAND-TEXT: leaves the array `machine`.
machine_with() { machine=(nido run --kernel "$kernel" --initrd "$initrd" --cmdline "$base_cmdline${*:+ -- $*}"); }

test_somebody_types_at_a_shell() {
    machine_with
    at_a_terminal '# =>echo $((6*7))$((2*5))\r|4210=>exit\r' "${machine[@]}" >out
    expect_out status=0
    expect_out terminal=restored
}

test_ctrl_a_x_leaves() {
    machine_with 'echo ready; sleep 10000'
    at_a_terminal 'ready=>\x01x' "${machine[@]}" >out
    grep -q '^status=' out || fail 'nido did not end'
    expect_out terminal=restored
}

test_ctrl_a_a_types_a_ctrl_a() {
    machine_with 'stty raw -echo; echo ready; head -c 2 | hexdump -C; stty sane'
    at_a_terminal 'ready=>\x01aZ' "${machine[@]}" >out
    expect_out status=0
    grep -q '01 5a' screen || fail "the guest got something else: $(tr -d '\r' <screen)"
}

test_ctrl_c_goes_to_the_guest() {
    machine_with
    at_a_terminal '# =>echo runs$((1+1)); sleep 10000\r|runs2=>\x03|# =>echo back$((1+1))\r|back2=>exit\r' "${machine[@]}" >out
    expect_out status=0
    expect_out terminal=restored
}

test_terminal_is_restored_after_a_crash() {
    needs_triple_faults
    base_cmdline="$base_cmdline reboot=t"
    machine_with 'echo ready; reboot -f'
    at_a_terminal 'ready=>x' "${machine[@]}" >out
    expect_out status=123
    expect_out terminal=restored
}
