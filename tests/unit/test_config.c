/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "config/config.h"

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
        {"disk", "a.img,format=qcow2", "qemu-img convert"},
        {"disk", "a.img,queues=0", "from 1 to 16"},
        {"disk", "a.img,queues=17", "from 1 to 16"},
        {"net", "tap", "needs a value"},
        {"net", "tap0", "not an option"},
        {"net", "mac=52:54:00:12:34:56", "say one of"},
        {"net", "tap=a,fd=3", "say one of"},
        {"net", "fd=1", "from 3"},
        {"net", "fd=x", "not a number"},
        {"net", "tap=a,mac=52:54:00:12:34", "six bytes"},
        {"net", "tap=a,mac=52:54:00:12:34:5g", "six bytes"},
        {"net", "tap=a,mac=53:54:00:12:34:56", "multicast"},
        {"net", "tap=a,mac=00:00:00:00:00:00", "no address"},
        {"console", "vga", "say stdio"},
        {"console", "file=", "say stdio"},
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

static void config_refuses_a_key_given_twice(void **state)
{
    struct config config = {0};
    struct nido_error err;
    assert_int_equal(set(&config, "cpus", "1", &err), 0);
    assert_true(set(&config, "cpus", "1", &err) < 0);
    assert_non_null(strstr(err.text, "given twice"));
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
        cmocka_unit_test(config_refuses_a_key_given_twice),
        cmocka_unit_test(config_takes_disks_in_order),
        cmocka_unit_test(config_takes_networks),
        cmocka_unit_test(config_sees_contradictions),
        cmocka_unit_test(config_refuses_too_many_of_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
