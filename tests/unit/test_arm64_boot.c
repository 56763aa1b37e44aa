/* SPDX-License-Identifier: Apache-2.0 */
/* What arm64's boot_load() leaves in RAM, and what it refuses. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "firmware/arm64/devicetree.h"
#include "firmware/arm64/layout.h"
#include "firmware/boot.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CMDLINE      "console=ttyS0 quiet"
#define KERNEL_BYTES 0x12345u
#define IMAGE_BYTES  (1 * MIB) /* with .bss */

/* A machine with its tree in RAM, and what was booted in it. */
struct bench {
    struct mem *mem;
    struct boot_entry entry;
    struct nido_error err;
};

static void bench_init(struct bench *bench, uint64_t ram_bytes)
{
    static const uint64_t mpidr[1];
    struct mem_range range = {RAM_BASE_GPA, ram_bytes};
    const struct devicetree_machine machine = {
        .cpus = 1, .mpidr = mpidr, .ram_gpa = RAM_BASE_GPA, .ram_bytes = ram_bytes};
    *bench = (struct bench){0};
    assert_int_equal(mem_create(&bench->mem, &range, 1, MEM_ANONYMOUS, NULL), 0);
    assert_int_equal(devicetree_write(&machine, bench->mem, DEVICETREE_GPA, NULL), 0);
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
        .tables_gpa = DEVICETREE_GPA,
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

static void check_kernel(const struct bench *bench, const struct blob *kernel, uint64_t gpa)
{
    assert_int_equal(bench->entry.protocol, BOOT_ARM64);
    assert_int_equal(bench->entry.entry_gpa, gpa);
    assert_int_equal(bench->entry.info_gpa, DEVICETREE_GPA);
    const void *at = mem_for_read(bench->mem, gpa, kernel->length);
    assert_non_null(at);
    assert_memory_equal(at, kernel->at, kernel->length);
}

static const void *chosen(const struct bench *bench, const char *name, int *length)
{
    const void *fdt = mem_for_read(bench->mem, DEVICETREE_GPA, DEVICETREE_BYTES);
    return fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"), name, length);
}

static uint32_t chosen_address(const struct bench *bench, const char *name)
{
    int length = 0;
    const void *value = chosen(bench, name, &length);
    assert_non_null(value);
    assert_int_equal(length, 4);
    return get_be32(value);
}

static void boot_enters_an_image_at_its_text_offset(void **state)
{
    static const uint64_t offsets[] = {0, 0x80000, 0x1ff000};
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_arm64_make(offsets[i], IMAGE_BYTES, KERNEL_BYTES);
        bench_init(&bench, 16 * MIB);
        boot(&bench, &kernel, NULL);
        check_kernel(&bench, &kernel, IMAGE_BASE_GPA + offsets[i]);
        assert_string_equal(chosen(&bench, "bootargs", NULL), CMDLINE);
        assert_null(chosen(&bench, "linux,initrd-start", NULL));
        assert_null(chosen(&bench, "linux,initrd-end", NULL));
    }
}

static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                             UNPACK_LZMA};

static void boot_unpacks_an_image_of_each_packing(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_arm64_make(0x80000, IMAGE_BYTES, KERNEL_BYTES);
        own_blob struct blob packed = image_pack(formats[i], kernel.at, kernel.length);
        bench_init(&bench, 16 * MIB);
        boot(&bench, &packed, NULL);
        check_kernel(&bench, &kernel, IMAGE_BASE_GPA + 0x80000);
    }
}

static void boot_takes_the_image_out_of_a_zboot_program(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_bench struct bench bench;
        own_blob struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
        own_blob struct blob zboot = image_zboot_of(formats[i], &kernel);
        bench_init(&bench, 16 * MIB);
        boot(&bench, &zboot, NULL);
        check_kernel(&bench, &kernel, IMAGE_BASE_GPA);
    }
}

static void boot_keeps_the_initrd_clear_of_the_kernels_bss(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_arm64_make(0, 13 * MIB, KERNEL_BYTES);
    own_blob struct blob initrd = blob_pattern(1 * MIB - 100, 3);
    bench_init(&bench, 16 * MIB);
    boot(&bench, &kernel, &initrd);
    uint64_t start = chosen_address(&bench, "linux,initrd-start");
    uint64_t end = chosen_address(&bench, "linux,initrd-end");
    assert_int_equal(end - start, initrd.length);
    assert_true(start >= IMAGE_BASE_GPA + 13 * MIB);
    assert_true(is_aligned(start, MEM_PAGE_BYTES));
    assert_memory_equal(mem_for_read(bench.mem, start, initrd.length), initrd.at, initrd.length);

    own_blob struct blob larger = blob_pattern(1 * MIB + 1, 3);
    assert_true(boot_with(&bench, &kernel, &larger, CMDLINE) < 0);
    assert_non_null(strstr(bench.err.text, "say --mem"));
}

