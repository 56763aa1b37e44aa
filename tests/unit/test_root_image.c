/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/root_image.h"

#include "base/checked.h"
#include "base/own.h"
#include "cmocka_nido.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES 0x11000u

struct mark {
    unsigned at;
    const char *bytes;
};

/* What nido says of a file of FILE_BYTES zeroes and these marks. */
static int recognise(const struct mark *marks, unsigned count, struct root_image *image,
                     struct nido_error *err)
{
    char path[] = "/tmp/nido-root-image-XXXXXX";
    own_fd int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pwrite(fd, marks[i].bytes, strlen(marks[i].bytes), marks[i].at),
                         strlen(marks[i].bytes));
    int ret = root_image_recognise(path, image, err);
    unlink(path);
    return ret;
}

static void file_systems_are_known_by_their_marks(void **state)
{
    static const struct {
        struct mark mark;
        const char *fstype;
    } cases[] = {
        {{0x438, "\x53\xef"}, "ext4"},
        {{0x400, "\xe2\xe1\xf5\xe0"}, "erofs"},
        {{0, "hsqs"}, "squashfs"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct root_image image;
        struct nido_error err;
        /* Room for a boot sector is left by all but squashfs. */
        const struct mark marks[] = {cases[i].mark, {0x1fe, "\x55\xaa"}};
        assert_int_equal(recognise(marks, 2, &image, &err), 0);
        assert_int_equal(image.kind, ROOT_IMAGE);
        assert_string_equal(image.fstype, cases[i].fstype);
    }
}

static void what_may_be_an_archive_is_one(void **state)
{
    static const struct mark marks[] = {
        {0, "\x1f\x8b"},
        {0, "\xfd\x37zXZ"},
        {0, "\x28\xb5\x2f\xfd"},
        {0, "\x50\x2a\x4d\x18"},
        {0, "BZh"},
        /* The sum of a header of zeroes: eight spaces, where it stands itself. */
        {148, "000400"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(marks); i++) {
        struct root_image image;
        struct nido_error err;
        assert_int_equal(recognise(&marks[i], 1, &image, &err), 0);
        assert_int_equal(image.kind, ROOT_TAR);
    }
}

static void what_is_no_root_is_named(void **state)
{
    static const struct {
        struct mark mark;
        const char *words;
    } cases[] = {
        {{0, "QFI\xfb"}, "a qcow2 image"},
        {{0, "XFSB"}, "an XFS image"},
        {{0x10040, "_BHRfS_M"}, "a btrfs image"},
        {{0x200, "EFI PART"}, "a disk with partitions"},
        {{0x1fe, "\x55\xaa"}, "a disk with partitions"},
        {{0, "070701"}, "a cpio archive"},
        {{0, "\x7f"
             "ELF"},
         "a program or kernel"},
        {{0, "\x1f"}, "no file system that nido knows"},
        {{148, "000401"}, "no file system that nido knows"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct root_image image;
        struct nido_error err;
        assert_int_equal(recognise(&cases[i].mark, 1, &image, &err), -EINVAL);
        assert_non_null(strstr(err.text, cases[i].words));
        assert_non_null(strstr(err.text, "a root is a directory, an ext4, erofs or squashfs"));
    }
}

static void files_that_are_none_are_told_apart(void **state)
{
    struct root_image image;
    struct nido_error err;
    assert_int_equal(root_image_recognise("/tmp", &image, &err), 0);
    assert_int_equal(image.kind, ROOT_DIRECTORY);
    assert_int_equal(root_image_recognise("/dev/null", &image, &err), -EINVAL);
    assert_non_null(strstr(err.text, "neither a file nor a disk"));
    assert_int_equal(root_image_recognise("/nonexistent", &image, &err), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_systems_are_known_by_their_marks),
        cmocka_unit_test(what_may_be_an_archive_is_one),
        cmocka_unit_test(what_is_no_root_is_named),
        cmocka_unit_test(files_that_are_none_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
