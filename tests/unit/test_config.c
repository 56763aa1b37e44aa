/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "config/config.h"
#include "config/share.h"

#include "cmocka_nido.h"

#include <string.h>

static int set(struct config *config, const char *name, const char *value, struct nido_error *err)
{
    const struct config_key *key = config_find(config, name, strlen(name));
    assert_non_null(key);
    return config_set(config, key, value, err);
}

static void config_parses_sizes_as_people_type_them(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},          {"512", 512},        {"1k", KIB},
                {"1K", KIB},       {"256M", 256 * MIB}, {"4g", 4 * GIB},
                {"4GiB", 4 * GIB}, {"2MB", 2 * MIB}};
    static const char *const bad[] = {"",
                                      "M",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1.5G",
                                      "1 G",
                                      "12X",
                                      "0x10",
                                      "1M2",
                                      "99999999999999999999",
                                      "17592186044416M"};
    struct nido_error err;
    uint64_t bytes;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(config_parse_size(good[i].text, &bytes, &err), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_true(config_parse_size(bad[i], &bytes, &err) < 0);
}

/* Each bad value of each key is refused by name, and with the words that help. */
static void config_refuses_bad_values_by_name(void **state)
{
    static const struct {
        const char *key, *value, *words;
    } bad[] = {
        {"kernel", "", "needs a value"},
        {"initrd", NULL, "needs a value"},
        {"cpus", "0", "from 1 to 64"},
        {"cpus", "65", "from 1 to 64"},
        {"cpus", "two", "not a number"},
        {"cpus", "2x", "not a number"},
        {"cpus", "-1", "not a number"},
        {"mem", "256", "out of range"},
        {"mem", "31M", "out of range"},
        {"mem", "2000G", "out of range"},
        {"mem", "33000K", "whole number of MiB"},
        {"mem", "12X", "no unit"},
        {"hugepages", "yes", "takes no value"},
        {"disk", ",ro", "name is empty"},
        {"disk", "a.img,rw", "'rw' is not an option"},
        {"disk", "a.img,ro=1", "takes no value"},
        {"disk", "a.img,id", "needs a value"},
        {"disk", "a.img,id=123456789012345678901", "longer than 20"},
        {"disk", "a.img,format=vmdk", "qemu-img convert"},
        {"disk", "a.img,cache=none", "say writeback or unsafe"},
        {"disk", "a.img,overlay=", "needs a value"},
        {"overlay", ",id=a", "name is empty"},
        {"overlay", "a.img,ro", "ro"},
        {"overlay", "a.img,keep=", "needs a value"},
        {"disk", "a.img,overlay,ro", "contradict"},
        {"disk", "a.img,overlay,direct", "direct goes with raw"},
        {"disk", "a.img,direct,format=qcow2", "direct goes with raw"},
        {"disk", "a.img,queues=0", "from 1 to 16"},
        {"disk", "a.img,queues=17", "from 1 to 16"},
        {"disk", "a.img,ro,ro", "'ro' is given twice"},
        {"disk", "a.img,id=a,id=b", "'id' is given twice"},
        {"disk", "a.img,format=raw,format=raw", "'format' is given twice"},
        {"disk", "a.img,", "'' is not an option"},
        {"disk", "a.img,=x", "'' is not an option"},
        {"net", "tap", "needs a value"},
        {"net", "tap0", "not an option"},
        {"net", "mac=52:54:00:12:34:56", "say one of"},
        {"net", "tap=a,fd=3", "say one of"},
        {"net", "tap=a,tap=b", "'tap' is given twice"},
        {"net", "user,none", "say one of"},
        {"net", "user=1", "takes no value"},
        {"net", "tap=a,publish=80:80", "publish= goes with user"},
        {"net", "user,publish", "needs a value"},
        {"net", "fd=1", "from 3"},
        {"net", "fd=x", "not a number"},
        {"net", "tap=a,mac=52:54:00:12:34", "six bytes"},
        {"net", "tap=a,mac=52:54:00:12:34:5g", "six bytes"},
        {"net", "tap=a,mac=53:54:00:12:34:56", "multicast"},
        {"net", "tap=a,mac=00:00:00:00:00:00", "no address"},
        {"kernel", NULL, "needs a value"},
        {"cmdline", NULL, "needs a value"},
        {"kernel-cache", "", "needs a value"},
        {"dump-acpi", "", "needs a value"},
        {"config", "", "needs a value"},
        {"dump-config", "1", "takes no value"},
        {"console", "vga", "say stdio"},
        {"console", "file=", "say stdio"},
        {"console", "virtio,vga", "say stdio"},
        {"port", "work", "say one of"},
        {"port", "work,stdio,file=a", "say one of"},
        {"port", ",stdio", "is no name"},
        {"port", "a/b,stdio", "is no name"},
        {"port", "a-name-that-is-longer-than-31-bytes,stdio", "up to 31 bytes"},
        {"share", "/src", "say HOST:GUEST"},
        {"share", ":/mnt", "say HOST:GUEST"},
        {"share", "/src:mnt", "say HOST:GUEST"},
        {"share", "/src:/mnt,rw", "not an option"},
        {"share", "/src:/mnt,cache=some", "say auto, always or none"},
        {"share", "/src:/", "cannot be the guest's '/'"},
        {"share", "/src://", "cannot be the guest's '/'"},
        {"share", "/src:/mnt/..", "a '.' or '..' in it"},
        {"share", "/src:/./mnt", "a '.' or '..' in it"},
        {"share", "/src:/mnt,tag=root", "kept for the guest's root"},
        {"share", "/src:/mnt,tag=a-tag-that-is-longer-than-the-36-bytes", "longer than 36"},
        {"balloon", "target=5", "whole number of pages"},
        {"balloon", "stats=0", "out of range"},
        {"balloon", "off", "is not"},
        {"vsock", "cid=3", "say both"},
        {"vsock", "path=v.sock", "say both"},
        {"net", "tap=t0,host-loopback", "goes with user"},
        {"vsock", "cid=2,path=v.sock", "from 3 to 4294967294"},
        {"vsock", "cid=4294967295,path=v.sock", "from 3 to 4294967294"},
        {"vsock", "cid=3,path", "needs a value"},
        {"vsock", "v.sock", "not an option"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config config = {0};
        struct nido_error err = {0};
        assert_true(set(&config, bad[i].key, bad[i].value, &err) < 0);
        assert_memory_equal(err.text, "--", 2);
        assert_memory_equal(err.text + 2, bad[i].key, strlen(bad[i].key));
        assert_non_null(strstr(err.text, bad[i].words));
        config_finish(&config);
    }
}

/* A value that each key takes: the default, or this. */
static const char *good_value(const struct config_key *key)
{
    if (strcmp(key->name, "net") == 0)
        return "user";
    if (strcmp(key->name, "port") == 0)
        return "x,stdio";
    if (strcmp(key->name, "balloon") == 0)
        return "on";
    if (strcmp(key->name, "share") == 0)
        return "x:/x";
    if (strcmp(key->name, "vsock") == 0)
        return "cid=3,path=x";
    if (!key->value)
        return NULL;
    return key->initial ? key->initial : "x";
}

static void config_refuses_a_key_given_twice_unless_it_repeats(void **state)
{
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        struct config config = {0};
        struct nido_error err = {0};
        if (config_set(&config, key, good_value(key), &err) < 0)
            fail_msg("%s", err.text);
        int ret = config_set(&config, key, good_value(key), &err);
        if (key->repeatable ? ret < 0 : !strstr(err.text, ": given twice; give it once"))
            fail_msg("--%s twice: %d '%s'", key->name, ret, err.text);
        config_finish(&config);
    }
}

