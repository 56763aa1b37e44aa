/* SPDX-License-Identifier: Apache-2.0 */
/* Published ports as people write them. */
#include "base/checked.h"
#include "config/config.h"

#include "tests/unit/cmocka_nido.h"

#include <string.h>

static void ports_are_parsed_as_people_type_them(void **state)
{
    static const struct {
        const char *text, *address;
        uint16_t host, guest;
        bool udp;
    } good[] = {
        {"8080:80", "", 8080, 80, false},
        {"1:65535", "", 1, 65535, false},
        {"8080:80/tcp", "", 8080, 80, false},
        {"53:5353/udp", "", 53, 5353, true},
        {"127.0.0.1:8080:80", "127.0.0.1", 8080, 80, false},
        {"0.0.0.0:8080:80/udp", "0.0.0.0", 8080, 80, true},
        {"[::1]:8080:80", "::1", 8080, 80, false},
        {"[2001:DB8:0:0::1]:53:53/udp", "2001:db8::1", 53, 53, true},
        {"[2001:0db8:1111:2222:3333:4444:255.255.255.255]:65535:65535/udp",
         "2001:db8:1111:2222:3333:4444:ffff:ffff", 65535, 65535, true},
    };
    struct nido_publish publish;
    struct nido_error err;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(config_parse_publish(good[i].text, &publish, &err), 0);
        assert_string_equal(publish.address, good[i].address);
        assert_int_equal(publish.host_port, good[i].host);
        assert_int_equal(publish.guest_port, good[i].guest);
        assert_int_equal(publish.udp, good[i].udp);
    }
}

static void what_is_no_port_is_refused_with_the_words_that_help(void **state)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"80", "two ports like 8080:80"},
        {"/udp", "two ports like 8080:80"},
        {"8080:", "port ''"},
        {":80", "port ''"},
        {"0:80", "from 1 to 65535"},
        {"80:0", "from 1 to 65535"},
        {"65536:80", "from 1 to 65535"},
        {"80:65536", "from 1 to 65535"},
        {"-1:80", "port '-1'"},
        {"8080:http", "port 'http'"},
        {"8080-8090:80", "port '8080-8090'"},
        {"8080:80/sctp", "say tcp or udp"},
        {"8080:80/", "say tcp or udp"},
        {"localhost:8080:80", "'localhost' is no address"},
        {"300.0.0.1:8080:80", "'300.0.0.1' is no address"},
        {"::1:8080:80", "[::1]"},
        {"[127.0.0.1]:8080:80", "is no address"},
        {"[]:8080:80", "is no address"},
        {":8080:80", "is no address"},
        {"[fe80::1%eth0]:8080:80", "is no address"},
        {"[2001:0db8:1111:2222:3333:4444:255.255.255.255]:0000000000000000000000065535:65535",
         "too long"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct nido_publish publish;
        struct nido_error err = {0};
        assert_true(config_parse_publish(bad[i].text, &publish, &err) < 0);
        if (!strstr(err.text, bad[i].words))
            fail_msg("%s: '%s' lacks '%s'", bad[i].text, err.text, bad[i].words);
    }
}

static int set_net(struct config *config, const char *value, struct nido_error *err)
{
    return config_set(config, config_find(config, "net", 3), value, err);
}

static void ports_belong_to_a_user_network(void **state)
{
    struct config config = {0};
    struct nido_error err;
    assert_int_equal(set_net(&config, "user,publish=1:2,publish=[::1]:3:4/udp", &err), 0);
    assert_int_equal(config.machine.nets[0].kind, NIDO_NET_USER);
    assert_int_equal(config.machine.nets[0].publish_count, 2);
    assert_int_equal(config.machine.nets[0].publish[1].guest_port, 4);
    assert_true(set_net(&config, "tap=a,publish=1:2", &err) < 0);
    assert_non_null(strstr(err.text, "goes with user"));
    assert_true(set_net(&config, "publish=1:2", &err) < 0);
    assert_non_null(strstr(err.text, "say one of user"));
    assert_true(set_net(&config, "user,tap=a", &err) < 0);
    assert_true(set_net(&config, "user=1", &err) < 0);
    config_finish(&config);
}

static void too_many_ports_are_refused(void **state)
{
    struct config config = {0};
    struct nido_error err;
    char value[1024] = "user";
    for (unsigned i = 0; i <= NIDO_PUBLISH_MAX; i++)
        strcat(value, ",publish=1:1");
    assert_true(set_net(&config, value, &err) < 0);
    assert_non_null(strstr(err.text, "at most 32"));
    config_finish(&config);
}

static void a_port_published_twice_is_named(void **state)
{
    static const struct {
        const char *first, *second;
        bool same;
    } pairs[] = {
        {"8080:80", "8080:81", true},
        {"8080:80", "127.0.0.1:8080:80", true},
        {"[::1]:8080:80", "8080:80", true},
        {"[::1]:8080:80", "[0::1]:8080:80", true},
        {"127.0.0.1:8080:80", "127.0.0.2:8080:80", false},
        {"8080:80", "8080:80/udp", false},
        {"8080:80", "8081:80", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        struct nido_config machine = {.net_count = 2};
        struct nido_error err = {0};
        machine.nets[0].publish_count = machine.nets[1].publish_count = 1;
        config_parse_publish(pairs[i].first, &machine.nets[0].publish[0], NULL);
        config_parse_publish(pairs[i].second, &machine.nets[1].publish[0], NULL);
        assert_int_equal(config_check_ports(&machine, &err) < 0, pairs[i].same);
        if (pairs[i].same)
            assert_non_null(strstr(err.text, "TCP port 8080 of the host is published twice"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_are_parsed_as_people_type_them),
        cmocka_unit_test(what_is_no_port_is_refused_with_the_words_that_help),
        cmocka_unit_test(ports_belong_to_a_user_network),
        cmocka_unit_test(too_many_ports_are_refused),
        cmocka_unit_test(a_port_published_twice_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
