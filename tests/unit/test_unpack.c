/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "firmware/unpack.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                             UNPACK_LZMA};

/* Room for exactly `length` bytes: the byte after them is in a page that cannot be touched. */
struct fence {
    uint8_t *mapping, *at;
    size_t mapping_bytes;
};

static struct fence fence_make(size_t length)
{
    struct fence fence = {.mapping_bytes = align_up(length, 4096) + 4096};
    fence.mapping =
        mmap(NULL, fence.mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(fence.mapping != MAP_FAILED);
    assert_int_equal(mprotect(fence.mapping + fence.mapping_bytes - 4096, 4096, PROT_NONE), 0);
    fence.at = fence.mapping + fence.mapping_bytes - 4096 - length;
    return fence;
}

static void fence_remove(struct fence *fence)
{
    munmap(fence->mapping, fence->mapping_bytes);
}

#define own_fence __attribute__((cleanup(fence_remove)))

static int unpack_bytes(enum unpack_format format, const void *bytes, size_t length, void *to,
                        size_t to_bytes, struct nido_error *err)
{
    own_image_file struct image_file file = image_file_make(bytes, length);
    struct bootfile input = {.fd = file.fd, .size_bytes = length};
    return unpack(format, &input, 0, length, to, to_bytes, err);
}

static void check_round_trip(enum unpack_format format, const struct blob *plain)
{
    own_blob struct blob packed = image_pack(format, plain->at, plain->length);
    own_fence struct fence to = fence_make(plain->length);
    struct nido_error err = {0};
    int r = unpack_bytes(format, packed.at, packed.length, to.at, plain->length, &err);
    if (r < 0)
        fail_msg("%s: %s", unpack_format_name(format), err.text);
    assert_memory_equal(to.at, plain->at, plain->length);
}

static void unpack_gives_back_what_each_format_packed(void **state)
{
    /* The last is, packed, more than the streams' buffer. */
    static const size_t lengths[] = {1, 4095, 1u << 16, (7u << 18) + 5};
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        own_blob struct blob plain = blob_pattern(lengths[i], 7);
        for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
            check_round_trip(formats[f], &plain);
    }
}

static void unpack_takes_more_than_one_lz4_block(void **state)
{
    own_blob struct blob plain = blob_pattern((9u << 20) + 5, 7);
    check_round_trip(UNPACK_LZ4, &plain);
}

static void unpack_takes_pages_of_zeros(void **state)
{
    own_blob struct blob plain = blob_zeroed(9u << 20);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
        check_round_trip(formats[f], &plain);
}

static void unpack_recognises_each_format(void **state)
{
    own_blob struct blob plain = blob_pattern(1000, 1);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        assert_int_equal(unpack_recognise(packed.at), formats[f]);
    }
    assert_int_equal(unpack_recognise((const uint8_t *)"BZh91AY&"), UNPACK_UNKNOWN);
    assert_int_equal(unpack_recognise((const uint8_t *)"\x89LZO\0\r\n\x1a"), UNPACK_UNKNOWN);
}

static void unpack_refuses_data_that_end_early(void **state)
{
    own_blob struct blob plain = blob_pattern(200000, 3);
    own_fence struct fence to = fence_make(plain.length);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        size_t cuts[] = {8, 9, 13, 100, packed.length / 2, packed.length - 1};
        for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
            struct nido_error err = {0};
            int r = unpack_bytes(formats[f], packed.at, cuts[i], to.at, plain.length, &err);
            if (r >= 0)
                fail_msg("%s: unpacked from %zu bytes of %zu", unpack_format_name(formats[f]),
                         cuts[i], packed.length);
            assert_non_null(strstr(err.text, "broken"));
        }
    }
}

/* A small file that unpacks to a lot: the room is what counts. */
static void unpack_writes_never_more_than_was_asked_for(void **state)
{
    own_blob struct blob plain = blob_zeroed(9u << 20);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        size_t rooms[] = {1, 4096, plain.length - 1};
        for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
            own_fence struct fence to = fence_make(rooms[i]);
            struct nido_error err = {0};
            assert_true(unpack_bytes(formats[f], packed.at, packed.length, to.at, rooms[i], &err) <
                        0);
            assert_non_null(strstr(err.text, "broken"));
        }
    }
}

static void unpack_refuses_less_than_was_asked_for(void **state)
{
    own_blob struct blob plain = blob_pattern(10000, 5);
    own_fence struct fence to = fence_make(plain.length + 1);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        struct nido_error err = {0};
        assert_true(
            unpack_bytes(formats[f], packed.at, packed.length, to.at, plain.length + 1, &err) < 0);
        assert_non_null(strstr(err.text, "less than its size field"));
    }
}