static void refuse(const struct blob *kernel, const char *cmdline, const char *sentence)
{
    own_bench struct bench bench;
    bench_init(&bench, 16 * MIB);
    int r = boot_with(&bench, kernel, NULL, cmdline);
    if (r >= 0 || r != -bench.err.code || !strstr(bench.err.text, sentence) ||
        strncmp(bench.err.text, "kernel /", 8) != 0 || strchr(bench.err.text, '\n'))
        fail_msg("\"%s\" (%d) is not \"kernel /... %s ...\"", bench.err.text, r, sentence);
}

static void boot_refuses_a_broken_image_header(void **state)
{
    static const struct {
        uint64_t text_offset, image_bytes;
        const char *sentence;
    } headers[] = {
        {0, 0, "Linux 3.17 or later"},
        {2 * MIB, IMAGE_BYTES, "its header is broken"},
        {0x801, IMAGE_BYTES, "its header is broken"},
        {UINT64_MAX, IMAGE_BYTES, "its header is broken"},
        {0, UINT64_MAX, "its header is broken"},
        {0, 2 * GIB, "its header is broken"},
        {0, 15 * MIB, "it needs 17 MiB of RAM and the machine has 16; say --mem 17M or more"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        own_blob struct blob kernel =
            image_arm64_make(headers[i].text_offset, headers[i].image_bytes, KERNEL_BYTES);
        refuse(&kernel, CMDLINE, headers[i].sentence);
        own_blob struct blob packed = image_pack(UNPACK_GZIP, kernel.at, kernel.length);
        refuse(&packed, CMDLINE, headers[i].sentence);
    }
}

/* As the kernel's efi-header.S writes it: two sections, the second one up to the end of the file. */
static struct blob image_with_pe_header(void)
{
    struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
    const uint32_t sections[2][2] = {{0x4000, 0x1000}, {KERNEL_BYTES - 0x5000, 0x5000}};
    put_le32(kernel.at + 0x3c, 0x40);
    memset(kernel.at + 0x40, 0, 24 + 0xa0 + 2 * 40);
    memcpy(kernel.at + 0x40, "PE\0\0\x64\xaa\x02", 7);
    put_le16(kernel.at + 0x40 + 20, 0xa0);
    for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
        put_le32(kernel.at + 0x40 + 24 + 0xa0 + i * 40 + 16, sections[i][0]);
        put_le32(kernel.at + 0x40 + 24 + 0xa0 + i * 40 + 20, sections[i][1]);
    }
    return kernel;
}

static void boot_refuses_a_truncated_image(void **state)
{
    static const size_t lengths[] = {64, 80, 0x100, 0x4000, KERNEL_BYTES - 1};
    own_blob struct blob kernel = image_with_pe_header();
    own_bench struct bench bench;
    bench_init(&bench, 16 * MIB);
    boot(&bench, &kernel, NULL);
    check_kernel(&bench, &kernel, IMAGE_BASE_GPA);
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        const struct blob cut = {kernel.at, lengths[i]};
        refuse(&cut, CMDLINE, "the Image is truncated");
    }
    const struct blob cut = {kernel.at, 0x4000};
    own_blob struct blob packed = image_pack(UNPACK_LZ4, cut.at, cut.length);
    refuse(&packed, CMDLINE, "the Image is truncated");
    put_le32(kernel.at + 0x40 + 24 + 0xa0 + 40 + 16, UINT32_MAX);
    refuse(&kernel, CMDLINE, "the Image is truncated");
    put_le16(kernel.at + 0x40 + 6, UINT16_MAX);
    refuse(&kernel, CMDLINE, "the Image is truncated");
    put_le32(kernel.at + 0x3c, UINT32_MAX);
    refuse(&kernel, CMDLINE, "the Image is truncated");
}

static void boot_refuses_a_big_endian_image(void **state)
{
    own_blob struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
    kernel.at[24] |= 1;
    refuse(&kernel, CMDLINE, "a big-endian arm64 kernel");
}

