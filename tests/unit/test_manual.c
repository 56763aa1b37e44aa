/* SPDX-License-Identifier: Apache-2.0 */
/* The manual and --help know what the flags are, in the schema's words. */
#include "base/checked.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/run_flags.h"

#include "cmocka_nido.h"

#include <ctype.h>
#include <string.h>
#include <unistd.h>

#define SCREEN_LINES 24
#define MANUAL_BYTES 65536

static char *run_manual, *config_manual;

/* "\\:" is where a long word may be broken. */
static void join_words(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        if (from[0] == '\\' && from[1] == ':')
            from++;
        else
            *to++ = *from;
    }
    *to = '\0';
}

static char *read_manual(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    own_file FILE *file = fopen(path, "r");
    own_mem char *text = calloc(1, MANUAL_BYTES);
    if (!file || !text || fread(text, 1, MANUAL_BYTES - 1, file) == 0)
        return NULL;
    join_words(text);
    return own_take_ptr(text);
}

static const struct config_key *key_at(unsigned i)
{
    static const struct config all = {.more_keys = run_keys};
    struct config config = all;
    config.more_count = run_key_count;
    return config_key_at(&config, i);
}

/* The text below a flag's heading, up to the next flag or section; the caller frees it. */
static char *section_of(const struct config_key *key)
{
    char heading[256];
    snprintf(heading, sizeof(heading), ".It Fl -%s%s%s\n", key->name, key->value ? " Ar " : "",
             key->value ? key->value : "");
    char *start = strstr(run_manual, heading);
    if (!start) {
        fail_msg("nido-run.1 has no line '%s'", heading);
        return NULL;
    }
    start += strlen(heading);
    char *flag = strstr(start, "\n.It Fl"), *section = strstr(start, "\n.Sh");
    char *end = flag && flag < section ? flag : section;
    return strndup(start, (size_t)(end - start) + 1);
}

static void every_flag_stands_in_the_manual_with_its_value(void **state)
{
    for (unsigned i = 0; key_at(i); i++)
        free(section_of(key_at(i)));
}

static void every_default_stands_in_the_manual(void **state)
{
    char sentence[128];
    for (unsigned i = 0; key_at(i); i++) {
        own_mem char *section = section_of(key_at(i));
        const char *initial = key_at(i)->initial;
        snprintf(sentence, sizeof(sentence), "Default: %s.\n", initial ? initial : "");
        if (initial ? !strstr(section, sentence) : strstr(section, "Default:") != NULL)
            fail_msg("nido-run.1, --%s: the default is not '%s'", key_at(i)->name, sentence);
    }
}

static void every_option_stands_in_the_manual(void **state)
{
    char item[64];
    for (unsigned i = 0; key_at(i); i++) {
        own_mem char *section = section_of(key_at(i));
        for (unsigned j = 0; j < key_at(i)->option_count; j++) {
            const struct config_option *option = &key_at(i)->options[j];
            bool is_switch = option->type == CONFIG_SWITCH;
            snprintf(item, sizeof(item), ".It Cm %s%s", option->name, is_switch ? "\n" : "= Ns Ar");
            if (!strstr(section, item))
                fail_msg("nido-run.1, --%s: there is no '%s'", key_at(i)->name, item);
        }
    }
}

static bool has_word(const char *text, const char *word, char after)
{
    for (const char *at = text; (at = strstr(at, word)); at++) {
        char before = at == text ? ',' : at[-1], next = at[strlen(word)];
        if (strchr(",|[", before) && (after ? next == after : !isalnum((unsigned char)next)))
            return true;
    }
    return false;
}

static void every_option_stands_in_its_keys_value(void **state)
{
    for (unsigned i = 0; key_at(i); i++)
        for (unsigned j = 0; j < key_at(i)->option_count; j++) {
            const struct config_option *option = &key_at(i)->options[j];
            bool has_value = option->type != CONFIG_SWITCH && option->type != CONFIG_SWITCH_OR_TEXT;
            char after = has_value ? '=' : '\0';
            if (!has_word(key_at(i)->value, option->name, after))
                fail_msg("--%s %s: %s is missing", key_at(i)->name, key_at(i)->value, option->name);
        }
}

