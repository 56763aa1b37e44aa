/* SPDX-License-Identifier: Apache-2.0 */
/* Setups and rings that lie: each is refused, and the queue is dead afterwards. */
#include "devices/virtio/virtq.h"

#include "base/checked.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdlib.h>

#define SIZE   8u
#define BUFFER 0x100000ull

struct fixture {
    struct guest guest;
    struct guest_ring ring;
    struct virtq queue;
    struct virtq_chain chain;
};

static int enable(struct fixture *f, bool indirect)
{
    struct virtq_setup setup = guest_ring_setup(&f->ring);
    return virtq_enable(&f->queue, f->guest.mem, &setup, false, indirect);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    guest_ring_init(&f->ring, &f->guest, SIZE);
    *state = f;
    return enable(f, true);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    guest_finish(&f->guest);
    free(f);
    return 0;
}

/* ---- setups ---- */

static int try_setup(struct fixture *f, struct virtq_setup setup)
{
    int ret = virtq_enable(&f->queue, f->guest.mem, &setup, true, true);
    assert_int_equal(virtq_live(&f->queue), ret == 0);
    return ret;
}

static void virtq_refuses_a_size_that_is_no_power_of_two_or_too_large(void **state)
{
    static const uint16_t bad[] = {0, 3, 7, 255, 257, 512, 32768, 65535};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(try_setup(f, (struct virtq_setup){bad[i], 0x10000, 0x20000, 0x30000}),
                         -EINVAL);
    for (uint16_t size = 1; size <= VIRTQ_SIZE_MAX; size *= 2)
        assert_int_equal(try_setup(f, (struct virtq_setup){size, 0x10000, 0x20000, 0x30000}), 0);
}

static void virtq_refuses_unaligned_parts(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x10008, 0x20000, 0x30000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x10000, 0x20001, 0x30000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x10000, 0x20000, 0x30002}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x10010, 0x20002, 0x30004}), 0);
}

static void virtq_refuses_parts_outside_ram(void **state)
{
    const uint64_t end = GUEST_LOW_BYTES;
    struct fixture *f = *state;
    /* The last byte that a ring of 8 needs is the last byte of RAM: used 6 + 64, avail 6 + 16. */
    assert_int_equal(try_setup(f, (struct virtq_setup){8, end - 128, 0x2000, 0x3000}), 0);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, end - 112, 0x2000, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, end - 22, 0x3000}), 0);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, end - 20, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x2000, end - 72}), 0);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x2000, end - 68}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, ~0xfull, 0x2000, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, ~1ull, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x2000, ~3ull}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, GUEST_HIGH_GPA, 0x2000, 0x3000}), 0);
}

static void virtq_refuses_parts_that_overlap(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x1000, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x107e, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x3040, 0x2000, 0x3000}), -EINVAL);
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x2000, 0x2014}), -EINVAL);
    /* Side by side is what drivers do. */
    assert_int_equal(try_setup(f, (struct virtq_setup){8, 0x1000, 0x1080, 0x1098}), 0);
}

/* ---- rings ---- */

/* Publishes; the pop fails, and nothing comes from the queue any more. */
static void assert_refused(struct fixture *f)
{
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), -EINVAL);
    assert_false(virtq_live(&f->queue));
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
    virtq_push(&f->queue, 0, 1);
    virtq_unpop(&f->queue, 1);
    virtq_quiet(&f->queue);
    assert_false(virtq_flush(&f->queue));
    assert_false(virtq_listen(&f->queue));
    assert_int_equal(f->ring.used->idx, 0);
    assert_int_equal(f->ring.used->flags, 0);
}

static void start_again(struct fixture *f)
{
    guest_ring_init(&f->ring, &f->guest, SIZE);
    assert_int_equal(enable(f, true), 0);
}

static void assert_buffers_refused(struct fixture *f, const struct guest_buffer *buffers,
                                   unsigned count)
{
    guest_add(&f->ring, buffers, count);
    assert_refused(f);
}

static void virtq_refuses_an_index_too_far_ahead(void **state)
{
    struct fixture *f = *state;
    f->ring.next_avail = SIZE + 1;
    assert_refused(f);
}

static void virtq_refuses_an_index_that_goes_back(void **state)
{
    struct fixture *f = *state;
    guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    f->ring.next_avail = 0; /* with a fine chain in the entry that would come next */
    assert_refused(f);
}

static void virtq_refuses_more_than_size_without_a_flush(void **state)
{
    struct fixture *f = *state;
    for (uint16_t i = 0; i < SIZE; i++)
        guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    guest_publish(&f->ring);
    for (unsigned i = 0; i < SIZE; i++) {
        assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
        virtq_push(&f->queue, f->chain.head, 0);
    }
    guest_add_head(&f->ring, 0); /* the driver cannot know yet that it is free */
    assert_refused(f);
}

