/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/initrd_machine.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/cpio.h"
#include "tests/unit/image_builder.h"

#include "cmocka_nido.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define FILESIZE_AT 54u
#define NAMESIZE_AT 94u

/* An archive in the making. */
struct bench {
    FILE *to;
    char *bytes;
    size_t length;
    struct cpio cpio;
};

static void begin(struct bench *bench)
{
    *bench = (struct bench){0};
    bench->to = open_memstream(&bench->bytes, &bench->length);
    assert_non_null(bench->to);
    cpio_begin(&bench->cpio, bench->to);
    cpio_directory(&bench->cpio, "usr", 0755);
}

static void file(struct bench *bench, const char *name, const void *bytes, size_t length)
{
    assert_int_equal(cpio_file(&bench->cpio, name, 0755, bytes, length, NULL), 0);
}

static void program(struct bench *bench, const char *name, uint16_t machine)
{
    uint8_t elf[300] = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
    put_le16(elf + offsetof(Elf64_Ehdr, e_machine), machine);
    file(bench, name, elf, sizeof(elf));
}

static struct blob end(struct bench *bench)
{
    assert_int_equal(cpio_end(&bench->cpio, NULL), 0);
    fclose(bench->to);
    return (struct blob){(uint8_t *)bench->bytes, bench->length};
}

/* `filler` bytes that are no program, then one. */
static struct blob archive(uint16_t machine, size_t filler)
{
    struct bench bench;
    own_blob struct blob other = blob_pattern(filler, 3);
    begin(&bench);
    file(&bench, "etc/other", other.at, other.length);
    program(&bench, "usr/bin/busybox", machine);
    return end(&bench);
}

static int check(const struct blob *initrd, uint16_t machine, struct nido_error *err)
{
    own_image_file struct image_file image = image_file_make(initrd->at, initrd->length);
    struct bootfile input = {.fd = image.fd, .size_bytes = initrd->length};
    return initrd_machine_check(&input, machine, err);
}

static void refuse(const struct blob *initrd, uint16_t machine, const char *sentence)
{
    struct nido_error err = {0};
    if (check(initrd, machine, &err) != -ENOEXEC)
        fail_msg("let in, though \"%s\" was expected", sentence);
    assert_string_equal(err.text, sentence);
}

static void let_in(const struct blob *initrd, uint16_t machine)
{
    struct nido_error err = {0};
    if (check(initrd, machine, &err) != 0)
        fail_msg("%s", err.text);
}

#define ARM_SENTENCE                                                                               \
    "an initrd for aarch64: its /usr/bin/busybox is for aarch64; this machine runs x86-64 "        \
    "programs"
#define X86_SENTENCE                                                                               \
    "an initrd for x86-64: its /usr/bin/busybox is for x86-64; this machine runs aarch64 programs"

static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4, UNPACK_XZ,
                                             UNPACK_LZMA};
/* Found in each of the parts that are unpacked, and in the last of a file's windows. */
static const size_t fillers[] = {0, 3900, 4096, 30000, 65300, 1000000};

static void initrd_machine_names_a_foreign_one(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(fillers); i++) {
        own_blob struct blob arm = archive(EM_AARCH64, fillers[i]);
        own_blob struct blob x86 = archive(EM_X86_64, fillers[i]);
        refuse(&arm, EM_X86_64, ARM_SENTENCE);
        let_in(&arm, EM_AARCH64);
        refuse(&x86, EM_AARCH64, X86_SENTENCE);
        let_in(&x86, EM_X86_64);
        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
            own_blob struct blob packed = image_pack(formats[f], arm.at, arm.length);
            refuse(&packed, EM_X86_64, ARM_SENTENCE);
            let_in(&packed, EM_AARCH64);
        }
    }
}

/* Which packs to a few runs that are longer than any part. */
static void initrd_machine_looks_at_the_start_of_a_long_run(void **state)
{
    struct bench bench;
    own_blob struct blob zeros = blob_zeroed(4 * MIB);
    begin(&bench);
    program(&bench, "usr/bin/busybox", EM_AARCH64);
    file(&bench, "etc/zeros", zeros.at, zeros.length);
    own_blob struct blob plain = end(&bench);
    for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
        own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
        refuse(&packed, EM_X86_64, ARM_SENTENCE);
    }
}

static void initrd_machine_lets_in_what_runs_as_well(void **state)
{
    own_blob struct blob i386 = archive(EM_386, 10);
    own_blob struct blob arm = archive(EM_ARM, 10);
    let_in(&i386, EM_X86_64);
    let_in(&arm, EM_AARCH64);
    refuse(&i386, EM_AARCH64,
           "an initrd for i386 (32-bit x86): its /usr/bin/busybox is for i386 (32-bit x86); this "
           "machine runs aarch64 programs");
}

static struct blob joined(const struct blob *first, size_t zeros, const struct blob *second)
{
    struct blob both = blob_zeroed(first->length + zeros + second->length);
    memcpy(both.at, first->at, first->length);
    memcpy(both.at + first->length + zeros, second->at, second->length);
    return both;
}

