/* SPDX-License-Identifier: Apache-2.0 */
/* What boot_load() leaves in RAM for each kind of kernel. Its refusals are in test_boot_errors. */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/boot.h"
#include "firmware/x86/gdt.h"
#include "firmware/x86/layout.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <asm/bootparam.h>
#include <string.h>

#define RSDP_GPA 0xe0000u
#define CMDLINE  "console=ttyS0 quiet"

/* A machine, and what was booted in it. */
struct bench {
    struct mem *mem;
    struct boot_entry entry;
    struct nido_error err;
};

static void bench_init(struct bench *bench, uint64_t low_bytes, uint64_t high_bytes)
{
    struct mem_range ranges[] = {{0, low_bytes}, {4 * GIB, high_bytes}};
    *bench = (struct bench){0};
    assert_int_equal(
        mem_create(&bench->mem, ranges, high_bytes ? 2 : 1, MEM_ANONYMOUS, &bench->err), 0);
}

static void bench_finish(struct bench *bench)
{
    mem_destroy(bench->mem);
}

#define own_bench __attribute__((cleanup(bench_finish)))

static int boot_with(struct bench *bench, const struct blob *kernel, const struct blob *initrd,
                     const char *cmdline)
{
    own_image_file struct image_file kernel_file = image_file_make(kernel->at, kernel->length);
    own_image_file struct image_file initrd_file = {.fd = -1};
    if (initrd)
        initrd_file = image_file_make(initrd->at, initrd->length);
    struct boot_request request = {
        .kernel_path = kernel_file.path,
        .initrd_path = initrd ? initrd_file.path : NULL,
        .cmdline = cmdline,
        .tables_gpa = RSDP_GPA,
    };
    int r = boot_load(&request, bench->mem, &bench->entry, &bench->err);
    struct nido_error err;
    /* What boots must be let in. */
    if (r == 0 && boot_check(kernel_file.path, &err) < 0)
        fail_msg("%s", err.text);
    return r;
}

static void boot(struct bench *bench, const struct blob *kernel, const struct blob *initrd)
{
    if (boot_with(bench, kernel, initrd, CMDLINE) < 0)
        fail_msg("%s", bench->err.text);
}

static const uint8_t *ram(const struct bench *bench, uint64_t gpa, size_t length)
{
    const uint8_t *at = mem_for_read(bench->mem, gpa, length);
    assert_non_null(at);
    return at;
}

static const struct boot_params *zero_page(const struct bench *bench)
{
    return (const struct boot_params *)(const void *)ram(bench, LOW_ZERO_PAGE_GPA, 4096);
}

static void check_segments(const struct bench *bench, const struct image_elf *elf)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct image_segment *segment = &elf->segments[i];
        own_blob struct blob content = blob_pattern(segment->file_bytes, i + 1);
        own_blob struct blob bss = blob_zeroed(segment->memory_bytes - segment->file_bytes);
        if (content.length)
            assert_memory_equal(ram(bench, segment->gpa, content.length), content.at,
                                content.length);
        if (bss.length)
            assert_memory_equal(ram(bench, segment->gpa + segment->file_bytes, bss.length), bss.at,
                                bss.length);
    }
}

static void boot_enters_a_bzimage_of_each_packing_in_its_kernel(void **state)
{
    static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                                 UNPACK_LZMA};
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_bzimage_of(formats[i], &image_small_kernel);
        bench_init(&bench, 32 * MIB, 0);
        boot(&bench, &kernel, NULL);
        assert_int_equal(bench.entry.protocol, BOOT_LINUX64);
        assert_int_equal(bench.entry.entry_gpa, image_small_kernel.entry);
        check_segments(&bench, &image_small_kernel);
    }
}

