/* SPDX-License-Identifier: Apache-2.0 */
/* Opening qcow2 images: what is refused and in which words, backing files, overlays, locks. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/qcow2_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void expect_refusal_of(struct qcow2_bench *bench, const struct disk_config *config,
                              const char *words)
{
    const char *text = qcow2_bench_refusal(bench, config);
    if (!strstr(text, words) || !strstr(text, bench->directory))
        fail_msg("'%s' does not say '%s'", text, words);
}

static void expect_refusal(struct qcow2_bench *bench, const char *image, bool read_only,
                           const char *words)
{
    char path[300];
    struct disk_config config = qcow2_bench_config(bench, image, path);
    config.read_only = read_only;
    expect_refusal_of(bench, &config, words);
}

static void expect_opens(struct qcow2_bench *bench, const char *image, bool read_only)
{
    qcow2_bench_open(bench, image, read_only);
    qcow2_bench_close(bench);
}

/* Changes a big-endian field in place. */
static void patch(struct qcow2_bench *bench, const char *image, off_t at, unsigned bytes,
                  uint64_t value)
{
    char path[300];
    uint8_t field[8];
    qcow2_bench_config(bench, image, path);
    put_be64(field, value);
    own_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, field + 8 - bytes, bytes, at), bytes);
}

static uint64_t field_of(struct qcow2_bench *bench, const char *image, off_t at)
{
    char path[300];
    uint8_t field[8];
    qcow2_bench_config(bench, image, path);
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, field, sizeof(field), at), sizeof(field));
    return get_be64(field);
}

/* ---- what is refused ---- */

static void qcow2_refuses_what_it_cannot_do_by_name(void **state)
{
    struct qcow2_bench *bench = *state;
    static const struct {
        const char *make, *words;
    } images[] = {
        {"truncate -s 1M i", "this is not a qcow2 image"},
        {": > i", "this is not a qcow2 image"},
        {"qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k i 1M",
         "extended L2 entries"},
        {"qemu-img create -q -f qcow2 -o data_file=d,data_file_raw=on i 1M",
         "an external data file"},
        /* It measures the CPU, and now and then gives up on a busy one. */
        {"for try in 1 2 3 4 5; do "
         "qemu-img create -q -f qcow2 --object secret,id=s,data=x -o "
         "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 i 1M && break; done",
         "encrypted"},
        {"qemu-img create -q -f qcow2 i 1M && printf '\\000\\000\\000\\004' | "
         "dd of=i bs=1 seek=4 conv=notrunc status=none",
         "version 4"},
        {"qemu-img create -q -f qcow2 i 1M && printf '\\001' | "
         "dd of=i bs=1 seek=72 conv=notrunc status=none",
         "unknown feature 56"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
        qcow2_bench_shell(bench, "rm -f i d && %s", images[i].make);
        expect_refusal(bench, "i", false, images[i].words);
        expect_refusal(bench, "i", true, images[i].words);
    }
}

static void qcow2_refuses_damaged_headers(void **state)
{
    struct qcow2_bench *bench = *state;
    static const struct {
        off_t at;
        unsigned bytes;
        uint64_t value;
        const char *words;
    } fields[] = {
        {20, 4, 8, "cluster size"},
        {20, 4, 22, "cluster size"},
        {20, 4, 0xffffffff, "cluster size"},
        {24, 8, 0, "disk's size"},
        {24, 8, 1000, "disk's size"},
        {24, 8, UINT64_MAX - 511, "disk's size"},
        {24, 8, 1ull << 40, "L1 table is too small"},
        {36, 4, 0, "L1 table is too small"},
        {36, 4, 0xffffffff, "L1 table is too large"},
        {40, 8, 0, "L1 table is too large, or lies nowhere"},
        {40, 8, 512, "lies nowhere"},
        {40, 8, 1ull << 62, "lies nowhere"},
        {96, 4, 7, "refcount width"},
        {100, 4, 72, "length"},
        {100, 4, 0xfffffff8, "length"},
        {104, 1, 1, "compression type"},
        {8, 8, 1ull << 40, "backing file's name lies nowhere"},
    };
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 good 1M");
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        qcow2_bench_shell(bench, "cp good i");
        patch(bench, "i", fields[i].at, fields[i].bytes, fields[i].value);
        expect_refusal(bench, "i", true, fields[i].words);
        expect_refusal(bench, "i", false, fields[i].words);
    }
}

