# SPDX-License-Identifier: Apache-2.0
# nido run --root FILE -- COMMAND: roots that are tar archives, OCI images and file systems that cannot be written, as a
# user who may open /dev/kvm and nothing else; and kernels that come in packages.
# shellcheck shell=bash source=tests/e2e/lib.sh disable=SC2016,SC2034,SC2154

prepare() {
    chmod 666 /dev/kvm
    mkdir -p home run
    chmod 755 /tmp . ..
    make_tree
    chown nobody: home run .
    cache=$PWD/home/.cache/nido/roots
}

as_user() {
    ${as:-} setpriv --reuid nobody --regid nogroup --clear-groups \
        env HOME="$PWD/home" TMPDIR="$PWD/home" XDG_RUNTIME_DIR="$PWD/run" XDG_DATA_HOME="$PWD/home/data" PATH="$PATH" "$@"
}

# make_tree: a busybox with its commands, and what only root can make.
make_tree() {
    mkdir -p tree/{bin,etc,dev,tmp,root,srv}
    cp "$(command -v busybox)" tree/bin/
    # Hard links of one call: a symbolic link each would be a process each, four hundred times.
    (cd tree/bin && busybox --install .)
    printf 'root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1235:worker:/home/worker:/bin/sh\n' >tree/etc/passwd
    printf 'root:x:0:\nworker:x:1235:\nextra:x:77:worker\n' >tree/etc/group
    mknod tree/srv/device c 1 5
    echo owned >tree/srv/owned
    chown 4321:70000 tree/srv/owned
    chmod 4750 tree/srv/owned
    ln tree/srv/owned tree/srv/other-name
}

# job ROOT [FLAG]... [-- COMMAND...]: leaves out, err and $status.
job() {
    status=0
    as_user nido run --root "$@" </dev/null >out 2>err || status=$?
}

# images: of the user's roots.
images() { find "$cache" -name '*.squashfs' | wc -l; }

# nothing_left: neither in the cache, but for images and what remembers them, nor where temporary files go.
nothing_left() {
    same "$(find "$cache" -type f ! -name '*.squashfs')" '' 'what is left in the cache'
    same "$(find home -maxdepth 1 -mindepth 1 ! -name .cache ! -name data)" '' 'what is left in TMPDIR'
}

test_packed_tar_is_a_root_with_owners_and_devices() {
    prepare
    tar -czf root.tar.gz -C tree .
    job root.tar.gz -- sh -c 'stat -c "%u %g %a %h" /srv/owned /srv/other-name; stat -c "%F %t %T" /srv/device; cat /srv/other-name; echo new >/etc/new; exit 7'
    expect_status 7
    same "$(cat err)" '' 'standard error'
    same "$(tr '\n' ';' <out)" '4321 70000 4750 2;4321 70000 4750 2;character special file 1 5;owned;' 'the root'
    same "$(images)" 1 'images'
    nothing_left
}

