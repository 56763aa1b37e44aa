/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk on real image files, once for each I/O engine, with a driver that keeps the rules. */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "devices/virtio/blk.h"
#include "tests/unit/blk_driver.h"
#include "tests/unit/cmocka_nido.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IMAGE_BYTES (8 * MIB)
#define QUEUES      3u
#define F           GUEST_FEATURE
#define SERIAL      "a serial of 20 bytes"

#define ALL_FEATURES                                                                               \
    (F(VIRTIO_BLK_F_SEG_MAX) | F(VIRTIO_BLK_F_BLK_SIZE) | F(VIRTIO_BLK_F_FLUSH) |                  \
     F(VIRTIO_BLK_F_TOPOLOGY) | F(VIRTIO_BLK_F_MQ) | F(VIRTIO_BLK_F_DISCARD) |                     \
     F(VIRTIO_BLK_F_WRITE_ZEROES) | F(VIRTIO_RING_F_EVENT_IDX) | F(VIRTIO_RING_F_INDIRECT_DESC))

/* Counts durable writes and flushes on their way to the kernel; the thread engine makes them
 * here. */
static _Atomic int durable_writes, flushes;

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (flags & RWF_DSYNC)
        atomic_fetch_add(&durable_writes, 1);
    return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

int fdatasync(int fd)
{
    atomic_fetch_add(&flushes, 1);
    return (int)syscall(SYS_fdatasync, fd);
}

struct bench {
    struct guest guest;
    char path[256];
};

static struct bench *make_bench(bool read_only)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    const char *directory = getenv("TMPDIR");
    snprintf(bench->path, sizeof(bench->path), "%s/nido-blk-XXXXXX", directory ? directory : ".");
    own_fd int fd = mkstemp(bench->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)IMAGE_BYTES), 0);
    close(own_take_fd(&fd)); /* its lock is not ours */

    struct nido_error err;
    struct disk *disk;
    struct virtio_device *device = NULL;
    struct guest *guest = &bench->guest;
    const struct disk_config config = {.path = bench->path, .read_only = read_only};
    const struct virtio_blk_options options = {.name = "vda", .serial = SERIAL, .queues = QUEUES};
    guest_init(guest);
    if (disk_open_raw(&disk, &config, guest->loop, &err) < 0 ||
        virtio_blk_create(&device, disk, &options, guest->mem, guest->loop, &guest->irq, &err) < 0)
        fail_msg("%s", err.text);
    guest_attach(guest, device);
    return bench;
}

static int set_up(void **state)
{
    *state = make_bench(false);
    return 0;
}

static int set_up_read_only(void **state)
{
    *state = make_bench(true);
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    guest_finish(&bench->guest);
    unlink(bench->path);
    free(bench);
    return 0;
}

static struct guest *bring_up(struct bench *bench, uint64_t features)
{
    guest_bring_up(&bench->guest, features, QUEUES, 128);
    return &bench->guest;
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 5 + i / 509 + seed);
}

static void expect_in_file(const struct bench *bench, uint64_t offset, const void *bytes,
                           size_t length)
{
    own_fd int fd = open(bench->path, O_RDONLY | O_CLOEXEC);
    own_mem uint8_t *got = malloc(length);
    assert_int_equal(pread(fd, got, length, (off_t)offset), length);
    assert_memory_equal(got, bytes, length);
}

