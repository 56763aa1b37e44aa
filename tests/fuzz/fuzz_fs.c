/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest made of bytes that speaks FUSE to a share in a temporary directory. The rings are left to
 * fuzz_virtq.c. The input is a list of steps: struct step, then the bytes of the request's body.
 * Numbers of nodes and handles that were answered are put in where the input says so, for otherwise
 * it would never get past them.
 *
 * Passes when no sanitizer objects, every answer is one that Linux takes, nothing is held in the
 * end, and what lies beside the shared directory is as it was.
 */
#include "base/checked.h"
#include "devices/virtio/fs_session.h"

#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define NUMBERS         8u
#define STEPS           64u
#define BODY            512u
#define FILE_BYTES      (1u << 20)
#define DESCRIPTORS_MAX 20u
#define NODES_MAX       30u

struct step {
    uint8_t opcode;
    uint8_t node;   /* one that is known; from 0xf8 on, none */
    uint8_t handle; /* bit 7: not one that is known at the body's start; bit 6: not long enough */
    uint8_t name;   /* 0: none is put behind the fixed part */
    uint8_t room;   /* of the answer, in units of 16 bytes */
    uint8_t pieces; /* how long the descriptors are; 0: one */
    int8_t lie;     /* added to the header's length */
    uint8_t body;   /* how much of the input is the request's body */
} __attribute__((packed));

static char top[] = "/tmp/nido-fuzz-fs.XXXXXX";
static struct share *share;
static struct fs_session session;
static uint64_t nodes[NUMBERS], handles[NUMBERS];
static unsigned next_node, next_handle;

/* ---- the host's side ---- */

static int remove_it(const char *path, const struct stat *stat, int type, struct FTW *at)
{
    if (at->level == 0)
        return 0;
    if (type == FTW_DNR)
        chmod(path, 0700);
    remove(path);
    return 0;
}

static const char *path(const char *name)
{
    static char text[2][128];
    static unsigned turn;
    char *to = text[turn++ % 2];
    snprintf(to, sizeof(text[0]), "%s/%s", top, name);
    return to;
}

