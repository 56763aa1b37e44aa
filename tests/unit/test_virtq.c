/* SPDX-License-Identifier: Apache-2.0 */
/* What a well-behaved driver gets from a queue. tests/unit/test_virtq_hostile.c has the others. */
#include "devices/virtio/virtq.h"

#include "base/checked.h"
#include "tests/unit/guest_driver.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 8u

struct fixture {
    struct guest guest;
    struct guest_ring ring;
    struct virtq queue;
    struct virtq_chain chain;
};

static int set_up_with(void **state, bool event_idx)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->guest);
    guest_ring_init(&f->ring, &f->guest, SIZE);
    f->ring.event_idx = event_idx;
    struct virtq_setup setup = guest_ring_setup(&f->ring);
    *state = f;
    return virtq_enable(&f->queue, f->guest.mem, &setup, event_idx, true);
}

static int set_up(void **state)
{
    return set_up_with(state, false);
}

static int set_up_event_idx(void **state)
{
    return set_up_with(state, true);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    guest_finish(&f->guest);
    free(f);
    return 0;
}

static uint16_t add_in(struct fixture *f, uint32_t length)
{
    uint64_t gpa = guest_alloc(&f->guest, length, 1);
    uint16_t head = guest_add(&f->ring, &GUEST_IN(gpa, length), 1);
    guest_publish(&f->ring);
    return head;
}

static void pop_expecting(struct fixture *f, uint16_t head)
{
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.head, head);
}

/* One request all the way: what virtq_flush() says. */
static bool serve_one(struct fixture *f)
{
    add_in(f, 1);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    virtq_push(&f->queue, f->chain.head, 1);
    return virtq_flush(&f->queue);
}

/* ---- chains ---- */

static void virtq_gives_chains_in_the_order_they_came(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
    uint16_t first = add_in(f, 16);
    uint16_t second = add_in(f, 32);
    pop_expecting(f, first);
    assert_int_equal(f->chain.in_bytes, 16);
    pop_expecting(f, second);
    assert_int_equal(f->chain.in_bytes, 32);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
}

static void virtq_sees_nothing_before_it_is_published(void **state)
{
    struct fixture *f = *state;
    guest_add(&f->ring, &GUEST_OUT(0x100000, 4), 1);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
}

/* Two buffers to read and two to write, as one chain. */
static void fill_buffers(struct fixture *f, struct guest_buffer buffers[4])
{
    buffers[0] = GUEST_OUT(guest_alloc(&f->guest, 5, 1), 5);
    buffers[1] = GUEST_OUT(GUEST_HIGH_GPA + 3, 4);
    buffers[2] = GUEST_IN(guest_alloc(&f->guest, 3, 1), 3);
    buffers[3] = GUEST_IN(guest_alloc(&f->guest, 6, 1), 6);
    memcpy(guest_at(&f->guest, buffers[0].gpa, 5), "hello", 5);
    memcpy(guest_at(&f->guest, buffers[1].gpa, 4), "nido", 4);
}

static void check_chain(struct fixture *f, const struct guest_buffer buffers[4])
{
    char read[8] = "";
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.out_count, 2);
    assert_int_equal(f->chain.in_count, 2);
    assert_int_equal(f->chain.out_bytes, 9);
    assert_int_equal(f->chain.in_bytes, 9);
    for (unsigned i = 0; i < 4; i++) {
        assert_ptr_equal(f->chain.iov[i].iov_base,
                         guest_at(&f->guest, buffers[i].gpa, buffers[i].length));
        assert_int_equal(f->chain.iov[i].iov_len, buffers[i].length);
    }
    assert_int_equal(virtq_chain_read(&f->chain, 3, read, 5), 0);
    assert_string_equal(read, "lonid");
    assert_int_equal(virtq_chain_write(&f->chain, 2, "pqrs", 4), 0);
    assert_memory_equal(guest_at(&f->guest, buffers[2].gpa, 3), "\0\0p", 3);
    assert_memory_equal(guest_at(&f->guest, buffers[3].gpa, 6), "qrs\0\0\0", 6);
}