static void boot_refuses_what_unpacks_to_no_image(void **state)
{
    own_blob struct blob cpio = blob_pattern(1000, 5);
    memcpy(cpio.at, "070701", 6);
    own_blob struct blob nothing = image_pack(UNPACK_GZIP, "", 0);
    own_blob struct blob initrd = image_pack(UNPACK_GZIP, cpio.at, cpio.length);
    own_blob struct blob huge = blob_zeroed(15 * MIB);
    refuse(&initrd, CMDLINE, "unpacked: not an arm64 Image but a cpio archive");
    memcpy(huge.at, "070701", 6);
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_blob struct blob bomb = image_pack(formats[i], huge.at, huge.length);
        refuse(&bomb, CMDLINE, "unpacked: not an arm64 Image but a cpio archive");
    }
    own_blob struct blob header = image_arm64_make(0, IMAGE_BYTES, IMAGE_ARM64_HEADER_BYTES);
    memcpy(huge.at, header.at, header.length);
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_blob struct blob bomb = image_pack(formats[i], huge.at, huge.length);
        refuse(&bomb, CMDLINE, "say more with --mem");
    }
    /* A gzip file of nothing is shorter than an Image's header. */
    refuse(&nothing, CMDLINE, "a gzip file");
}

/* A directory for unpacked kernels. */
struct cache {
    char home[64], path[80];
};

static struct cache cache_make(void)
{
    struct cache cache = {.home = "/tmp/nido-test-arm64.XXXXXX"};
    assert_non_null(mkdtemp(cache.home));
    snprintf(cache.path, sizeof(cache.path), "%s/kernels", cache.home);
    return cache;
}

/* The name of its one entry, or none. */
static bool cache_entry(const struct cache *cache, char *path, size_t path_bytes)
{
    DIR *listing = opendir(cache->path);
    bool found = false;
    for (struct dirent *entry = listing ? readdir(listing) : NULL; entry;
         entry = readdir(listing)) {
        if (entry->d_name[0] == '.')
            continue;
        assert_false(found);
        found = true;
        snprintf(path, path_bytes, "%s/%s", cache->path, entry->d_name);
    }
    if (listing)
        closedir(listing);
    return found;
}

static void cache_remove(struct cache *cache)
{
    char entry[512];
    if (cache_entry(cache, entry, sizeof(entry)))
        unlink(entry);
    rmdir(cache->path);
    rmdir(cache->home);
}

#define own_cache __attribute__((cleanup(cache_remove)))

static int boot_cached(struct bench *bench, const char *kernel_path, const struct cache *cache)
{
    struct boot_request request = {.kernel_path = kernel_path,
                                   .cmdline = CMDLINE,
                                   .cache_path = cache->path,
                                   .tables_gpa = DEVICETREE_GPA};
    return boot_load(&request, bench->mem, &bench->entry, &bench->err);
}

static void boot_unpacks_a_kernel_once(void **state)
{
    char entry[512];
    own_cache struct cache cache = cache_make();
    own_blob struct blob kernel = image_arm64_make(0x80000, IMAGE_BYTES, KERNEL_BYTES);
    own_blob struct blob zboot = image_zboot_of(UNPACK_ZSTD, &kernel);
    own_image_file struct image_file file = image_file_make(zboot.at, zboot.length);
    own_bench struct bench first;
    bench_init(&first, 16 * MIB);
    assert_int_equal(boot_cached(&first, file.path, &cache), 0);
    check_kernel(&first, &kernel, IMAGE_BASE_GPA + 0x80000);

    /* That the second comes from there shows by a byte that differs. */
    assert_true(cache_entry(&cache, entry, sizeof(entry)));
    own_fd int fd = open(entry, O_WRONLY | O_CLOEXEC);
    kernel.at[KERNEL_BYTES - 1] ^= 1;
    assert_int_equal(pwrite(fd, kernel.at + KERNEL_BYTES - 1, 1, KERNEL_BYTES - 1), 1);
    own_bench struct bench second;
    bench_init(&second, 16 * MIB);
    assert_int_equal(boot_cached(&second, file.path, &cache), 0);
    check_kernel(&second, &kernel, IMAGE_BASE_GPA + 0x80000);
}

static void boot_keeps_nothing_that_is_no_kernel(void **state)
{
    char entry[512];
    own_cache struct cache cache = cache_make();
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    own_blob struct blob packed = image_pack(UNPACK_GZIP, elf.at, elf.length);
    own_image_file struct image_file file = image_file_make(packed.at, packed.length);
    for (unsigned i = 0; i < 2; i++) {
        own_bench struct bench bench;
        bench_init(&bench, 16 * MIB);
        assert_int_equal(boot_cached(&bench, file.path, &cache), -ENOEXEC);
        assert_non_null(
            strstr(bench.err.text, "unpacked: not an arm64 Image but an ELF file for x86-64"));
        assert_false(cache_entry(&cache, entry, sizeof(entry)));
    }
}

