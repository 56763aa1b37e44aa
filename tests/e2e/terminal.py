#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/e2e/terminal.py COMMAND...: somebody at a terminal, who works with a shell that COMMAND starts.

Types, looks at what comes, changes the window's size, presses Ctrl-C and Ctrl-D. Prints what it saw of the terminal where
something is not as it should be, and ends with 1.
"""
import fcntl
import os
import pty
import select
import struct
import sys
import termios

PATIENCE_S = 100


class Terminal:
    def __init__(self, command):
        self.master, self.slave = pty.openpty()
        self.seen = b""
        self.resize(33, 101)
        # Something that a raw mode would have to put back, and that is not usual.
        self.before = termios.tcgetattr(self.slave)
        self.before[6][termios.VKILL] = b"\x10"
        termios.tcsetattr(self.slave, termios.TCSANOW, self.before)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(self.slave, fd)
            os.closerange(3, 20)
            os.execvp(command[0], command)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def fail(self, what):
        sys.exit(f"{what}; the terminal shows:\n{self.seen.decode(errors='replace')}")

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, text):
        """Waits for `text`, and forgets what came before it."""
        while text.encode() not in self.seen:
            if not select.select([self.master], [], [], PATIENCE_S)[0]:
                self.fail(f"'{text}' does not come")
            self.seen += os.read(self.master, 4096)
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.fail(f"it ended before '{text}' came")
        self.seen = self.seen.split(text.encode(), 1)[1]

    def run(self, line, expected):
        """A line whose output, which follows its echo, is `expected`."""
        self.type(line + "\n")
        self.expect("\n" + expected + "\r\n")
        self.expect("# ")

    def finish(self, status):
        ends = os.pidfd_open(self.pid)
        if not select.select([ends], [], [], PATIENCE_S)[0]:
            self.fail("it does not end")
        got = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if got != status:
            self.fail(f"the exit status is {got}, and should be {status}")
        if termios.tcgetattr(self.slave) != self.before:
            self.fail("the terminal's settings are not as they were")


def work(terminal):
    terminal.expect("# ")
    terminal.run("echo one two", "one two")
    terminal.run("test -t 0 && test -t 1 && test -t 2 && echo $TERM", os.environ["TERM"])
    terminal.run("stty size", "33 101")
    terminal.type("sh -c \"trap 'echo got it' WINCH; echo set; while :; do sleep 1; done\"\n")
    terminal.expect("\nset\r\n")
    terminal.resize(44, 122)
    terminal.expect("got it\r\n")
    terminal.type("\x03")
    terminal.expect("# ")
    terminal.run("stty size", "44 122")
    terminal.type("sh -c 'echo there; exec sleep 1000'\n")
    terminal.expect("\nthere\r\n")
    terminal.type("\x03")
    terminal.expect("# ")
    terminal.run("echo status=$?", "status=130")
    # It keeps the terminal open.
    terminal.run("sh -c 'trap \"\" HUP; exec sleep 5555' & echo behind", "behind")
    terminal.type("sh -c 'exit 7'\n")
    terminal.expect("# ")
    terminal.type("\x04")


def main():
    os.environ["TERM"] = "vt100"
    terminal = Terminal(sys.argv[1:])
    work(terminal)
    terminal.finish(7)


main()
