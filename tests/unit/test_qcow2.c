/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images of all kinds, made by qemu-img: random work on them, held against a model, and judged
 * by qemu-img in the end.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/cmocka_nido.h"
#include "tests/unit/qcow2_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE "12584448" /* 12 MiB and three sectors: the last cluster is not whole */

/* `make` leaves image.qcow2 behind; model.raw is there, of SIZE bytes. */
static void work_on(struct qcow2_bench *bench, const char *make)
{
    qcow2_bench_fill_model(bench, strtoull(SIZE, NULL, 10));
    qcow2_bench_shell(bench, "%s", make);
    qcow2_bench_learn_model(bench, "image.qcow2");
    for (unsigned round = 0; round < 2; round++) {
        bench->unsafe = round == 0; /* which takes no time for syncs, and is the same otherwise */
        qcow2_bench_open(bench, "image.qcow2", false);
        qcow2_bench_compare(bench);
        qcow2_bench_work(bench, bench->unsafe ? 30 : 3);
        qcow2_bench_close(bench);
        qcow2_bench_judge(bench, "image.qcow2");
    }
    qcow2_bench_open(bench, "image.qcow2", true);
    qcow2_bench_compare(bench);
}

#define CREATE(options)  "qemu-img create -q -f qcow2 " options " image.qcow2 " SIZE
#define CONVERT(options) "qemu-img convert -f raw -O qcow2 " options " model.raw image.qcow2"
#define OVERLAY(options)                                                                           \
    "qemu-img create -q -f qcow2 -F raw -b model.raw " options " image.qcow2 " SIZE                \
    " && mv model.raw base.raw && qemu-img rebase -u -F raw -b base.raw image.qcow2"

#define KIND(name, make)                                                                           \
    static void qcow2_works_on_##name(void **state)                                                \
    {                                                                                              \
        work_on(*state, make);                                                                     \
    }

KIND(an_empty_image, CREATE(""))
KIND(version_2, CREATE("-o compat=0.10"))
KIND(version_2_with_data, CONVERT("-o compat=0.10"))
KIND(clusters_of_512_bytes, CREATE("-o cluster_size=512"))
KIND(clusters_of_4_kib, CONVERT("-o cluster_size=4k"))
KIND(clusters_of_2_mib, CONVERT("-o cluster_size=2M"))
KIND(refcounts_of_1_bit, CREATE("-o refcount_bits=1,cluster_size=512"))
KIND(refcounts_of_2_bits, CREATE("-o refcount_bits=2,cluster_size=4k"))
KIND(refcounts_of_8_bits, CONVERT("-o refcount_bits=8,cluster_size=512"))
KIND(refcounts_of_32_bits, CONVERT("-o refcount_bits=32"))
KIND(refcounts_of_64_bits, CONVERT("-o refcount_bits=64,cluster_size=1k"))
KIND(lazy_refcounts, CREATE("-o lazy_refcounts=on"))
KIND(preallocated_metadata, CREATE("-o preallocation=metadata"))
KIND(preallocated_space, CREATE("-o preallocation=falloc,cluster_size=16k"))
KIND(preallocated_zeroes, CREATE("-o preallocation=full"))
KIND(zlib_clusters, CONVERT("-c"))
KIND(small_zlib_clusters, CONVERT("-c -o cluster_size=4k,compat=0.10"))
KIND(large_zlib_clusters, CONVERT("-c -o cluster_size=2M"))
KIND(zstd_clusters, CONVERT("-c -o compression_type=zstd"))
KIND(large_zstd_clusters, CONVERT("-c -o compression_type=zstd,cluster_size=2M"))
KIND(a_raw_base, OVERLAY(""))
KIND(a_raw_base_with_version_2, OVERLAY("-o compat=0.10"))
KIND(a_raw_base_with_large_clusters, OVERLAY("-o cluster_size=1M"))
KIND(a_raw_base_with_small_clusters, OVERLAY("-o cluster_size=1k"))

KIND(a_short_base, "truncate -s 5000192 model.raw && " OVERLAY(""))
KIND(a_short_base_with_version_2, "truncate -s 5000192 model.raw && " OVERLAY("-o compat=0.10"))

