/* SPDX-License-Identifier: Apache-2.0 */
/* The manual knows what the schema knows. */
#include "config/config.h"

#include "cmocka_nido.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char manual[65536];

static void every_flag_stands_in_the_manual(void **state)
{
    char heading[64];
    for (unsigned i = 0; i < config_key_count; i++) {
        snprintf(heading, sizeof(heading), ".It Fl -%s", config_keys[i].name);
        if (!strstr(manual, heading))
            fail_msg("nido-run.1 has no '%s'", heading);
    }
}

static void every_flag_has_a_line_of_help(void **state)
{
    for (unsigned i = 0; i < config_key_count; i++) {
        assert_non_null(config_keys[i].help);
        assert_in_range(strlen(config_keys[i].help), 10, 80);
    }
}

int main(void)
{
    const char *path = getenv("NIDO_MANUAL");
    FILE *file = fopen(path ? path : "docs/man/nido-run.1", "r");
    if (!file || fread(manual, 1, sizeof(manual) - 1, file) == 0)
        return 1;
    fclose(file);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flag_stands_in_the_manual),
        cmocka_unit_test(every_flag_has_a_line_of_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
