/* SPDX-License-Identifier: Apache-2.0 */
/* What boot_load() refuses, and that each refusal is one sentence that names the file. */
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/boot.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void boot_expecting(const char *kernel, const char *initrd, const char *cmdline,
                           uint64_t ram_bytes, const char *sentence)
{
    struct mem *mem = NULL;
    struct mem_range range = {0, ram_bytes};
    struct boot_entry entry;
    struct nido_error err = {0};
    struct boot_request request = {
        .kernel_path = kernel, .initrd_path = initrd, .cmdline = cmdline, .tables_gpa = 0xe0000};
    assert_int_equal(mem_create(&mem, &range, 1, MEM_ANONYMOUS, &err), 0);
    int r = boot_load(&request, mem, &entry, &err);
    mem_destroy(mem);

    if (r >= 0)
        fail_msg("booted, though \"%s\" was expected", sentence);
    if (r != -err.code || !strstr(err.text, sentence) || strchr(err.text, '\n'))
        fail_msg("\"%s\" (%d) is not \"... %s ...\"", err.text, r, sentence);
}

/* The sentence begins with whose fault it is. */
static void refuse_kernel(const void *bytes, size_t length, uint64_t ram_bytes,
                          const char *sentence)
{
    own_image_file struct image_file file = image_file_make(bytes, length);
    char prefix[80];
    snprintf(prefix, sizeof(prefix), "kernel %s: ", file.path);
    boot_expecting(file.path, NULL, "", ram_bytes, prefix);
    boot_expecting(file.path, NULL, "", ram_bytes, sentence);
}

static void boot_says_what_a_file_is_that_is_no_kernel(void **state)
{
    static const struct {
        const char *bytes;
        size_t length, at;
        const char *sentence;
    } files[] = {
        {"root:x:0:0:root:/root:/bin/bash\n", 32, 0, "a text file"},
        {"#!/bin/sh\nexit 0\n", 17, 0, "a script"},
        {"\x1f\x8b\x08\0\0\0\0\0\0\x03", 10, 0, "a gzip file; unpack it first with gunzip"},
        {"\xfd\x37zXZ\0", 6, 0, "an xz file"},
        {"\x28\xb5\x2f\xfd\0", 5, 0, "a zstd file"},
        {"\x02\x21\x4c\x18\0", 5, 0, "an LZ4 file"},
        {"BZh91AY&SY\x80", 11, 0, "a bzip2 file"},
        {"070701000000\x80", 13, 0, "did you swap --kernel and --initrd?"},
        {"\x27\x05\x19\x56\0", 5, 0, "a U-Boot image"},
        {"MZ\0\0zimg", 8, 0, "an EFI zboot image"},
        {"MZ\x90\0", 4, 0, "an EFI program without a Linux boot header"},
        {"ARM\x64", 4, 0x38, "an arm64 Image"},
        {"\xff\xfe\xfd\xfc", 4, 0, "an unknown kind"},
        {"\0", 1, 0, "an unknown kind"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        own_blob struct blob file = blob_zeroed(files[i].at + files[i].length);
        memcpy(file.at + files[i].at, files[i].bytes, files[i].length);
        refuse_kernel(file.at, file.length, 32 * MIB, files[i].sentence);
    }
}

static void refuse_unloaded(const struct blob *kernel, const char *sentence)
{
    own_image_file struct image_file file = image_file_make(kernel->at, kernel->length);
    struct nido_error err = {0};
    int r = boot_check(file.path, &err);
    if (r >= 0 || r != -err.code || !strstr(err.text, sentence))
        fail_msg("\"%s\" (%d) is not \"... %s ...\"", err.text, r, sentence);
}

static void boot_names_an_arm64_kernel_in_its_wrappings(void **state)
{
    static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                                 UNPACK_LZMA};
    own_blob struct blob image = image_arm64_make(0, 2 * MIB, MIB);
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        own_blob struct blob packed = image_pack(formats[i], image.at, image.length);
        refuse_kernel(packed.at, packed.length, 32 * MIB,
                      "not a bzImage or an x86-64 ELF vmlinux but a packed arm64 Image");
        own_blob struct blob zboot = image_zboot_of(formats[i], &image);
        refuse_kernel(zboot.at, zboot.length, 32 * MIB,
                      "not a bzImage or an x86-64 ELF vmlinux but an arm64 kernel in an EFI zboot "
                      "image");
        put_le16(zboot.at + get_le32(zboot.at + 0x3c) + 4, 0x5064); /* riscv64 */
        refuse_kernel(zboot.at, zboot.length, 32 * MIB, "an EFI zboot image; take the kernel");
        put_le32(zboot.at + 0x3c, UINT32_MAX);
        refuse_kernel(zboot.at, zboot.length, 32 * MIB, "an EFI zboot image; take the kernel");
    }
    own_blob struct blob text = blob_pattern(MIB, 3);
    own_blob struct blob packed = image_pack(UNPACK_GZIP, text.at, text.length);
    refuse_kernel(packed.at, packed.length, 32 * MIB, "a gzip file; unpack it first");
}

