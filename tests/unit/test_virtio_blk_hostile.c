/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk between a driver that breaks the rules and a disk that takes its time or fails. */
#include "base/checked.h"
#include "base/log.h"
#include "devices/virtio/blk.h"
#include "tests/unit/blk_driver.h"
#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define DISK_BYTES (1 * MIB)
#define F          GUEST_FEATURE
#define FEATURES                                                                                   \
    (F(VIRTIO_BLK_F_FLUSH) | F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES) |              \
     F(VIRTIO_RING_F_INDIRECT_DESC))

/* ---- a disk in nobody's memory ---- */

struct fake {
    struct disk disk;
    struct disk_request *first, *last;
    unsigned held, commits, submits;
    _Atomic bool hold; /* requests wait for release() */
    _Atomic int result;
    _Atomic bool released;
    bool drained;
    void (*on_commit)(void);
};

static struct fake fake;
static unsigned closed;

static void expect_sane(const struct disk_request *request)
{
    if (request->op == DISK_FLUSH)
        return;
    if (!request->length_bytes || request->offset_bytes % 512 || request->length_bytes % 512 ||
        !checked_inside(request->offset_bytes, request->length_bytes, DISK_BYTES))
        abort();
    if (request->op > DISK_WRITE_THROUGH)
        return;
    uint64_t sum = 0;
    for (unsigned i = 0; i < request->iov_count; i++) {
        volatile uint8_t *bytes = request->iov[i].iov_base;
        sum += request->iov[i].iov_len;
        (void)(bytes[0] + bytes[request->iov[i].iov_len - 1]);
    }
    if (sum != request->length_bytes || request->iov_count > 128)
        abort();
}

static void fake_submit(struct disk *disk, struct disk_request *request)
{
    expect_sane(request);
    request->next = NULL;
    if (fake.first)
        fake.last->next = request;
    else
        fake.first = request;
    fake.last = request;
    fake.held++;
    fake.submits++;
}

static void finish_all(int result)
{
    while (fake.first) {
        struct disk_request *request = fake.first;
        fake.first = request->next;
        fake.held--;
        request->done(request, result);
        if (!fake.first)
            fake.disk.batch_done(fake.disk.user);
    }
}

static void fake_commit(struct disk *disk)
{
    fake.commits++;
    if (!fake.hold)
        finish_all(fake.result);
    if (fake.on_commit)
        fake.on_commit();
}

static void fake_drain(struct disk *disk)
{
    fake.drained = true;
    finish_all(-ECANCELED);
}

static void fake_close(struct disk *disk)
{
    closed++;
}

static const struct disk_ops fake_ops = {fake_submit, fake_commit, fake_drain, fake_close};

static void run_release(struct loop_task *task)
{
    fake.released = true;
    finish_all(fake.result);
}

static void release(struct guest *guest)
{
    struct loop_task task = {.run = run_release};
    fake.hold = false;
    loop_call(guest->loop, &task);
}

/* ---- set-up ---- */

static int set_up(void **state)
{
    static struct guest guest;
    struct virtio_device *device;
    struct nido_error err;
    const struct virtio_blk_options options = {.name = "vda", .serial = "s", .queues = 2};
    fake = (struct fake){.disk = {.ops = &fake_ops,
                                  .size_bytes = DISK_BYTES,
                                  .block_bytes = 512,
                                  .physical_bytes = 4096,
                                  .discard_bytes = 4096,
                                  .path = (char *)(uintptr_t) "fake"}};
    guest_init(&guest);
    if (virtio_blk_create(&device, &fake.disk, &options, guest.mem, guest.loop, &guest.irq, &err) <
        0)
        fail_msg("%s", err.text);
    guest_attach(&guest, device);
    guest_bring_up(&guest, FEATURES, 2, 16);
    *state = &guest;
    return 0;
}

static int tear_down(void **state)
{
    closed = 0;
    guest_finish(*state);
    assert_int_equal(closed, 1);
    assert_true(fake.drained);
    return 0;
}