static void boot_refuses_a_broken_zboot_program(void **state)
{
    own_blob struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
    own_blob struct blob zboot = image_zboot_of(UNPACK_ZSTD, &kernel);
    const uint32_t at = get_le32(zboot.at + 8), length = get_le32(zboot.at + 12);
    put_le32(zboot.at + 8, (uint32_t)zboot.length);
    refuse(&zboot, CMDLINE, "would lie outside the file");
    put_le32(zboot.at + 8, UINT32_MAX);
    refuse(&zboot, CMDLINE, "would lie outside the file");
    put_le32(zboot.at + 8, at);
    put_le32(zboot.at + 12, UINT32_MAX);
    refuse(&zboot, CMDLINE, "would lie outside the file");
    put_le32(zboot.at + 12, 0);
    refuse(&zboot, CMDLINE, "would lie outside the file");
    put_le32(zboot.at + 12, length - 100);
    refuse(&zboot, CMDLINE, "its packed kernel is broken");
    put_le32(zboot.at + 12, length);
    memset(zboot.at + at, 0, 8);
    memset(zboot.at + 24, 'x', 40);
    refuse(&zboot, CMDLINE, "which nido cannot unpack");
}

static void boot_says_what_a_file_is_that_is_no_arm64_kernel(void **state)
{
    own_blob struct blob bzimage = image_bzimage_of(UNPACK_GZIP, &image_small_kernel);
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    own_blob struct blob text = blob_zeroed(200);
    memset(text.at, 'a', text.length);
    refuse(&bzimage, CMDLINE, "not an arm64 Image but an x86 bzImage");
    refuse(&elf, CMDLINE, "not an arm64 Image but an ELF file for x86-64");
    put_le16(elf.at + 18, 0x1600); /* 22, big-endian */
    elf.at[5] = 2;
    refuse(&elf, CMDLINE, "not an arm64 Image but an ELF file for s390x");
    elf.at[18] = 0xff;
    refuse(&elf, CMDLINE, "not an arm64 Image but an ELF file for a machine that nobody boots");
    refuse(&text, CMDLINE, "a text file");

    struct nido_error err;
    own_image_file struct image_file file = image_file_make(text.at, text.length);
    assert_int_equal(boot_check(file.path, &err), -ENOEXEC);
    assert_string_equal(err.text, "not an arm64 Image but a text file");
}

static void boot_refuses_a_command_line_that_would_be_cut_off(void **state)
{
    char cmdline[CMDLINE_BYTES + 2];
    own_bench struct bench bench;
    own_blob struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
    memset(cmdline, 'a', sizeof(cmdline));
    cmdline[CMDLINE_BYTES + 1] = '\0';
    refuse(&kernel, cmdline, "has 2048 bytes and this kernel takes 2047");
    cmdline[CMDLINE_BYTES] = '\0';
    bench_init(&bench, 16 * MIB);
    assert_int_equal(boot_with(&bench, &kernel, NULL, cmdline), 0);
    assert_string_equal(chosen(&bench, "bootargs", NULL), cmdline);
}

static void boot_refuses_ram_that_holds_nothing(void **state)
{
    own_bench struct bench bench;
    own_blob struct blob kernel = image_arm64_make(0, IMAGE_BYTES, KERNEL_BYTES);
    own_blob struct blob packed = image_pack(UNPACK_ZSTD, kernel.at, kernel.length);
    bench_init(&bench, 2 * MIB);
    assert_true(boot_with(&bench, &packed, NULL, CMDLINE) < 0);
    assert_non_null(strstr(bench.err.text, "say more with --mem"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boot_enters_an_image_at_its_text_offset),
        cmocka_unit_test(boot_unpacks_an_image_of_each_packing),
        cmocka_unit_test(boot_takes_the_image_out_of_a_zboot_program),
        cmocka_unit_test(boot_keeps_the_initrd_clear_of_the_kernels_bss),
        cmocka_unit_test(boot_refuses_a_broken_image_header),
        cmocka_unit_test(boot_refuses_a_truncated_image),
        cmocka_unit_test(boot_refuses_a_big_endian_image),
        cmocka_unit_test(boot_refuses_what_unpacks_to_no_image),
        cmocka_unit_test(boot_unpacks_a_kernel_once),
        cmocka_unit_test(boot_keeps_nothing_that_is_no_kernel),
        cmocka_unit_test(boot_refuses_a_broken_zboot_program),
        cmocka_unit_test(boot_says_what_a_file_is_that_is_no_arm64_kernel),
        cmocka_unit_test(boot_refuses_a_command_line_that_would_be_cut_off),
        cmocka_unit_test(boot_refuses_ram_that_holds_nothing),
    };
    return cmocka_run_group_tests_name("arm64_boot", tests, NULL, NULL);
}