static void virtq_gives_readable_bytes_first_then_writable(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[4];
    fill_buffers(f, buffers);
    guest_add(&f->ring, buffers, 4);
    guest_publish(&f->ring);
    check_chain(f, buffers);
}

static void virtq_follows_an_indirect_table(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[4];
    fill_buffers(f, buffers);
    uint16_t head = guest_add_indirect(&f->ring, buffers, 4);
    /* 2.7.5.3.2: WRITE on the descriptor of a table says nothing. */
    f->ring.desc[head].flags |= VRING_DESC_F_WRITE;
    guest_publish(&f->ring);
    check_chain(f, buffers);
}

static void virtq_follows_an_indirect_table_at_an_odd_address(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[4];
    fill_buffers(f, buffers);
    uint16_t head = guest_add_indirect(&f->ring, buffers, 4);
    struct vring_desc *desc = &f->ring.desc[head];
    uint64_t odd = guest_alloc(&f->guest, desc->len + 1, 2) + 1;
    memcpy(guest_at(&f->guest, odd, desc->len), guest_at(&f->guest, desc->addr, desc->len),
           desc->len);
    desc->addr = odd;
    guest_publish(&f->ring);
    check_chain(f, buffers);
}

static void virtq_follows_descriptors_that_end_in_a_table(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[4];
    fill_buffers(f, buffers);
    uint16_t table = guest_add_indirect(&f->ring, &buffers[1], 3);
    f->ring.next_avail--; /* it is no head */
    uint16_t head = guest_add(&f->ring, &buffers[0], 1);
    f->ring.desc[head].flags |= VRING_DESC_F_NEXT;
    f->ring.desc[head].next = table;
    guest_publish(&f->ring);
    check_chain(f, buffers);
}

static void virtq_takes_a_chain_as_long_as_the_queue(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[SIZE];
    for (unsigned i = 0; i < SIZE; i++)
        buffers[i] = GUEST_OUT(0x100000 + i, 1);
    guest_add(&f->ring, buffers, SIZE);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.out_count, SIZE);
}

static void virtq_leaves_out_empty_buffers(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer some[] = {GUEST_OUT(0x100000, 0), GUEST_OUT(0x100000, 2), GUEST_IN(~0, 0),
                                  GUEST_IN(0x100000, 3)};
    struct guest_buffer none[] = {GUEST_OUT(0, 0), GUEST_IN(0, 0)};
    guest_add(&f->ring, some, ARRAY_SIZE(some));
    guest_add(&f->ring, none, ARRAY_SIZE(none));
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.out_count, 1);
    assert_int_equal(f->chain.in_count, 1);
    assert_int_equal(f->chain.in_bytes, 3);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.out_count + f->chain.in_count, 0);
    assert_int_equal(f->chain.out_bytes + f->chain.in_bytes, 0);
}

static void virtq_copies_no_more_than_the_chain_has(void **state)
{
    struct fixture *f = *state;
    struct guest_buffer buffers[4];
    char byte[16];
    fill_buffers(f, buffers);
    guest_add(&f->ring, buffers, 4);
    guest_publish(&f->ring);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_int_equal(virtq_chain_read(&f->chain, 0, byte, 10), -EINVAL);
    assert_int_equal(virtq_chain_read(&f->chain, 9, byte, 1), -EINVAL);
    assert_int_equal(virtq_chain_read(&f->chain, UINT64_MAX, byte, 2), -EINVAL);
    assert_int_equal(virtq_chain_read(&f->chain, 9, byte, 0), 0);
    assert_int_equal(virtq_chain_write(&f->chain, 8, byte, 2), -EINVAL);
    assert_int_equal(virtq_chain_write(&f->chain, 1, byte, SIZE_MAX), -EINVAL);
    assert_int_equal(virtq_chain_write(&f->chain, 8, byte, 1), 0);
}