static bool is_broken(struct guest *guest)
{
    guest_sync(guest);
    return guest_read32(guest, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void expect_recovery(struct guest *guest)
{
    guest_reset(guest);
    guest_bring_up(guest, FEATURES, 2, 16);
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, NULL, 512), VIRTIO_BLK_S_OK);
    assert_false(is_broken(guest));
}

static unsigned used_index(struct guest *guest)
{
    guest_sync(guest);
    return le16toh(__atomic_load_n(&guest->rings[0].used->idx, __ATOMIC_ACQUIRE));
}

/* ---- chains that are no requests ---- */

static void blk_breaks_on_a_chain_without_room_for_header_or_status(void **state)
{
    struct guest *guest = *state;
    const uint64_t gpa = guest_alloc(guest, 64, 8);
    const struct guest_buffer chains[][2] = {
        {GUEST_OUT(gpa, 15), GUEST_IN(gpa + 32, 1)}, /* a header too short */
        {GUEST_OUT(gpa, 8), GUEST_OUT(gpa + 8, 8)},  /* no status */
        {GUEST_IN(gpa, 16), GUEST_IN(gpa + 16, 1)},  /* no header */
        {GUEST_OUT(gpa, 16), GUEST_IN(gpa + 32, 0)}, /* a status of no bytes */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(chains); i++) {
        const unsigned before = used_index(guest);
        guest_add(&guest->rings[0], chains[i], 2);
        guest_kick(guest, 0);
        assert_true(is_broken(guest));
        assert_int_equal(used_index(guest), before);
        expect_recovery(guest);
    }
}

static void blk_keeps_off_the_rings_once_broken(void **state)
{
    struct guest *guest = *state;
    struct blk_request good = blk_prepare(guest, VIRTIO_BLK_T_IN, 0, 512);
    fake.hold = true;
    blk_add(guest, 0, VIRTIO_BLK_T_IN, &good);
    guest_add(&guest->rings[0], &GUEST_OUT(good.header_gpa, 8), 1);
    guest_kick(guest, 0);
    assert_true(is_broken(guest));
    assert_int_equal(fake.held, 1);
    /* What ends now ends unseen: the rings are the driver's again. */
    release(guest);
    assert_int_equal(used_index(guest), 0);
    assert_int_equal(blk_status(guest, &good), BLK_STATUS_UNSEEN);
    expect_recovery(guest);
}

static void blk_breaks_on_a_head_that_is_offered_twice(void **state)
{
    struct guest *guest = *state;
    struct blk_request request = blk_prepare(guest, VIRTIO_BLK_T_OUT, 0, 512);
    fake.hold = true;
    blk_add(guest, 0, VIRTIO_BLK_T_OUT, &request);
    for (unsigned i = 0; i < 10; i++)
        guest_add_head(&guest->rings[0], request.head);
    guest_kick(guest, 0);
    assert_true(is_broken(guest));
    assert_int_equal(fake.held, 1);
    release(guest);
    expect_recovery(guest);
}

/* ---- resets and the end ---- */

static void *release_later(void *arg)
{
    usleep(50000);
    release(arg);
    return NULL;
}

static void blk_reset_waits_for_requests_under_way(void **state)
{
    struct guest *guest = *state;
    struct blk_request requests[5];
    pthread_t helper;
    fake.hold = true;
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        requests[i] = blk_prepare(guest, VIRTIO_BLK_T_IN, i, 512);
        blk_add(guest, i % 2, VIRTIO_BLK_T_IN, &requests[i]);
    }
    guest_kick(guest, 0);
    guest_kick(guest, 1);
    guest_sync(guest);
    assert_int_equal(fake.held, 5);
    assert_int_equal(pthread_create(&helper, NULL, release_later, guest), 0);
    guest_reset(guest);
    assert_true(fake.released);
    pthread_join(helper, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
        assert_int_equal(blk_status(guest, &requests[i]), BLK_STATUS_UNSEEN);
    expect_recovery(guest);
}