/* Of no use for a guest, but its content can be read. */
static void qcow2_refuses_to_write_what_contradicts_itself(void **state)
{
    struct qcow2_bench *bench = *state;
    static const struct {
        off_t at;
        uint64_t value;
        const char *words;
    } fields[] = {
        {72, 2, "marked as corrupt"},
        {48, 0, "refcount table lies nowhere"},
        {48, 512, "refcount table lies nowhere"},
        {48, 1ull << 50, "refcount table lies nowhere"},
        {48, 0x30000, "refcount block lies nowhere"}, /* the L1 table */
        {0x10000, 0, "counts as free"},               /* no refcount block */
        {0x10000, 0x10000, "counts as free, or as another's"},
        {0x10000, 1ull << 62, "refcount block lies nowhere"},
        {0x20000, 0, "counts as free"},                        /* the first refcounts */
        {0x30000, 0x20000, "counts as free, or as another's"}, /* an L2 table */
        {0x30000, 0x10200, "table lies nowhere"},
        {0x30000, 1ull << 55, "table lies nowhere"},
    };
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 good 1M && "
                             "qemu-io -f qcow2 -c 'write 0 4k' good >/dev/null");
    assert_true(field_of(bench, "good", 40) == 0x30000 && field_of(bench, "good", 48) == 0x10000);
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        qcow2_bench_shell(bench, "cp good i");
        patch(bench, "i", fields[i].at, 8, fields[i].value);
        expect_refusal(bench, "i", false, fields[i].words);
        expect_opens(bench, "i", true);
    }
}

static void qcow2_refuses_to_make_bitmaps_wrong(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 i 1M && qemu-img bitmap --add i b");
    expect_refusal(bench, "i", false, "dirty bitmaps");
    expect_opens(bench, "i", true);
}

static void raw_disks_that_are_qcow2_are_told_so(void **state)
{
    struct qcow2_bench *bench = *state;
    char path[300];
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 i 1M");
    struct disk_config config = qcow2_bench_config(bench, "i", path);
    config.format = DISK_RAW;
    expect_refusal_of(bench, &config, "say format=qcow2");
    config.overlay = true;
    expect_refusal_of(bench, &config, "say format=qcow2");
    qcow2_bench_shell(bench, "truncate -s %%512 i");
    config.format = DISK_QCOW2;
    config.direct = true;
    expect_refusal_of(bench, &config, "direct goes with raw");
}

/* ---- what was not closed ---- */

static void qcow2_makes_the_refcounts_of_a_dirty_image_again(void **state)
{
    struct qcow2_bench *bench = *state;
    static const char *const options[] = {"", ",cluster_size=4k", ",refcount_bits=64"};
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        qcow2_bench_fill_model(bench, 8 * MIB);
        qcow2_bench_shell(bench,
                          "rm -f i && "
                          "qemu-img convert -c -O qcow2 -o lazy_refcounts=on%s model.raw i",
                          options[i]);
        qcow2_bench_shell(bench, "qemu-img snapshot -c s i");
        qcow2_bench_status(bench, "qemu-io -f qcow2 -c 'write -P 1 1000k 2M' -c flush "
                                  "-c 'discard 4M 1M' -c flush -c 'sigraise 9' i "
                                  ">/dev/null 2>&1");
        assert_int_equal(field_of(bench, "i", 72), 1);
        assert_true(qcow2_bench_status(bench, "qemu-img check -q i >/dev/null 2>&1") != 0);
        qcow2_bench_shell(bench, "qemu-io -r -f qcow2 -c 'read -P 1 1000k 2M' i >/dev/null");
        qcow2_bench_learn_model(bench, "i");
        expect_opens(bench, "i", true);
        assert_int_equal(field_of(bench, "i", 72), 1);
        qcow2_bench_open(bench, "i", false);
        qcow2_bench_work(bench, 2);
        qcow2_bench_close(bench);
        assert_int_equal(field_of(bench, "i", 72), 0);
        qcow2_bench_judge(bench, "i");
    }
    log_set_level(LOG_WARN);
}

/* ---- backing files ---- */