static void virtq_refuses_a_head_out_of_range(void **state)
{
    static const uint16_t bad[] = {SIZE, VIRTQ_SIZE_MAX, 0x7fff, 0xffff};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        guest_add_head(&f->ring, bad[i]);
        assert_refused(f);
        start_again(f);
    }
}

static void virtq_refuses_a_head_that_is_in_flight(void **state)
{
    struct fixture *f = *state;
    uint16_t head = guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    guest_add_head(&f->ring, head);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_refused(f);
}

static void virtq_refuses_a_looping_chain(void **state)
{
    struct fixture *f = *state;
    const struct guest_buffer two[] = {GUEST_OUT(BUFFER, 1), GUEST_OUT(BUFFER, 1)};
    uint16_t head = guest_add(&f->ring, two, 2);
    uint16_t tail = f->ring.desc[head].next;
    f->ring.desc[tail].flags |= VRING_DESC_F_NEXT;
    f->ring.desc[tail].next = head;
    assert_refused(f);
}

static void virtq_refuses_a_loop_of_empty_buffers(void **state)
{
    struct fixture *f = *state;
    uint16_t head = guest_add(&f->ring, &GUEST_OUT(0, 0), 1);
    f->ring.desc[head].flags |= VRING_DESC_F_NEXT;
    f->ring.desc[head].next = head;
    assert_refused(f);
}

static void virtq_refuses_a_link_out_of_range(void **state)
{
    struct fixture *f = *state;
    uint16_t head = guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    f->ring.desc[head].flags |= VRING_DESC_F_NEXT;
    f->ring.desc[head].next = SIZE;
    assert_refused(f);
}

static void virtq_refuses_buffers_outside_ram(void **state)
{
    const struct guest_buffer bad[] = {
        GUEST_OUT(GUEST_LOW_BYTES, 1),
        GUEST_OUT(GUEST_LOW_BYTES - 1, 2),
        GUEST_IN(GUEST_LOW_BYTES - 4, 5),
        GUEST_IN(~0ull, 1),
        GUEST_OUT(~0ull, 2),
        GUEST_OUT(~0ull - 0xfff, UINT32_MAX),
        GUEST_IN(GUEST_HIGH_GPA - 1, 2),
        GUEST_IN(BUFFER, UINT32_MAX),
        GUEST_OUT(GUEST_HIGH_GPA - 1, 1),
        GUEST_IN(GUEST_HIGH_GPA + GUEST_HIGH_BYTES, 1),
    };
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_buffers_refused(f, &bad[i], 1);
        start_again(f);
    }
}

static void virtq_refuses_readable_bytes_behind_writable_ones(void **state)
{
    const struct guest_buffer bad[] = {GUEST_IN(BUFFER, 1), GUEST_OUT(BUFFER, 1)};
    assert_buffers_refused(*state, bad, 2);
}

static void virtq_refuses_readable_bytes_behind_an_empty_writable_buffer(void **state)
{
    const struct guest_buffer bad[] = {GUEST_IN(BUFFER, 0), GUEST_OUT(BUFFER, 1)};
    assert_buffers_refused(*state, bad, 2);
}

/* Needs a RAM region of 1 GiB and more; never touched, so it costs address space only. */
static void virtq_refuses_a_chain_of_4_gib(void **state)
{
    const struct mem_range range = {0, 2 * GIB};
    const struct guest_buffer two[] = {GUEST_OUT(0, 2 * GIB), GUEST_IN(0, 2 * GIB)};
    const struct guest_buffer less[] = {GUEST_OUT(0, 2 * GIB), GUEST_IN(0, 2 * GIB - 1)};
    struct fixture *f = *state;
    struct mem *small = f->guest.mem;
    struct nido_error err;
    assert_int_equal(mem_create(&f->guest.mem, &range, 1, MEM_ANONYMOUS, &err), 0);
    guest_ring_init(&f->ring, &f->guest, SIZE);
    assert_int_equal(enable(f, false), 0);

    guest_add(&f->ring, less, 2);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.out_bytes + f->chain.in_bytes, UINT32_MAX);
    assert_buffers_refused(f, two, 2);

    mem_destroy(f->guest.mem);
    f->guest.mem = small;
}

/* ---- indirect tables ---- */

