/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/own.h"
#include "config/config.h"

#include "cmocka_nido.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLAGS_MAX 12

static char path[] = "/tmp/nido-test-config.XXXXXX";

static void write_file(const char *text)
{
    own_file FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
}

/* "--key", "value", ...; a switch has NULL. */
static void set_flags(struct config *config, const char *const *flags)
{
    struct nido_error err = {0};
    for (; flags[0]; flags += 2) {
        const struct config_key *key = config_find(config, flags[0] + 2, strlen(flags[0] + 2));
        assert_non_null(key);
        if (config_set(config, key, flags[1], &err) < 0)
            fail_msg("%s", err.text);
    }
}

static int finalise(struct config *config, const char *const *flags, const char *json,
                    struct nido_error *err)
{
    memset(config, 0, sizeof(*config));
    if (flags)
        set_flags(config, flags);
    if (json) {
        write_file(json);
        config->file = path;
    }
    return config_finalise(config, err);
}

static char *dump(const struct config *config)
{
    struct nido_error err = {0};
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    if (config_dump(config, stream, &err) < 0)
        fail_msg("%s", err.text);
    fclose(stream);
    return text;
}

static void assert_same_text(const char *a, const char *b)
{
    assert_int_equal(!a, !b);
    if (a)
        assert_string_equal(a, b);
}

static void assert_same_net(const struct nido_net *a, const struct nido_net *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_same_text(a->tap, b->tap);
    assert_int_equal(a->fd, b->fd);
    assert_memory_equal(a->mac, b->mac, sizeof(a->mac));
    assert_int_equal(a->publish_count, b->publish_count);
    assert_memory_equal(a->publish, b->publish, a->publish_count * sizeof(a->publish[0]));
}

static void assert_same_machine(const struct nido_config *a, const struct nido_config *b)
{
    assert_same_text(a->kernel, b->kernel);
    assert_same_text(a->initrd, b->initrd);
    assert_same_text(a->cmdline, b->cmdline);
    assert_int_equal(a->cpus, b->cpus);
    assert_int_equal(a->mem_bytes, b->mem_bytes);
    assert_same_text(a->kernel_cache, b->kernel_cache);
    assert_int_equal(a->huge_pages, b->huge_pages);
    assert_int_equal(a->mem_merge, b->mem_merge);
    assert_int_equal(a->disk_count, b->disk_count);
    for (unsigned i = 0; i < a->disk_count; i++) {
        assert_same_text(a->disks[i].path, b->disks[i].path);
        assert_same_text(a->disks[i].id, b->disks[i].id);
        assert_int_equal(a->disks[i].read_only, b->disks[i].read_only);
        assert_int_equal(a->disks[i].direct, b->disks[i].direct);
        assert_int_equal(a->disks[i].raw_for_sure, b->disks[i].raw_for_sure);
        assert_int_equal(a->disks[i].format, b->disks[i].format);
        assert_int_equal(a->disks[i].unsafe, b->disks[i].unsafe);
        assert_int_equal(a->disks[i].overlay, b->disks[i].overlay);
        assert_same_text(a->disks[i].overlay_path, b->disks[i].overlay_path);
        assert_int_equal(a->disks[i].queues, b->disks[i].queues);
    }
    assert_int_equal(a->net_count, b->net_count);
    for (unsigned i = 0; i < a->net_count; i++)
        assert_same_net(&a->nets[i], &b->nets[i]);
    assert_int_equal(a->console, b->console);
    assert_same_text(a->console_file, b->console_file);
    assert_same_text(a->dump_acpi, b->dump_acpi);
    assert_same_text(a->dump_dtb, b->dump_dtb);
}

/* ---- what a file may say ---- */