static void qcow2_never_guesses_a_backing_format(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "truncate -s 1M base && "
                             "qemu-img create -q -f qcow2 -F raw -b base i");
    assert_true(field_of(bench, "i", 112) >> 32 == 0xe2792aca);
    patch(bench, "i", 112, 4, 0x11111111); /* an extension that nobody knows */
    expect_refusal(bench, "i", false, "qemu-img rebase -u -F FORMAT");
    expect_refusal(bench, "i", true, "qemu-img rebase -u -F FORMAT");
}

/* A guest that owned the base could make it look like an image that refers to a file of the host. */
static void qcow2_believes_the_backing_format(void **state)
{
    struct qcow2_bench *bench = *state;
    uint8_t bytes[4];
    qcow2_bench_shell(bench, "echo secret >secret && truncate -s 1M secret && "
                             "qemu-img create -q -f qcow2 -F raw -b secret base && "
                             "truncate -s %%512 base && "
                             "qemu-img create -q -f qcow2 -F raw -b base i");
    qcow2_bench_open(bench, "i", false);
    uint8_t sector[DISK_SECTOR_BYTES];
    assert_int_equal(qcow2_bench_one(bench, DISK_READ, 0, sector, sizeof(sector)), 0);
    put_be32(bytes, 0x514649fb);
    assert_memory_equal(sector, bytes, 4);
}

static void qcow2_refuses_other_backing_formats(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "qemu-img create -q -f vmdk base 1M && "
                             "qemu-img create -q -f qcow2 -F vmdk -b base i");
    expect_refusal(bench, "i", true, "is a vmdk image");
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 -u -F raw -b nbd://localhost/x i 1M");
    expect_refusal(bench, "i", true, "is not a file");
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 -u -F raw -b nowhere i 1M");
    expect_refusal(bench, "i", true, "there is no such file");
}

static void qcow2_refuses_to_stand_on_itself(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 -u -F qcow2 -b ./a a 1M && "
                             "qemu-img create -q -f qcow2 -u -F qcow2 -b c b 1M && "
                             "qemu-img create -q -f qcow2 -u -F qcow2 -b b c 1M");
    expect_refusal(bench, "a", false, "its own backing file");
    expect_refusal(bench, "a", true, "its own backing file");
    expect_refusal(bench, "b", true, "its own backing file");
}

static void qcow2_refuses_endless_chains(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 i0 1M && for i in $(seq 40); do "
                             "qemu-img create -q -f qcow2 -u -F qcow2 -b i$((i - 1)) i$i 1M; done");
    expect_opens(bench, "i20", false);
    expect_refusal(bench, "i40", true, "more than 32 backing files");
}

/* ---- overlays ---- */

static void open_overlay(struct qcow2_bench *bench, const char *base, enum disk_format format,
                         const char *kept)
{
    char path[300], kept_path[300];
    struct nido_error err;
    struct disk_config config = qcow2_bench_config(bench, base, path);
    config.format = format;
    config.overlay = true;
    if (kept) {
        qcow2_bench_config(bench, kept, kept_path);
        config.overlay_path = kept_path;
    }
    if (disk_open(&bench->disk, &config, bench->loop, &err) < 0)
        fail_msg("%s", err.text);
}

static void throw_away_overlay_leaves_nothing(void **state)
{
    struct qcow2_bench *bench = *state;
    static const char *const makes[] = {"cp model.raw base",
                                        "qemu-img convert -O qcow2 -c model.raw base"};
    own_mem char *before = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
    setenv("TMPDIR", bench->directory, 1);
    for (size_t i = 0; i < ARRAY_SIZE(makes); i++) {
        qcow2_bench_fill_model(bench, 4 * MIB + 512);
        qcow2_bench_shell(bench, "%s && cp base before && ls >files", makes[i]);
        open_overlay(bench, "base", i ? DISK_QCOW2 : DISK_RAW, NULL);
        qcow2_bench_compare(bench);
        qcow2_bench_work(bench, 20);
        qcow2_bench_compare(bench);
        qcow2_bench_shell(bench, "ls | cmp - files");
        qcow2_bench_close(bench);
        qcow2_bench_shell(bench, "cmp base before && ls | cmp - files");
    }
    if (before)
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
}