static void boot_check_refuses_by_the_header(void **state)
{
    own_blob struct blob text = blob_zeroed(200);
    memset(text.at, 'a', text.length);
    refuse_unloaded(&text, "not a bzImage or an x86-64 ELF vmlinux but a text file");
    own_blob struct blob image = image_arm64_make(0, 1 * MIB, 4096);
    refuse_unloaded(&image, "but an arm64 Image");
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    put_le16(elf.at + offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
    refuse_unloaded(&elf, "but an ELF file for aarch64");
    own_blob struct blob bzimage = image_bzimage_of(UNPACK_GZIP, &image_small_kernel);
    bzimage.length -= 16;
    refuse_unloaded(&bzimage, "the bzImage is truncated");
}

static void boot_says_what_is_wrong_with_a_path(void **state)
{
    char directory[] = "/tmp/nido-test-boot.XXXXXX", missing[64], fifo[64];
    assert_non_null(mkdtemp(directory));
    snprintf(missing, sizeof(missing), "%s/missing", directory);
    snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    own_image_file struct image_file empty = image_file_make("", 0);

    boot_expecting(missing, NULL, "", 32 * MIB, "cannot be opened: No such file or directory");
    boot_expecting(directory, NULL, "", 32 * MIB, "this is a directory");
    boot_expecting(fifo, NULL, "", 32 * MIB, "not a regular file");
    boot_expecting(empty.path, NULL, "", 32 * MIB, "the file is empty");
    unlink(fifo);
    rmdir(directory);
}

/* One field of a good bzImage, made bad. */
static void boot_refuses_a_broken_bzimage(void **state)
{
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        const char *sentence;
    } faults[] = {
        {0x206, 2, 0x0205, "boot protocol 2.05; 2.06 or later is needed"},
        {0x211, 1, 0, "a zImage"},
        {0x236, 2, 0, "a 32-bit x86 kernel"},
        {0x1f4, 4, 0xffffffff, "the bzImage is truncated"},
        {0x1f4, 4, 0, "the bzImage is truncated"},
        {0x1f1, 1, 0xff, "the bzImage is truncated"},
        {0x248, 4, 0xffffffff, "outside the image"},
        {0x248, 4, 0x7fffffff, "outside the image"},
        {0x24c, 4, 0xffffffff, "outside the image"},
        {0x24c, 4, 11, "outside the image"},
        {0x24c, 4, 200, "broken"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
        uint8_t value[8];
        put_le64(value, faults[i].value);
        memcpy(kernel.at + faults[i].at, value, faults[i].bytes);
        refuse_kernel(kernel.at, kernel.length, 32 * MIB, faults[i].sentence);
    }
}

static void boot_refuses_a_bzimage_cut_anywhere(void **state)
{
    own_blob struct blob kernel = image_bzimage_of(UNPACK_ZSTD, &image_small_kernel);
    size_t cuts[] = {
        0x206, 0x260, 0x290, 0x400, 0xa00, 0xc00, kernel.length / 2, kernel.length - 16};
    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++)
        refuse_kernel(kernel.at, cuts[i], 32 * MIB, "truncated");
}