static void config_refuses_a_key_without_its_value(void **state)
{
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        struct config config = {0};
        struct nido_error err = {0};
        int ret = config_set(&config, key, key->value ? NULL : "x", &err);
        const char *words = key->value ? ": needs a value: --" : ": it takes no value";
        if (ret >= 0 || !strstr(err.text, words))
            fail_msg("--%s: %d '%s'", key->name, ret, err.text);
        config_finish(&config);
    }
}

static void config_guesses_what_a_wrong_name_was_meant_for(void **state)
{
    static const struct {
        const char *wrong, *meant;
    } names[] = {
        {"cpu", "cpus"},  {"men", "mem"},        {"kernl", "kernel"}, {"hugepage", "hugepages"},
        {"m", NULL},      {"memory", NULL},      {"", NULL},          {"x", NULL},
        {"dsik", "disk"}, {"netw0rkcard", NULL},
    };
    struct config config = {0};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *guess = config_nearest_key(&config, names[i].wrong);
        if (!guess != !names[i].meant || (guess && strcmp(guess, names[i].meant) != 0))
            fail_msg("%s: %s", names[i].wrong, guess ? guess : "no guess");
    }
}

/* A value may be longer than the room for a sentence; why it is wrong must still be told. */
static void config_tells_why_a_long_value_is_wrong(void **state)
{
    static char value[4096];
    struct config config = {0};
    struct nido_error err = {0};
    memset(value, 'x', sizeof(value) - 1);
    assert_true(set(&config, "cpus", value, &err) < 0);
    assert_non_null(strstr(err.text, "not a number"));
    config_finish(&config);
}