static void initrd_machine_looks_behind_the_first_archive(void **state)
{
    struct bench bench;
    own_blob struct blob tables = blob_pattern(20000, 2);
    begin(&bench);
    file(&bench, "kernel/firmware/acpi/dsdt.aml", tables.at, tables.length);
    own_blob struct blob early = end(&bench);
    own_blob struct blob plain = archive(EM_AARCH64, 100);
    for (size_t zeros = 0; zeros <= 5000; zeros += 500) {
        own_blob struct blob both = joined(&early, zeros, &plain);
        refuse(&both, EM_X86_64, ARM_SENTENCE);
        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
            own_blob struct blob packed = image_pack(formats[f], plain.at, plain.length);
            own_blob struct blob packed_behind = joined(&early, zeros, &packed);
            refuse(&packed_behind, EM_X86_64, ARM_SENTENCE);
            let_in(&packed_behind, EM_AARCH64);
        }
    }
}

static void initrd_machine_knows_microcode(void **state)
{
    struct bench bench;
    begin(&bench);
    file(&bench, "./kernel/x86/microcode/GenuineIntel.bin", "code", 4);
    own_blob struct blob early = end(&bench);
    let_in(&early, EM_X86_64);
    refuse(&early, EM_AARCH64,
           "an initrd for x86-64: it has a /kernel/x86/microcode/GenuineIntel.bin; this machine "
           "runs aarch64 programs");
}

/* Firmware is for whatever card has it; programs for machines without a name may be for the same. */
static void initrd_machine_passes_over_what_is_no_program_of_the_guests(void **state)
{
    struct bench bench;
    begin(&bench);
    program(&bench, "usr/lib/firmware/card.elf", EM_AARCH64);
    program(&bench, "usr/bin/filter.o", EM_BPF);
    program(&bench, "usr/bin/true", EM_X86_64);
    program(&bench, "usr/bin/zombie", EM_AARCH64);
    own_blob struct blob initrd = end(&bench);
    let_in(&initrd, EM_X86_64);
}

static void initrd_machine_is_silent_where_it_knows_nothing(void **state)
{
    own_blob struct blob far = archive(EM_AARCH64, 2 * MIB);
    own_blob struct blob packed = image_pack(UNPACK_GZIP, far.at, far.length);
    own_blob struct blob noise = blob_pattern(100000, 4);
    own_blob struct blob packed_noise = image_pack(UNPACK_ZSTD, noise.at, noise.length);
    own_blob struct blob zeros = blob_zeroed(3 * MIB);
    own_blob struct blob packed_zeros = image_pack(UNPACK_LZ4, zeros.at, zeros.length);
    own_blob struct blob unknown = image_pack(UNPACK_UNKNOWN, noise.at, noise.length);
    let_in(&packed, EM_X86_64);
    let_in(&noise, EM_X86_64);
    let_in(&packed_noise, EM_X86_64);
    let_in(&zeros, EM_X86_64);
    let_in(&packed_zeros, EM_X86_64);
    let_in(&unknown, EM_X86_64);
}

static void initrd_machine_survives_a_cut_anywhere(void **state)
{
    own_blob struct blob whole = archive(EM_AARCH64, 100);
    own_blob struct blob packed = image_pack(UNPACK_GZIP, whole.at, whole.length);
    for (size_t length = 1; length < whole.length; length++) {
        struct blob cut = {whole.at, length};
        check(&cut, EM_X86_64, NULL);
    }
    for (size_t length = 1; length < packed.length; length++) {
        struct blob cut = {packed.at, length};
        check(&cut, EM_X86_64, NULL);
    }
}

static void initrd_machine_survives_sizes_that_lie(void **state)
{
    static const char *const lies[] = {"ffffffff", "fffffffc", "80000000", "00000000",
                                       "00000001", "00000101", "xxxxxxxx", "-0000001"};
    static const unsigned fields[] = {FILESIZE_AT, NAMESIZE_AT};
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        for (size_t f = 0; f < ARRAY_SIZE(fields); f++) {
            own_blob struct blob initrd = archive(EM_AARCH64, 100);
            memcpy(initrd.at + fields[f], lies[i], 8);
            own_blob struct blob packed = image_pack(UNPACK_ZSTD, initrd.at, initrd.length);
            check(&initrd, EM_X86_64, NULL);
            check(&packed, EM_X86_64, NULL);
        }
    }
}

static void initrd_machine_prints_no_name_that_is_not_text(void **state)
{
    struct bench bench;
    begin(&bench);
    program(&bench, "bin/\n\x1b[2J\xff", EM_AARCH64);
    own_blob struct blob initrd = end(&bench);
    refuse(&initrd, EM_X86_64,
           "an initrd for aarch64: its /bin/??[2J? is for aarch64; this machine runs x86-64 "
           "programs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initrd_machine_names_a_foreign_one),
        cmocka_unit_test(initrd_machine_looks_at_the_start_of_a_long_run),
        cmocka_unit_test(initrd_machine_lets_in_what_runs_as_well),
        cmocka_unit_test(initrd_machine_looks_behind_the_first_archive),
        cmocka_unit_test(initrd_machine_knows_microcode),
        cmocka_unit_test(initrd_machine_passes_over_what_is_no_program_of_the_guests),
        cmocka_unit_test(initrd_machine_is_silent_where_it_knows_nothing),
        cmocka_unit_test(initrd_machine_survives_a_cut_anywhere),
        cmocka_unit_test(initrd_machine_survives_sizes_that_lie),
        cmocka_unit_test(initrd_machine_prints_no_name_that_is_not_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