KIND(a_chain, "qemu-img convert -f raw -O qcow2 -c -o cluster_size=4k model.raw a.qcow2 && "
              "qemu-img create -q -f qcow2 -F qcow2 -b a.qcow2 b.qcow2 && "
              "qemu-io -f qcow2 -c 'write -P 7 1M 3M' -c 'write -z 5M 1M' b.qcow2 >/dev/null && "
              "mkdir sub && "
              "qemu-img create -q -f qcow2 -F qcow2 -b ../b.qcow2 sub/c.qcow2 && "
              "qemu-io -f qcow2 -c 'write -P 9 2M 100k' sub/c.qcow2 >/dev/null && "
              "qemu-img create -q -f qcow2 -F qcow2 -b sub/c.qcow2 image.qcow2")

KIND(zero_clusters, CONVERT("") " && qemu-io -f qcow2 -c 'write -z 1M 3M' -c 'write -zu 5M 2M' "
                                "-c 'discard 8M 1M' image.qcow2 >/dev/null")

static const char *const snapshot =
    "qemu-img convert -f raw -O qcow2 -o %s model.raw image.qcow2 && "
    "cp model.raw snapshot.raw && "
    "qemu-img snapshot -c first image.qcow2";

static void work_on_snapshot(struct qcow2_bench *bench, const char *options)
{
    char make[400];
    snprintf(make, sizeof(make), snapshot, options);
    work_on(bench, make);
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench, "qemu-img convert -f qcow2 -l first -O raw image.qcow2 got.raw && "
                             "cmp got.raw snapshot.raw");
    qcow2_bench_shell(bench, "qemu-img snapshot -c second image.qcow2");
    qcow2_bench_open(bench, "image.qcow2", false);
    qcow2_bench_work(bench, 20);
    qcow2_bench_close(bench);
    qcow2_bench_judge(bench, "image.qcow2");
    qcow2_bench_shell(bench, "qemu-img snapshot -d first image.qcow2 && "
                             "qemu-img check -q image.qcow2");
}

static void qcow2_keeps_internal_snapshots(void **state)
{
    work_on_snapshot(*state, "cluster_size=64k");
}

static void qcow2_keeps_internal_snapshots_of_small_clusters(void **state)
{
    work_on_snapshot(*state, "cluster_size=1k,refcount_bits=4");
}

/* Clusters in use, as qemu-img counts. */
static void expect_clusters_at_most(struct qcow2_bench *bench, const char *image, unsigned most)
{
    qcow2_bench_shell(bench,
                      "test \"$(qemu-img check --output=json %s | "
                      "sed -n 's/.*\"allocated-clusters\": \\([0-9]*\\).*/\\1/p')\" -le %u",
                      image, most);
}

static void qcow2_discard_gives_clusters_and_storage_back(void **state)
{
    struct qcow2_bench *bench = *state;
    qcow2_bench_fill_model(bench, 16 * MIB);
    memset(bench->model, 5, bench->size_bytes);
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 image.qcow2 16M");
    qcow2_bench_open(bench, "image.qcow2", false);
    assert_int_equal(bench->disk->discard_bytes, 64 * KIB);
    assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, 0, bench->model, 16 * MIB), 0);
    assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    qcow2_bench_shell(bench, "test $(stat -c %%b image.qcow2) -gt 32768");
    assert_int_equal(qcow2_bench_one(bench, DISK_DISCARD, 1000 * 512, NULL, 15 * MIB), 0);
    assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    memset(bench->model + 512 * KIB, 0, 15 * MIB - 512 * KIB + 448 * KIB);
    qcow2_bench_compare(bench);
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench, "test $(stat -c %%b image.qcow2) -lt 5000");
    expect_clusters_at_most(bench, "image.qcow2", 18);
    qcow2_bench_judge(bench, "image.qcow2");
}

