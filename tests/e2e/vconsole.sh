# SPDX-License-Identifier: Apache-2.0
# The virtio console: hvc0 as the console, and named ports.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2154,SC2034

# The guest's shell function that prints the device of a port. (No udev: no /dev/virtio-ports.)
find_port='port() { for p in /sys/class/virtio-ports/*; do
    if [ "$(cat $p/name 2>/dev/null)" = "$1" ]; then echo /dev/${p##*/}; fi; done; }
while [ ! "$(port work)" ]; do sleep 0.1; done; work=$(port work)'

await_socket() {
    while [[ ! -S work.sock ]]; do
        kill -0 "$guest_pid" || fail 'nido ended'
        pause 0.05
    done
}

on_hvc() { base_cmdline="console=hvc0 quiet panic=-1 cryptomgr.notests"; }

# The initrd's init prints to the console that the kernel had at the start, so it opens the new one itself.
to_hvc='exec </dev/hvc0 >/dev/hvc0 2>&1'

test_hvc0_is_the_console() {
    on_hvc
    guest --console virtio -- "$to_hvc; echo hello from \$(tty)"
    expect_status 0
    expect_out 'hello from /dev/hvc0'
}

test_hvc0_prints_what_the_kernel_says() {
    base_cmdline="console=hvc0 panic=-1 cryptomgr.notests"
    guest --console virtio -- 'echo a word from user space >/dev/kmsg'
    expect_status 0
    grep -q 'a word from user space' out || fail 'the kernel said nothing'
}

test_hvc0_output_arrives_whole() {
    on_hvc
    guest --console virtio -- "$to_hvc; stty -opost; echo begin; seq 1 8000; echo end"
    expect_status 0
    sed '0,/^begin$/d; /^end$/,$d' out.raw | cmp - <(seq 1 8000) || fail 'bytes are missing or wrong'
}

test_hvc0_input_arrives_whole() {
    on_hvc
    head -c 12288 /dev/urandom | base64 -w 0 >typed
    mkfifo keyboard
    exec 7<>keyboard
    start_guest --console virtio -- "$to_hvc; stty raw -echo; echo ready; head -c 16384 >/tmp/got; stty sane; echo sum=\$(sha256sum </tmp/got)" <keyboard
    wait_for ready
    cat typed >&7
    finish_guest
    expect_status 0
    same "$(value_of sum | cut -d' ' -f1)" "$(sum_of typed)" 'checksum of what was typed'
}

test_a_panic_is_on_hvc0() {
    on_hvc
    guest --console virtio -- 'echo c >/proc/sysrq-trigger'
    expect_status "$panic_status"
    grep -q 'Kernel panic' out || fail 'no panic on the console'
}

# A client that sends a file, then keeps what comes until the port is closed.
echo_through_port="$find_port"'; : >/tmp/got; cat $work >/tmp/got & while [ "$(stat -c %s /tmp/got)" -lt 1048576 ]; do sleep 0.1; done
    kill $!; echo sum=$(sha256sum </tmp/got); cat /tmp/got >$work'

# The client comes first: Linux lets nobody wait for one at a port, it says that the end is reached.
test_a_socket_carries_a_mebibyte_both_ways() {
    random_file sent 1
    start_guest --port work,socket=work.sock -- "$echo_through_port"
    await_socket
    python3 - <<'PYTHON'
import socket, threading
s = socket.socket(socket.AF_UNIX)
s.connect("work.sock")
threading.Thread(target=lambda: s.sendall(open("sent", "rb").read())).start()
got = b""
while len(got) < 1 << 20:
    got += s.recv(65536) or exit("the port was closed early")
open("back", "wb").write(got)
PYTHON
    finish_guest
    expect_status 0
    same "$(value_of sum | cut -d' ' -f1)" "$(sum_of sent)" 'checksum in the guest'
    same "$(sum_of back)" "$(sum_of sent)" 'checksum of what came back'
    [[ ! -e work.sock ]] || fail 'the socket is still there'
}

test_pipes_carry_a_mebibyte_both_ways() {
    random_file sent 1
    mkfifo work.in work.out
    start_guest --port work,pipe=work -- "$echo_through_port"
    cat sent >work.in &
    head -c 1048576 work.out >back
    finish_guest
    expect_status 0
    same "$(sum_of back)" "$(sum_of sent)" 'checksum of what came back'
}

test_a_file_has_all_that_the_guest_wrote_last() {
    guest --port work,file=work.log -- "$find_port"'; seq 1 20000 >$work; poweroff -f'
    expect_status 0
    cmp work.log <(seq 1 20000) || fail 'bytes are missing or wrong'
}

test_ports_stand_beside_a_console() {
    on_hvc
    guest --console virtio --port work,file=work.log --port other,file=other.log -- \
        "$to_hvc; $find_port"'; echo to work >$work; echo to other >$(port other); echo to the console'
    expect_status 0
    expect_out 'to the console'
    same "$(cat work.log)" 'to work'
    same "$(cat other.log)" 'to other'
}

test_the_guest_hears_that_a_client_is_gone() {
    start_guest --port work,socket=work.sock -- "$find_port"'; cat $work; echo the end'
    await_socket
    python3 -c 'import socket
s = socket.socket(socket.AF_UNIX)
s.connect("work.sock")
s.sendall(b"some words\n")'
    finish_guest
    expect_status 0
    expect_out 'some words'
    expect_out 'the end'
}

test_two_ports_of_one_name_are_refused() {
    refused --kernel "$kernel" --port work,file=a --port work,file=b
    expect_err '--port work: given twice'
}

test_the_guest_knows_the_terminals_size() {
    python3 - nido run --kernel "$kernel" --initrd "$initrd" --console virtio --cmdline \
        "console=hvc0 quiet panic=-1 cryptomgr.notests -- $to_hvc; size() { until [ \"\$(stty size)\" = \"\$1\" ]; do echo wait; sleep 0.1; done; echo is \$1; }; size '43 132'; size '30 100'" <<'PYTHON'
import fcntl, os, pty, struct, sys, termios
def resize(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
master, slave = os.openpty()
resize(43, 132)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.execvp(sys.argv[1], sys.argv[1:])
os.close(slave)
seen = b""
while b"is 30 100" not in seen:
    seen += os.read(master, 65536)
    if b"is 43 132" in seen:
        resize(30, 100)
PYTHON
}