/* ---- completions ---- */

static void virtq_tells_completions_only_when_flushed(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    uint16_t first = add_in(f, 8), second = add_in(f, 8);
    pop_expecting(f, first);
    pop_expecting(f, second);
    virtq_push(&f->queue, second, 7); /* in any order */
    virtq_push(&f->queue, first, 0);
    assert_false(guest_take_used(&f->ring, &used));
    assert_true(virtq_flush(&f->queue));
    assert_true(guest_take_used(&f->ring, &used));
    assert_int_equal(used.head, second);
    assert_int_equal(used.written, 7);
    assert_true(guest_take_used(&f->ring, &used));
    assert_int_equal(used.head, first);
    assert_int_equal(used.written, 0);
    assert_false(guest_take_used(&f->ring, &used));
    assert_false(virtq_flush(&f->queue)); /* nothing new */
}

static void virtq_goes_on_when_indices_wrap(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    uint64_t gpa = guest_alloc(&f->guest, 4, 4);
    /* Three at a time, so that batches straddle both the ring's end and 65535. */
    for (unsigned round = 0; round < 3 * 65536 / 3 + 10; round++) {
        for (unsigned i = 0; i < 3; i++)
            guest_add(&f->ring, &GUEST_IN(gpa, 4), 1);
        guest_publish(&f->ring);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
            virtq_push(&f->queue, f->chain.head, i);
        }
        assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
        virtq_flush(&f->queue);
        for (unsigned i = 0; i < 3; i++) {
            assert_true(guest_take_used(&f->ring, &used));
            assert_int_equal(used.written, i);
        }
        assert_false(guest_take_used(&f->ring, &used));
    }
    assert_int_equal(f->queue.in_flight, 0);
}

static void virtq_takes_a_full_ring(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < SIZE; i++)
            add_in(f, 1);
        while (virtq_pop(&f->queue, &f->chain) == 1)
            virtq_push(&f->queue, f->chain.head, 1);
        virtq_flush(&f->queue);
        for (unsigned i = 0; i < SIZE; i++)
            assert_true(guest_take_used(&f->ring, &used));
    }
}

static void virtq_unpop_gives_the_same_chains_again(void **state)
{
    struct fixture *f = *state;
    uint16_t heads[3];
    for (unsigned i = 0; i < 3; i++)
        heads[i] = add_in(f, 1 + i);
    for (unsigned i = 0; i < 3; i++)
        pop_expecting(f, heads[i]);
    virtq_unpop(&f->queue, 2);
    assert_int_equal(f->queue.in_flight, 1);
    pop_expecting(f, heads[1]);
    assert_int_equal(f->chain.in_bytes, 2);
    pop_expecting(f, heads[2]);
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 0);
    for (unsigned i = 0; i < 3; i++)
        virtq_push(&f->queue, heads[i], 0);
    assert_true(virtq_flush(&f->queue));
}

/* ---- notifications ---- */

static void virtq_asks_for_kicks_and_for_quiet(void **state)
{
    struct fixture *f = *state;
    virtq_quiet(&f->queue);
    assert_int_equal(f->ring.used->flags, VRING_USED_F_NO_NOTIFY);
    assert_false(virtq_listen(&f->queue));
    assert_int_equal(f->ring.used->flags, 0);
    virtq_quiet(&f->queue);
    add_in(f, 1);
    assert_true(virtq_listen(&f->queue)); /* came before the driver could have seen it */
}

static void virtq_interrupts_unless_told_not_to(void **state)
{
    struct fixture *f = *state;
    assert_true(serve_one(f));
    f->ring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    assert_false(serve_one(f));
    f->ring.avail->flags = 0;
    assert_true(serve_one(f));
}