static void many_overlays_share_a_base(void **state)
{
    struct qcow2_bench *bench = *state;
    struct disk *first;
    uint8_t bytes[512];
    qcow2_bench_shell(bench, "truncate -s 1M base");
    open_overlay(bench, "base", DISK_RAW, NULL);
    first = bench->disk;
    open_overlay(bench, "base", DISK_RAW, NULL);
    memset(bytes, 1, sizeof(bytes));
    assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, 0, bytes, sizeof(bytes)), 0);
    qcow2_bench_close(bench);
    bench->disk = first;
    assert_int_equal(qcow2_bench_one(bench, DISK_READ, 0, bytes, sizeof(bytes)), 0);
    assert_int_equal(bytes[0], 0);
    char path[300];
    struct disk_config config = qcow2_bench_config(bench, "base", path);
    config.format = DISK_RAW;
    expect_refusal_of(bench, &config, "another process is using it");
}

static void kept_overlay_is_made_and_used_again(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_fill_model(bench, 4 * MIB + 512);
    qcow2_bench_shell(bench, "mv model.raw base && cp base before && mkdir sub");
    for (unsigned i = 0; i < 3; i++) {
        open_overlay(bench, "base", DISK_RAW, "sub/kept");
        qcow2_bench_compare(bench);
        qcow2_bench_work(bench, 5);
        qcow2_bench_close(bench);
        qcow2_bench_judge(bench, "sub/kept");
    }
    qcow2_bench_shell(bench, "cmp base before && test \"$(ls sub)\" = kept && "
                             "qemu-img info sub/kept | grep -q 'backing file format: raw'");
}

static void kept_overlay_of_something_else_is_refused(void **state)
{
    struct qcow2_bench *bench = *state;
    char path[300], kept[300];
    qcow2_bench_shell(bench, "truncate -s 1M base other && "
                             "qemu-img create -q -f qcow2 -F raw -b other kept && "
                             "qemu-img create -q -f qcow2 alone 1M && echo x >text");
    struct disk_config config = qcow2_bench_config(bench, "base", path);
    config.format = DISK_RAW;
    config.overlay = true;
    qcow2_bench_config(bench, "kept", kept);
    config.overlay_path = kept;
    expect_refusal_of(bench, &config, "no overlay of");
    qcow2_bench_config(bench, "alone", kept);
    expect_refusal_of(bench, &config, "no overlay of");
    qcow2_bench_config(bench, "text", kept);
    expect_refusal_of(bench, &config, "not a qcow2 image");
    qcow2_bench_config(bench, "nowhere/kept", kept);
    expect_refusal_of(bench, &config, "cannot make this overlay");
    config.overlay_path = NULL;
    config.read_only = true;
    expect_refusal_of(bench, &config, "contradict");
}

/* ---- locks ---- */

static void qcow2_is_locked_while_it_is_open(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_shell(bench, "truncate -s 1M base && "
                             "qemu-img create -q -f qcow2 -F raw -b base i");
    qcow2_bench_open(bench, "i", false);
    expect_refusal(bench, "i", false, "another process is using it");
    expect_refusal(bench, "i", true, "another process is using it");
    assert_true(qcow2_bench_status(bench, "qemu-img info i >/dev/null 2>&1") != 0);
    assert_true(qcow2_bench_status(bench, "qemu-io -f raw -c 'write 0 512' base "
                                          ">/dev/null 2>&1") != 0);
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench, "qemu-img info i >/dev/null");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, qcow2_bench_set_up, qcow2_bench_tear_down)

static const struct CMUnitTest tests[] = {
    TEST(qcow2_refuses_what_it_cannot_do_by_name),
    TEST(qcow2_refuses_damaged_headers),
    TEST(qcow2_refuses_to_write_what_contradicts_itself),
    TEST(qcow2_refuses_to_make_bitmaps_wrong),
    TEST(raw_disks_that_are_qcow2_are_told_so),
    TEST(qcow2_makes_the_refcounts_of_a_dirty_image_again),
    TEST(qcow2_never_guesses_a_backing_format),
    TEST(qcow2_believes_the_backing_format),
    TEST(qcow2_refuses_other_backing_formats),
    TEST(qcow2_refuses_to_stand_on_itself),
    TEST(qcow2_refuses_endless_chains),
    TEST(throw_away_overlay_leaves_nothing),
    TEST(many_overlays_share_a_base),
    TEST(kept_overlay_is_made_and_used_again),
    TEST(kept_overlay_of_something_else_is_refused),
    TEST(qcow2_is_locked_while_it_is_open),
};

int main(void)
{
    if (!qcow2_bench_possible())
        return 77;
    return cmocka_run_group_tests_name("qcow2, opening", tests, NULL, NULL) != 0;
}