static void config_takes_disks_in_order(void **state)
{
    struct config config = {0};
    assert_int_equal(set(&config, "disk", "a,,b.img,ro,id=root,queues=3", NULL), 0);
    assert_int_equal(set(&config, "disk", "c.img,direct,format=raw", NULL), 0);
    const struct nido_disk *disks = config.machine.disks;
    assert_int_equal(config.machine.disk_count, 2);
    assert_string_equal(disks[0].path, "a,b.img");
    assert_string_equal(disks[0].id, "root");
    assert_true(disks[0].read_only && !disks[0].direct);
    assert_int_equal(disks[0].queues, 3);
    assert_string_equal(disks[1].path, "c.img");
    assert_true(disks[1].direct && !disks[1].read_only);
    assert_true(disks[1].raw_for_sure && !disks[0].raw_for_sure);
    assert_int_equal(disks[1].format, NIDO_DISK_RAW);
    config_finish(&config);
}

static void config_takes_images_and_overlays(void **state)
{
    struct config config = {0};
    assert_int_equal(set(&config, "disk", "a.qcow2,format=qcow2,overlay,cache=writeback", NULL), 0);
    assert_int_equal(set(&config, "disk", "b.img,overlay=b,,1.qcow2,cache=unsafe", NULL), 0);
    const struct nido_disk *disks = config.machine.disks;
    assert_int_equal(disks[0].format, NIDO_DISK_QCOW2);
    assert_true(disks[0].overlay && !disks[0].overlay_path && !disks[0].unsafe);
    assert_int_equal(disks[1].format, NIDO_DISK_RAW);
    assert_true(disks[1].overlay && disks[1].unsafe && !disks[1].raw_for_sure);
    assert_string_equal(disks[1].overlay_path, "b,1.qcow2");
    assert_int_equal(set(&config, "overlay", "c.img", NULL), 0);
    assert_int_equal(set(&config, "overlay", "d.img,keep=d.qcow2,cache=unsafe", NULL), 0);
    assert_true(disks[2].overlay && !disks[2].overlay_path && !disks[2].unsafe);
    assert_true(disks[3].overlay && disks[3].unsafe);
    assert_string_equal(disks[3].overlay_path, "d.qcow2");
    config_finish(&config);
}

static void config_takes_networks(void **state)
{
    struct config config = {0};
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0xab, 0xff};
    assert_int_equal(set(&config, "net", "tap=tap0,mac=52:54:00:12:ab:ff", NULL), 0);
    assert_int_equal(set(&config, "net", "fd=7", NULL), 0);
    assert_string_equal(config.machine.nets[0].tap, "tap0");
    assert_memory_equal(config.machine.nets[0].mac, mac, sizeof(mac));
    assert_int_equal(config.machine.nets[1].kind, NIDO_NET_FD);
    assert_int_equal(config.machine.nets[1].fd, 7);
    config_finish(&config);
}

