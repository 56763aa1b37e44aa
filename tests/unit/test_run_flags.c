/* SPDX-License-Identifier: Apache-2.0 */
/* Every flag of nido run, with values that are missing, doubled, nonsense or contradict each other: refused, and by name. A
 * flag that has no row here fails the tests. */
#include "base/checked.h"
#include "cli/run_flags.h"

#include "cmocka_nido.h"

#include <string.h>

#define WORDS_MAX 8

static const struct row {
    const char *name, *good; /* NULL: a switch */
    struct {
        const char *value, *words;
    } bad[6];
} rows[] = {
    {"kernel", "k", {{"", "needs a value"}}},
    {"initrd", "i", {{"", "needs a value"}}},
    {"cmdline", "c", {{"", "needs a value"}}},
    {"cpus", "2", {{"0", "from 1 to 64"}, {"65", "from 1 to 64"}, {"two", "not a number"}}},
    {"mem", "64M", {{"1M", "out of range"}, {"12X", "no unit"}, {"33000K", "whole number of MiB"}}},
    {"hugepages", NULL, {{"yes", "takes no value"}}},
    {"mem-merge", NULL, {{"yes", "takes no value"}}},
    {"disk",
     "d",
     {{",ro", "name is empty"}, {"d,rw", "not an option"}, {"d,ro,ro", "given twice"}}},
    {"overlay",
     "o",
     {{",id=a", "name is empty"}, {"o,ro", "not an option"}, {"o,keep=", "needs a value"}}},
    {"net",
     "user",
     {{"tap0", "not an option"},
      {"mac=52:54:00:12:34:56", "say one of"},
      {"tap=t,mac=+2:00:00:00:00:00", "six bytes"}}},
    {"share",
     "h:/g",
     {{"h", "HOST:GUEST"},
      {"h:g", "from / on"},
      {"h:/g,rw", "not an option"},
      {"h:/g,tag=", "needs a value"}}},
    {"console", "none", {{"vga", "say stdio"}, {"file=", "say stdio"}}},
    {"port", "p,file=f", {{"p", "say one of"}, {"a/b,stdio", "no name"}}},
    {"balloon", "on", {{"off", "not an option"}, {"target=5", "whole number of pages"}}},
    {"vsock", "cid=3,path=v", {{"cid=3", "say both"}, {"cid=2,path=v", "from 3"}}},
    {"kernel-cache", "c", {{"", "needs a value"}}},
    {"dump-acpi", "a", {{"", "needs a value"}}},
    {"dump-dtb", "d", {{"", "needs a value"}}},
    {"config", "/dev/null", {{"/does/not/exist", "No such file"}, {"/dev/null", "line 1"}}},
    {"dump-config", NULL, {{"x", "takes no value"}}},
    {"name", "n", {{"a/b", "cannot be a name"}, {"-x", "begin with a letter or digit"}}},
    {"detach", NULL, {{"1", "takes no value"}}},
    {"on-reboot", "exit", {{"maybe", "say exit or restart"}}},
    {"on-panic", "exit", {{"maybe", "say exit, restart or continue"}, {"Exit", "say exit"}}},
    {"timeout", "5", {{"0", "from 1"}, {"-1", "not a number"}, {"5s", "not a number"}}},
    {"grace", "5", {{"never", "not a number"}, {"99999999999", "from 0"}}},
    {"root", "r", {{"", "needs a value"}}},
    {"env", "A=b", {{"=b", "say NAME"}}},
    {"workdir", "/w", {{"w", "from the guest's root"}}},
    {"user", "u", {{"", "needs a value"}}},
    {"scratch", "64M", {{"1M", "16M to"}, {"many", "not a size"}}},
    {"write", NULL, {{"1", "takes no value"}}},
    {"tty", NULL, {{"1", "takes no value"}}},
    {"result", "r", {{"", "needs a value"}}},
    {"timeline", NULL, {{"yes", "takes no value"}}},
    {"trace", "t", {{"", "needs a value"}}},
    {"pidfile", "p", {{"", "needs a value"}}},
    {"log", "warn", {{"loud", "say error"}, {"warn,/does/not/exist/f", "No such file"}}},
};

static const struct row *row_of(const struct config_key *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(rows[i].name, key->name) == 0)
            return &rows[i];
    fail_msg("--%s has no row in this test; say what of it is refused", key->name);
    return NULL;
}

static const struct config_key *key_at(unsigned i)
{
    static struct config all;
    all.more_keys = run_keys;
    all.more_count = run_key_count;
    return config_key_at(&all, i);
}

