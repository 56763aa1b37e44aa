/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel's modules: which are needed, in which order, and how they lie in an initrd. */
#include "firmware/guest_initrd.h"

#include "base/own.h"
#include "firmware/cpio.h"
#include "firmware/guest/program.h"
#include "firmware/modules.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <lzma.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

static void write_file(const char *name, const void *bytes, size_t length)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    own_file FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

static int set_up(void **state)
{
    static const char *const modules[] = {
        "virtio.ko", "virtio_mmio.ko", "virtio_blk.ko", "vsock.ko", "vmw_vsock_virtio_transport.ko",
        "overlay.ko"};
    strcpy(directory, "/tmp/nido-test-initrd.XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    for (unsigned i = 0; i < sizeof(modules) / sizeof(modules[0]); i++)
        write_text(modules[i], modules[i]);
    write_text("modules.dep", "virtio.ko:\n"
                              "virtio_mmio.ko: virtio.ko\n"
                              "virtio_blk.ko: virtio.ko\n"
                              "vsock.ko:\n"
                              "vmw_vsock_virtio_transport.ko: vsock.ko virtio.ko\n"
                              "overlay.ko:\n");
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static int build(char **archive, size_t *length, struct nido_error *err)
{
    FILE *file = open_memstream(archive, length);
    int ret = guest_initrd_modules(file, directory, err);
    fclose(file);
    return ret;
}

/* The content of a file in the archive; NULL: it has none of that name. */
static const char *find(const char *archive, size_t length, const char *wanted, size_t *bytes)
{
    size_t at = 0;
    while (at + 110 <= length) {
        unsigned size, name_bytes;
        assert_memory_equal(archive + at, "070701", 6);
        assert_int_equal(at % 4, 0);
        assert_int_equal(sscanf(archive + at + 54, "%8x", &size), 1);
        assert_int_equal(sscanf(archive + at + 94, "%8x", &name_bytes), 1);
        const char *name = archive + at + 110;
        size_t content = (at + 110 + name_bytes + 3) & ~(size_t)3;
        *bytes = size;
        if (strcmp(name, wanted) == 0)
            return archive + content;
        if (strcmp(name, "TRAILER!!!") == 0)
            return NULL;
        at = (content + size + 3) & ~(size_t)3;
    }
    fail_msg("the archive has no end");
    return NULL;
}

static void modules_load_after_what_they_need(void **state)
{
    const struct module *order[MODULE_DEPS_MAX];
    struct modules modules;
    struct nido_error err;
    char *text = strdup("a/one.ko: b/two-half.ko.xz c/three.ko.zst\n"
                        "nonsense\n"
                        "readme: a/one.ko\n"
                        "b/two-half.ko.xz: c/three.ko.zst\n"
                        "c/three.ko.zst:\n");
    assert_int_equal(modules_parse(&modules, text, &err), 0);
    assert_int_equal(modules.count, 3);
    const struct module *one = modules_find(&modules, "one");
    assert_int_equal(modules_order(&modules, one, order, &err), 3);
    assert_string_equal(order[0]->name, "three");
    assert_string_equal(order[1]->name, "two_half");
    assert_string_equal(order[2]->name, "one");
    assert_null(modules_find(&modules, "readme"));
    modules_finish(&modules);
}

static void a_dependency_that_is_not_there_is_named(void **state)
{
    const struct module *order[MODULE_DEPS_MAX];
    struct modules modules;
    struct nido_error err;
    assert_int_equal(modules_parse(&modules, strdup("one.ko: gone.ko\n"), &err), 0);
    assert_int_equal(modules_order(&modules, modules_find(&modules, "one"), order, &err), -ENOENT);
    assert_non_null(strstr(err.text, "gone.ko"));
    modules_finish(&modules);
}

static void a_circle_of_dependencies_has_an_end(void **state)
{
    const struct module *order[MODULE_DEPS_MAX];
    struct modules modules;
    struct nido_error err;
    char line[1024] = "one.ko:";
    for (unsigned i = 0; i < 60; i++)
        strcat(line, " one.ko");
    assert_int_equal(modules_parse(&modules, strdup(line), &err), 0);
    assert_int_equal(modules_order(&modules, &modules.all[0], order, &err), -E2BIG);
    modules_finish(&modules);
}

static void the_initrd_has_each_module_once_and_the_list(void **state)
{
    own_mem char *archive = NULL;
    size_t length, bytes;
    struct nido_error err;
    assert_int_equal(build(&archive, &length, &err), 0);
    assert_int_equal(length % 512, 0);
    const char *list = find(archive, length, "modules/list", &bytes);
    assert_non_null(list);
    own_mem char *text = strndup(list, bytes);
    assert_string_equal(
        text, "virtio_mmio virtio.ko virtio_mmio.ko\n"
              "virtio_blk virtio.ko virtio_blk.ko\n"
              "vmw_vsock_virtio_transport virtio.ko vsock.ko vmw_vsock_virtio_transport.ko\n"
              "overlay overlay.ko\n");
    const char *module = find(archive, length, "modules/virtio.ko", &bytes);
    assert_non_null(module);
    assert_int_equal(bytes, strlen("virtio.ko"));
    assert_memory_equal(module, "virtio.ko", bytes);
    /* Once: what comes behind it is another. */
    assert_null(
        find(module + 12, length - (size_t)(module + 12 - archive), "modules/virtio.ko", &bytes));
}

static void a_signature_is_a_file_of_its_own(void **state)
{
    /* Content, a signature of five bytes, the record with its length, the mark. */
    static const char module[] = "virtio.koSI"
                                 "GNED!\1\1\2\0\0\0\0\0\0\0\0\5~Module signature appended~\n";
    static const char lies[] = "overlay.ko\1\1\2\0\0\0\0\0\377\0\0\5~Module signature appended~\n";
    own_mem char *archive = NULL;
    size_t length, bytes;
    struct nido_error err;
    write_file("virtio.ko", module, sizeof(module) - 1);
    write_file("overlay.ko", lies, sizeof(lies) - 1);
    assert_int_equal(build(&archive, &length, &err), 0);
    const char *content = find(archive, length, "modules/virtio.ko", &bytes);
    assert_non_null(content);
    assert_int_equal(bytes, strlen("virtio.koSI"));
    assert_memory_equal(content, "virtio.koSI", bytes);
    const char *signature = find(archive, length, "modules/virtio.ko.sig", &bytes);
    assert_non_null(signature);
    assert_int_equal(bytes, sizeof(module) - 1 - strlen("virtio.koSI"));
    assert_memory_equal(signature, "GNED!", 5);
    assert_non_null(find(archive, length, "modules/overlay.ko", &bytes));
    assert_int_equal(bytes, sizeof(lies) - 1);
    assert_null(find(archive, length, "modules/overlay.ko.sig", &bytes));
}

static void what_is_built_in_is_left_out(void **state)
{
    own_mem char *archive = NULL;
    size_t length, bytes;
    struct nido_error err;
    write_text("modules.dep", "virtio.ko:\n"
                              "virtio_mmio.ko: virtio.ko\n"
                              "vsock.ko:\n"
                              "vmw_vsock_virtio_transport.ko: vsock.ko virtio.ko\n");
    write_text("modules.builtin", "kernel/drivers/block/virtio-blk.ko\nkernel/fs/overlay.ko\n");
    assert_int_equal(build(&archive, &length, &err), 0);
    assert_null(find(archive, length, "modules/virtio_blk.ko", &bytes));
    assert_non_null(find(archive, length, "modules/vsock.ko", &bytes));
}

static void a_kernel_without_what_guests_need_is_refused(void **state)
{
    own_mem char *archive = NULL;
    size_t length;
    struct nido_error err;
    write_text("modules.dep", "virtio.ko:\n");
    assert_int_equal(build(&archive, &length, &err), -ENOENT);
    assert_non_null(strstr(err.text, "virtio_mmio"));
    free(own_take_ptr(archive));
    unlink(strcat(strcpy((char[128]){0}, directory), "/modules.dep"));
    assert_int_equal(build(&archive, &length, &err), -ENOENT);
    assert_non_null(strstr(err.text, "modules.dep"));
}

static void compressed_modules_are_unpacked(void **state)
{
    uint8_t packed[256];
    size_t packed_bytes = 0, length, bytes;
    own_mem char *archive = NULL;
    struct nido_error err;
    assert_int_equal(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, (const uint8_t *)"unpacked",
                                             8, packed, &packed_bytes, sizeof(packed)),
                     LZMA_OK);
    write_file("overlay.ko.xz", packed, packed_bytes);
    write_text("modules.dep", "virtio.ko:\n"
                              "virtio_mmio.ko: virtio.ko\n"
                              "virtio_blk.ko: virtio.ko\n"
                              "vsock.ko:\n"
                              "vmw_vsock_virtio_transport.ko: vsock.ko virtio.ko\n"
                              "overlay.ko.xz:\n");
    if (build(&archive, &length, &err) < 0)
        fail_msg("%s", err.text);
    const char *module = find(archive, length, "modules/overlay.ko", &bytes);
    assert_non_null(module);
    assert_int_equal(bytes, 8);
    assert_memory_equal(module, "unpacked", 8);
    free(own_take_ptr(archive));
    write_file("overlay.ko.xz", packed, packed_bytes - 5);
    assert_true(build(&archive, &length, &err) < 0);
    assert_non_null(strstr(err.text, "overlay.ko.xz"));
}

static void the_program_lies_in_its_archive(void **state)
{
    own_mem char *archive = NULL;
    size_t length, bytes, program_bytes;
    struct nido_error err;
    const uint8_t *program = guest_program(&program_bytes);
    FILE *file = open_memstream(&archive, &length);
    assert_int_equal(guest_initrd_program(file, &err), 0);
    fclose(file);
    const char *init = find(archive, length, "init", &bytes);
    assert_non_null(init);
    assert_int_equal(bytes, program_bytes);
    assert_memory_equal(init, program, bytes);
    assert_memory_equal(init,
                        "\x7f"
                        "ELF",
                        4);
}

static void a_disk_that_is_full_is_told(void **state)
{
    struct nido_error err;
    own_file FILE *full = fopen("/dev/full", "we");
    assert_non_null(full);
    assert_true(guest_initrd_program(full, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modules_load_after_what_they_need),
        cmocka_unit_test(a_dependency_that_is_not_there_is_named),
        cmocka_unit_test(a_circle_of_dependencies_has_an_end),
        cmocka_unit_test_setup_teardown(the_initrd_has_each_module_once_and_the_list, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_signature_is_a_file_of_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_built_in_is_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kernel_without_what_guests_need_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(compressed_modules_are_unpacked, set_up, tear_down),
        cmocka_unit_test(the_program_lies_in_its_archive),
        cmocka_unit_test(a_disk_that_is_full_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