static void config_takes_shares(void **state)
{
    struct config config = {0};
    struct nido_error err = {0};
    assert_int_equal(set(&config, "share", "/a:b,,c:/mnt/x,ro,cache=always", NULL), 0);
    assert_int_equal(set(&config, "share", ".:/src,tag=source", NULL), 0);
    const struct nido_share *shares = config.machine.shares;
    assert_int_equal(config.machine.share_count, 2);
    assert_string_equal(shares[0].path, "/a:b,c");
    assert_string_equal(shares[0].guest_path, "/mnt/x");
    assert_true(shares[0].read_only && !shares[0].tag);
    assert_int_equal(shares[0].cache, NIDO_SHARE_CACHE_ALWAYS);
    assert_string_equal(shares[1].tag, "source");
    assert_true(!shares[1].read_only && shares[1].cache == NIDO_SHARE_CACHE_AUTO);
    assert_int_equal(config_check_shares(&config.machine, &err), 0);
    /* The first share's tag, which nobody said. */
    assert_int_equal(set(&config, "share", ".:/again,tag=share0", NULL), 0);
    assert_true(config_check_shares(&config.machine, &err) < 0);
    assert_non_null(strstr(err.text, "tag=share0 is taken by /a:b,c"));
    /* Places that only look alike, and one below the other's. */
    config.machine.share_count--;
    assert_int_equal(set(&config, "share", ".:/mnt/x/y", NULL), 0);
    assert_int_equal(set(&config, "share", ".:/mnt/xy", NULL), 0);
    assert_int_equal(set(&config, "share", ".:/mnt/...", NULL), 0);
    assert_int_equal(config_check_shares(&config.machine, &err), 0);
    assert_int_equal(set(&config, "share", ".:/mnt/x/", NULL), 0);
    assert_true(config_check_shares(&config.machine, &err) < 0);
    assert_non_null(strstr(err.text, "/mnt/x/ is already the place of /a:b,c"));
    config_finish(&config);
}

static void a_missing_kernel_says_what_else_may_be_meant(void **state)
{
    struct config config = {0};
    struct nido_error err;
    assert_true(config_check(&config, &err) < 0);
    assert_non_null(strstr(err.text, "--root DIR|IMAGE -- COMMAND"));
    assert_int_equal(set(&config, "disk", "root.img", NULL), 0);
    assert_true(config_check(&config, &err) < 0);
    assert_non_null(strstr(err.text, "say --root root.img -- COMMAND"));
    config_finish(&config);
}

static void config_sees_contradictions(void **state)
{
    struct config config = {0};
    struct nido_error err;
    assert_true(config_check(&config, &err) < 0);
    assert_non_null(strstr(err.text, "--kernel"));
    set(&config, "kernel", "k", NULL);
    assert_int_equal(config_check(&config, &err), 0);
    set(&config, "net", "none", NULL);
    assert_int_equal(config_check(&config, &err), 0);
    set(&config, "disk", "a,id=x", NULL);
    set(&config, "disk", "b,id=x", NULL);
    assert_true(config_check(&config, &err) < 0);
    assert_non_null(strstr(err.text, "id=x"));
    set(&config, "net", "tap=a", NULL);
    assert_true(config_check(&config, &err) < 0);
    assert_non_null(strstr(err.text, "contradicts"));
    config_finish(&config);
}

static void config_refuses_too_many_of_anything(void **state)
{
    struct config config = {0};
    struct nido_error err;
    for (unsigned i = 0; i < NIDO_DISKS_MAX; i++)
        assert_int_equal(set(&config, "disk", "d", &err), 0);
    assert_true(set(&config, "disk", "d", &err) < 0);
    for (unsigned i = 0; i < NIDO_SHARES_MAX; i++)
        assert_int_equal(set(&config, "share", "d:/d", &err), 0);
    assert_true(set(&config, "share", "d:/d", &err) < 0);
    for (unsigned i = 0; i < NIDO_NETS_MAX; i++)
        assert_int_equal(set(&config, "net", "tap=t", &err), 0);
    assert_true(set(&config, "net", "tap=t", &err) < 0);
    config_finish(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_parses_sizes_as_people_type_them),
        cmocka_unit_test(config_refuses_bad_values_by_name),
        cmocka_unit_test(config_refuses_a_key_given_twice_unless_it_repeats),
        cmocka_unit_test(config_refuses_a_key_without_its_value),
        cmocka_unit_test(config_guesses_what_a_wrong_name_was_meant_for),
        cmocka_unit_test(config_tells_why_a_long_value_is_wrong),
        cmocka_unit_test(config_takes_disks_in_order),
        cmocka_unit_test(config_takes_images_and_overlays),
        cmocka_unit_test(config_takes_networks),
        cmocka_unit_test(config_takes_shares),
        cmocka_unit_test(a_missing_kernel_says_what_else_may_be_meant),
        cmocka_unit_test(config_sees_contradictions),
        cmocka_unit_test(config_refuses_too_many_of_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
