/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "vm/mem.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct mem_range two_regions[] = {{0, MIB}, {4 * GIB, MIB}};

static int set_up(void **state)
{
    struct mem *mem;
    struct nido_error err;
    assert_int_equal(mem_create(&mem, two_regions, 2, MEM_ANONYMOUS, &err), 0);
    *state = mem;
    return 0;
}

static int tear_down(void **state)
{
    mem_destroy(*state);
    return 0;
}

static void mem_reads_back_what_was_written(void **state)
{
    struct mem *mem = *state;
    char back[6];
    assert_int_equal(mem_write(mem, 4 * GIB + 10, "hello", 6), 0);
    assert_int_equal(mem_read(mem, 4 * GIB + 10, back, 6), 0);
    assert_string_equal(back, "hello");
}

static void mem_starts_as_zeroes(void **state)
{
    const uint8_t *bytes = mem_for_read(*state, 0, MIB);
    assert_non_null(bytes);
    for (size_t i = 0; i < MIB; i++)
        assert_int_equal(bytes[i], 0);
}

static void mem_refuses_what_lies_outside(void **state)
{
    static const struct {
        uint64_t gpa;
        size_t length;
    } bad[] = {
        {MIB, 1},         {MIB - 1, 2},     {0, MIB + 1},        {2 * GIB, 1},
        {4 * GIB - 1, 2}, {4 * GIB - 1, 1}, {5 * GIB, 1},        {UINT64_MAX, 1},
        {UINT64_MAX, 2},  {1, SIZE_MAX},    {4 * GIB, SIZE_MAX},
    };
    uint8_t byte[2];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_null(mem_for_read(*state, bad[i].gpa, bad[i].length));
        assert_null(mem_for_write(*state, bad[i].gpa, bad[i].length));
    }
    assert_int_equal(mem_read(*state, MIB - 1, byte, 2), -EFAULT);
    assert_int_equal(mem_write(*state, MIB - 1, byte, 2), -EFAULT);
}

static void mem_takes_the_last_byte_of_a_region(void **state)
{
    assert_non_null(mem_for_read(*state, MIB - 1, 1));
    assert_non_null(mem_for_write(*state, 4 * GIB + MIB - 1, 1));
}

static void mem_gives_no_pointer_to_nothing(void **state)
{
    assert_null(mem_for_read(*state, 0, 0));
    assert_int_equal(mem_read(*state, UINT64_MAX, NULL, 0), 0);
}

static void mem_aligns_the_host_address_like_the_guests(void **state)
{
    assert_true(is_aligned((uintptr_t)mem_for_read(*state, 0, 1), 2 * MIB));
    assert_true(is_aligned((uintptr_t)mem_for_read(*state, 4 * GIB, 1), 2 * MIB));
}

static void mem_without_reserved_huge_pages_says_how_to_get_them(void **state)
{
    struct mem *mem;
    struct nido_error err;
    const struct mem_range huge = {0, 512 * GIB};
    assert_true(mem_create(&mem, &huge, 1, MEM_HUGETLB, &err) < 0);
    assert_non_null(strstr(err.text, "vm.nr_hugepages"));
}

static void mem_finds_the_way_back_from_a_pointer(void **state)
{
    uint64_t gpa = 0;
    uint8_t *at = mem_for_write(*state, 4 * GIB + 123, 1);
    assert_int_equal(mem_gpa_of(*state, at, &gpa), 0);
    assert_int_equal(gpa, 4 * GIB + 123);
    assert_int_equal(mem_gpa_of(*state, &gpa, &gpa), -EFAULT);
}

static void mem_discards_pages_and_no_others(void **state)
{
    uint8_t *bytes = mem_for_write(*state, 0, 4 * MEM_PAGE_BYTES);
    memset(bytes, 0xaa, 4 * MEM_PAGE_BYTES);
    assert_int_equal(mem_discard(*state, MEM_PAGE_BYTES, 2 * MEM_PAGE_BYTES), 0);
    for (size_t i = 0; i < 4 * MEM_PAGE_BYTES; i++)
        assert_int_equal(bytes[i], i / MEM_PAGE_BYTES % 3 ? 0 : 0xaa);
}

static void mem_refuses_to_discard_what_is_no_memory_or_no_pages(void **state)
{
    static const struct {
        uint64_t gpa, length;
        int error;
    } bad[] = {
        {0, 0, -EINVAL},
        {1, MEM_PAGE_BYTES, -EINVAL},
        {0, MEM_PAGE_BYTES + 1, -EINVAL},
        {MIB, MEM_PAGE_BYTES, -EFAULT},
        {0, MIB + MEM_PAGE_BYTES, -EFAULT},
        {UINT64_MAX - MEM_PAGE_BYTES + 1, MEM_PAGE_BYTES, -EFAULT},
        {MEM_PAGE_BYTES, UINT64_MAX - MEM_PAGE_BYTES + 1, -EFAULT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(mem_discard(*state, bad[i].gpa, bad[i].length), bad[i].error);
}

/* One that takes mergeable memory says so in its flags (proc(5), smaps: VmFlags, "mg"). */
static bool is_mergeable(const void *at)
{
    char line[512];
    bool there = false;
    FILE *maps = fopen("/proc/self/smaps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            there = (uintptr_t)at >= start && (uintptr_t)at < end;
        if (there && strncmp(line, "VmFlags:", strlen("VmFlags:")) == 0)
            break;
    }
    fclose(maps);
    return there && strstr(line, " mg ");
}

static void mem_is_merged_only_where_that_is_asked_for(void **state)
{
    struct mem *mem;
    struct nido_error err;
    const struct mem_range range = {0, 4 * MIB};
    assert_false(is_mergeable(mem_for_read(*state, 0, 1)));
    int ret = mem_create(&mem, &range, 1, MEM_MERGEABLE, &err);
    if (access("/sys/kernel/mm/ksm/run", F_OK) < 0) {
        assert_int_equal(ret, -EINVAL);
        assert_non_null(strstr(err.text, "mem-merge"));
        return;
    }
    assert_int_equal(ret, 0);
    assert_true(is_mergeable(mem_for_read(mem, 0, 1)));
    assert_true(is_mergeable(mem_for_read(mem, 4 * MIB - 1, 1)));
    assert_true(mem_can_discard(mem));
    mem_destroy(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mem_reads_back_what_was_written),
        cmocka_unit_test(mem_starts_as_zeroes),
        cmocka_unit_test(mem_refuses_what_lies_outside),
        cmocka_unit_test(mem_takes_the_last_byte_of_a_region),
        cmocka_unit_test(mem_gives_no_pointer_to_nothing),
        cmocka_unit_test(mem_aligns_the_host_address_like_the_guests),
        cmocka_unit_test(mem_finds_the_way_back_from_a_pointer),
        cmocka_unit_test(mem_discards_pages_and_no_others),
        cmocka_unit_test(mem_refuses_to_discard_what_is_no_memory_or_no_pages),
        cmocka_unit_test(mem_is_merged_only_where_that_is_asked_for),
        cmocka_unit_test(mem_without_reserved_huge_pages_says_how_to_get_them),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