static void boot_places_segments_whichever_way_they_must_move(void **state)
{
    static const struct image_elf layouts[] = {
        /* Not at the usual offset: the first goes up, the second stays, the third goes down. */
        {.entry = 0x1000000,
         .segments = {{0x1000, 0x3000, 0x1000000, 0x3000, 0},
                      {0x205000, 0x1000, 0x1005000, 0x1000, 0},
                      {0x300000, 0x9000, 0x1006000, 0xa000, 0}},
         .count = 3},
        /* All down, each onto where the one before it was. */
        {.entry = 0x200000,
         .segments = {{0x2000, 0x2000, 0x200000, 0x2000, 0},
                      {0x5000, 0x2000, 0x202000, 0x2000, 0},
                      {0x8000, 0x2000, 0x204000, 0x6000, 0}},
         .count = 3},
        /* All up, each over where the next one was, and .bss on top of where the image was. */
        {.entry = 0xe01000,
         .segments = {{0x1000, 0x800, 0xe01800, 0x800, 0},
                      {0x1800, 0x800, 0xe02000, 0x800, 0},
                      {0x2000, 0x800, 0xe02800, 0x100000, 0}},
         .count = 3},
    };
    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
        own_bench struct bench bench;
        struct image_elf elf = layouts[i];
        elf.entry = elf.segments[0].gpa;
        own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &elf);
        bench_init(&bench, 32 * MIB, 0);
        boot(&bench, &kernel, NULL);
        check_segments(&bench, &elf);
    }
}

/* RAM ends where the kernel ends: there is no room to unpack at the usual place. */
static void boot_unpacks_where_ram_is_tight(void **state)
{
    static const struct image_elf elf = {
        .entry = 0x1000000,
        .segments = {{0x200000, 0x8000, 0x1000000, 0x8000, 0}},
        .count = 1,
        .file_bytes = 0x500000,
    };
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &elf);
    bench_init(&bench, 0x1008000, 0);
    boot(&bench, &kernel, NULL);
    check_segments(&bench, &elf);
}

static void boot_leaves_an_unknown_packing_to_the_guest(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_UNKNOWN, &image_small_kernel);
    own_blob struct blob initrd = blob_pattern(1000, 1);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    assert_int_equal(bench.entry.protocol, BOOT_LINUX64);
    assert_int_equal(bench.entry.entry_gpa, IMAGE_PREF_ADDRESS + 0x200);
    assert_memory_equal(ram(&bench, IMAGE_PREF_ADDRESS + 0x240, 10), "BZh91AY&SY", 10);
    assert_true(zero_page(&bench)->hdr.ramdisk_image >= IMAGE_PREF_ADDRESS + IMAGE_INIT_SIZE);
}

static void boot_enters_an_elf_kernel_by_its_pvh_note(void **state)
{
    own_bench struct bench bench;
    struct image_elf elf = image_small_kernel;
    elf.pvh_gpa = 0x1000850;
    own_blob struct blob kernel = image_elf_make(&elf);
    own_blob struct blob initrd = blob_pattern(5000, 1);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    assert_int_equal(bench.entry.protocol, BOOT_PVH);
    assert_int_equal(bench.entry.entry_gpa, 0x1000850);
    assert_int_equal(bench.entry.info_gpa, LOW_START_INFO_GPA);
    check_segments(&bench, &elf);

    /* struct hvm_start_info, hvm_modlist_entry, hvm_memmap_table_entry */
    const uint8_t *info = ram(&bench, LOW_START_INFO_GPA, 56);
    assert_int_equal(get_le32(info), 0x336ec578);
    assert_int_equal(get_le32(info + 4), 1);
    assert_int_equal(get_le32(info + 12), 1);
    assert_string_equal((const char *)ram(&bench, get_le64(info + 24), 64), CMDLINE);
    assert_int_equal(get_le64(info + 32), RSDP_GPA);
    const uint8_t *module = ram(&bench, get_le64(info + 16), 32);
    assert_int_equal(get_le64(module), 32 * MIB - 8192);
    assert_int_equal(get_le64(module + 8), 5000);
    assert_int_equal(get_le32(info + 48), 3);
    const uint8_t *map = ram(&bench, get_le64(info + 40), 3 * 24);
    assert_int_equal(get_le64(map + 48), HIGH_RAM_GPA);
    assert_int_equal(get_le64(map + 56), 31 * MIB);
    assert_int_equal(get_le32(map + 64), 1);
}