static void boot_refuses_a_payload_whose_size_is_a_lie(void **state)
{
    static const struct {
        uint32_t said;
        const char *sentence;
    } lies[] = {
        {0, "cannot unpack to 0 bytes"},
        {0x1000, "more of it than its size field says"},
        {0x300000, "less than its size field says"},
        {0xffffffff, "cannot unpack to 4294967295 bytes"},
    };
    own_blob struct blob plain = image_elf_make(&image_small_kernel);
    own_blob struct blob packed = image_pack(UNPACK_LZ4, plain.at, plain.length);
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        own_blob struct blob kernel =
            image_bzimage_make(UNPACK_LZ4, packed.at, packed.length, lies[i].said);
        refuse_kernel(kernel.at, kernel.length, 32 * MIB, lies[i].sentence);
    }
}

static void boot_refuses_a_payload_that_is_no_kernel(void **state)
{
    own_blob struct blob plain = blob_pattern(10000, 1);
    own_blob struct blob packed = image_pack(UNPACK_GZIP, plain.at, plain.length);
    own_blob struct blob kernel = image_bzimage_make(UNPACK_GZIP, packed.at, packed.length, 0);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "not an ELF kernel");
}

static void boot_refuses_what_only_the_guest_can_unpack_and_ram_cannot_hold(void **state)
{
    own_blob struct blob kernel = image_bzimage_of(UNPACK_UNKNOWN, &image_small_kernel);
    refuse_kernel(kernel.at, kernel.length, 17 * MIB,
                  "it needs 22 MiB of RAM and the machine has 17; say --mem 22M or more");
    put_le64(kernel.at + 0x258, 0xfffffffffffff000);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "its header is broken");
    put_le64(kernel.at + 0x258, 0x1000);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "its header is broken");
    put_le16(kernel.at + 0x206, 0x020a);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "use Linux 3.8 or later");
}

/* One field of a good ELF file, made bad: in the file header, or in the first program header. */
static void boot_refuses_a_broken_elf_kernel(void **state)
{
    enum { PH = sizeof(Elf64_Ehdr) };
    static const struct {
        size_t at;
        unsigned bytes;
        uint64_t value;
        const char *sentence;
    } faults[] = {
        {EI_CLASS, 1, ELFCLASS32, "a 32-bit ELF file"},
        {EI_DATA, 1, ELFDATA2MSB, "this machine boots x86-64 kernels"},
        {offsetof(Elf64_Ehdr, e_machine), 2, EM_AARCH64, "a kernel for aarch64"},
        {offsetof(Elf64_Ehdr, e_machine), 2, EM_386, "a kernel for i386"},
        {offsetof(Elf64_Ehdr, e_machine), 2, 4711, "machine type 4711"},
        {offsetof(Elf64_Ehdr, e_type), 2, ET_REL, "cannot be run"},
        {offsetof(Elf64_Ehdr, e_phentsize), 2, 55, "55 bytes"},
        {offsetof(Elf64_Ehdr, e_phnum), 2, 0, "0 program headers"},
        {offsetof(Elf64_Ehdr, e_phnum), 2, PN_XNUM, "65535 program headers"},
        {offsetof(Elf64_Ehdr, e_phoff), 8, UINT64_MAX, "truncated"},
        {offsetof(Elf64_Ehdr, e_phoff), 8, UINT64_MAX - 111, "truncated"},
        {offsetof(Elf64_Ehdr, e_entry), 8, 0x5000000, "lies in no segment"},
        {PH + offsetof(Elf64_Phdr, p_offset), 8, UINT64_MAX - 4095, "truncated"},
        {PH + offsetof(Elf64_Phdr, p_offset), 8, 0x10000000, "truncated"},
        {PH + offsetof(Elf64_Phdr, p_filesz), 8, UINT64_MAX, "larger in the file than in memory"},
        {PH + offsetof(Elf64_Phdr, p_filesz), 8, 0x4001, "larger in the file than in memory"},
        {PH + offsetof(Elf64_Phdr, p_memsz), 8, UINT64_MAX, "not below 4 GiB"},
        {PH + offsetof(Elf64_Phdr, p_memsz), 8, 0x8000, "two segments overlap"},
        {PH + offsetof(Elf64_Phdr, p_paddr), 8, 0x90000, "below 0x100000"},
        {PH + offsetof(Elf64_Phdr, p_paddr), 8, UINT64_MAX - 0x1000, "not below 4 GiB"},
        {PH + offsetof(Elf64_Phdr, p_paddr), 8, 0xffffffff81000000, "not below 4 GiB"},
        {PH + offsetof(Elf64_Phdr, p_paddr), 8, 0x10000000, "it needs 257 MiB of RAM"},
        {PH + offsetof(Elf64_Phdr, p_paddr), 8, 0x1004000, "two segments overlap"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        own_blob struct blob kernel = image_elf_make(&image_small_kernel);
        uint8_t value[8];
        put_le64(value, faults[i].value);
        memcpy(kernel.at + faults[i].at, value, faults[i].bytes);
        refuse_kernel(kernel.at, kernel.length, 32 * MIB, faults[i].sentence);
    }
}

static void boot_refuses_an_elf_file_with_nothing_in_it(void **state)
{
    own_blob struct blob kernel = image_elf_make(&image_small_kernel);
    refuse_kernel(kernel.at, 40, 32 * MIB, "truncated");
    for (unsigned i = 0; i < 2; i++)
        put_le32(kernel.at + sizeof(Elf64_Ehdr) + i * sizeof(Elf64_Phdr), PT_NULL);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "nothing to load");
}