static void virtq_event_idx_interrupts_only_at_the_event(void **state)
{
    struct fixture *f = *state;
    *guest_used_event(&f->ring) = 2; /* when the third is done */
    assert_false(serve_one(f));
    assert_false(serve_one(f));
    assert_true(serve_one(f));
    assert_false(serve_one(f));                        /* the driver has not asked again */
    f->ring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* means nothing now */
    *guest_used_event(&f->ring) = 4;
    assert_true(serve_one(f));
}

static void virtq_event_idx_interrupts_once_for_a_batch_across_the_event(void **state)
{
    struct fixture *f = *state;
    *guest_used_event(&f->ring) = 1;
    for (unsigned i = 0; i < 4; i++)
        add_in(f, 1);
    while (virtq_pop(&f->queue, &f->chain) == 1)
        virtq_push(&f->queue, f->chain.head, 1);
    assert_true(virtq_flush(&f->queue));
    assert_false(virtq_flush(&f->queue));
}

static void virtq_event_idx_wraps_with_the_index(void **state)
{
    struct fixture *f = *state;
    struct guest_used used;
    for (unsigned i = 0; i < 65535; i++) {
        *guest_used_event(&f->ring) = 65535;
        uint64_t gpa = 0x100000;
        guest_add(&f->ring, &GUEST_IN(gpa, 1), 1);
        guest_publish(&f->ring);
        assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
        virtq_push(&f->queue, f->chain.head, 0);
        assert_false(virtq_flush(&f->queue));
        assert_true(guest_take_used(&f->ring, &used));
    }
    *guest_used_event(&f->ring) = 65535;
    assert_true(serve_one(f)); /* number 65535 is done: the index is 0 again */
    *guest_used_event(&f->ring) = 0;
    assert_true(serve_one(f));
}

static void virtq_event_idx_tells_where_kicks_are_wanted(void **state)
{
    struct fixture *f = *state;
    assert_true(serve_one(f));
    virtq_quiet(&f->queue);
    assert_int_equal(f->ring.used->flags, 0);
    assert_int_equal(*guest_avail_event(&f->ring), 0);
    assert_false(virtq_listen(&f->queue));
    assert_int_equal(*guest_avail_event(&f->ring), 1);
    add_in(f, 1);
    assert_true(virtq_listen(&f->queue));
    assert_int_equal(virtq_pop(&f->queue, &f->chain), 1);
    assert_false(virtq_listen(&f->queue)); /* though it is not done yet */
    assert_int_equal(*guest_avail_event(&f->ring), 2);
}

#define TEST(name)           cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_EVENT_IDX(name) cmocka_unit_test_setup_teardown(name, set_up_event_idx, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(virtq_gives_chains_in_the_order_they_came),
        TEST(virtq_sees_nothing_before_it_is_published),
        TEST(virtq_gives_readable_bytes_first_then_writable),
        TEST(virtq_follows_an_indirect_table),
        TEST(virtq_follows_an_indirect_table_at_an_odd_address),
        TEST(virtq_follows_descriptors_that_end_in_a_table),
        TEST(virtq_takes_a_chain_as_long_as_the_queue),
        TEST(virtq_leaves_out_empty_buffers),
        TEST(virtq_copies_no_more_than_the_chain_has),
        TEST(virtq_tells_completions_only_when_flushed),
        TEST(virtq_goes_on_when_indices_wrap),
        TEST_EVENT_IDX(virtq_goes_on_when_indices_wrap),
        TEST(virtq_takes_a_full_ring),
        TEST(virtq_unpop_gives_the_same_chains_again),
        TEST(virtq_asks_for_kicks_and_for_quiet),
        TEST(virtq_interrupts_unless_told_not_to),
        TEST_EVENT_IDX(virtq_event_idx_interrupts_only_at_the_event),
        TEST_EVENT_IDX(virtq_event_idx_interrupts_once_for_a_batch_across_the_event),
        TEST_EVENT_IDX(virtq_event_idx_wraps_with_the_index),
        TEST_EVENT_IDX(virtq_event_idx_tells_where_kicks_are_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