static void boot_tells_a_pvh_kernel_of_no_initrd(void **state)
{
    own_bench struct bench bench;
    struct image_elf elf = image_small_kernel;
    elf.pvh_gpa = 0x1000850;
    own_blob struct blob kernel = image_elf_make(&elf);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    assert_int_equal(get_le32(ram(&bench, LOW_START_INFO_GPA + 12, 4)), 0);
    assert_int_equal(get_le64(ram(&bench, LOW_START_INFO_GPA + 16, 8)), 0);
}

static void boot_enters_an_elf_kernel_without_the_note_in_long_mode(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_elf_make(&image_small_kernel);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    assert_int_equal(bench.entry.protocol, BOOT_LINUX64);
    assert_int_equal(bench.entry.entry_gpa, image_small_kernel.entry);
    assert_int_equal(zero_page(&bench)->hdr.header, 0x53726448);
    assert_int_equal(zero_page(&bench)->hdr.boot_flag, 0xaa55);
    check_segments(&bench, &image_small_kernel);
}

static void boot_takes_an_entry_point_by_its_virtual_address(void **state)
{
    own_bench struct bench bench;
    struct image_elf elf = image_small_kernel;
    elf.entry = elf.segments[0].virtual_address + 0x100;
    own_blob struct blob kernel = image_elf_make(&elf);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    assert_int_equal(bench.entry.entry_gpa, elf.segments[0].gpa + 0x100);
}

static void boot_ignores_a_pvh_note_that_points_nowhere(void **state)
{
    own_bench struct bench bench;
    struct image_elf elf = image_small_kernel;
    elf.pvh_gpa = 0x5000000;
    own_blob struct blob kernel = image_elf_make(&elf);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    assert_int_equal(bench.entry.protocol, BOOT_LINUX64);
}

static void boot_survives_notes_that_never_end(void **state)
{
    /* Sizes that would lead back, overflow, or stand still if they were believed. */
    static const uint32_t sizes[] = {0, 0xfffffff4, 0xfffffff0, 0xffffffff, 0x80000000};
    struct image_elf elf = image_small_kernel;
    elf.pvh_gpa = 0x1000850;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_elf_make(&elf);
        put_le32(kernel.at + 0x800, sizes[i]);
        put_le32(kernel.at + 0x804, sizes[i]);
        bench_init(&bench, 32 * MIB, 0);
        boot(&bench, &kernel, NULL);
        assert_int_equal(bench.entry.protocol, BOOT_LINUX64);
    }
}

static void boot_fills_the_zero_page(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_blob struct blob initrd = blob_pattern(5000, 1);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    assert_int_equal(bench.entry.info_gpa, LOW_ZERO_PAGE_GPA);

    const struct boot_params *params = zero_page(&bench);
    /* The image's own header, with what a loader fills in. */
    assert_int_equal(params->hdr.header, 0x53726448);
    assert_int_equal(params->hdr.version, 0x020f);
    assert_int_equal(params->hdr.init_size, IMAGE_INIT_SIZE);
    assert_int_equal(params->hdr.type_of_loader, 0xff);
    assert_int_equal(params->hdr.loadflags & (LOADED_HIGH | CAN_USE_HEAP), LOADED_HIGH);
    assert_int_equal(params->hdr.ramdisk_image, 32 * MIB - 8192);
    assert_int_equal(params->hdr.ramdisk_size, 5000);
    assert_int_equal(params->acpi_rsdp_addr, RSDP_GPA);
    assert_int_equal(params->sentinel, 0);
    assert_string_equal((const char *)ram(&bench, params->hdr.cmd_line_ptr, 64), CMDLINE);
}