static void boot_refuses_more_segments_than_any_kernel_has(void **state)
{
    struct image_elf elf = {.entry = 0x200000, .count = 17};
    for (unsigned i = 0; i < elf.count; i++)
        elf.segments[i] = (struct image_segment){0x1000, 16, 0x200000 + i * 0x1000, 16, 0};
    own_blob struct blob kernel = image_elf_make(&elf);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "more than 16 segments");
}

static void boot_refuses_packed_segments_in_disorder(void **state)
{
    static const struct image_elf elf = {
        .entry = 0x1000000,
        .segments = {{0x5000, 0x1000, 0x1000000, 0x1000, 0},
                     {0x2000, 0x1000, 0x1001000, 0x1000, 0}},
        .count = 2,
    };
    own_blob struct blob kernel = image_bzimage_of(UNPACK_GZIP, &elf);
    refuse_kernel(kernel.at, kernel.length, 32 * MIB, "not in ascending order");
}

static void boot_names_the_memory_that_a_kernel_needs(void **state)
{
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    /* The header's word for it, init_size, where the unpacked kernel would not fit at all... */
    refuse_kernel(kernel.at, kernel.length, 2 * MIB, "say --mem 22M or more");
    /* ... and the truth, where it is known. */
    refuse_kernel(kernel.at, kernel.length, 16 * MIB, "say --mem 17M or more");
}

static void boot_refuses_a_command_line_that_would_be_cut(void **state)
{
    char line[IMAGE_CMDLINE_SIZE + 2];
    memset(line, 'a', sizeof(line) - 1);
    line[sizeof(line) - 1] = 0;
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    own_image_file struct image_file packed = image_file_make(kernel.at, kernel.length);
    own_image_file struct image_file plain = image_file_make(elf.at, elf.length);
    boot_expecting(packed.path, NULL, line, 32 * MIB,
                   "the kernel command line has 2048 bytes and this kernel takes 2047");
    boot_expecting(plain.path, NULL, line, 32 * MIB,
                   "the kernel command line has 2048 bytes and this kernel takes 2047");
}

static void refuse_initrd(const void *bytes, size_t length, const char *sentence)
{
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_image_file struct image_file file = image_file_make(kernel.at, kernel.length);
    own_image_file struct image_file initrd = image_file_make(bytes, length);
    char prefix[80];
    snprintf(prefix, sizeof(prefix), "initrd %s: ", initrd.path);
    boot_expecting(file.path, initrd.path, "", 18 * MIB, prefix);
    boot_expecting(file.path, initrd.path, "", 18 * MIB, sentence);
}