static void make_file(const char *name)
{
    int fd = open(path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    PROMISE(fd >= 0 && write(fd, "0123456789", 10) == 10);
    close(fd);
}

static void fill(void)
{
    nftw(path("shared"), remove_it, 16, FTW_DEPTH | FTW_PHYS);
    chmod(path("shared"), 0755);
    make_file("shared/file");
    mkdir(path("shared/dir"), 0755);
    make_file("shared/dir/file");
    PROMISE(symlink("../outside", path("shared/link")) == 0);
    PROMISE(mkfifo(path("shared/fifo"), 0644) == 0);
}

static void finish(void)
{
    share_close(share);
    nftw(top, remove_it, 16, FTW_DEPTH | FTW_PHYS);
    rmdir(top);
}

static void begin(void)
{
    PROMISE(mkdtemp(top));
    atexit(finish);
    PROMISE(mkdir(path("shared"), 0755) == 0 && mkdir(path("outside"), 0755) == 0);
    make_file("outside/file");
    const struct rlimit limit = {FILE_BYTES, FILE_BYTES};
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
    const struct share_config config = {
        .path = path("shared"), .descriptors_max = DESCRIPTORS_MAX, .nodes_max = NODES_MAX};
    PROMISE(share_open(&share, &config, NULL) == 0);
    PROMISE(share_adopt_thread() == 0);
    session.share = share;
    session.name = "fs fuzz";
    log_set_level(LOG_ERROR);
}

static void check_outside(void)
{
    struct stat stat_;
    unsigned count = 0;
    DIR *directory = opendir(path("outside"));
    PROMISE(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    PROMISE(count == 3);
    PROMISE(stat(path("outside/file"), &stat_) == 0);
    PROMISE(stat_.st_size == 10 && stat_.st_mode == (S_IFREG | 0644) && stat_.st_nlink == 1);
    PROMISE(stat(path("outside"), &stat_) == 0 && stat_.st_mode == (S_IFDIR | 0755));
}

/* ---- the guest's side ---- */

static const char *const names[] = {"file", "dir",    "link",   "fifo",
                                    "new",  "other",  ".",      "..",
                                    "a/b",  "user.x", "user.y", "security.capability"};

/* No more than a disk should take; and who reads, reads something. */
static void tame(uint32_t opcode, uint8_t *body, size_t length)
{
    struct fuse_fallocate_in in;
    if (opcode == FUSE_READ || opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS)
        body[offsetof(struct fuse_read_in, size) + 1] |= 2;
    if (opcode != FUSE_FALLOCATE || length < sizeof(in))
        return;
    memcpy(&in, body, sizeof(in));
    if (in.length < 1ull << 62)
        in.length %= FILE_BYTES;
    memcpy(body, &in, sizeof(in));
}

static size_t add_name(uint8_t *body, size_t length, uint8_t which)
{
    const char *name = names[which % ARRAY_SIZE(names)];
    memcpy(body + length, name, strlen(name) + 1);
    return length + strlen(name) + 1;
}

static unsigned cut(struct iovec *iov, uint8_t *at, size_t length, size_t piece)
{
    unsigned count = 0;
    if (!piece || length / piece >= VIRTQ_SIZE_MAX / 2)
        piece = length;
    for (size_t done = 0; done < length; done += piece)
        iov[count++] = (struct iovec){at + done, MIN(piece, length - done)};
    return count;
}

static void remember(uint32_t opcode, const uint8_t *payload, size_t length)
{
    struct fuse_entry_out entry;
    struct fuse_open_out open;
    const bool has_entry = opcode == FUSE_LOOKUP || opcode == FUSE_MKDIR || opcode == FUSE_MKNOD ||
                           opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == FUSE_CREATE;
    const bool opens = opcode == FUSE_OPEN || opcode == FUSE_OPENDIR || opcode == FUSE_CREATE;
    if (has_entry && length >= sizeof(entry)) {
        memcpy(&entry, payload, sizeof(entry));
        nodes[next_node++ % NUMBERS] = entry.nodeid;
    }
    if (opens && length >= sizeof(open)) {
        memcpy(&open, payload + length - sizeof(open), sizeof(open));
        handles[next_handle++ % NUMBERS] = open.fh;
    }
}

static void check_answer(const struct fuse_in_header *in, const uint8_t *reply, int64_t written,
                         size_t room)
{
    struct fuse_out_header out;
    if (written == 0)
        return;
    PROMISE((size_t)written >= sizeof(out) && (size_t)written <= room);
    memcpy(&out, reply, sizeof(out));
    PROMISE(out.len == written && out.unique == in->unique);
    PROMISE(out.error <= 0 && out.error > -512);
    PROMISE(out.error == 0 || out.len == sizeof(out));
    if (out.error == 0)
        remember(in->opcode, reply + sizeof(out), out.len - sizeof(out));
}

static void send(const struct step *step, uint8_t *body, size_t length)
{
    static uint8_t request[sizeof(struct fuse_in_header) + BODY], reply[16 * 256];
    static struct virtq_chain chain;
    struct fuse_in_header header = {
        .len = (uint32_t)((int)(sizeof(header) + length) + step->lie),
        .opcode = step->opcode,
        .unique = 12345,
        .nodeid = step->node < 0xf8 ? nodes[step->node % NUMBERS] : step->node,
    };
    size_t room = 16u * step->room;
    memcpy(request, &header, sizeof(header));
    memcpy(request + sizeof(header), body, length);
    chain.out_bytes = sizeof(header) + length;
    chain.in_bytes = room;
    chain.out_count = (uint16_t)cut(chain.iov, request, chain.out_bytes, step->pieces);
    chain.in_count = (uint16_t)cut(chain.iov + chain.out_count, reply, room, step->pieces);
    int64_t written = fs_session_serve(&session, &chain);
    PROMISE(written >= 0 || room < sizeof(struct fuse_out_header));
    if (written >= 0)
        check_answer(&header, reply, written, room);
    const struct share_counts counts = share_count(share);
    PROMISE(counts.nodes >= 1 && counts.nodes <= NODES_MAX &&
            counts.descriptors <= DESCRIPTORS_MAX);
}

static void greet(void)
{
    const struct fuse_init_in in = {.major = 7, .minor = 36, .flags = UINT32_MAX};
    const struct step step = {.opcode = FUSE_INIT, .room = 16};
    uint8_t body[sizeof(in)];
    memcpy(body, &in, sizeof(in));
    send(&step, body, sizeof(body));
    PROMISE(session.greeted);
}

/* A file, a directory and a link are known, and the first two open: handles 0 and 1. */
static void look_around(void)
{
    static const struct step steps[] = {
        {.opcode = FUSE_LOOKUP, .room = 16, .name = 1},
        {.opcode = FUSE_LOOKUP, .room = 16, .name = 2},
        {.opcode = FUSE_LOOKUP, .room = 16, .name = 3},
        {.opcode = FUSE_OPEN, .room = 16},
        {.opcode = FUSE_OPENDIR, .room = 16, .node = 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        uint8_t body[64] = {O_RDWR};
        size_t length = steps[i].name ? add_name(body, 0, steps[i].name - 1) : 8;
        send(&steps[i], body, length);
        if (i == 0) /* nodes: the file, and the root */
            for (unsigned j = 1; j < NUMBERS; j++)
                nodes[j] = FUSE_ROOT_ID;
    }
    PROMISE(handles[0] && handles[1]);
}

/* What the opcode wants at least, so that a request need not be long to be looked at. */
static size_t fixed_bytes(uint32_t opcode)
{
    static const uint8_t bytes[FUSE_TMPFILE + 2] = {
        [FUSE_GETATTR] = sizeof(struct fuse_getattr_in),
        [FUSE_SETATTR] = sizeof(struct fuse_setattr_in),
        [FUSE_MKNOD] = sizeof(struct fuse_mknod_in),
        [FUSE_MKDIR] = sizeof(struct fuse_mkdir_in),
        [FUSE_RENAME] = sizeof(struct fuse_rename_in),
        [FUSE_RENAME2] = sizeof(struct fuse_rename2_in),
        [FUSE_LINK] = sizeof(struct fuse_link_in),
        [FUSE_SETXATTR] = FUSE_COMPAT_SETXATTR_IN_SIZE,
        [FUSE_GETXATTR] = sizeof(struct fuse_getxattr_in),
        [FUSE_LISTXATTR] = sizeof(struct fuse_getxattr_in),
        [FUSE_OPEN] = sizeof(struct fuse_open_in),
        [FUSE_OPENDIR] = sizeof(struct fuse_open_in),
        [FUSE_CREATE] = sizeof(struct fuse_create_in),
        [FUSE_READ] = sizeof(struct fuse_read_in),
        [FUSE_READDIR] = sizeof(struct fuse_read_in),
        [FUSE_READDIRPLUS] = sizeof(struct fuse_read_in),
        [FUSE_WRITE] = sizeof(struct fuse_write_in),
        [FUSE_RELEASE] = sizeof(struct fuse_release_in),
        [FUSE_RELEASEDIR] = sizeof(struct fuse_release_in),
        [FUSE_FLUSH] = sizeof(struct fuse_flush_in),
        [FUSE_LSEEK] = sizeof(struct fuse_lseek_in),
        [FUSE_FALLOCATE] = sizeof(struct fuse_fallocate_in),
        [FUSE_COPY_FILE_RANGE] = sizeof(struct fuse_copy_file_range_in),
        [FUSE_FORGET] = sizeof(struct fuse_forget_in),
    };
    return bytes[opcode];
}

static bool starts_with_handle(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_LSEEK:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
        return true;
    default:
        return false;
    }
}

/* Returns what is left of the input. */
static size_t take_step(const uint8_t *data, size_t size)
{
    struct step step;
    uint8_t body[BODY] = {0};
    memcpy(&step, data, sizeof(step));
    data += sizeof(step);
    size -= sizeof(step);
    size_t length = MIN(size, (size_t)step.body);
    memcpy(body, data, length);
    step.opcode %= FUSE_TMPFILE + 2;
    if (step.opcode == FUSE_SYNCFS || step.opcode == FUSE_FSYNC || step.opcode == FUSE_FSYNCDIR)
        step.opcode = FUSE_FLUSH; /* the same, but for the time that it takes */
    tame(step.opcode, body, length);
    size_t with_names = step.handle & 0x40 ? length : MAX(length, fixed_bytes(step.opcode));
    if (!(step.handle & 0x80) && starts_with_handle(step.opcode))
        memcpy(body, &handles[step.handle % NUMBERS], sizeof(handles[0]));
    if (step.name & 0x0f)
        with_names = add_name(body, with_names, (step.name & 0x0f) - 1);
    if (step.name & 0xf0)
        with_names = add_name(body, with_names, (uint8_t)(step.name >> 4) - 1);
    send(&step, body, with_names);
    return size - length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!share)
        begin();
    fill();
    session.cache = size % 3;
    for (unsigned i = 0; i < NUMBERS; i++)
        nodes[i] = FUSE_ROOT_ID;
    memset(handles, 0, sizeof(handles));
    greet();
    next_node = next_handle = 0;
    look_around();
    for (unsigned i = 0; i < STEPS && size >= sizeof(struct step); i++) {
        size_t left = take_step(data, size);
        data += size - left;
        size = left;
    }
    fs_session_forget(&session);
    const struct share_counts counts = share_count(share);
    PROMISE(counts.nodes == 1 && counts.handles == 0);
    check_outside();
    return 0;
}