test_second_start_takes_the_image_that_is_there() {
    prepare
    tar -cf root.tar -C tree .
    job root.tar -- true
    expect_status 0
    local before
    before=$(stat -c '%i %Z' "$cache"/*.squashfs)
    # Neither program that makes images is needed any more; and a copy has the same content.
    cp root.tar copy.tar
    mount --bind /bin/false "$(command -v sqfstar)"
    job root.tar -- echo again
    expect_status 0
    expect_out again
    job copy.tar -- true
    expect_status 0
    same "$(stat -c '%i %Z' "$cache"/*.squashfs)" "$before" 'the image'
    # Another content is another image.
    echo more >tree/etc/more
    tar -cf root.tar -C tree .
    job root.tar -- true
    expect_status 125
    expect_err 'its image cannot be written'
    umount "$(command -v sqfstar)"
    job root.tar -- cat /etc/more
    expect_status 0
    expect_out more
    same "$(images)" 2 'images'
    nothing_left
}

test_what_is_no_archive_leaves_nothing() {
    prepare
    tar -czf root.tar.gz -C tree .
    head -c 300000 root.tar.gz >cut.tar.gz
    job cut.tar.gz -- true
    expect_status 125
    expect_err 'cut\.tar\.gz: it is cut off or damaged: '
    gzip -dc root.tar.gz >root.tar
    head -c 700000 root.tar >cut.tar
    job cut.tar --result result.json -- true
    expect_status 125
    expect_err 'cut\.tar: it is cut off or damaged'
    same "$(jq -r .reason result.json)" failed 'the record'
    head -c 5000 /dev/urandom | gzip >random.gz
    job random.gz -- true
    expect_status 125
    expect_err 'random\.gz: this is no tar archive'
    : >empty
    job empty -- true
    expect_status 125
    same "$(images)" 0 images
    nothing_left
}

test_a_full_disk_is_told_and_leaves_nothing() {
    prepare
    mkdir -p "$cache"
    mount -t tmpfs -o "size=600k,mode=700,uid=$(id -u nobody)" tmpfs "$cache"
    chown -R nobody: home
    tar -cf root.tar -C tree .
    job root.tar -- true
    expect_status 125
    expect_err 'root\.tar: its image cannot be written.*No space left'
    same "$(ls -A "$cache")" '' 'what is left in the cache'
}

test_a_killed_nido_leaves_nothing() {
    prepare
    local pid tries=0
    # More than it could be done with before the signal.
    random_file tree/big 64
    tar -cf root.tar -C tree .
    as='exec' as_user nido run --root root.tar -- true 2>err &
    pid=$!
    until pgrep -x sqfstar >/dev/null; do
        ((++tries < 1000)) || fail 'sqfstar was not started'
        sleep 0.02
    done
    kill -KILL $pid
    wait $pid || true
    tries=0
    while pgrep -x 'sqfstar|nido-unpack' >/dev/null; do
        ((++tries < 500)) || fail 'what it has started lives on'
        sleep 0.02
    done
    same "$(ls -A "$cache")" '' 'what is left in the cache'
    nothing_left
}

test_read_only_file_system_is_a_root_as_it_is() {
    prepare
    local image before
    mksquashfs tree root.squashfs -quiet -no-progress >/dev/null
    mkfs.erofs root.erofs tree >/dev/null
    mkfs.erofs -zlz4hc packed.erofs tree >/dev/null
    for image in root.squashfs root.erofs packed.erofs; do
        before=$(sum_of "$image")
        job "$image" -- sh -c 'stat -c "%u %g %a %h" /srv/other-name; stat -c "%F %t %T" /srv/device; echo new >/srv/owned; cat /srv/owned; exit 7'
        expect_status 7
        same "$(cat err)" '' 'standard error'
        same "$(tr '\n' ';' <out)" '4321 70000 4750 2;character special file 1 5;new;' "$image, as a root"
        same "$(sum_of "$image")" "$before" 'the image'
        job "$image" --write -- true
        expect_status 125
        expect_err "$image: ${image#*.} images cannot be written"
    done
    [[ ! -e $cache ]] || fail "another image was made of one: $(ls "$cache")"
}

goarch() { case $NIDO_ARCH in x86_64) echo amd64 ;; aarch64) echo arm64 ;; esac }

# make_image CONFIG [TAG]: of two layers, in the directory image; the second takes away and changes what the first has.
make_image() {
    mkdir -p upper/{etc,srv}
    [[ -e lower.tar.gz ]] || tar -czf lower.tar.gz -C tree .
    : >upper/srv/.wh.owned
    echo second >upper/etc/layer
    ln -sf layer upper/etc/issue
    tar -cf upper.tar -C upper ./etc/layer ./etc/issue ./srv/.wh.owned
    zstd -qf upper.tar
    "$here/oci_layout.py" image "$(goarch)" "$1" "${2:-latest}" lower.tar.gz upper.tar.zst
}

test_oci_image_is_a_root_and_says_what_to_run() {
    prepare
    echo first >tree/etc/layer
    make_image '{"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id -un; pwd; echo $GREETING $OTHER; cat /etc/issue; ls /srv; stat -c %h /srv/other-name"],
        "Env": ["GREETING=hello", "OTHER=image"], "User": "worker", "WorkingDir": "/made/for/it"}'
    job oci:image --env OTHER=flag
    same "$(cat err)" '' 'standard error'
    expect_status 0
    same "$(tr '\n' ';' <out)" 'worker;/made/for/it;hello flag;second;device;other-name;1;' 'what the image runs'
    same "$(images)" 1 images
    # Words take the place of its Cmd; the flags, of what else it says.
    mount --bind /bin/false "$(command -v sqfstar)"
    job oci:image:latest --user 7:extra --workdir / -- 'id -u; id -g; pwd'
    umount "$(command -v sqfstar)"
    expect_status 0
    same "$(tr '\n' ' ' <out)" '7 77 / ' 'what the flags say'
    same "$(images)" 1 images
    nothing_left
}

test_exec_is_as_much_the_images_as_the_first_command() {
    prepare
    make_image '{"Cmd": ["sh", "-c", "echo ready; exec sleep 1000"], "Env": ["GREETING=hello"], "User": "1234:77", "WorkingDir": "/made"}'
    as='exec' as_user nido run --name box --root oci:image </dev/null >out 2>err &
    local pid=$!
    wait_to_show out ready $pid
    same "$(as_user nido exec box -- sh -c 'pwd; id -u; id -g; echo $GREETING' </dev/null | tr '\n' ' ')" '/made 1234 77 hello ' 'the second command'
    kill -TERM $pid
    wait $pid || true
}

test_damaged_images_are_refused_and_leave_nothing() {
    prepare
    local layer blob
    make_image '{"Cmd": ["true"]}'
    layer=$(sum_of upper.tar.zst)
    blob=image/blobs/sha256/$layer
    printf X | dd of="$blob" bs=1 seek=100 conv=notrunc status=none
    job oci:image
    expect_status 125
    expect_err "layer 2 \(sha256:$layer\): it is damaged: what is in it has the digest sha256:"
    truncate -s -1 "$blob"
    job oci:image
    expect_err 'it has [0-9]+ bytes, and should have'
    rm "$blob"
    job oci:image
    expect_err "layer 2 .*cannot be opened: No such file"
    same "$(images)" 0 images
    make_image '{}'
    job oci:image
    expect_status 125
    expect_err 'does not say what to run'
    make_image '{"Cmd": ["true"]}' other
    job oci:image -- true
    expect_err 'several images in it; say which: oci:DIR:TAG, of: latest, other'
    job oci:image:none -- true
    expect_err "has the tag 'none'; the tags are: latest, other"
    job oci:tree -- true
    expect_err 'oci:tree: this is no OCI image layout: oci-layout: cannot be opened'
    rm -r image
    "$here/oci_layout.py" image riscv64 '{}' x lower.tar.gz
    job oci:image -- true
    expect_err "the image is for linux/riscv64, and this host runs linux/$(goarch)"
    same "$(images)" 0 images
    nothing_left
}

# make_package FILE ARCHITECTURE: of the bed's own kernel; as in Debian's, its modules are not indexed.
make_package() {
    local version modules
    version=$(uname -r)
    modules=package/lib/modules/$version
    mkdir -p package/{DEBIAN,boot,lib/modules}
    [[ -e package/boot/vmlinuz-$version ]] || cp "/boot/vmlinuz-$version" package/boot/
    [[ -e $modules ]] || cp -r "/lib/modules/$version" package/lib/modules/
    rm -f "$modules"/modules.{dep,dep.bin,alias,alias.bin,symbols,symbols.bin,softdep,devname}
    printf 'Package: linux-image-test\nVersion: 1\nArchitecture: %s\nMaintainer: x <x@x>\nDescription: x\n' "$2" >package/DEBIAN/control
    dpkg-deb -Znone --root-owner-group -b package "$1" >/dev/null
}

test_kernel_comes_out_of_a_package() {
    prepare
    local version
    version=$(uname -r)
    make_package kernel.deb "$(goarch)"
    same "$(as_user nido kernel add kernel.deb)" "$version" 'what was added'
    same "$(as_user nido kernel ls)" "$version  (default)" kernels
    same "$(find home -maxdepth 1 -mindepth 1 ! -name data)" '' 'what is left in TMPDIR'
    tar -cf root.tar -C tree .
    job root.tar -- uname -r
    expect_status 0
    expect_out "$version"
    make_package foreign.deb sparc64
    status=0
    as_user nido kernel add foreign.deb >out 2>err || status=$?
    expect_status 125
    expect_err "foreign\.deb: the package linux-image-test is for sparc64, and this host runs $(goarch)"
    same "$(find home -maxdepth 1 -mindepth 1 ! -name data ! -name .cache)" '' 'what is left in TMPDIR'
}