static void boot_refuses_an_initrd_that_cannot_be_one(void **state)
{
    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    own_blob struct blob arm = blob_zeroed(0x40);
    memcpy(arm.at + 0x38, "ARM\x64", 4);

    refuse_initrd("", 0, "the file is empty");
    refuse_initrd(kernel.at, kernel.length, "did you swap --kernel and --initrd?");
    refuse_initrd(elf.at, elf.length, "did you swap --kernel and --initrd?");
    refuse_initrd(arm.at, arm.length, "did you swap --kernel and --initrd?");

    own_image_file struct image_file file = image_file_make(kernel.at, kernel.length);
    boot_expecting(file.path, "/", "", 18 * MIB, "initrd /: this is a directory");
    boot_expecting(file.path, "/nowhere/initrd", "", 18 * MIB,
                   "initrd /nowhere/initrd: cannot be opened: No such file");
}

static void boot_refuses_an_initrd_of_another_architecture(void **state)
{
    enum { HEADER = 110, CONTENT = 116, LENGTH = 0x40 };
    own_blob struct blob initrd = blob_zeroed(CONTENT + LENGTH);
    own_blob struct blob elf = image_elf_make(&image_small_kernel);
    put_le16(elf.at + offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
    memset(initrd.at, '0', HEADER);
    memcpy(initrd.at, "070701", 6);
    memcpy(initrd.at + 14, "000081ed", 8); /* mode */
    memcpy(initrd.at + 54, "00000040", 8); /* LENGTH */
    memcpy(initrd.at + 94, "00000005", 8); /* of the name */
    memcpy(initrd.at + HEADER, "init", 5);
    memcpy(initrd.at + CONTENT, elf.at, LENGTH);
    refuse_initrd(initrd.at, initrd.length,
                  "an initrd for aarch64: its /init is for aarch64; this machine runs x86-64 "
                  "programs");
}

static void boot_names_the_memory_that_an_initrd_needs(void **state)
{
    own_blob struct blob initrd = blob_pattern(5 * MIB, 1);
    refuse_initrd(initrd.at, initrd.length,
                  "with this kernel it needs 22 MiB of RAM and the machine has 18; say --mem 22M "
                  "or more");

    own_blob struct blob kernel = image_bzimage_of(UNPACK_LZ4, &image_small_kernel);
    put_le32(kernel.at + 0x22c, 0x13fffff); /* 20 MiB is where it must end */
    own_image_file struct image_file file = image_file_make(kernel.at, kernel.length);
    own_image_file struct image_file big = image_file_make(initrd.at, initrd.length);
    boot_expecting(file.path, big.path, "", 64 * MIB, "do not fit between the kernel and 20 MiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boot_says_what_a_file_is_that_is_no_kernel),
        cmocka_unit_test(boot_names_an_arm64_kernel_in_its_wrappings),
        cmocka_unit_test(boot_check_refuses_by_the_header),
        cmocka_unit_test(boot_says_what_is_wrong_with_a_path),
        cmocka_unit_test(boot_refuses_a_broken_bzimage),
        cmocka_unit_test(boot_refuses_a_bzimage_cut_anywhere),
        cmocka_unit_test(boot_refuses_a_payload_whose_size_is_a_lie),
        cmocka_unit_test(boot_refuses_a_payload_that_is_no_kernel),
        cmocka_unit_test(boot_refuses_what_only_the_guest_can_unpack_and_ram_cannot_hold),
        cmocka_unit_test(boot_refuses_a_broken_elf_kernel),
        cmocka_unit_test(boot_refuses_an_elf_file_with_nothing_in_it),
        cmocka_unit_test(boot_refuses_more_segments_than_any_kernel_has),
        cmocka_unit_test(boot_refuses_packed_segments_in_disorder),
        cmocka_unit_test(boot_names_the_memory_that_a_kernel_needs),
        cmocka_unit_test(boot_refuses_a_command_line_that_would_be_cut),
        cmocka_unit_test(boot_refuses_an_initrd_that_cannot_be_one),
        cmocka_unit_test(boot_refuses_an_initrd_of_another_architecture),
        cmocka_unit_test(boot_names_the_memory_that_an_initrd_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
