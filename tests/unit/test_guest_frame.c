/* SPDX-License-Identifier: Apache-2.0 */
/* What nido and its program in the guest say to each other, byte by byte. */
#include "base/bytes.h"
#include "firmware/guest/protocol.h"

#include "cmocka_nido.h"

#include <string.h>

static uint8_t bytes[4096];

static void a_frame_comes_back_as_it_was_put_together(void **state)
{
    static char one[] = "one", none[] = "", three[] = "three";
    static char *const texts[] = {one, none, three, NULL};
    struct frame frame;
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_RUN, 7);
    frame_put_number(&writer, 0xdeadbeef);
    frame_put_text(&writer, "text");
    frame_put_texts(&writer, texts);
    size_t length = frame_end(&writer);
    assert_int_equal(frame_take(bytes, length, sizeof(bytes), &frame), length);
    assert_int_equal(frame.kind, FRAME_RUN);
    assert_int_equal(frame.job, 7);
    struct frame_reader reader = {.at = frame.payload, .left = frame.length};
    assert_int_equal(frame_number(&reader), 0xdeadbeef);
    assert_string_equal(frame_text(&reader), "text");
    assert_int_equal(frame_number(&reader), 3);
    assert_string_equal(frame_text(&reader), "one");
    assert_string_equal(frame_text(&reader), "");
    assert_false(frame_done(&reader));
    assert_string_equal(frame_text(&reader), "three");
    assert_true(frame_done(&reader));
}

static void a_part_of_a_frame_is_none_yet(void **state)
{
    struct frame frame;
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_HELLO, 0);
    frame_put_text(&writer, "hello");
    size_t length = frame_end(&writer);
    for (size_t count = 0; count < length; count++)
        assert_int_equal(frame_take(bytes, count, sizeof(bytes), &frame), 0);
}

static void a_frame_longer_than_allowed_is_refused_by_its_header(void **state)
{
    struct frame frame;
    put_le32(bytes, 65);
    assert_int_equal(frame_take(bytes, FRAME_HEADER_BYTES, 64, &frame), -1);
    put_le32(bytes, UINT32_MAX);
    assert_int_equal(frame_take(bytes, FRAME_HEADER_BYTES, FRAME_TO_GUEST_BYTES, &frame), -1);
}

static void what_is_missing_reads_as_nothing_and_is_noticed(void **state)
{
    struct frame_reader reader = {.at = bytes, .left = 3};
    assert_int_equal(frame_number(&reader), 0);
    assert_true(reader.bad);
    assert_string_equal(frame_text(&reader), "");
    assert_false(frame_done(&reader));
}

static void expect_bad_text(uint32_t length, const char *content, size_t count)
{
    put_le32(bytes, length);
    memcpy(bytes + 4, content, count);
    struct frame_reader reader = {.at = bytes, .left = 4 + count};
    assert_string_equal(frame_text(&reader), "");
    assert_true(reader.bad);
}

static void a_text_without_its_end_is_refused(void **state)
{
    expect_bad_text(3, "abc", 3);
    expect_bad_text(3, "abcd", 4);
    expect_bad_text(UINT32_MAX, "abc", 4);
    expect_bad_text(3, "a\0c", 4);
}

static void what_does_not_fit_is_no_frame(void **state)
{
    struct frame_writer writer = frame_begin(bytes, FRAME_HEADER_BYTES + 4, FRAME_HELLO, 0);
    frame_put_number(&writer, 1);
    assert_int_equal(frame_end(&writer), FRAME_HEADER_BYTES + 4);
    frame_put_text(&writer, "");
    assert_int_equal(frame_end(&writer), 0);
    writer = frame_begin(bytes, FRAME_HEADER_BYTES - 1, FRAME_HELLO, 0);
    assert_int_equal(frame_end(&writer), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_comes_back_as_it_was_put_together),
        cmocka_unit_test(a_part_of_a_frame_is_none_yet),
        cmocka_unit_test(a_frame_longer_than_allowed_is_refused_by_its_header),
        cmocka_unit_test(what_is_missing_reads_as_nothing_and_is_noticed),
        cmocka_unit_test(a_text_without_its_end_is_refused),
        cmocka_unit_test(what_does_not_fit_is_no_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
