/* SPDX-License-Identifier: Apache-2.0 */
/* What a command's environment is made of. */
#include "cli/environment.h"

#include "base/checked.h"

#include "cmocka_nido.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* What comes of `image`, a JSON array, and `given`, in one text. */
static void expect(const char *image, const char *const *given, size_t count, const char *expected)
{
    char all[256] = "";
    json_t *list = json_loads(image, 0, NULL);
    char **environment = environment_make(list, given, count);
    assert_non_null(environment);
    for (size_t i = 0; environment[i]; i++) {
        strcat(all, environment[i]);
        strcat(all, " ");
    }
    assert_string_equal(all, expected);
    environment_free(environment);
    json_decref(list);
}

#define EXPECT(image, expected, ...)                                                               \
    expect(image, (const char *const[]){__VA_ARGS__},                                              \
           ARRAY_SIZE(((const char *const[]){__VA_ARGS__})), expected)

static void what_is_given_goes_over_the_images(void **state)
{
    EXPECT("[\"A=image\", \"B=image\", \"=x\", \"none\", 7]", "B=image A=given ", "A=given");
}

static void the_last_of_one_name_stands_alone(void **state)
{
    EXPECT("[\"A=image\"]", "AB=3 A=2 ", "A=1", "AB=3", "A=2");
}

static void a_name_alone_has_the_value_it_has_here(void **state)
{
    setenv("NIDO_TEST_HERE", "here", 1);
    unsetenv("NIDO_TEST_NONE");
    EXPECT("[\"NIDO_TEST_NONE=image\"]", "NIDO_TEST_HERE=here ", "NIDO_TEST_HERE",
           "NIDO_TEST_NONE");
    EXPECT("[]", "NIDO_TEST_HERE=said ", "NIDO_TEST_HERE", "NIDO_TEST_HERE=said");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_given_goes_over_the_images),
        cmocka_unit_test(the_last_of_one_name_stands_alone),
        cmocka_unit_test(a_name_alone_has_the_value_it_has_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