static uint64_t stored_bytes(const struct bench *bench)
{
    struct stat st;
    own_fd int fd = open(bench->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* A file system may need some more or less for its own books. */
static void expect_stored(const struct bench *bench, uint64_t bytes)
{
    assert_in_range(stored_bytes(bench), bytes - 64 * KIB, bytes + 64 * KIB);
}

/* ---- what it says of itself ---- */

static void blk_describes_its_disk(void **state)
{
    struct bench *bench = *state;
    struct virtio_blk_config config;
    assert_int_equal(guest_device_features(&bench->guest) & ALL_FEATURES, ALL_FEATURES);
    assert_false(guest_device_features(&bench->guest) & F(VIRTIO_BLK_F_RO));
    guest_read_config(&bench->guest, 0, &config, 60);
    assert_int_equal(le64toh(config.capacity), IMAGE_BYTES / 512);
    assert_int_equal(le32toh(config.seg_max), 126);
    assert_int_equal(le32toh(config.blk_size), 512);
    assert_int_equal(config.physical_block_exp, 3);
    assert_int_equal(le16toh(config.num_queues), QUEUES);
    assert_true(le32toh(config.max_discard_sectors) > 0);
    assert_true(le32toh(config.max_write_zeroes_sectors) > 0);
    assert_true(is_power_of_two(le32toh(config.discard_sector_alignment)));
    assert_int_equal(config.write_zeroes_may_unmap, 1);
}

static void blk_gives_its_serial(void **state)
{
    struct guest *guest = bring_up(*state, 0);
    char serial[24] = {0};
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_GET_ID, 0, serial, 20), VIRTIO_BLK_S_OK);
    assert_memory_equal(serial, SERIAL, 20);
    memset(serial, 0, sizeof(serial));
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_GET_ID, 0, serial, 8), VIRTIO_BLK_S_OK);
    assert_string_equal(serial, "a serial");
}

/* ---- data ---- */

static void blk_reads_back_what_many_requests_wrote_at_once(void **state)
{
    enum { COUNT = 40, BYTES = 8192 };
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    struct blk_request requests[COUNT];
    own_mem uint8_t *out = malloc(COUNT * BYTES);
    fill(out, COUNT * BYTES, 1);
    for (unsigned i = 0; i < COUNT; i++) {
        requests[i] = blk_prepare(guest, VIRTIO_BLK_T_OUT, i * BYTES / 512, BYTES);
        memcpy(blk_data(guest, &requests[i]), out + i * BYTES, BYTES);
        blk_add(guest, 0, VIRTIO_BLK_T_OUT, &requests[i]);
    }
    guest_kick(guest, 0);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(guest_wait_used(guest, 0).written, 1);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(blk_status(guest, &requests[i]), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    expect_in_file(*state, 0, out, COUNT * BYTES);

    struct blk_request read = blk_prepare(guest, VIRTIO_BLK_T_IN, 0, COUNT * BYTES);
    blk_add(guest, 0, VIRTIO_BLK_T_IN, &read);
    assert_int_equal(blk_finish(guest, 0, &read), VIRTIO_BLK_S_OK);
    assert_int_equal(read.used.written, COUNT * BYTES + 1);
    assert_memory_equal(blk_data(guest, &read), out, COUNT * BYTES);
}

/* 2.7.4.1: where descriptors end says nothing. */
static void blk_takes_requests_cut_anywhere(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    uint64_t gpa = guest_alloc(guest, 8192, 512);
    uint8_t *bytes = guest_at(guest, gpa, 8192);
    for (unsigned cut = 1; cut < 1040; cut += 37) {
        /* header and data in one piece of memory; then data and status in another */
        put_le32(bytes, VIRTIO_BLK_T_OUT);
        put_le32(bytes + 4, 0);
        put_le64(bytes + 8, cut);
        fill(bytes + 16, 1024, cut);
        bytes[2000] = BLK_STATUS_UNSEEN;
        guest_add_indirect(&guest->rings[0],
                           (struct guest_buffer[]){GUEST_OUT(gpa, cut),
                                                   GUEST_OUT(gpa + cut, 1040 - cut),
                                                   GUEST_IN(gpa + 2000, 1)},
                           3);
        guest_kick(guest, 0);
        guest_wait_used(guest, 0);
        assert_int_equal(bytes[2000], VIRTIO_BLK_S_OK);

        put_le32(bytes, VIRTIO_BLK_T_IN);
        memset(bytes + 4096, BLK_STATUS_UNSEEN, 1026);
        unsigned in_cut = MIN(cut, 1024u);
        guest_add(&guest->rings[0],
                  (struct guest_buffer[]){GUEST_OUT(gpa, 5), GUEST_OUT(gpa + 5, 11),
                                          GUEST_IN(gpa + 4096, in_cut),
                                          GUEST_IN(gpa + 4096 + in_cut, 1025 - in_cut)},
                  4);
        guest_kick(guest, 0);
        assert_int_equal(guest_wait_used(guest, 0).written, 1025);
        assert_memory_equal(bytes + 4096, bytes + 16, 1024);
        assert_int_equal(bytes[4096 + 1024], VIRTIO_BLK_S_OK);
        assert_int_equal(bytes[4096 + 1025], BLK_STATUS_UNSEEN);
    }
}

static void blk_takes_as_many_segments_as_it_says(void **state)
{
    enum { SEGMENTS = 126 };
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    struct guest_buffer buffers[SEGMENTS + 2];
    struct blk_request request = blk_prepare(guest, VIRTIO_BLK_T_OUT, 8, 1024 * SEGMENTS);
    own_mem uint8_t *expected = malloc(512 * SEGMENTS);
    buffers[0] = GUEST_OUT(request.header_gpa, BLK_HEADER_BYTES);
    fill(expected, 512 * SEGMENTS, 4);
    for (unsigned i = 0; i < SEGMENTS; i++) {
        buffers[i + 1] = GUEST_OUT(request.data_gpa + 1024 * i, 512);
        memcpy((uint8_t *)blk_data(guest, &request) + 1024 * i, expected + 512 * i, 512);
    }
    buffers[SEGMENTS + 1] = GUEST_IN(request.status_gpa, 1);
    for (unsigned turn = 0; turn < 2; turn++) {
        if (turn)
            guest_add(&guest->rings[0], buffers, SEGMENTS + 2);
        else
            guest_add_indirect(&guest->rings[0], buffers, SEGMENTS + 2);
        assert_int_equal(blk_finish(guest, 0, &request), VIRTIO_BLK_S_OK);
        expect_in_file(*state, 4096, expected, 512 * SEGMENTS);
    }
}

static void blk_serves_all_its_queues(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    struct blk_request requests[QUEUES];
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        requests[queue] = blk_prepare(guest, VIRTIO_BLK_T_OUT, queue, 512);
        fill(blk_data(guest, &requests[queue]), 512, queue);
        blk_add(guest, queue, VIRTIO_BLK_T_OUT, &requests[queue]);
    }
    for (unsigned queue = 0; queue < QUEUES; queue++)
        guest_kick(guest, queue);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        assert_int_equal(guest_wait_used(guest, queue).head, requests[queue].head);
        expect_in_file(*state, queue * 512, blk_data(guest, &requests[queue]), 512);
    }
}