static void blk_forgets_the_ranges_left_at_a_reset(void **state)
{
    struct guest *guest = *state;
    struct blk_request zeroes = blk_prepare(guest, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32);
    pthread_t helper;
    put_le32((uint8_t *)blk_data(guest, &zeroes) + 8, 8);
    put_le32((uint8_t *)blk_data(guest, &zeroes) + 24, 8);
    fake.hold = true;
    blk_add(guest, 0, VIRTIO_BLK_T_WRITE_ZEROES, &zeroes);
    guest_kick(guest, 0);
    guest_sync(guest);
    fake.submits = 0;
    assert_int_equal(pthread_create(&helper, NULL, release_later, guest), 0);
    guest_reset(guest);
    pthread_join(helper, NULL);
    assert_int_equal(fake.submits, 0);
    expect_recovery(guest);
}

/* The rest is tear_down()'s, and the sanitizer's. */
static void blk_ends_with_requests_under_way(void **state)
{
    struct guest *guest = *state;
    const struct blk_range ranges[] = {{0, 8, 0}, {8, 8, 0}};
    struct blk_request read = blk_prepare(guest, VIRTIO_BLK_T_IN, 0, 512);
    struct blk_request zeroes = blk_prepare(guest, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32);
    fake.hold = true;
    for (unsigned i = 0; i < 2; i++) {
        put_le64((uint8_t *)blk_data(guest, &zeroes) + 16 * i, ranges[i].sector);
        put_le32((uint8_t *)blk_data(guest, &zeroes) + 16 * i + 8, ranges[i].sectors);
    }
    blk_add(guest, 0, VIRTIO_BLK_T_IN, &read);
    blk_add(guest, 0, VIRTIO_BLK_T_WRITE_ZEROES, &zeroes);
    guest_kick(guest, 0);
    guest_sync(guest);
    assert_int_equal(fake.held, 2);
}

/* ---- a failing disk ---- */

static void blk_answers_every_error_of_the_host(void **state)
{
    static const int codes[] = {EIO, ENOSPC, EDQUOT, EFBIG, EROFS, EINVAL, ECANCELED, ENOMEM};
    static const uint32_t types[] = {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH};
    struct guest *guest = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        const struct blk_range range = {0, 8, 0};
        fake.result = -codes[i];
        for (unsigned j = 0; j < ARRAY_SIZE(types); j++)
            assert_int_equal(blk_do(guest, types[j], 0, NULL, j < 2 ? 512 : 0), VIRTIO_BLK_S_IOERR);
        assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_WRITE_ZEROES, &range, 1),
                         VIRTIO_BLK_S_IOERR);
    }
    fake.result = 0;
    assert_int_equal(blk_do(guest, VIRTIO_BLK_T_IN, 0, NULL, 512), VIRTIO_BLK_S_OK);
}

static void blk_stops_at_the_first_range_that_fails(void **state)
{
    struct guest *guest = *state;
    const struct blk_range ranges[] = {{0, 8, 0}, {8, 8, 0}, {16, 8, 0}};
    fake.result = -EIO;
    assert_int_equal(blk_do_ranges(guest, VIRTIO_BLK_T_DISCARD, ranges, 3), VIRTIO_BLK_S_IOERR);
    guest_sync(guest);
    assert_int_equal(fake.held, 0);
}

/* ---- batches ---- */

static void blk_starts_one_batch_and_interrupts_once_for_one_kick(void **state)
{
    struct guest *guest = *state;
    struct blk_request requests[5];
    uint64_t interrupts;
    guest_sync(guest);
    const unsigned before = fake.commits;
    fake.hold = true;
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        requests[i] = blk_prepare(guest, VIRTIO_BLK_T_IN, i, 512);
        blk_add(guest, 0, VIRTIO_BLK_T_IN, &requests[i]);
    }
    guest_kick(guest, 0);
    guest_sync(guest);
    assert_int_equal(fake.held, 5);
    assert_int_equal(fake.commits, before + 1);
    assert_int_equal(read(guest->irq.fd, &interrupts, 8), -1);
    release(guest);
    assert_int_equal(read(guest->irq.fd, &interrupts, 8), 8);
    assert_int_equal(interrupts, 1);
    assert_int_equal(used_index(guest), 5);
}

/* A vCPU that offers the next request as soon as the last is done. */
static struct {
    struct guest *guest;
    uint16_t head;
    _Atomic bool stop;
} feeder;