/* Whatever comes out, it stays inside the fence and the process lives. */
static void unpack_survives_flipped_bits(void **state)
{
    own_blob struct blob plain = blob_pattern(50000, 9);
    own_fence struct fence to = fence_make(plain.length);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        for (size_t at = 0; at < packed.length; at += 1 + at / 8) {
            struct nido_error err = {0};
            packed.at[at] ^= 0x40;
            int r = unpack_bytes(formats[f], packed.at, packed.length, to.at, plain.length, &err);
            packed.at[at] ^= 0x40;
            assert_true(r == 0 || err.text[0]);
        }
    }
}

/* The start of it is there however little of the data is. */
static void unpack_part_gives_the_start_of_more(void **state)
{
    static const size_t rooms[] = {1, 64, 4096, 300000};
    own_blob struct blob plain = blob_pattern((9u << 20) + 5, 6);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        memset(packed.at + packed.length / 2, 0xff, packed.length / 2);
        own_image_file struct image_file file = image_file_make(packed.at, packed.length);
        struct bootfile input = {.fd = file.fd, .size_bytes = packed.length};
        for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
            own_fence struct fence to = fence_make(rooms[i]);
            struct nido_error err = {0};
            size_t length = 0;
            if (unpack_part(formats[f], &input, 0, packed.length, to.at, rooms[i], &length, &err) <
                0)
                fail_msg("%s: %s", unpack_format_name(formats[f]), err.text);
            assert_int_equal(length, rooms[i]);
            assert_memory_equal(to.at, plain.at, rooms[i]);
        }
    }
}

static void unpack_part_gives_all_of_less(void **state)
{
    own_blob struct blob plain = blob_pattern(5000, 6);
    own_fence struct fence to = fence_make(8192);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        own_image_file struct image_file file = image_file_make(packed.at, packed.length);
        struct bootfile input = {.fd = file.fd, .size_bytes = packed.length};
        size_t length = 0;
        assert_int_equal(
            unpack_part(formats[f], &input, 0, packed.length, to.at, 8192, &length, NULL), 0);
        assert_int_equal(length, plain.length);
        assert_memory_equal(to.at, plain.at, plain.length);
    }
}

static void unpack_refuses_a_checksum_that_is_wrong(void **state)
{
    own_blob struct blob plain = blob_pattern(5000, 2);
    own_fence struct fence to = fence_make(plain.length);
    struct nido_error err = {0};
    own_blob struct blob gzip = image_pack(UNPACK_GZIP, plain.at, plain.length);
    gzip.at[gzip.length - 8] ^= 1;
    assert_int_equal(unpack_bytes(UNPACK_GZIP, gzip.at, gzip.length, to.at, plain.length, &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, "copy or download"));
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

static long resident_kib(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*s %ld", &pages), 1);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void unpack_gives_its_memory_back(void **state)
{
#ifdef SANITIZED
    print_message("skipped: a sanitizer keeps freed memory\n");
    skip();
#endif
    own_blob struct blob plain = blob_pattern(2u << 20, 4);
    own_fence struct fence to = fence_make(plain.length);
    memset(to.at, 1, plain.length);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        own_image_file struct image_file file = image_file_make(packed.at, packed.length);
        struct bootfile input = {.fd = file.fd, .size_bytes = packed.length};
        long before = resident_kib();
        assert_int_equal(unpack(formats[f], &input, 0, packed.length, to.at, plain.length, NULL),
                         0);
        assert_in_range(MAX(resident_kib() - before, 0), 0, 1024);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpack_gives_back_what_each_format_packed),
        cmocka_unit_test(unpack_takes_more_than_one_lz4_block),
        cmocka_unit_test(unpack_takes_pages_of_zeros),
        cmocka_unit_test(unpack_recognises_each_format),
        cmocka_unit_test(unpack_refuses_data_that_end_early),
        cmocka_unit_test(unpack_writes_never_more_than_was_asked_for),
        cmocka_unit_test(unpack_refuses_less_than_was_asked_for),
        cmocka_unit_test(unpack_survives_flipped_bits),
        cmocka_unit_test(unpack_part_gives_the_start_of_more),
        cmocka_unit_test(unpack_part_gives_all_of_less),
        cmocka_unit_test(unpack_refuses_a_checksum_that_is_wrong),
        cmocka_unit_test(unpack_gives_its_memory_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