/* What is under way on a real engine when the driver resets, and at last when the machine ends. */
static void blk_resets_and_ends_while_the_host_is_busy(void **state)
{
    enum { COUNT = 40, BYTES = 16384 };
    struct bench *bench = *state;
    const uint64_t keep = bench->guest.free_gpa;
    for (unsigned turn = 0; turn < 20; turn++) {
        blk_recycle(&bench->guest, keep);
        struct guest *guest = bring_up(bench, ALL_FEATURES);
        for (unsigned i = 0; i < COUNT; i++) {
            uint32_t type = i % 8 == 7 ? VIRTIO_BLK_T_FLUSH
                            : i % 2    ? VIRTIO_BLK_T_OUT
                                       : VIRTIO_BLK_T_IN;
            struct blk_request request =
                blk_prepare(guest, type, i * BYTES / 512, i % 8 == 7 ? 0 : BYTES);
            blk_add(guest, i % QUEUES, type, &request);
        }
        for (unsigned queue = 0; queue < QUEUES; queue++)
            guest_kick(guest, queue);
    }
}

/* ---- durability; meaningful where the thread engine is at work ---- */

static bool counts_calls(void)
{
    return getenv("NIDO_AIO") != NULL;
}

static void blk_makes_every_write_durable_for_a_driver_that_does_not_flush(void **state)
{
    struct guest *guest = bring_up(*state, F(VIRTIO_BLK_F_WRITE_ZEROES));
    uint8_t bytes[512] = {7};
    durable_writes = flushes = 0;
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_OUT, 1, bytes, 512), VIRTIO_BLK_S_OK);
    if (counts_calls())
        assert_int_equal(durable_writes, 1);
    struct blk_range range = {.sector = 1, .sectors = 1};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_WRITE_ZEROES, &range, 1), VIRTIO_BLK_S_OK);
    if (counts_calls())
        assert_int_equal(flushes, 1);
}