static struct vring_desc *add_table(struct fixture *f, unsigned count, uint16_t *head)
{
    struct guest_buffer buffers[2 * SIZE];
    for (unsigned i = 0; i < count; i++)
        buffers[i] = GUEST_OUT(BUFFER, 1);
    *head = guest_add_indirect(&f->ring, buffers, count);
    return guest_at(&f->guest, f->ring.desc[*head].addr, count * sizeof(struct vring_desc));
}

static void virtq_refuses_a_table_that_was_not_negotiated(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    assert_int_equal(enable(f, false), 0);
    add_table(f, 2, &head);
    assert_refused(f);
}

static void virtq_refuses_a_table_with_something_chained_behind(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    add_table(f, 2, &head);
    f->ring.desc[head].flags |= VRING_DESC_F_NEXT;
    assert_refused(f);
}

static void virtq_refuses_a_table_inside_a_table(void **state)
{
    struct fixture *f = *state;
    uint16_t inner, outer;
    add_table(f, 2, &inner);
    struct vring_desc *table = add_table(f, 2, &outer);
    table[1] = f->ring.desc[inner];
    f->ring.next_avail = 0;
    guest_add_head(&f->ring, outer);
    assert_refused(f);
}

/* No buffer that could be counted: only the rule against nesting ends this. */
static void virtq_refuses_a_table_that_holds_itself(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    struct vring_desc *table = add_table(f, 1, &head);
    table[0] = f->ring.desc[head];
    assert_refused(f);
}

static void virtq_refuses_a_table_of_a_wrong_length(void **state)
{
    static const uint32_t bad[] = {0, 1, 15, 17, 24, 16 * (SIZE + 1), UINT32_MAX, UINT32_MAX - 15};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        uint16_t head;
        add_table(f, 1, &head);
        f->ring.desc[head].len = bad[i];
        assert_refused(f);
        start_again(f);
    }
}

static void virtq_refuses_a_table_outside_ram(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    add_table(f, 2, &head);
    f->ring.desc[head].addr = GUEST_LOW_BYTES - 16;
    assert_refused(f);
}

static void virtq_refuses_a_link_out_of_the_table(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    struct vring_desc *table = add_table(f, 2, &head);
    table[1].flags |= VRING_DESC_F_NEXT;
    table[1].next = 2;
    assert_refused(f);
}

static void virtq_refuses_a_loop_in_a_table(void **state)
{
    struct fixture *f = *state;
    uint16_t head;
    struct vring_desc *table = add_table(f, 2, &head);
    table[1].flags |= VRING_DESC_F_NEXT;
    table[1].next = 0;
    assert_refused(f);
}

static void virtq_refuses_more_descriptors_than_size_with_the_table_counted(void **state)
{
    struct fixture *f = *state;
    uint16_t table;
    add_table(f, SIZE, &table);
    f->ring.next_avail--;
    uint16_t head = guest_add(&f->ring, &GUEST_OUT(BUFFER, 1), 1);
    f->ring.desc[head].flags |= VRING_DESC_F_NEXT;
    f->ring.desc[head].next = table;
    assert_refused(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(virtq_refuses_a_size_that_is_no_power_of_two_or_too_large),
        TEST(virtq_refuses_unaligned_parts),
        TEST(virtq_refuses_parts_outside_ram),
        TEST(virtq_refuses_parts_that_overlap),
        TEST(virtq_refuses_an_index_too_far_ahead),
        TEST(virtq_refuses_an_index_that_goes_back),
        TEST(virtq_refuses_more_than_size_without_a_flush),
        TEST(virtq_refuses_a_head_out_of_range),
        TEST(virtq_refuses_a_head_that_is_in_flight),
        TEST(virtq_refuses_a_looping_chain),
        TEST(virtq_refuses_a_loop_of_empty_buffers),
        TEST(virtq_refuses_a_link_out_of_range),
        TEST(virtq_refuses_buffers_outside_ram),
        TEST(virtq_refuses_readable_bytes_behind_writable_ones),
        TEST(virtq_refuses_readable_bytes_behind_an_empty_writable_buffer),
        TEST(virtq_refuses_a_chain_of_4_gib),
        TEST(virtq_refuses_a_table_that_was_not_negotiated),
        TEST(virtq_refuses_a_table_with_something_chained_behind),
        TEST(virtq_refuses_a_table_inside_a_table),
        TEST(virtq_refuses_a_table_that_holds_itself),
        TEST(virtq_refuses_a_table_of_a_wrong_length),
        TEST(virtq_refuses_a_table_outside_ram),
        TEST(virtq_refuses_a_link_out_of_the_table),
        TEST(virtq_refuses_a_loop_in_a_table),
        TEST(virtq_refuses_more_descriptors_than_size_with_the_table_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
