#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/e2e/share_conform.py DIRECTORY: what a file system answers to some hundred questions.

Prints `question: answer`, an error by its name, into the file DIRECTORY.answers; run on ext4 and on a share, the two files
must be the same. Needs root. Nothing is asked whose answer is the file system's own affair (inode numbers, block
counts), nor what a share does not offer on purpose: device nodes, O_TMPFILE, attributes other than user.*.
"""
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import sys

USER = 1000
answers = None
counted = {}


def ask(question, function, *arguments, **more):
    """Writes down what the function returns, or the error it raises."""
    try:
        answer = function(*arguments, **more)
    except OSError as error:
        answer = errno.errorcode.get(error.errno, error.errno)
    counted[question] = counted.get(question, 0) + 1
    number = f" ({counted[question]})" if counted[question] > 1 else ""
    answers.write(f"{question}{number}: {answer!r}\n".encode())
    answers.flush()


def as_user(question, function, *arguments, uid=USER, groups=()):
    """The same by a process of a user."""
    answers.flush()
    child = os.fork()
    if child == 0:
        os.setgroups(list(groups))
        os.setgid(uid)
        os.setuid(uid)
        ask("user: " + question, function, *arguments)
        os._exit(0)
    os.waitpid(child, 0)


def looks(path):
    info = os.lstat(path)
    kind = "directory" if stat.S_ISDIR(info.st_mode) else info.st_size
    return f"{info.st_mode:o}", info.st_nlink, info.st_uid, info.st_gid, kind


def write(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        data = b""
        while piece := os.read(fd, 1 << 20):
            data += piece
        return data
    finally:
        os.close(fd)


def opened(path, flags, mode=0o644):
    fd = os.open(path, flags, mode)
    os.close(fd)
    return "opened"


def opening():
    write("file", b"0123456789")
    os.mkdir("dir")
    os.symlink("file", "link")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    ask("open what is not there", opened, "none", os.O_RDONLY)
    ask("open with O_EXCL what is there", opened, "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    ask("open with O_EXCL a dangling link", opened, "dangling", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    ask("create through a dangling link", opened, "dangling", os.O_WRONLY | os.O_CREAT)
    ask("what came of it", looks, "nowhere")
    ask("open a link with O_NOFOLLOW", opened, "link", os.O_RDONLY | os.O_NOFOLLOW)
    ask("open a link", opened, "link", os.O_RDONLY)
    ask("open a loop", opened, "loop", os.O_RDONLY)
    ask("open a file with O_DIRECTORY", opened, "file", os.O_RDONLY | os.O_DIRECTORY)
    ask("open a directory to write", opened, "dir", os.O_WRONLY)
    ask("create where a directory is", opened, "dir", os.O_RDWR | os.O_CREAT)
    ask("open a directory to read", opened, "dir", os.O_RDONLY)
    ask("go through a file", opened, "file/x", os.O_RDONLY)
    ask("open a file with a slash behind", opened, "file/", os.O_RDONLY)
    ask("open 255 bytes", opened, "n" * 255, os.O_RDWR | os.O_CREAT)
    ask("open 256 bytes", opened, "n" * 256, os.O_RDWR | os.O_CREAT)
    ask("open a path that is too long", opened, "dir/../" * 600 + "file", os.O_RDONLY)
    ask("open to read and truncate", opened, "file", os.O_RDONLY | os.O_TRUNC)
    ask("what came of it", looks, "file")
    ask("odd names", opened, b"\xff\n\x01 \\", os.O_RDWR | os.O_CREAT)
    ask("odd names are listed", lambda: b"\xff\n\x01 \\" in os.listdir(b"."))


def modes():
    for mask in (0, 0o022, 0o077):
        before = os.umask(mask)
        ask(f"file, umask {mask:o}", opened, f"f{mask}", os.O_RDWR | os.O_CREAT, 0o7777)
        ask("its mode", looks, f"f{mask}")
        ask(f"directory, umask {mask:o}", os.mkdir, f"d{mask}", 0o1777)
        ask("its mode", looks, f"d{mask}")
        os.umask(before)
    os.mkdir("sgid")
    os.chown("sgid", USER, 50)
    os.chmod("sgid", 0o2777)
    ask("file in a set-group-id directory", opened, "sgid/f", os.O_RDWR | os.O_CREAT, 0o664)
    ask("its group", looks, "sgid/f")
    ask("directory in one", os.mkdir, "sgid/d")
    ask("its group", looks, "sgid/d")
    as_user("file in one", opened, "sgid/uf", os.O_RDWR | os.O_CREAT, 0o664)
    ask("its group", looks, "sgid/uf")
    as_user("directory in one", os.mkdir, "sgid/ud")
    ask("its group", looks, "sgid/ud")
    as_user("set-group-id for a group of others", os.chmod, "sgid/uf", 0o2775)
    ask("its mode", looks, "sgid/uf")
    for mode in (0o4755, 0o6755, 0o2745, 0o1644):
        write("s", b"x")
        ask("chmod", os.chmod, "s", mode)
        ask("chown takes set-id bits off", os.chown, "s", USER, USER)
        ask("its mode", looks, "s")
        os.chmod("s", mode | 0o006)
        as_user("write takes set-id bits off", write, "s", b"y", os.O_WRONLY)
        ask("its mode", looks, "s")
        os.chmod("s", mode | 0o006)
        as_user("truncate takes set-id bits off", os.truncate, "s", 0)
        ask("its mode", looks, "s")
        os.unlink("s")


def links():
    write("file", b"x")
    os.mkdir("dir")
    os.symlink("file", "soft")
    ask("link", os.link, "file", "twin")
    ask("links", looks, "file")
    ask("link to what is there", os.link, "file", "twin")
    ask("link to a directory", os.link, "dir", "dir2")
    ask("link to what is not there", os.link, "none", "new")
    ask("link to a symbolic link", os.link, "soft", "soft2", follow_symlinks=False)
    ask("what it is", looks, "soft2")
    ask("symlink over what is there", os.symlink, "x", "file")
    ask("symlink to a long text", os.symlink, "t" * 2000, "long")
    ask("its text", lambda: len(os.readlink("long")))
    ask("empty symlink", os.symlink, "", "empty")
    ask("readlink of a file", os.readlink, "file")
    ask("unlink one", os.unlink, "file")
    ask("the other's links", looks, "twin")
    ask("unlink a directory", os.unlink, "dir")
    ask("rmdir a file", os.rmdir, "twin")
    write("dir/f", b"")
    ask("rmdir what is not empty", os.rmdir, "dir")
    ask("rmdir .", os.rmdir, "dir/.")
    ask("rmdir ..", os.rmdir, "dir/..")
    ask("mkdir what is there", os.mkdir, "dir")
    ask("mkdir in what is not there", os.mkdir, "none/x")
    ask("unlink what is not there", os.unlink, "none")
    ask("a directory's links", looks, "dir")
    os.mkdir("dir/sub")
    ask("a directory's links with one inside", looks, "dir")


def renames():
    write("a", b"A")
    write("b", b"B")
    os.makedirs("full/inner")
    os.mkdir("empty")
    ask("rename over a file", os.rename, "a", "b")
    ask("what is there", read, "b")
    ask("the old name", looks, "a")
    ask("rename what is not there", os.rename, "none", "x")
    ask("directory over a full one", os.rename, "empty", "full")
    ask("directory over a file", os.rename, "empty", "b")
    ask("file over a directory", os.rename, "b", "empty")
    ask("directory into itself", os.rename, "full", "full/inner/x")
    ask("directory over an empty one", os.rename, "full", "empty")
    ask("what is in it", os.listdir, "empty")
    os.link("b", "twin")
    ask("rename over its own hard link", os.rename, "b", "twin")
    ask("both are there", lambda: sorted(os.listdir(".")))
    ask("rename ..", os.rename, "empty/..", "x")
    fd = os.open("b", os.O_RDWR)
    ask("rename an open file", os.rename, "b", "empty/c")
    ask("write to it", os.write, fd, b"through")
    ask("read it", read, "empty/c")
    os.close(fd)


def removed():
    fd = os.open("gone", os.O_RDWR | os.O_CREAT)
    os.unlink("gone")
    ask("write to what was removed", os.write, fd, b"still here")
    ask("read it", os.pread, fd, 100, 0)
    ask("its links", lambda: os.fstat(fd).st_nlink)
    ask("truncate it", os.ftruncate, fd, 5)
    ask("its size", lambda: os.fstat(fd).st_size)
    ask("chmod it", os.fchmod, fd, 0o600)
    os.close(fd)
    os.mkdir("here")
    back = os.open(".", os.O_RDONLY)
    os.chdir("here")
    os.rmdir("../here")
    ask("list what was removed", os.listdir, ".")
    ask("create in what was removed", opened, "x", os.O_RDWR | os.O_CREAT)
    os.fchdir(back)
    os.close(back)


def sizes():
    write("f", b"0123456789")
    ask("truncate", os.truncate, "f", 4)
    ask("what is left", read, "f")
    ask("make it longer", os.truncate, "f", 8)
    ask("what is new", read, "f")
    ask("truncate to less than nothing", os.truncate, "f", -1)
    os.mkdir("d")
    ask("truncate a directory", os.truncate, "d", 0)
    fd = os.open("f", os.O_RDONLY)
    ask("truncate what is open to be read", os.ftruncate, fd, 0)
    ask("write to it", os.write, fd, b"x")
    os.close(fd)
    fd = os.open("f", os.O_WRONLY)
    ask("read what is open to be written", os.read, fd, 1)
    os.close(fd)
    fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
    ask("write far out", os.pwrite, fd, b"end", 1 << 36)
    ask("the size", lambda: os.fstat(fd).st_size)
    ask("a hole reads as", os.pread, fd, 4, 1 << 35)
    ask("where data begins", os.lseek, fd, 0, os.SEEK_DATA)
    ask("where the hole is", os.lseek, fd, 0, os.SEEK_HOLE)
    ask("data behind the end", os.lseek, fd, 1 << 37, os.SEEK_DATA)
    ask("write too far out", os.pwrite, fd, b"x", (1 << 63) - 1)
    ask("truncate too far out", os.ftruncate, fd, (1 << 62))
    os.close(fd)
    fd = os.open("room", os.O_RDWR | os.O_CREAT)
    ask("allocate", os.posix_fallocate, fd, 100, 5000)
    ask("the size", lambda: os.fstat(fd).st_size)
    ask("allocate nothing", os.posix_fallocate, fd, 0, 0)
    os.close(fd)


def bytes_in_files():
    for flags in (0, os.O_SYNC, os.O_APPEND, os.O_DIRECT):
        name = f"f{flags}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | flags)
        area = mmap.mmap(-1, 1 << 20)
        area.write(bytes(range(256)) * 4096)
        ask("write a MiB", os.writev, fd, [area])
        ask("read it", os.preadv, fd, [area], 0)
        ask("it is right", lambda a=area: a[:] == bytes(range(256)) * 4096)
        os.close(fd)
        ask("the size", looks, name)
    one = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    two = os.open("log", os.O_WRONLY | os.O_APPEND)
    for i in range(10):
        os.write(one, b"one %d\n" % i)
        os.write(two, b"two %d\n" % i)
    ask("two that append", read, "log")
    fcntl.fcntl(one, fcntl.F_SETFL, 0)
    ask("one that does no more", os.pwrite, one, b"ONE", 0)
    ask("its beginning", lambda: read("log")[:8])
    os.close(one)
    os.close(two)
    a = os.open("copy-a", os.O_RDWR | os.O_CREAT)
    b = os.open("copy-b", os.O_RDWR | os.O_CREAT)
    os.write(a, b"0123456789" * 1000)
    ask("copy a range", os.copy_file_range, a, b, 5000, 3, 7)
    ask("what came of it", lambda: (len(read("copy-b")), read("copy-b")[:12]))
    ask("send a file", os.sendfile, b, a, 0, 10000)
    os.close(a)
    os.close(b)


def mapped():
    write("m", b"a" * 8192)
    fd = os.open("m", os.O_RDWR)
    area = mmap.mmap(fd, 8192)
    area[4000:4200] = b"b" * 200
    area.flush()
    ask("what was written to a map", lambda: os.pread(fd, 8192, 0).count(b"b"))
    os.pwrite(fd, b"ccc", 100)
    ask("what a map shows of a write", lambda: area[98:105])
    private = mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE)
    private[0:3] = b"zzz"
    ask("what a private map writes", lambda: os.pread(fd, 3, 0))
    area[8000:8003] = b"end"
    area.close()
    os.close(fd)
    ask("what stands there after all is closed", lambda: read("m")[7999:8004])


def rights():
    write("private", b"secret", mode=0o600)
    write("public", b"x", mode=0o644)
    write("unwritable", b"x", mode=0o444)
    os.mkdir("closed", 0o700)
    write("closed/f", b"")
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/roots", b"")
    os.mkdir("open")
    os.chmod("open", 0o777)
    as_user("read what is private", read, "private")
    as_user("write what is public", write, "public", b"y", os.O_WRONLY)
    as_user("enter what is closed", looks, "closed/f")
    as_user("list what is closed", os.listdir, "closed")
    as_user("remove another's in a sticky directory", os.unlink, "sticky/roots")
    as_user("rename another's in a sticky directory", os.rename, "sticky/roots", "sticky/x")
    as_user("create in a sticky directory", write, "sticky/mine", b"")
    ask("whose it is", looks, "sticky/mine")
    as_user("remove it", os.unlink, "sticky/mine")
    as_user("create where one may not", write, "closed/new", b"")
    as_user("create where all may", write, "open/new", b"")
    ask("whose it is", looks, "open/new")
    as_user("make a directory", os.mkdir, "open/d", 0o700)
    as_user("make a link", os.symlink, "x", "open/l")
    ask("whose it is", looks, "open/l")
    as_user("chmod another's", os.chmod, "public", 0o777)
    as_user("chmod one's own", os.chmod, "open/new", 0o600)
    as_user("give one's own away", os.chown, "open/new", 0, 0)
    as_user("give one's own to its group", os.chown, "open/new", -1, USER)
    as_user("set another's times", os.utime, "public")
    as_user("set one's own times", os.utime, "open/new", (5, 6))
    as_user("may one read", os.access, "private", os.R_OK)
    as_user("may one write", os.access, "public", os.W_OK)
    as_user("may one look", os.access, "public", os.R_OK)
    as_user("write what is there to be read", write, "unwritable", b"y", os.O_WRONLY)
    ask("root writes it", write, "unwritable", b"y", os.O_WRONLY)
    os.chown("private", USER, 60)
    os.chmod("private", 0o040)
    as_user("an owner without rights", read, "private")
    os.chown("private", 0, 60)
    as_user("a group with rights", read, "private", groups=(60,))
    os.chown("open", 0, 60)
    os.chmod("open", 0o770)
    as_user("create by a group's right", write, "open/by-group", b"", groups=(60,))
    ask("whose it is", looks, "open/by-group")
    ask("change owner and group", os.chown, "public", 70, 71)
    ask("whose it is", looks, "public")
    ask("change a link's owner", os.chown, "open/l", 72, 73, follow_symlinks=False)
    ask("whose it is", looks, "open/l")


def times():
    write("f", b"")
    os.symlink("f", "l")
    ask("set times", os.utime, "f", ns=(1234567890123456789, 987654321987654321))
    ask("the times", lambda: (os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns))
    ask("before 1970", os.utime, "f", ns=(-5000000000, -1))
    ask("the times", lambda: (os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns))
    ask("a link's times", os.utime, "l", ns=(7000000000, 8000000000), follow_symlinks=False)
    ask("the times", lambda: os.lstat("l").st_mtime_ns)
    os.utime("f", (5, 5))
    write("f", b"x")
    ask("a write changes mtime", lambda: os.stat("f").st_mtime > 1000)
    os.utime(".", (5, 5))
    write("new", b"")
    ask("a new name changes the directory's", lambda: os.stat(".").st_mtime > 1000)


def attributes():
    write("f", b"")
    os.mkdir("d")
    os.symlink("f", "l")
    for name in ("f", "d"):
        ask("set", os.setxattr, name, "user.one", b"value")
        ask("get", os.getxattr, name, "user.one")
        ask("get what is not there", os.getxattr, name, "user.none")
        ask("create what is there", os.setxattr, name, "user.one", b"x", os.XATTR_CREATE)
        ask("replace what is not there", os.setxattr, name, "user.two", b"x", os.XATTR_REPLACE)
        ask("set nothing", os.setxattr, name, "user.empty", b"")
        ask("list", lambda n=name: sorted(a for a in os.listxattr(n) if a.startswith("user.")))
        ask("remove", os.removexattr, name, "user.one")
        ask("remove again", os.removexattr, name, "user.one")
        ask("no name", os.setxattr, name, "user.", b"x")
        ask("no such kind", os.setxattr, name, "other.x", b"x")
        ask("a long name", os.setxattr, name, "user." + "n" * 251, b"x")
        ask("a large value", os.setxattr, name, "user.large", b"v" * 3000)
        ask("read back", lambda n=name: len(os.getxattr(n, "user.large")))
        ask("too large a value", os.setxattr, name, "user.huge", b"v" * 65537)
    ask("of a link", os.setxattr, "l", "user.x", b"x", follow_symlinks=False)
    os.chmod("f", 0o644)
    as_user("set another's", os.setxattr, "f", "user.x", b"x")
    as_user("get another's", os.getxattr, "f", "user.empty")


def special_files():
    ask("make a FIFO", os.mkfifo, "fifo", 0o640)
    ask("what it is", looks, "fifo")
    child = os.fork()
    if child == 0:
        write("fifo", b"through the fifo", os.O_WRONLY)
        os._exit(0)
    ask("read it", read, "fifo")
    os.waitpid(child, 0)
    ask("nobody reads", opened, "fifo", os.O_WRONLY | os.O_NONBLOCK)
    server = socket.socket(socket.AF_UNIX)
    ask("bind a socket", server.bind, "socket")
    ask("bind it again", socket.socket(socket.AF_UNIX).bind, "socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    ask("connect to it", client.connect, "socket")
    ask("open it", opened, "socket", os.O_RDWR)
    ask("a regular file", os.mknod, "node", 0o600 | stat.S_IFREG)
    ask("what it is", looks, "node")


def locks():
    write("f", b"0123456789")
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)

    def try_lock(kind, length, start):
        other = os.open("f", os.O_RDWR)
        fcntl.lockf(other, kind | fcntl.LOCK_NB, length, start)
        return "locked"

    as_root = {"uid": 0}
    as_user("lock what is locked", try_lock, fcntl.LOCK_EX, 2, 3, **as_root)
    as_user("lock beside it", try_lock, fcntl.LOCK_EX, 2, 5, **as_root)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    as_user("lock what was unlocked", try_lock, fcntl.LOCK_EX, 2, 3, **as_root)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def try_flock():
        fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "locked"

    as_user("flock what is flocked", try_flock, **as_root)
    os.close(fd)
    as_user("flock it when it is closed", try_flock, **as_root)


def many():
    names = [f"entry-{i:04}-{'x' * (i % 60)}" for i in range(700)]
    for name in names:
        write(name, b"")
    ask("all are listed", lambda: sorted(os.listdir(".")) == names)
    found = 0
    with os.scandir(".") as entries:
        for entry in entries:
            found += entry.is_file(follow_symlinks=False)
            os.unlink(entry.name)
    ask("removed while they were listed", lambda: (found, os.listdir(".")))
    deep = "/".join(["d"] * 60)
    ask("a deep directory", os.makedirs, deep)
    ask("a file in it", write, deep + "/f", b"x")
    ask("the file system's longest name", lambda: os.statvfs(".").f_namemax)
    fd = os.open(".", os.O_RDONLY)
    ask("sync a directory", os.fsync, fd)
    ask("sync all", os.sync)
    os.close(fd)


def main():
    global answers
    top = os.path.abspath(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.umask(0o022)
    os.mkdir(top, 0o755)
    with open(top + ".answers", "wb", buffering=0) as answers:
        for part in (opening, modes, links, renames, removed, sizes, bytes_in_files, mapped, rights, times,
                     attributes, special_files, locks, many):
            place = os.path.join(top, part.__name__)
            os.mkdir(place)
            os.chdir(place)
            answers.write(f"== {part.__name__}\n".encode())
            part()
        answers.write(b"== all asked\n")
    os.chdir("/")


main()