static void blk_flushes_when_a_driver_that_can_says_so(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    uint8_t bytes[512] = {7};
    durable_writes = flushes = 0;
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_OUT, 1, bytes, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(durable_writes + flushes, 0);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    if (counts_calls())
        assert_int_equal(flushes, 1);
}

/* ---- ranges ---- */

static void write_all(struct guest *guest, uint8_t *image)
{
    fill(image, IMAGE_BYTES, 6);
    for (uint64_t at = 0; at < IMAGE_BYTES; at += MIB / 2) {
        uint64_t before = guest->free_gpa;
        assert_int_equal(blk_do(guest, VIRTIO_BLK_T_OUT, at / 512, image + at, MIB / 2),
                         VIRTIO_BLK_S_OK);
        guest->free_gpa = before;
    }
}

static void blk_discard_gives_storage_back(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    own_mem uint8_t *image = malloc(IMAGE_BYTES);
    write_all(guest, image);
    const uint64_t before = stored_bytes(*state);
    const struct blk_range ranges[] = {{0, 2048, 0}, {6144, 0, 0}, {8192, 2048, 0}};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, ranges, 3), VIRTIO_BLK_S_OK);
    expect_stored(*state, before - 2 * MIB);
    expect_in_file(*state, MIB, image + MIB, 3 * MIB);
}

static void blk_writes_zeroes_and_unmaps_when_told(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    own_mem uint8_t *image = malloc(IMAGE_BYTES);
    write_all(guest, image);
    const uint64_t before = stored_bytes(*state);
    const struct blk_range ranges[] = {{1, 2, 0}, {2048, 2048, 0}};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_WRITE_ZEROES, ranges, 2), VIRTIO_BLK_S_OK);
    memset(image + 512, 0, 1024);
    memset(image + MIB, 0, MIB);
    expect_in_file(*state, 0, image, IMAGE_BYTES);
    expect_stored(*state, before);

    const struct blk_range unmap = {8192, 2048, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_WRITE_ZEROES, &unmap, 1), VIRTIO_BLK_S_OK);
    memset(image + 4 * MIB, 0, MIB);
    expect_in_file(*state, 0, image, IMAGE_BYTES);
    expect_stored(*state, before - MIB);
}

static void blk_checks_all_ranges_before_it_touches_one(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    const uint64_t end = IMAGE_BYTES / 512;
    static const uint32_t types[] = {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};
    const struct {
        struct blk_range bad;
        uint8_t status;
    } cases[] = {
        {{end, 1, 0}, VIRTIO_BLK_S_IOERR},        {{end - 1, 2, 0}, VIRTIO_BLK_S_IOERR},
        {{UINT64_MAX, 8, 0}, VIRTIO_BLK_S_IOERR}, {{0, UINT32_MAX, 0}, VIRTIO_BLK_S_IOERR},
        {{0, 8, 2}, VIRTIO_BLK_S_UNSUPP},         {{0, 8, 0x80000000}, VIRTIO_BLK_S_UNSUPP},
    };
    uint8_t bytes[4096], back[4096];
    fill(bytes, sizeof(bytes), 2);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_OUT, 0, bytes, 4096), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < ARRAY_SIZE(cases) * ARRAY_SIZE(types); i++) {
        const struct blk_range ranges[] = {{0, 8, 0}, cases[i / 2].bad};
        assert_int_equal(blk_do_ranges(guest, types[i % 2], ranges, 2), cases[i / 2].status);
    }
    const struct blk_range unmap = {0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, &unmap, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, back, 4096), VIRTIO_BLK_S_OK);
    assert_memory_equal(back, bytes, 4096);
}

static void blk_refuses_lists_of_ranges_that_make_no_sense(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    struct blk_range ranges[17] = {0};
    uint8_t bytes[40] = {0};
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, ranges, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, ranges, 17), VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_DISCARD, 0, NULL, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_WRITE_ZEROES, 0, bytes, 40), VIRTIO_BLK_S_IOERR);
}