static void qcow2_reuses_what_was_given_back(void **state)
{
    struct qcow2_bench *bench = *state;
    own_mem uint8_t *bytes = malloc(4 * MIB);
    memset(bytes, 1, 4 * MIB);
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 image.qcow2 64M");
    qcow2_bench_open(bench, "image.qcow2", false);
    for (unsigned i = 0; i < 40; i++) {
        const uint64_t at = i % 16 * 4 * MIB;
        assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, at, bytes, 4 * MIB), 0);
        assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(qcow2_bench_one(bench, DISK_DISCARD, at, NULL, 4 * MIB), 0);
        assert_int_equal(qcow2_bench_one(bench, DISK_FLUSH, 0, NULL, 0), 0);
    }
    qcow2_bench_close(bench);
    qcow2_bench_shell(bench, "qemu-img check -q image.qcow2 && "
                             "test $(stat -c %%s image.qcow2) -lt 10000000");
}

/* Zeroes that keep their place, written again: neither the file nor its map grows. */
static void qcow2_writes_to_the_place_that_zeroes_have_kept(void **state)
{
    struct qcow2_bench *bench = *state;
    own_mem uint8_t *bytes = malloc(MIB);
    memset(bytes, 3, MIB);
    qcow2_bench_fill_model(bench, MIB);
    qcow2_bench_shell(bench, "qemu-img create -q -f qcow2 image.qcow2 1M");
    qcow2_bench_open(bench, "image.qcow2", false);
    assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, 0, bytes, MIB), 0);
    assert_int_equal(qcow2_bench_one(bench, DISK_WRITE_ZEROES, 0, NULL, MIB), 0);
    memset(bench->model, 0, MIB);
    qcow2_bench_compare(bench);
    assert_int_equal(qcow2_bench_one(bench, DISK_WRITE, 512, bytes, 200 * KIB), 0);
    memset(bench->model + 512, 3, 200 * KIB);
    qcow2_bench_compare(bench);
    qcow2_bench_close(bench);
    qcow2_bench_judge(bench, "image.qcow2");
    expect_clusters_at_most(bench, "image.qcow2", 16);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, qcow2_bench_set_up, qcow2_bench_tear_down)

static const struct CMUnitTest tests[] = {
    TEST(qcow2_works_on_an_empty_image),
    TEST(qcow2_works_on_version_2),
    TEST(qcow2_works_on_version_2_with_data),
    TEST(qcow2_works_on_clusters_of_512_bytes),
    TEST(qcow2_works_on_clusters_of_4_kib),
    TEST(qcow2_works_on_clusters_of_2_mib),
    TEST(qcow2_works_on_refcounts_of_1_bit),
    TEST(qcow2_works_on_refcounts_of_2_bits),
    TEST(qcow2_works_on_refcounts_of_8_bits),
    TEST(qcow2_works_on_refcounts_of_32_bits),
    TEST(qcow2_works_on_refcounts_of_64_bits),
    TEST(qcow2_works_on_lazy_refcounts),
    TEST(qcow2_works_on_preallocated_metadata),
    TEST(qcow2_works_on_preallocated_space),
    TEST(qcow2_works_on_preallocated_zeroes),
    TEST(qcow2_works_on_zlib_clusters),
    TEST(qcow2_works_on_small_zlib_clusters),
    TEST(qcow2_works_on_large_zlib_clusters),
    TEST(qcow2_works_on_zstd_clusters),
    TEST(qcow2_works_on_large_zstd_clusters),
    TEST(qcow2_works_on_a_raw_base),
    TEST(qcow2_works_on_a_raw_base_with_version_2),
    TEST(qcow2_works_on_a_raw_base_with_large_clusters),
    TEST(qcow2_works_on_a_raw_base_with_small_clusters),
    TEST(qcow2_works_on_a_short_base),
    TEST(qcow2_works_on_a_short_base_with_version_2),
    TEST(qcow2_works_on_a_chain),
    TEST(qcow2_works_on_zero_clusters),
    TEST(qcow2_keeps_internal_snapshots),
    TEST(qcow2_keeps_internal_snapshots_of_small_clusters),
    TEST(qcow2_discard_gives_clusters_and_storage_back),
    TEST(qcow2_reuses_what_was_given_back),
    TEST(qcow2_writes_to_the_place_that_zeroes_have_kept),
};

int main(void)
{
    if (!qcow2_bench_possible())
        return 77;
    return cmocka_run_group_tests_name("qcow2", tests, NULL, NULL) != 0;
}