static void json_says_what_flags_say(void **state)
{
    static const struct {
        const char *json;
        const char *flags[FLAGS_MAX];
    } same[] = {
        {"{\"kernel\": \"k\"}", {"--kernel", "k"}},
        {"{\"kernel\": \"k\", \"cpus\": 3}", {"--kernel", "k", "--cpus", "3"}},
        {"{\"kernel\": \"k\", \"cpus\": \"3\"}", {"--kernel", "k", "--cpus", "3"}},
        {"{\"kernel\": \"k\", \"mem\": \"1G\"}", {"--kernel", "k", "--mem", "1G"}},
        {"{\"kernel\": \"k\", \"mem\": 67108864}", {"--kernel", "k", "--mem", "67108864"}},
        {"{\"kernel\": \"k\", \"hugepages\": true}", {"--kernel", "k", "--hugepages", NULL}},
        {"{\"kernel\": \"k\", \"hugepages\": false}", {"--kernel", "k"}},
        {"{\"kernel\": \"k\", \"disk\": []}", {"--kernel", "k"}},
        {"{\"kernel\": \"k\", \"disk\": [\"a,ro\", {\"id\": \"x\", \"file\": \"b\"}]}",
         {"--kernel", "k", "--disk", "a,ro", "--disk", "b,id=x"}},
        {"{\"kernel\": \"k\", \"disk\": [{\"file\": \"a,b\", \"ro\": false, \"queues\": 2}]}",
         {"--kernel", "k", "--disk", "a,,b,queues=2"}},
        {"{\"kernel\": \"k\", \"disk\": [{\"file\": \"a\", \"overlay\": true}, "
         "{\"file\": \"b\", \"overlay\": \"o,1\", \"format\": \"qcow2\"}]}",
         {"--kernel", "k", "--disk", "a,overlay", "--disk", "b,overlay=o,,1,format=qcow2"}},
        {"{\"kernel\": \"k\", \"net\": [{\"tap\": \"t\", \"mac\": \"52:54:00:00:00:01\"}]}",
         {"--kernel", "k", "--net", "tap=t,mac=52:54:00:00:00:01"}},
        {"{\"kernel\": \"k\", \"net\": [{\"user\": true, \"publish\": [\"80:80\", \"81:81\"]}]}",
         {"--kernel", "k", "--net", "user,publish=80:80,publish=81:81"}},
        {"{\"kernel\": \"k\", \"net\": [\"none\"]}", {"--kernel", "k", "--net", "none"}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        struct config by_file, by_flags;
        struct nido_error err = {0};
        if (finalise(&by_file, NULL, same[i].json, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(finalise(&by_flags, same[i].flags, NULL, &err), 0);
        assert_same_machine(&by_file.machine, &by_flags.machine);
        config_finish(&by_file);
        config_finish(&by_flags);
    }
}

static void json_that_is_wrong_is_refused_by_name(void **state)
{
    static const struct {
        const char *json, *words;
    } bad[] = {
        {"", "line 1: "},
        {"kernel", "line 1: "},
        {"{\"kernel\": \"k\"", "line 1: "},
        {"{\"kernel\": \"k\",\n \"cpus\": 1,,}", "line 2: "},
        {"{\"kernel\": \"k\"}\n{}", "line 2: end of file expected"},
        {"{\"kernel\": \"k\"} garbage", "line 1: end of file expected"},
        {"{\"cpus\": 1,\n\"cpus\": 2}", "line 2: duplicate object key"},
        {"{\"disk\": [{\"file\": \"a\", \"file\": \"b\"}]}", "duplicate object key"},
        {"{\"kernel\": \"\\u0000\"}", "line 1: "},
        {"{\"kernel\": \"\xff\"}", "line 1: "},
        {"{\"cpus\": 99999999999999999999}", "line 1: "},
        {"[]", "must be an object"},
        {"{\"cpu\": 2}", "\"cpu\" is not a key; did you mean \"cpus\"?"},
        {"{\"memory\": 2}", "\"memory\" is not a key; see nido-config(5)"},
        {"{\"\": 2}", "\"\" is not a key"},
        {"{\"config\": \"other.json\"}", "\"config\" is for the command line only"},
        {"{\"dump-config\": true}", "\"dump-config\" is for the command line only"},
        {"{\"kernel\": 1}", "kernel: must be a string"},
        {"{\"kernel\": null}", "kernel: must be a string"},
        {"{\"kernel\": [\"k\"]}", "kernel: must be a string"},
        {"{\"kernel\": \"\"}", "kernel: needs a value"},
        {"{\"cpus\": true}", "cpus: must be a number"},
        {"{\"cpus\": 1.5}", "cpus: must be a number"},
        {"{\"mem\": 1e9}", "mem: must be a string such as \"512M\", or a number of bytes"},
        {"{\"mem-merge\": 1}", "mem-merge: must be true or false"},
        {"{\"hugepages\": 1}", "hugepages: must be true or false"},
        {"{\"hugepages\": \"yes\"}", "hugepages: must be true or false"},
        {"{\"disk\": \"a.img\"}", "disk: must be an array, since --disk may be repeated"},
        {"{\"disk\": {\"file\": \"a.img\"}}", "disk: must be an array"},
        {"{\"disk\": [\"a\", 7]}", "disk, item 2: must be a string or an object"},
        {"{\"disk\": [\"\"]}", "disk, item 1: needs a value"},
        {"{\"disk\": [{\"file\": \"a\", \"overlay\": 1}]}",
         "\"overlay\" must be true, false or a string"},
        {"{\"disk\": [{}]}", "disk, item 1: \"file\" is needed: a string"},
        {"{\"disk\": [{\"file\": true}]}", "disk, item 1: \"file\" must be a string"},
        {"{\"disk\": [{\"file\": \"a\", \"rw\": true}]}",
         "disk, item 1: \"rw\" is not a key; did you mean \"ro\"?"},
        {"{\"disk\": [{\"fil\": \"a\"}]}", "\"file\" is needed"},
        {"{\"disk\": [{\"file\": \"a\", \"ro\": 1}]}", "\"ro\" must be true or false"},
        {"{\"disk\": [{\"file\": \"a\", \"id\": 1}]}", "\"id\" must be a string"},
        {"{\"disk\": [{\"file\": \"a\", \"queues\": false}]}", "\"queues\" must be a number"},
        {"{\"net\": [{}]}", "net, item 1: needs a value"},
        {"{\"net\": [{\"tap\": true}]}", "net, item 1: \"tap\" must be a string"},
        {"{\"net\": [{\"user\": true, \"publish\": \"80:80\"}]}",
         "\"publish\" must be an array of strings"},
        {"{\"net\": [{\"user\": true, \"publish\": [80]}]}",
         "\"publish\" must be an array of strings"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config config;
        struct nido_error err = {0};
        assert_true(finalise(&config, NULL, bad[i].json, &err) < 0);
        if (strncmp(err.text, "config /tmp/nido-test", 21) != 0 || !strstr(err.text, bad[i].words))
            fail_msg("%s: '%s' instead of '%s'", bad[i].json, err.text, bad[i].words);
        config_finish(&config);
    }
}

/* What only the flag's own parser sees is told with the file's name, not with a flag's. */
static void json_values_out_of_range_are_told_with_file_and_key(void **state)
{
    static const struct {
        const char *json, *words;
    } bad[] = {
        {"{\"cpus\": 0}", ": cpus 0: out of range"},
        {"{\"cpus\": -1}", ": cpus -1: not a number"},
        {"{\"mem\": \"12X\"}", ": mem 12X: 'X' is no unit"},
        {"{\"disk\": [\"a,rw\"]}", ": disk a,rw: 'rw' is not an option"},
        {"{\"net\": [{\"mac\": \"52:54:00:00:00:01\"}]}", "say one of user, tap=NAME"},
        {"{\"net\": [{\"tap\": \"a\", \"fd\": 3}]}", "say one of user, tap=NAME"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config config;
        struct nido_error err = {0};
        assert_true(finalise(&config, NULL, bad[i].json, &err) < 0);
        assert_memory_equal(err.text, "config /tmp/nido-test", 21);
        if (!strstr(err.text, bad[i].words))
            fail_msg("%s: '%s' instead of '%s'", bad[i].json, err.text, bad[i].words);
        config_finish(&config);
    }
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    struct config config = {0};
    struct nido_error err = {0};
    assert_true(config_load(&config, "/nonexistent/vm.json", &err) < 0);
    assert_string_equal(err.text, "config /nonexistent/vm.json: cannot be opened: "
                                  "No such file or directory");
    assert_true(config_load(&config, "/tmp", &err) < 0);
    assert_non_null(strstr(err.text, "is a directory"));
    assert_true(config_load(&config, "/dev/null", &err) < 0);
    assert_true(config_load(&config, "/nonexistent/vm.json", NULL) < 0);
}

static void more_values_than_there_is_room_for_are_refused(void **state)
{
    static char json[8192];
    int length = snprintf(json, sizeof(json), "{\"kernel\": \"k\", \"disk\": [\"a\"");
    for (unsigned i = 0; i < 2 * CONFIG_ENTRIES_MAX; i++)
        length += snprintf(json + length, sizeof(json) - (size_t)length, ",\"a\"");
    snprintf(json + length, sizeof(json) - (size_t)length, "]}");
    struct config config;
    struct nido_error err = {0};
    assert_true(finalise(&config, NULL, json, &err) < 0);
    assert_non_null(strstr(err.text, "more than 128 values"));
    config_finish(&config);
}

/* ---- who wins ---- */

static void a_flag_wins_over_the_file(void **state)
{
    static const char *const flags[] = {"--cpus", "4", "--disk", "flag.img", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(finalise(&config, flags,
                              "{\"kernel\": \"k\", \"cpus\": 2, \"mem\": \"1G\","
                              " \"disk\": [\"a.img\", \"b.img\"], \"net\": [\"fd=5\"]}",
                              &err),
                     0);
    assert_int_equal(config.machine.cpus, 4);
    assert_int_equal(config.machine.mem_bytes, GIB);
    assert_int_equal(config.machine.disk_count, 1);
    assert_string_equal(config.machine.disks[0].path, "flag.img");
    assert_int_equal(config.machine.net_count, 1);
    config_finish(&config);
}

static void net_none_on_the_command_line_takes_away_the_files_networks(void **state)
{
    static const char *const flags[] = {"--net", "none", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(finalise(&config, flags, "{\"kernel\": \"k\", \"net\": [\"fd=5\"]}", &err), 0);
    assert_int_equal(config.machine.net_count, 0);
    config_finish(&config);
}

static void defaults_stand_where_nothing_is_said(void **state)
{
    static const char *const flags[] = {"--kernel", "k", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(finalise(&config, flags, NULL, &err), 0);
    assert_int_equal(config.machine.cpus, 1);
    assert_int_equal(config.machine.mem_bytes, 256 * MIB);
    assert_string_equal(config.machine.cmdline, "console=ttyS0");
    assert_int_equal(config.machine.console, NIDO_CONSOLE_STDIO);
    assert_null(config.machine.initrd);
    config_finish(&config);
}

static void the_kernel_cache_follows_the_users_environment(void **state)
{
    static const char *const flags[] = {"--kernel", "k", NULL};
    static const struct {
        const char *cache, *home, *expected;
    } cases[] = {
        {"/c", "/h", "/c/nido/kernels"},
        {NULL, "/h", "/h/.cache/nido/kernels"},
        {"relative", "/h", "/h/.cache/nido/kernels"},
        {NULL, NULL, NULL},
        {NULL, "relative", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct config config;
        unsetenv("XDG_CACHE_HOME");
        unsetenv("HOME");
        if (cases[i].cache)
            setenv("XDG_CACHE_HOME", cases[i].cache, 1);
        if (cases[i].home)
            setenv("HOME", cases[i].home, 1);
        assert_int_equal(finalise(&config, flags, NULL, NULL), 0);
        assert_same_text(config.machine.kernel_cache, cases[i].expected);
        config_finish(&config);
    }
}

/* ---- there and back ---- */

static void what_is_dumped_loads_as_the_same(void **state)
{
    static const char *const sets[][2 * FLAGS_MAX + 1] = {
        {"--kernel", "k"},
        {"--kernel", "/boot/with \"quotes\" and \\", "--initrd", "i", "--cmdline",
         "a=b c,d \t\xc3\xa9", "--cpus", "64", "--mem", "1024G", "--hugepages", NULL, "--console",
         "file=/tmp/x=y", "--kernel-cache", "none", "--dump-acpi", "/tmp/d"},
        {"--kernel", "k", "--mem-merge", NULL},
        {"--kernel", "k", "--disk", "a,,b=c,ro,direct,format=raw,queues=7,id=x,,y", "--disk", "ro",
         "--disk", "c,id=z=1,overlay,cache=unsafe", "--disk", "d,overlay=e,,f,format=qcow2",
         "--net", "tap=t,,u,mac=52:54:00:ab:cd:ef", "--net",
         "publish=127.0.0.1:53:53/udp,user,publish=[::1]:80:81", "--net", "fd=7"},
        {"--kernel", "k", "--overlay", "a", "--disk", "b,ro", "--overlay", "c,,d,keep=e=f,,g,id=h"},
        {"--kernel", "k", "--net", "none", "--mem", "268435456", "--console", "none"},
        {"--kernel", "k", "--dump-dtb", "/tmp/d.dtb"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        struct config first, second;
        struct nido_error err = {0};
        assert_int_equal(finalise(&first, sets[i], NULL, &err), 0);
        own_mem char *text = dump(&first);
        if (finalise(&second, NULL, text, &err) < 0)
            fail_msg("%s: %s", text, err.text);
        own_mem char *again = dump(&second);
        assert_string_equal(text, again);
        assert_same_machine(&first.machine, &second.machine);
        assert_int_equal(first.net_none, second.net_none);
        config_finish(&first);
        config_finish(&second);
    }
}

static void what_a_flag_overrode_is_not_dumped(void **state)
{
    static const char *const flags[] = {"--disk", "flag.img", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(
        finalise(&config, flags, "{\"kernel\": \"k\", \"disk\": [\"file.img\"]}", &err), 0);
    own_mem char *text = dump(&config);
    assert_non_null(strstr(text, "flag.img"));
    assert_null(strstr(text, "file.img"));
    config_finish(&config);
}

static void what_is_no_json_cannot_be_dumped(void **state)
{
    static const char *const flags[] = {"--kernel", "k", "--disk", "\xff.img", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(finalise(&config, flags, NULL, &err), 0);
    own_file FILE *null = fopen("/dev/null", "w");
    assert_true(config_dump(&config, null, &err) < 0);
    assert_non_null(strstr(err.text, "is not UTF-8"));
    config_finish(&config);
}

static void a_dump_that_cannot_be_written_fails(void **state)
{
    static const char *const flags[] = {"--kernel", "k", NULL};
    struct config config;
    struct nido_error err = {0};
    assert_int_equal(finalise(&config, flags, NULL, &err), 0);
    own_file FILE *full = fopen("/dev/full", "w");
    if (!full)
        skip();
    assert_true(config_dump(&config, full, &err) < 0);
    assert_non_null(strstr(err.text, "No space left"));
    config_finish(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_says_what_flags_say),
        cmocka_unit_test(json_that_is_wrong_is_refused_by_name),
        cmocka_unit_test(json_values_out_of_range_are_told_with_file_and_key),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
        cmocka_unit_test(more_values_than_there_is_room_for_are_refused),
        cmocka_unit_test(a_flag_wins_over_the_file),
        cmocka_unit_test(net_none_on_the_command_line_takes_away_the_files_networks),
        cmocka_unit_test(defaults_stand_where_nothing_is_said),
        cmocka_unit_test(the_kernel_cache_follows_the_users_environment),
        cmocka_unit_test(what_is_dumped_loads_as_the_same),
        cmocka_unit_test(what_a_flag_overrode_is_not_dumped),
        cmocka_unit_test(what_is_no_json_cannot_be_dumped),
        cmocka_unit_test(a_dump_that_cannot_be_written_fails),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
