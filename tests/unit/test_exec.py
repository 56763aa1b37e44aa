#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_exec.py NIDO: nido exec and nido console against a machine that is played here, and that does not always do its part. Speaks TAP."""
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

NIDO = os.path.abspath(sys.argv[1])
STREAM, ENDED, SIGNAL = 1, 2, 3
STDOUT, STDERR = 1, 2
EXITED = 0
PATIENCE_S = 60


class Machine:
    """Its control socket, one nido exec that has asked there, and what that was told."""

    def __init__(self, directory, *flags, command=None, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **how):
        os.makedirs(f"{directory}/nido", 0o700, exist_ok=True)
        path = f"{directory}/nido/m.sock"
        if os.path.exists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.exec = subprocess.Popen([NIDO, *(command or ["exec", *flags, "m", "--", "true"])], stdin=stdin,
                                     stdout=stdout, stderr=subprocess.PIPE, text=True,
                                     env=os.environ | {"XDG_RUNTIME_DIR": directory}, **how)
        self.client, _ = listener.accept()
        self.request = json.loads(self.client.makefile().readline())
        self.client.send(b'{"ok": true}\n')

    def stream(self, number):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        socket.send_fds(self.client, [struct.pack("<HHI", STREAM, number, 0)], [theirs.fileno()])
        theirs.close()
        return ours

    def end(self, code):
        """As nido does it: the last word, and no connection any more."""
        self.client.send(struct.pack("<HHI", ENDED, EXITED, code))
        self.client.close()

    def finish(self, status, words=""):
        """What came on standard output."""
        try:
            out, err = self.exec.communicate(timeout=PATIENCE_S)
        finally:
            self.exec.kill()
        assert self.exec.returncode == status, f"status {self.exec.returncode}: {err}"
        assert words in err if words else not err, err
        return out


def output_comes_out_behind_the_end(directory):
    machine = Machine(directory)
    out, err = machine.stream(STDOUT), machine.stream(STDERR)
    machine.end(3)
    err.close()
    out.send(b"here it is\n")
    out.close()
    assert machine.finish(3) == "here it is\n"


def streams_that_never_came_are_given_up(directory):
    machine = Machine(directory)
    out = machine.stream(STDOUT)
    out.send(b"half of it\n")
    out.close()
    machine.end(0)
    assert machine.finish(0, "not its output") == "half of it\n"
    machine = Machine(directory)
    machine.end(7)
    machine.finish(7, "not its output")


def streams_that_never_end_are_given_up(directory):
    machine = Machine(directory)
    held = machine.stream(STDOUT), machine.stream(STDERR)
    machine.end(7)
    machine.finish(7, "not its output")
    del held


def a_signal_behind_the_end_ends_it(directory):
    machine = Machine(directory)
    held = machine.stream(STDOUT), machine.stream(STDERR)
    os.kill(machine.exec.pid, signal.SIGUSR1)
    assert struct.unpack("<HHI", machine.client.recv(8)) == (SIGNAL, 0, signal.SIGUSR1)
    machine.end(0)
    held[0].send(b"read\n")
    assert machine.exec.stdout.readline() == "read\n"
    while machine.exec.poll() is None:  # the first may still be the command's
        machine.exec.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    machine.finish(128 + signal.SIGTERM)


def a_command_that_does_not_heed_signals_is_left(directory):
    machine = Machine(directory)
    for number in [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]:
        machine.exec.send_signal(number)
        assert struct.unpack("<HHI", machine.client.recv(8)) == (SIGNAL, 0, number)
    machine.exec.send_signal(signal.SIGUSR1)
    machine.finish(128 + signal.SIGUSR1)
    assert machine.client.recv(8) == b""


def a_hangup_is_the_commands_but_under_nohup(directory):
    def hang_up(ignored):
        machine = Machine(directory, preexec_fn=lambda: signal.signal(signal.SIGHUP, ignored))
        os.kill(machine.exec.pid, signal.SIGHUP)
        os.kill(machine.exec.pid, signal.SIGUSR2)
        told = struct.unpack("<HHI", machine.client.recv(8))[2]
        machine.end(0)
        machine.finish(0, "not its output")
        return told
    assert hang_up(signal.SIG_DFL) == signal.SIGHUP
    assert hang_up(signal.SIG_IGN) == signal.SIGUSR2


def a_console_is_read_to_its_end(directory):
    machine = Machine(directory, command=["console", "m"], stdin=subprocess.PIPE)
    machine.exec.send_signal(signal.SIGSTOP)
    os.waitpid(machine.exec.pid, os.WUNTRACED)
    machine.client.send(b"A" * 60000)
    machine.client.close()
    machine.exec.stdin.write("a key for nobody\n")
    machine.exec.stdin.flush()
    machine.exec.send_signal(signal.SIGCONT)
    assert len(machine.finish(0)) == 60000


def no_word_is_left_out(directory):
    for flags, words in (([], [b"rm", b"-rf", b"\xff"]), (["--env", b"A=\xff"], [b"true"])):
        asked = subprocess.run([NIDO, "exec", *flags, "m", "--", *words], stdin=subprocess.DEVNULL, capture_output=True,
                               env=os.environ | {"XDG_RUNTIME_DIR": directory}, check=False)
        assert asked.returncode == 125 and b"must be UTF-8 text" in asked.stderr, asked


def output_that_finds_no_room_is_told_of(directory):
    with open("/dev/full", "w", encoding="ascii") as full:
        machine = Machine(directory, stdout=full)
    out, err = machine.stream(STDOUT), machine.stream(STDERR)
    out.send(b"lost\n")
    assert out.recv(1) == b""  # the command hears that nobody takes it
    err.close()
    machine.end(0)
    machine.finish(0, "output is lost: No space left on device")


TESTS = [output_comes_out_behind_the_end, streams_that_never_came_are_given_up, streams_that_never_end_are_given_up,
         a_signal_behind_the_end_ends_it, a_command_that_does_not_heed_signals_is_left, a_hangup_is_the_commands_but_under_nohup,
         a_console_is_read_to_its_end, no_word_is_left_out, output_that_finds_no_room_is_told_of]


def main():
    failed = False
    print(f"1..{len(TESTS)}")
    for number, test in enumerate(TESTS, 1):
        with tempfile.TemporaryDirectory(prefix="nido-exec.") as directory:
            try:
                test(directory)
                print(f"ok {number} - {test.__name__}", flush=True)
            except Exception as why:  # pylint: disable=broad-except
                failed = True
                print(f"not ok {number} - {test.__name__}: {why!r}", flush=True)
    sys.exit(failed)


main()