static void blk_refuses_what_was_not_negotiated_or_does_not_exist(void **state)
{
    static const uint32_t types[] = {2, 3, 5, 11, 13, 14, 16, 0x80000000, UINT32_MAX};
    struct guest *guest = bring_up(*state, F(VIRTIO_BLK_F_FLUSH));
    uint8_t bytes[512] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        assert_int_equal(blk_do(guest, types[i], 0, bytes, 512), VIRTIO_BLK_S_UNSUPP);
}

/* ---- errors ---- */

static void blk_answers_sectors_and_lengths_that_do_not_exist(void **state)
{
    struct guest *guest = bring_up(*state, ALL_FEATURES);
    const uint64_t end = IMAGE_BYTES / 512;
    const struct {
        uint64_t sector;
        uint32_t length;
    } bad[] = {{end, 512}, {end - 1, 1024}, {UINT64_MAX, 512},           {UINT64_MAX / 512, 512},
               {0, 511},   {0, 513},        {UINT64_MAX / 512 + 1, 512}, {1ull << 55, 4096}};
    uint8_t bytes[4096] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(bad) * 2; i++)
        assert_int_equal(blk_do(guest, i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                                bad[i / 2].sector, bytes, bad[i / 2].length),
                         VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, NULL, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, end - 1, bytes, 512), VIRTIO_BLK_S_OK);
}

static void blk_answers_when_its_image_shrank(void **state)
{
    struct bench *bench = *state;
    struct guest *guest = bring_up(bench, ALL_FEATURES);
    struct blk_request request = blk_prepare(guest, VIRTIO_BLK_T_IN, 2048, 4096);
    assert_int_equal(truncate(bench->path, 4096), 0);
    blk_add(guest, 0, VIRTIO_BLK_T_IN, &request);
    assert_int_equal(blk_finish(guest, 0, &request), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request.used.written, 0);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, NULL, 4096), VIRTIO_BLK_S_OK);
}

static void blk_lets_nobody_write_when_read_only(void **state)
{
    struct bench *bench = *state;
    uint64_t features = guest_device_features(&bench->guest);
    assert_true(features & F(VIRTIO_BLK_F_RO));
    assert_false(features & (F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES)));
    struct guest *guest = bring_up(bench, F(VIRTIO_BLK_F_RO) | F(VIRTIO_BLK_F_FLUSH));
    const struct blk_range range = {0, 8, 0};
    uint8_t bytes[512] = {1};
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_OUT, 0, bytes, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, &range, 1), VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_WRITE_ZEROES, &range, 1),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, bytes, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(bytes[0], 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static const struct CMUnitTest tests[] = {
    TEST(blk_describes_its_disk),
    TEST(blk_gives_its_serial),
    TEST(blk_reads_back_what_many_requests_wrote_at_once),
    TEST(blk_takes_requests_cut_anywhere),
    TEST(blk_takes_as_many_segments_as_it_says),
    TEST(blk_serves_all_its_queues),
    TEST(blk_resets_and_ends_while_the_host_is_busy),
    TEST(blk_makes_every_write_durable_for_a_driver_that_does_not_flush),
    TEST(blk_flushes_when_a_driver_that_can_says_so),
    TEST(blk_discard_gives_storage_back),
    TEST(blk_writes_zeroes_and_unmaps_when_told),
    TEST(blk_checks_all_ranges_before_it_touches_one),
    TEST(blk_refuses_lists_of_ranges_that_make_no_sense),
    TEST(blk_refuses_what_was_not_negotiated_or_does_not_exist),
    TEST(blk_answers_sectors_and_lengths_that_do_not_exist),
    TEST(blk_answers_when_its_image_shrank),
    cmocka_unit_test_setup_teardown(blk_lets_nobody_write_when_read_only, set_up_read_only,
                                    tear_down),
};

int main(void)
{
    log_set_level(LOG_ERROR);
    unsetenv("NIDO_AIO");
    int failed = cmocka_run_group_tests_name("virtio-blk, io_uring", tests, NULL, NULL);
    setenv("NIDO_AIO", "threads", 1);
    failed += cmocka_run_group_tests_name("virtio-blk, threads", tests, NULL, NULL);
    return failed != 0;
}