static void boot_takes_no_more_of_a_header_than_it_has(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    kernel.at[0x201] = 0x62; /* ends at 0x264: no handover_offset, no kernel_info_offset */
    put_le32(kernel.at + 0x264, 0xdeadbeef);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    assert_int_equal(zero_page(&bench)->hdr.init_size, IMAGE_INIT_SIZE);
    assert_int_equal(zero_page(&bench)->hdr.handover_offset, 0);
}

static void boot_gives_each_guest_a_random_seed_of_its_own(void **state)
{
    uint8_t seeds[2][32];
    for (unsigned i = 0; i < 2; i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
        bench_init(&bench, 32 * MIB, 0);
        boot(&bench, &kernel, NULL);
        const uint8_t *data = ram(&bench, zero_page(&bench)->hdr.setup_data, 48);
        assert_int_equal(get_le64(data), 0);     /* next */
        assert_int_equal(get_le32(data + 8), 9); /* SETUP_RNG_SEED */
        assert_int_equal(get_le32(data + 12), 32);
        memcpy(seeds[i], data + 16, 32);
    }
    assert_memory_not_equal(seeds[0], seeds[1], 32);
}

struct map_row {
    uint64_t gpa, length_bytes;
    uint32_t type;
};

static void check_map(uint64_t low_bytes, uint64_t high_bytes, const struct map_row *rows,
                      unsigned count)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    bench_init(&bench, low_bytes, high_bytes);
    boot(&bench, &kernel, NULL);
    const struct boot_params *params = zero_page(&bench);
    assert_int_equal(params->e820_entries, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(params->e820_table[i].addr, rows[i].gpa);
        assert_int_equal(params->e820_table[i].size, rows[i].length_bytes);
        assert_int_equal(params->e820_table[i].type, rows[i].type);
    }
}

static void boot_maps_ram_and_reserves_the_tables(void **state)
{
    const struct map_row small[] = {
        {0, 0x9fc00, 1}, {0xe0000, 0x20000, 2}, {0x100000, 31 * MIB, 1}};
    const struct map_row full[] = {
        {0, 0x9fc00, 1}, {0xe0000, 0x20000, 2}, {0x100000, 3 * GIB - MIB, 1}};
    const struct map_row split[] = {{0, 0x9fc00, 1},
                                    {0xe0000, 0x20000, 2},
                                    {0x100000, 3 * GIB - MIB, 1},
                                    {4 * GIB, 2 * GIB, 1}};
    check_map(32 * MIB, 0, small, ARRAY_SIZE(small));
    check_map(3 * GIB, 0, full, ARRAY_SIZE(full));
    check_map(3 * GIB, 2 * GIB, split, ARRAY_SIZE(split));
}

static void boot_maps_the_first_4_gib_one_to_one(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    for (uint64_t gpa = 0; gpa < 4 * GIB; gpa += 2 * MIB) {
        uint64_t pml4 = get_le64(ram(&bench, bench.entry.page_tables_gpa, 8));
        uint64_t pdpt = get_le64(ram(&bench, (pml4 & ~0xfffull) + (gpa >> 30) * 8, 8));
        uint64_t pd = get_le64(ram(&bench, (pdpt & ~0xfffull) + (gpa >> 21 & 511) * 8, 8));
        assert_int_equal(pml4 & pdpt & pd & 3, 3);
        assert_int_equal(pd & ~0xfffull, gpa);
        assert_int_equal(pd & 0x80, 0x80);
    }
}