static void the_manual_knows_no_flag_that_is_not_there(void **state)
{
    static const char heading[] = "\n.It Fl -";
    struct config config = {.more_keys = run_keys, .more_count = run_key_count};
    for (const char *at = run_manual; (at = strstr(at, heading));) {
        at += strlen(heading);
        size_t length = strcspn(at, " \n");
        if (!config_find(&config, at, length))
            fail_msg("nido-run.1: there is no --%.*s", (int)length, at);
    }
}

static void every_flag_has_a_line_of_help(void **state)
{
    for (unsigned i = 0; key_at(i); i++) {
        assert_non_null(key_at(i)->help);
        assert_in_range(strlen(key_at(i)->help), 10, 72);
        assert_null(strstr(key_at(i)->help, "default"));
    }
}

static char *help(bool all)
{
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    help_run(stream, all);
    fclose(stream);
    return text;
}

static void help_fits_a_screen(void **state)
{
    own_mem char *text = help(false);
    unsigned lines = 0;
    for (const char *at = text; *at; lines++) {
        size_t width = strcspn(at, "\n");
        if (width > 79)
            fail_msg("%zu columns: %.*s", width, (int)width, at);
        at += width + 1;
    }
    assert_in_range(lines, 10, SCREEN_LINES - 1);
}

static void help_all_has_all(void **state)
{
    own_mem char *text = help(true);
    char flag[256];
    for (unsigned i = 0; key_at(i); i++) {
        const char *value = key_at(i)->value;
        snprintf(flag, sizeof(flag), "\n  --%s %s", key_at(i)->name, value ? value : "");
        assert_non_null(strstr(text, flag));
    }
}

/* Between .Bd and .Ed of the section EXAMPLES. */
static void the_manuals_example_is_a_good_file(void **state)
{
    char path[] = "/tmp/nido-test-manual.XXXXXX",
         *argv[] = {(char[]){"run"}, (char[]){"--config"}, path, NULL};
    char *section = strstr(config_manual, ".Sh EXAMPLES");
    assert_non_null(section);
    char *start = strchr(strstr(section, "\n.Bd") + 1, '\n') + 1;
    char *end = strstr(start, ".Ed");
    int fd = mkstemp(path);
    assert_int_equal(write(fd, start, (size_t)(end - start)), end - start);
    close(fd);
    struct run_flags flags;
    struct nido_error err = {0};
    int ret = run_flags_parse(&flags, 3, argv, &err);
    unlink(path);
    if (ret < 0)
        fail_msg("%s", err.text);
    assert_int_equal(flags.config.machine.disk_count, 2);
    assert_int_equal(flags.config.machine.nets[0].publish_count, 2);
    assert_true(flags.restart_on_reboot);
    run_flags_finish(&flags);
}

int main(void)
{
    const char *directory = getenv("NIDO_MANUAL");
    run_manual = read_manual(directory ? directory : "docs/man", "nido-run.1");
    config_manual = read_manual(directory ? directory : "docs/man", "nido-config.5");
    if (!run_manual || !config_manual)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flag_stands_in_the_manual_with_its_value),
        cmocka_unit_test(every_default_stands_in_the_manual),
        cmocka_unit_test(every_option_stands_in_the_manual),
        cmocka_unit_test(every_option_stands_in_its_keys_value),
        cmocka_unit_test(the_manual_knows_no_flag_that_is_not_there),
        cmocka_unit_test(every_flag_has_a_line_of_help),
        cmocka_unit_test(help_fits_a_screen),
        cmocka_unit_test(help_all_has_all),
        cmocka_unit_test(the_manuals_example_is_a_good_file),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(run_manual);
    free(config_manual);
    return failed;
}