static void feed(void)
{
    if (feeder.stop)
        return;
    guest_add_head(&feeder.guest->rings[0], feeder.head);
    guest_publish(&feeder.guest->rings[0]);
}

static void blk_leaves_the_loop_to_others_while_its_guest_never_rests(void **state)
{
    struct guest *guest = *state;
    struct blk_request request = blk_prepare(guest, VIRTIO_BLK_T_IN, 0, 512);
    feeder.guest = guest;
    feeder.stop = false;
    blk_add(guest, 0, VIRTIO_BLK_T_IN, &request);
    feeder.head = request.head;
    fake.on_commit = feed;
    alarm(60); /* a loop that never comes back hangs the next line */
    guest_kick(guest, 0);
    for (unsigned i = 0; i < 10; i++)
        guest_sync(guest);
    feeder.stop = true;
    guest_sync(guest);
    alarm(0);
    assert_false(is_broken(guest));
}

/* ---- anything at all ---- */

static uint32_t next_random(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static struct guest_buffer random_buffer(uint64_t gpa, bool in)
{
    static const uint32_t lengths[] = {0, 1, 15, 16, 17, 32, 512, 513, 4096, 65536};
    uint32_t length = lengths[next_random() % ARRAY_SIZE(lengths)];
    uint64_t at = next_random() % 64 ? gpa + next_random() % 64 : next_random() * 4096ull;
    return (struct guest_buffer){at, length, in};
}

static void random_header(uint8_t *header)
{
    static const uint32_t types[] = {0, 1, 0, 1, 4, 8, 11, 13, 99};
    put_le32(header, types[next_random() % ARRAY_SIZE(types)]);
    put_le64(header + 8,
             next_random() % 4 ? next_random() % 2048 : next_random() * 0x10001ull << 30);
    for (unsigned i = 0; i < 4; i++) {
        put_le64(header + 16 + 16 * i, next_random() % 3000);
        put_le32(header + 24 + 16 * i, next_random() % 100);
        put_le32(header + 28 + 16 * i, next_random() % 4 ? 0 : next_random() % 4);
    }
}

static void blk_survives_anything_that_looks_like_a_request(void **state)
{
    struct guest *guest = *state;
    const uint64_t gpa = guest_alloc(guest, 128 * KIB, 4096);
    const uint64_t keep = guest->free_gpa;
    unsigned answered = 0;
    for (unsigned i = 0; i < 5000; i++) {
        struct guest_buffer buffers[6];
        unsigned out = next_random() % 3 + 1, count = out + next_random() % 3;
        random_header(guest_at(guest, gpa, 128));
        buffers[0] = GUEST_OUT(gpa, next_random() % 8 ? 16 * (1 + next_random() % 3) : 11);
        for (unsigned j = 1; j < count; j++)
            buffers[j] = random_buffer(gpa + 8192, j >= out);
        if (next_random() % 2)
            guest_add(&guest->rings[0], buffers, count);
        else
            guest_add_indirect(&guest->rings[0], buffers, count);
        guest_kick(guest, 0);
        if (is_broken(guest)) {
            blk_recycle(guest, keep);
            guest_bring_up(guest, FEATURES, 2, 16);
            continue;
        }
        guest_wait_used(guest, 0);
        answered++;
    }
    assert_in_range(answered, 1000, 4999);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(blk_breaks_on_a_chain_without_room_for_header_or_status),
        TEST(blk_keeps_off_the_rings_once_broken),
        TEST(blk_breaks_on_a_head_that_is_offered_twice),
        TEST(blk_reset_waits_for_requests_under_way),
        TEST(blk_forgets_the_ranges_left_at_a_reset),
        TEST(blk_ends_with_requests_under_way),
        TEST(blk_answers_every_error_of_the_host),
        TEST(blk_stops_at_the_first_range_that_fails),
        TEST(blk_starts_one_batch_and_interrupts_once_for_one_kick),
        TEST(blk_leaves_the_loop_to_others_while_its_guest_never_rests),
        TEST(blk_survives_anything_that_looks_like_a_request),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
