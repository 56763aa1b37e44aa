#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_nido_unpack.py NIDO-UNPACK: the program on archives and images made here. Speaks TAP."""
import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
import oci_layout as oci  # noqa: E402

UNPACK = os.path.abspath(sys.argv[1])
DIR, FILE, LINK, SYMLINK, FIFO = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
NAME = "org.opencontainers.image.ref.name"


def member(path, kind=FILE, data="", mode=0o644, uid=0, pax=None):
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.pax_headers = kind, mode, uid, pax or {}
    content = b""
    if kind in (LINK, SYMLINK):
        info.linkname = data
    elif kind == FILE:
        content = data.encode()
        info.size = len(content)
    return info, content


def tar(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def call(*words):
    """Exit status, standard output, standard error, descriptor 3."""
    read_end, write_end = os.pipe()

    def lend():
        os.dup2(write_end, 3)

    with subprocess.Popen([UNPACK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          pass_fds=(3,) if write_end == 3 else (), close_fds=False, preexec_fn=lend) as process:
        os.close(write_end)
        # An answer is short enough for a pipe.
        with os.fdopen(read_end, "rb") as stream:
            written = stream.read()
        out, err = process.communicate()
    return process.returncode, out.decode(), err.decode(), written


def refused(words, *sentence):
    status, _, err, _ = call(*words)
    assert status == 1, f"exit status {status}"
    assert err.count("\n") == 1, f"not one sentence: {err!r}"
    for part in sentence:
        assert part in err, f"{part!r} is not in {err!r}"


def tree_of(stream):
    """What a tar has: a line for each name, in order."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(stream), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            assert info.name not in found, f"{info.name} comes twice"
            parent = os.path.dirname(info.name)
            assert not parent or found[parent] == "dir", f"{info.name} comes before its directory"
            if info.islnk():
                assert info.linkname in found, f"{info.name} comes before {info.linkname}"
            kind = {DIR: "dir", LINK: f"= {info.linkname}", SYMLINK: f"-> {info.linkname}", FIFO: "fifo"}
            found[info.name] = kind.get(info.type) or archive.extractfile(info).read().decode()
    return found


def same(found, expected):
    assert found == expected, f"{found!r} should be {expected!r}"


def digest_of(path):
    status, out, err, _ = call("digest", path)
    assert status == 0, err
    return out.strip()


def unpack_tar(data, path="root.tar"):
    write(path, data)
    status, out, err, stream = call("tar", path, digest_of(path))
    assert status == 0, err
    return out, stream


def image_of(*layers, config=None):
    """A layout with one image; the manifest's digest."""
    shutil.rmtree("image", ignore_errors=True)
    blobs = [oci.put_blob("image", layer, oci.LAYER) for layer in layers]
    image = oci.put_image("image", MACHINE, config or {}, blobs)
    oci.put_index("image", [image])
    return image


def merged(*layers):
    image = image_of(*layers)
    status, _, err, stream = call("layers", "image", image["digest"])
    assert status == 0, err
    return tree_of(stream)


# ---- tar archives ----


def a_tar_keeps_names_owners_and_attributes():
    long = "l" * 120 + "/" + "n" * 200
    out, stream = unpack_tar(tar(member("./", DIR, mode=0o750, uid=3), member(long, data="long"),
                                 member("big", data="x", uid=3000000, mode=0o4755, pax={"SCHILY.xattr.user.a": "b"}),
                                 member("link", SYMLINK, "s" * 200), member("fifo", FIFO), member("old", pax={"mtime": "-5"})))
    same(out, "750 3 0 0\n")
    tree = tree_of(stream)
    same(tree[long], "long")
    same(tree["link"], "-> " + "s" * 200)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        big = archive.getmember("big")
        same((big.uid, big.mode, big.pax_headers["SCHILY.xattr.user.a"]), (3000000, 0o4755, "b"))
        same(archive.getmember("old").mtime, 0)


def names_are_bytes():
    names = ["caf\u00e9", "bad\udcff\udce4"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for locale in ("C", "C.UTF-8"):
            os.environ["LC_ALL"] = locale
            _, stream = unpack_tar(tar(*[member(name, data="x") for name in names if form != tarfile.PAX_FORMAT or name != names[1]], form=form))
            for name in tree_of(stream):
                assert name in names, repr(name)


def packed_tars_are_read():
    plain = tar(member("a", data="1"))
    packers = [gzip.compress, bz2.compress, lzma.compress]
    for pack in packers:
        same(tree_of(unpack_tar(pack(plain))[1]), {"a": "1"})
    if shutil.which("zstd"):
        write("plain", plain)
        packed = subprocess.run(["zstd", "-qc", "plain"], stdout=subprocess.PIPE, check=True).stdout
        same(tree_of(unpack_tar(packed)[1]), {"a": "1"})
        skipped = b"\x50\x2a\x4d\x18\4\0\0\0size"  # as pzstd and zstd:chunked have them
        same(tree_of(unpack_tar(skipped + packed + skipped)[1]), {"a": "1"})


def damaged(stored):
    """Eight bytes of a file that gzip did not pack are others."""
    at = stored.index(b"x" * 100, len(stored) // 2)
    return stored[:at] + b"y" * 8 + stored[at + 8:]


def what_gzip_packed_is_checked_to_its_end():
    plain = tar(member("a", data="x" * 600000), member("b", data="2"))
    tree = {"a": "x" * 600000, "b": "2"}
    for level in (0, 9):
        packed = gzip.compress(plain, compresslevel=level)
        # Tapes are filled up with zeroes, and gzip lets pass what is no gzip.
        for tail in (b"", b"\0" * 5000, b"\0" * 300000, b"a signature"):
            same(tree_of(unpack_tar(packed + tail)[1]), tree)
        for data, sentence in ((packed[:-1], "it ends too early"), (packed[:-8], "it ends too early"), (packed[:len(packed) // 2], "it ends too early"),
                               (packed + b"\x1f", "it ends too early"), (packed + packed[:9], "it ends too early"),
                               (packed[:-5] + b"!" + packed[-4:], "incorrect data check"), (packed[:-1] + b"!", "incorrect length check")):
            write("wrong", data)
            refused(("tar", "wrong", digest_of("wrong")), "it is cut off or damaged: gzip: " + sentence)
    stored = gzip.compress(plain, compresslevel=0)
    write("wrong", damaged(stored))
    refused(("tar", "wrong", digest_of("wrong")), "it is cut off or damaged: gzip: incorrect data check")
    image = image_of(damaged(stored))
    refused(("layers", "image", image["digest"]), "layer 1 (sha256:", "gzip: incorrect data check")
    # More behind the end of the archive than is read at once.
    long = gzip.compress(plain + b"\0" * 3000000)
    same(tree_of(unpack_tar(long)[1]), tree)
    write("wrong", long[:-5] + b"!" + long[-4:])
    refused(("tar", "wrong", digest_of("wrong")), "gzip: incorrect data check")


def members_of_gzip_are_one_stream():
    plain = tar(member("a", data="x" * 600000), member("b", data="2"))
    parts = [gzip.compress(part, compresslevel=0) for part in (plain[:300000], b"", plain[300000:600123], plain[600123:])]
    same(tree_of(unpack_tar(b"".join(parts))[1]), {"a": "x" * 600000, "b": "2"})
    write("wrong", parts[0] + damaged(parts[2]) + parts[3])
    refused(("tar", "wrong", digest_of("wrong")), "gzip: incorrect data check")
    # One that cannot be told from what gzip lets pass.
    write("wrong", b"".join(parts[:3]) + b"!" + parts[3][1:])
    refused(("tar", "wrong", digest_of("wrong")), "it is cut off")


def the_last_of_one_name_counts():
    same(tree_of(unpack_tar(tar(member("a", data="1"), member("b", LINK, "a"), member("a", data="2")))[1]), {"a": "2", "b": "1"})
    same(tree_of(unpack_tar(tar(member("d", DIR), member("d/f", data="1"), member("d", data="file")))[1]), {"d": "file"})
    same(tree_of(unpack_tar(tar(member("d", data="file"), member("d", DIR), member("d/f", data="1")))[1]), {"d": "dir", "d/f": "1"})


def no_name_leads_out():
    same(tree_of(unpack_tar(tar(member("/abs", data="1"), member("../../up", data="2"), member("a/../../b", data="3")))[1]),
         {"abs": "1", "up": "2", "b": "3"})
    # Through symbolic links, as for a process whose root it is.
    same(tree_of(unpack_tar(tar(member("out", SYMLINK, "../../.."), member("out/x", data="1"), member("abs", SYMLINK, "/d"),
                                member("abs/y", data="2")))[1]), {"out": "-> ../../..", "x": "1", "abs": "-> /d", "d": "dir", "d/y": "2"})
    write("loop.tar", tar(member("a", SYMLINK, "b"), member("b", SYMLINK, "a"), member("a/x", data="1")))
    refused(("tar", "loop.tar", digest_of("loop.tar")), "a/x", "in a circle")


def a_hard_link_has_its_contents_whatever_becomes_of_the_other_name():
    same(tree_of(unpack_tar(tar(member("a", data="1"), member("b", LINK, "a"), member("c", LINK, "./b")))[1]),
         {"c": "1", "b": "= c", "a": "= c"})
    same(tree_of(unpack_tar(tar(member("s", SYMLINK, "x"), member("t", LINK, "s")))[1]), {"t": "-> x", "s": "= t"})
    write("bad.tar", tar(member("b", LINK, "a")))
    refused(("tar", "bad.tar", digest_of("bad.tar")), "b: it is a hard link to a, which is not there")


def holes_are_zeroes():
    if not shutil.which("tar"):
        return
    with open("sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(3000000)
    subprocess.run(["tar", "-Scf", "sparse.tar", "sparse"], check=True)
    _, _, _, stream = call("tar", "sparse.tar", digest_of("sparse.tar"))
    same(tree_of(stream)["sparse"], "begin" + "\0" * (3000000 - 5))


def what_is_wrong_with_an_archive_is_told():
    whole = tar(*[member(f"f{i}", data="x" * 700) for i in range(20)])
    digest = "sha256:" + "0" * 64
    for data, sentence in ((b"no archive at all" * 100, "this is no tar archive"), (whole[:5000], "cut off or damaged"),
                           (gzip.compress(os.urandom(20000))[:9000], "cut off or damaged"), (whole[:20 * 1536], "the end of the archive is missing"),
                           (gzip.compress(b"text" * 1000), "this is no tar archive"), (tar(), "nothing in it"),
                           (tar(member("oci-layout"), member("index.json")), "oci:DIRECTORY"),
                           (tar(member("manifest.json")), "skopeo copy docker-archive"),
                           (tar(member("n" * 300)), "longer than names may be"), (tar(member("d/" * 3000)), "longer than paths"),
                           (tar(member("u", uid=1 << 40)), "no user or group of Linux"), (whole, "was changed while it was read")):
        write("wrong", data)
        refused(("tar", "wrong", digest), sentence)
    refused(("tar", "nowhere", digest), "cannot be opened: No such file")
    refused(("tar", ".", digest), "no regular file")
    refused(("tar", "wrong", "md5:00"), "no digest that nido knows")
    refused(("tar",), "started by nido")


# ---- layers ----


def later_layers_win():
    same(merged(tar(member("a", data="1"), member("b", data="1"), member("d", DIR), member("d/x", data="1")),
                tar(member("b", data="2"), member("d", DIR, mode=0o700), member("d/y", data="2"))),
         {"a": "1", "b": "2", "d": "dir", "d/x": "1", "d/y": "2"})
    same(merged(tar(member("d", DIR), member("d/x", data="1"), member("f", data="1")), tar(member("d", data="2"), member("f/x", data="2"))),
         {"d": "2", "f": "dir", "f/x": "2"})
    # What goes through a link of a layer below does so in the layers above.
    same(merged(tar(member("usr/lib", DIR), member("lib", SYMLINK, "usr/lib")), tar(member("lib/x", data="2"))),
         {"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib", "usr/lib/x": "2"})
    same(merged(tar(member("usr/lib", DIR), member("lib", SYMLINK, "usr/lib")), tar(member("lib", DIR), member("lib/x", data="2"))),
         {"usr": "dir", "usr/lib": "dir", "lib": "dir", "lib/x": "2"})


def whiteouts_hide_what_is_below():
    below = tar(member("d", DIR), member("d/x", data="1"), member("d/e/y", data="1"), member("f", data="1"))
    same(merged(below, tar(member("d/.wh.x"), member(".wh.f"))), {"d": "dir", "d/e": "dir", "d/e/y": "1"})
    same(merged(below, tar(member(".wh.d"))), {"f": "1"})
    # Wherever they stand in their layer, what it brings itself is there.
    for order in (1, -1):
        again = [member("d/x", data="2"), member(".wh.d")][::order]
        same(merged(below, tar(*again)), {"d": "dir", "d/x": "2", "f": "1"})
        opaque = [member("d/z", data="2"), member("d/.wh..wh..opq")][::order]
        same(merged(below, tar(*opaque)), {"d": "dir", "d/z": "2", "f": "1"})
    same(merged(below, tar(member(".wh.nothing"), member("no/where/.wh.x"), member(".wh..wh.plnk", DIR))),
         {"d": "dir", "d/x": "1", "d/e": "dir", "d/e/y": "1", "f": "1"})
    image = image_of(below, tar(member(".wh..")))
    refused(("layers", "image", image["digest"]), "layer 2 (sha256:", "hides nothing that has a name")
    # In a tar that is no layer, they are files.
    same(tree_of(unpack_tar(tar(member("a", data="1"), member(".wh.a")))[1]), {"a": "1", ".wh.a": ""})


def hard_links_reach_into_layers_below():
    same(merged(tar(member("a", data="1")), tar(member("b", LINK, "a")), tar(member("a", data="3"))), {"a": "3", "b": "1"})
    same(merged(tar(member("a", data="1"), member("b", LINK, "a")), tar(member(".wh.a"))), {"b": "1"})


# ---- images ----


def an_image_says_how_it_is_run():
    config = {"Entrypoint": ["/e", "x"], "Cmd": None, "Env": ["A=b"], "User": "u:g", "WorkingDir": "/w", "Labels": {"more": "1"}}
    image = image_of(tar(member("a")), config=config)
    status, out, err, _ = call("image", "image", "")
    assert status == 0, err
    same(json.loads(out), {"entrypoint": ["/e", "x"], "cmd": [], "env": ["A=b"], "user": "u:g", "workdir": "/w", "manifest": image["digest"]})


def put_tagged(*images):
    oci.put_index("image", [{**image, "annotations": {NAME: tag}} for tag, image in images])


def found(tag=""):
    status, out, err, _ = call("image", "image", tag)
    assert status == 0, err
    return json.loads(out)["manifest"]


def tags_and_platforms_choose():
    one = image_of(tar(member("a")))
    two = oci.put_image("image", MACHINE, {"User": "two"}, [oci.put_blob("image", tar(member("b")), oci.LAYER)])
    foreign = oci.put_image("image", "sparc", {}, [oci.put_blob("image", tar(member("b")), oci.LAYER)])
    put_tagged(("v1", one), ("docker.io/library/x:v2", two))
    same(found("docker.io/library/x:v2"), two["digest"])
    refused(("image", "image", ""), "several images", "v1, docker.io/library/x:v2")
    refused(("image", "image", "v3"), "no image in it has the tag 'v3'", "v1, docker.io")
    put_tagged(("v1", one), ("same", one))
    same(found(), one["digest"])
    # An index of an image for several machines, as registries have them.
    here = {"os": "linux", "architecture": MACHINE}
    inner = oci.put_json("image", {"manifests": [
        {**foreign, "platform": {"os": "linux", "architecture": "sparc"}}, {**foreign, "platform": {"os": "windows", "architecture": MACHINE}},
        {**foreign, "platform": {**here, "variant": "v9"}}, {**foreign, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**two, "platform": here}]}, "application/vnd.oci.image.index.v1+json")
    put_tagged(("multi", inner))
    same(found(), two["digest"])
    oci.put_index("image", [{**foreign, "platform": {"os": "linux", "architecture": "sparc"}}, {**one, "platform": here}])
    same(found(), one["digest"])
    oci.put_index("image", [{**foreign, "platform": {"os": "linux", "architecture": "sparc"}}])
    refused(("image", "image", ""), f"no image for linux/{MACHINE}", "linux/sparc")
    oci.put_index("image", [foreign])
    refused(("image", "image", ""), "the image is for linux/sparc")


def manifest_with(**changes):
    """The index leads to a manifest that is changed so."""
    layer = oci.put_blob("image", tar(member("a")), oci.LAYER)
    manifest = {"schemaVersion": 2, "layers": [layer]}
    manifest["config"] = oci.put_json("image", {"os": "linux", "architecture": MACHINE}, "application/vnd.oci.image.config.v1+json")
    manifest.update(changes)
    return oci.put_json("image", manifest, "application/vnd.oci.image.manifest.v1+json")


def what_docker_calls_it_is_known():
    docker = "application/vnd.docker."
    config = {"os": "linux", "architecture": MACHINE}
    layers = [oci.put_blob("image", tar(member(kind or "plain")), docker + "image.rootfs.diff.tar" + kind) for kind in ("", ".gzip", ".zstd")]
    manifest = {"schemaVersion": 2, "config": oci.put_json("image", config, docker + "container.image.v1+json"), "layers": layers}
    image = oci.put_json("image", manifest, docker + "distribution.manifest.v2+json")
    inner = oci.put_json("image", {"manifests": [image]}, docker + "distribution.manifest.list.v2+json")
    oci.put_index("image", [inner])
    same(found(), image["digest"])


def what_is_wrong_with_an_image_is_told():
    def wrong(image, *sentence):
        oci.put_index("image", [image])
        refused(("image", "image", ""), *sentence)

    image_of(tar(member("a")))
    good = manifest_with()
    layer = oci.put_blob("image", tar(member("a")), oci.LAYER)
    distant = {**layer, "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}
    wrong(manifest_with(layers=[layer, distant]), "layer 2", "fetched from elsewhere")
    wrong(manifest_with(layers=[{**layer, "mediaType": "text/plain"}]), "layer 1 is of the type text/plain")
    wrong(manifest_with(layers=[]), "no layers")
    wrong(manifest_with(layers=[layer] * 501), "501 layers")
    wrong(manifest_with(config=layer), "no image of a root")
    wrong(manifest_with(config={**layer, "size": 1 << 70}), "no JSON")
    wrong(manifest_with(config={**layer, "size": 1.5}), "no mediaType, digest or size")
    wrong(manifest_with(config={**layer, "size": -1}), "no mediaType, digest or size")
    wrong(manifest_with(manifests=[]), "not what the descriptor calls it")
    wrong(manifest_with(mediaType="application/vnd.oci.image.index.v1+json"), "not what the descriptor calls it")
    wrong({**good, "size": good["size"] + 1}, "bytes, and should have")
    wrong({**good, "size": 1 << 62}, "bytes, and should have")
    wrong({**good, "digest": "sha256:" + "0" * 64}, "cannot be opened")
    wrong({**good, "digest": "sha256:../../" + "0" * 58}, "is no digest")
    wrong({**good, "digest": "sha512:" + hashlib.sha512(b"").hexdigest().upper()}, "is no digest")
    wrong({**good, "mediaType": "text/plain"}, "there is no image for")
    for config, sentence in (({"Env": "A=b"}, "its Env is no list"), ({"Cmd": [1]}, "no text"), ({"User": 5}, "its User is no text"), ([], "no object")):
        whole = {"os": "linux", "architecture": MACHINE, "config": config}
        wrong(manifest_with(config=oci.put_json("image", whole, "application/vnd.oci.image.config.v1+json")), sentence)
    for text in (b"", b"[]", b"{", b'{"manifests": 1}', b'{"manifests": [1]}', b"[" * 100000, b'{"a": 1, "a": 2}', b"\xff\xfe"):
        write("image/index.json", text)
        refused(("image", "image", ""), "index.json")
    write("image/oci-layout", b'{"imageLayoutVersion": "9.0"}')
    refused(("image", "image", ""), "no OCI image layout of version 1")
    os.remove("image/oci-layout")
    refused(("image", "image", ""), "this is no OCI image layout")
    refused(("image", "nowhere", ""), "nowhere cannot be opened")


def indexes_that_lead_on_and_on_are_cut_short():
    at = image_of(tar(member("a")))
    for _ in range(9):
        at = oci.put_json("image", {"manifests": [at]}, "application/vnd.oci.image.index.v1+json")
    oci.put_index("image", [at])
    refused(("image", "image", ""), "more than 8 indexes")


def every_blob_is_checked_before_it_is_used():
    layer = tar(member("a", data="1"))
    for change in ("layer", "config", "manifest"):
        image = image_of(layer)
        with open("image/blobs/sha256/" + image["digest"][7:], "rb") as file:
            manifest = json.load(file)
        digest = {"layer": manifest["layers"][0], "config": manifest["config"], "manifest": image}[change]["digest"]
        path = "image/blobs/sha256/" + digest[7:]
        with open(path, "r+b") as file:
            file.seek(20)
            file.write(b"!")
        words = ("layers", "image", image["digest"]) if change == "layer" else ("image", "image", "")
        refused(words, "it is damaged: what is in it has the digest sha256:", digest[:50])


# ---- packages ----


def ar(*parts):
    """An ar archive, as dpkg-deb makes it."""
    out = b"!<arch>\n"
    for name, data in parts:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def deb(*members, architecture=MACHINE, name="linux-image-6.1", data="data.tar.xz", pack=lzma.compress):
    control = tar(member("./control", data=f"Package: {name}\nVersion: 1\nArchitecture: {architecture}\nDescription: x\n more\n"))
    return ar(("debian-binary", b"2.0\n"), ("control.tar.gz", gzip.compress(control)), (data, pack(tar(*members))))


KERNEL = (member("./boot/vmlinuz-6.1", data="kernel"), member("./boot/config-6.1", data="no"), member("./etc/evil", data="no"),
          member("./lib/modules/6.1/kernel/a.ko", data="module"), member("./lib/modules/6.1/build", SYMLINK, "/usr/src"))


def check_sealed(pid):
    """That it has given up what it says; under an address sanitizer, which needs more, it does not."""
    with open(UNPACK, "rb") as file:
        if b"__asan_init" in file.read():
            return
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in file}
    same((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))


def lent(*packages):
    """What nido-unpack has laid out for as long as its input is open: a file's path, and its contents."""
    os.mkdir("lent")
    for number, data in enumerate(packages):
        write(f"{number}.deb", data)
    words = [UNPACK, "package", *[f"{number}.deb" for number in range(len(packages))]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": os.getcwd() + "/lent"}) as process:
        folder, version = process.stdout.read().decode().splitlines()
        files = {}
        for where, _, names in os.walk(folder):
            for name in names:
                with open(f"{where}/{name}", encoding="ascii") as file:
                    files[os.path.relpath(f"{where}/{name}", folder)] = file.read()
        check_sealed(process.pid)
        # A terminal's Ctrl-C takes nido; this one stays until nido is gone.
        process.terminate()
        process.stdin.close()
        same(process.wait(), 0)
    same(os.listdir("lent"), [])
    os.rmdir("lent")
    return version, files


def a_package_lends_its_kernel_and_modules():
    files = {"vmlinuz-6.1": "kernel", "lib/modules/6.1/kernel/a.ko": "module"}
    same(lent(deb(*KERNEL)), ("6.1", files))
    same(lent(deb(*KERNEL, data="data.tar.gz", pack=gzip.compress)), ("6.1", files))
    # As others than Debian have it.
    same(lent(deb(KERNEL[0]), deb(member("usr/lib/modules/6.1/kernel/a.ko", data="module"), name="linux-modules-6.1")), ("6.1", files))


def what_is_wrong_with_a_package_is_told():
    foreign = {"amd64": "arm64", "arm64": "amd64"}[MACHINE]
    os.environ["TMPDIR"] = os.getcwd() + "/left"
    os.mkdir("left")
    for data, sentence in ((deb(*KERNEL, architecture=foreign), f"linux-image-6.1 is for {foreign}, and this host runs {MACHINE}"),
                           (deb(member("usr/share/doc/x")), "there is no kernel in it"), (deb(*KERNEL[3:]), "there is no kernel in it, only modules"),
                           (deb(KERNEL[0]), "nido kernel add IMAGE.deb MODULES.deb"), (deb(*KERNEL, member("boot/vmlinuz-6.2")), "several kernels"),
                           (deb(*KERNEL, member("lib/modules/6.2/x")), "several kernels"), (deb(KERNEL[0], member("lib/modules/6.2/x")), "modules are for 6.2"),
                           (deb(*KERNEL, KERNEL[0]), "vmlinuz-6.1 cannot be written: File exists"), (deb(*KERNEL)[:400], "cut off or damaged"),
                           (deb(member("boot/vmlinuz-6\u009b2J"), member("lib/modules/6\u009b2J/x")), "is no version of a kernel"),
                           (deb(member("boot/vmlinuz--6")), "is no version of a kernel"), (deb(member("lib/modules/6 1/x")), "6 1/x is no version of a kernel"),
                           (ar(("debian-binary", b"2.0\n")), "no Debian package"), (b"nothing", "no Debian package"),
                           (ar(("data.tar.gz", gzip.compress(tar(*KERNEL)))), "before its control file"),
                           (ar(("control.tar.gz", gzip.compress(tar()))), "no control file"),
                           (deb(*KERNEL, member("./x", data="x" * 200000), data="data.tar.gz", pack=lambda plain: damaged(gzip.compress(plain, 0))),
                            "it is cut off or damaged: gzip: incorrect data check")):
        write("wrong.deb", data)
        refused(("package", "wrong.deb"), sentence)
        same(os.listdir("left"), [])
    # Names that would lead out lead to nothing that is taken, or stay inside.
    write("out.deb", deb(*KERNEL, member("../../lib/modules/../../escaped", data="x"), member("/lib/modules/6.1/../../../../x", data="x")))
    status, _, err, _ = call("package", "out.deb")
    assert status == 0, err
    same((os.listdir("left"), os.path.exists("escaped"), os.path.exists("x")), ([], False, False))
    del os.environ["TMPDIR"]


TESTS = [
    a_tar_keeps_names_owners_and_attributes, names_are_bytes, packed_tars_are_read,
    what_gzip_packed_is_checked_to_its_end, members_of_gzip_are_one_stream, the_last_of_one_name_counts, no_name_leads_out,
    a_hard_link_has_its_contents_whatever_becomes_of_the_other_name, holes_are_zeroes, what_is_wrong_with_an_archive_is_told,
    later_layers_win, whiteouts_hide_what_is_below, hard_links_reach_into_layers_below, an_image_says_how_it_is_run,
    tags_and_platforms_choose, what_docker_calls_it_is_known, what_is_wrong_with_an_image_is_told, indexes_that_lead_on_and_on_are_cut_short,
    every_blob_is_checked_before_it_is_used, a_package_lends_its_kernel_and_modules, what_is_wrong_with_a_package_is_told,
]


def main():
    failures = 0
    print(f"1..{len(TESTS)}")
    for number, test in enumerate(TESTS, 1):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                test()
                print(f"ok {number} - {test.__name__}")
            except Exception as why:  # pylint: disable=broad-except
                failures += 1
                print(f"not ok {number} - {test.__name__}\n# line {why.__traceback__.tb_next.tb_lineno}: {why!r}")
            os.chdir("/")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