/* `words` are the flags, up to a NULL; --kernel stands before them where they do not name it. */
static int parse(const char *const *words, struct nido_error *err)
{
    struct run_flags flags;
    char *argv[WORDS_MAX + 4] = {(char *)(uintptr_t) "run"};
    int argc = 1;
    bool names_kernel = words[0] && strncmp(words[0], "--kernel", 8) == 0 &&
                        (words[0][8] == '\0' || words[0][8] == '=');
    *err = (struct nido_error){0};
    if (!names_kernel)
        argv[argc++] = (char *)(uintptr_t) "--kernel=k";
    for (; *words; words++)
        argv[argc++] = (char *)(uintptr_t)*words;
    int ret = run_flags_parse(&flags, argc, argv, err);
    run_flags_finish(&flags);
    return ret;
}

static void expect_refused(const char *const *words, const char *name, const char *why)
{
    struct nido_error err;
    if (parse(words, &err) == 0)
        fail_msg("%s is taken", words[0]);
    if (!strstr(err.text, name) || !strstr(err.text, why))
        fail_msg("%s: '%s' does not name %s and say '%s'", words[0], err.text, name, why);
}

static const char *flag(char text[128], const char *name, const char *value)
{
    snprintf(text, 128, value ? "--%s=%s" : "--%s", name, value);
    return text;
}

static void every_good_value_is_taken(void **state)
{
    char text[128];
    struct nido_error err;
    for (unsigned i = 0; key_at(i); i++) {
        const struct row *row = row_of(key_at(i));
        if (strcmp(row->name, "config") == 0)
            continue; /* an empty file is no configuration: see its bad values */
        if (parse((const char *const[]){flag(text, row->name, row->good), NULL}, &err) < 0)
            fail_msg("%s", err.text);
    }
}

static void a_missing_value_is_refused(void **state)
{
    char text[128];
    for (unsigned i = 0; key_at(i); i++) {
        const char *name = key_at(i)->name;
        if (!key_at(i)->value)
            continue;
        expect_refused((const char *const[]){flag(text, name, NULL), NULL}, name, "needs a value");
        expect_refused((const char *const[]){flag(text, name, ""), NULL}, name, "needs a value");
    }
}

static void a_doubled_flag_is_refused(void **state)
{
    char text[128];
    for (unsigned i = 0; key_at(i); i++) {
        const struct row *row = row_of(key_at(i));
        flag(text, row->name, row->good);
        if (!key_at(i)->repeatable)
            expect_refused((const char *const[]){text, text, NULL}, row->name, "given twice");
    }
}

static void nonsense_is_refused(void **state)
{
    char text[128];
    for (unsigned i = 0; key_at(i); i++) {
        const struct row *row = row_of(key_at(i));
        assert_non_null(row->bad[0].value);
        for (unsigned j = 0; j < ARRAY_SIZE(row->bad) && row->bad[j].value; j++)
            expect_refused((const char *const[]){flag(text, row->name, row->bad[j].value), NULL},
                           row->name, row->bad[j].words);
    }
}

static void contradictions_are_refused(void **state)
{
    static const struct {
        const char *words[WORDS_MAX], *name, *why;
    } cases[] = {
        {{"--net=none", "--net=user"}, "--net", "contradicts"},
        {{"--net=user,publish=80:80", "--net=user,publish=80:81"}, "80", "published"},
        {{"--net=tap=t,host-loopback"}, "--net", "goes with user"},
        {{"--share=h:/g,tag=t", "--share=i:/j,tag=t"}, "--share", "t"},
        {{"--disk=a,id=x", "--disk=b,id=x"}, "--disk", "is taken"},
        {{"--disk=a,ro,overlay"}, "--disk", "contradict"},
        {{"--port=p,file=a", "--port=p,file=b"}, "--port", "given twice"},
        {{"--port=p,stdio"}, "--port", "stdio is taken"},
        {{"--share=/a:/m,tag=t", "--share=/b:/n,tag=t"}, "--share", "is taken"},
        {{"--share=/a:/m", "--share=/b://m/"}, "--share", "already the place of /a"},
        {{"--net=tap=s,mac=02:00:00:00:00:0a", "--net=tap=t,mac=02:00:00:00:00:0A"},
         "--net",
         "02:00:00:00:00:0a is given twice"},
        {{"--hugepages", "--balloon=on"}, "--balloon", "--hugepages"},
        {{"--hugepages", "--mem-merge"}, "--mem-merge", "--hugepages"},
        {{"--mem=64M", "--balloon=target=64M"}, "--balloon", "leaves the guest nothing"},
        {{"--detach", "--console=none", "--port=p,stdio"}, "--detach", "--port p"},
        {{"--detach", "--timeline"}, "--detach", "--timeline"},
        {{"--detach", "stray"}, "'stray'", "not a flag"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        expect_refused(cases[i].words, cases[i].name, cases[i].why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_good_value_is_taken),  cmocka_unit_test(a_missing_value_is_refused),
        cmocka_unit_test(a_doubled_flag_is_refused),  cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
