#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/e2e/vsock_peer.py: one end of many connections at once, for tests/e2e/vsock.sh.

usage: vsock_peer.py serve|call ADDRESS COUNT
       vsock_peer.py send ADDRESS FILE
       vsock_peer.py cid

ADDRESS is vsock:CID:PORT, unix:PATH, or nido:PATH:PORT, which connects to PATH and asks for PORT.
All connections are open before the first says a word. Then each sends bytes that tell where they
belong, ends its direction, and checks what the other end sends. `send` sends a
file over one connection; `cid` prints this machine's own address.
"""
import fcntl
import socket
import struct
import sys
import threading
import time

PATIENCE_S = 100
LINES = 1000  # of 16 bytes, from each end of each connection
wrong = []


def pattern(index, end):
    return b"".join(b"%s %05d %07d\n" % (end, index, line) for line in range(LINES))


def open_socket(address):
    kind, rest = address.split(":", 1)
    if kind == "vsock":
        cid, port = rest.split(":")
        return socket.socket(socket.AF_VSOCK), (int(cid), int(port)), None
    if kind == "nido":
        path, port = rest.split(":")
        return socket.socket(socket.AF_UNIX), path, port
    return socket.socket(socket.AF_UNIX), rest, None


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionRefusedError("closed instead of an answer")
        line += byte
    return line


def connect_once(address):
    connection, where, port = open_socket(address)
    try:
        connection.settimeout(PATIENCE_S)
        connection.connect(where)
        if port:
            connection.sendall(b"CONNECT %s\n" % port.encode())
            if not read_line(connection).startswith(b"OK "):
                raise ConnectionRefusedError("not OK")
    except OSError:
        connection.close()
        raise
    return connection


def connect(address):
    """Until somebody listens."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return connect_once(address)
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def read_all(connection):
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def talk(connection, index, mine, theirs):
    connection.settimeout(PATIENCE_S)
    sender = threading.Thread(target=send_all, args=(connection, pattern(index, mine)))
    sender.start()
    got = read_all(connection)
    sender.join()
    connection.close()
    if got != pattern(index, theirs):
        wrong.append(f"connection {index}: {len(got)} bytes, not what was sent")


def send_all(connection, data):
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def call(address, index, everybody):
    connection = connect(address)
    everybody.wait(PATIENCE_S)
    connection.sendall(struct.pack("<I", index))
    talk(connection, index, b"c", b"s")


def answer(connection, known):
    try:
        said = connection.recv(4, socket.MSG_WAITALL)
    except ConnectionError:
        said = b""
    if not said:
        # A busy guest's kernel gives a call up after two seconds; it calls again, and this one ends without a word.
        connection.close()
        return
    known.append(connection)
    talk(connection, struct.unpack("<I", said)[0], b"s", b"c")


def guarded(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")


def run(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(address, count):
    listener, where, _ = open_socket(address)
    listener.bind(where)
    listener.listen(count)
    listener.settimeout(0.5)
    known, threads = [], []
    while len(known) < count:
        try:
            connection = listener.accept()[0]
        except TimeoutError:
            continue
        connection.settimeout(None)
        threads.append(threading.Thread(target=guarded, args=(answer, connection, known)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def call_all(address, count):
    everybody = threading.Barrier(count)
    run([threading.Thread(target=guarded, args=(call, address, index, everybody)) for index in range(count)])


def send_file(address, name):
    connection = connect(address)
    connection.settimeout(None)
    with open(name, "rb") as data:
        connection.sendfile(data)
    connection.shutdown(socket.SHUT_WR)
    return 0 if connection.recv(1) == b"" else 1


def own_cid():
    with open("/dev/vsock", "rb") as device:
        return struct.unpack("I", fcntl.ioctl(device, 0x7B9, b"\0" * 4))[0]  # IOCTL_VM_SOCKETS_GET_LOCAL_CID


def main():
    threading.stack_size(256 << 10)
    if sys.argv[1] == "cid":
        print(f"cid={own_cid()}")
        return 0
    if sys.argv[1] == "send":
        return send_file(*sys.argv[2:])
    count = int(sys.argv[3])
    (serve if sys.argv[1] == "serve" else call_all)(sys.argv[2], count)
    print("\n".join(wrong[:5]) or f"{count} connections, every byte right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