static void boot_gives_descriptors_for_both_modes(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    bench_init(&bench, 32 * MIB, 0);
    boot(&bench, &kernel, NULL);
    const uint8_t *gdt = ram(&bench, bench.entry.gdt_gpa, GDT_BYTES);
    assert_int_equal(get_le64(gdt), 0);
    /* The L and D bits of the code segments, "writable data" for the data segment. */
    assert_int_equal(get_le64(gdt + GDT_CODE64) >> 53 & 3, 1);
    assert_int_equal(get_le64(gdt + GDT_CODE32) >> 53 & 3, 2);
    assert_int_equal(gdt[GDT_DATA + 5] & 0x9e, 0x92);
    assert_int_equal(gdt[GDT_TSS + 5], 0x8b);
}

static void boot_puts_the_initrd_at_the_top_of_ram(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_blob struct blob initrd = blob_pattern(3 * MIB + 17, 6);
    bench_init(&bench, 64 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    uint64_t gpa = zero_page(&bench)->hdr.ramdisk_image;
    assert_int_equal(gpa, 64 * MIB - align_up(initrd.length, 4096));
    assert_memory_equal(ram(&bench, gpa, initrd.length), initrd.at, initrd.length);
    check_segments(&bench, &image_small_kernel);
}

static void boot_puts_the_initrd_below_what_the_kernel_allows(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_blob struct blob initrd = blob_pattern(8192, 6);
    put_le32(kernel.at + 0x22c, 0x1ffffff);
    bench_init(&bench, 64 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    assert_int_equal(zero_page(&bench)->hdr.ramdisk_image, 0x2000000 - 8192);
}

static void boot_fills_ram_to_the_last_page(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    uint64_t room = 18 * MIB - 0x1008000;
    own_blob struct blob initrd = blob_pattern(room, 6);
    bench_init(&bench, 18 * MIB, 0);
    boot(&bench, &kernel, &initrd);
    assert_int_equal(zero_page(&bench)->hdr.ramdisk_image, 0x1008000);
    check_segments(&bench, &image_small_kernel);
}

static void boot_takes_the_longest_command_line_that_the_kernel_does(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    char line[IMAGE_CMDLINE_SIZE + 1];
    memset(line, 'a', sizeof(line) - 1);
    line[sizeof(line) - 1] = 0;
    bench_init(&bench, 32 * MIB, 0);
    assert_int_equal(boot_with(&bench, &kernel, NULL, line), 0);
    assert_string_equal((const char *)ram(&bench, LOW_CMDLINE_GPA, sizeof(line)), line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boot_enters_a_bzimage_of_each_packing_in_its_kernel),
        cmocka_unit_test(boot_places_segments_whichever_way_they_must_move),
        cmocka_unit_test(boot_unpacks_where_ram_is_tight),
        cmocka_unit_test(boot_leaves_an_unknown_packing_to_the_guest),
        cmocka_unit_test(boot_enters_an_elf_kernel_by_its_pvh_note),
        cmocka_unit_test(boot_tells_a_pvh_kernel_of_no_initrd),
        cmocka_unit_test(boot_enters_an_elf_kernel_without_the_note_in_long_mode),
        cmocka_unit_test(boot_takes_an_entry_point_by_its_virtual_address),
        cmocka_unit_test(boot_ignores_a_pvh_note_that_points_nowhere),
        cmocka_unit_test(boot_survives_notes_that_never_end),
        cmocka_unit_test(boot_fills_the_zero_page),
        cmocka_unit_test(boot_takes_no_more_of_a_header_than_it_has),
        cmocka_unit_test(boot_gives_each_guest_a_random_seed_of_its_own),
        cmocka_unit_test(boot_maps_ram_and_reserves_the_tables),
        cmocka_unit_test(boot_maps_the_first_4_gib_one_to_one),
        cmocka_unit_test(boot_gives_descriptors_for_both_modes),
        cmocka_unit_test(boot_puts_the_initrd_at_the_top_of_ram),
        cmocka_unit_test(boot_puts_the_initrd_below_what_the_kernel_allows),
        cmocka_unit_test(boot_fills_ram_to_the_last_page),
        cmocka_unit_test(boot_takes_the_longest_command_line_that_the_kernel_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
