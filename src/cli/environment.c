/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/environment.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t name_bytes(const char *variable)
{
    return strcspn(variable, "=");
}

static bool is_given(const char *variable, const char *const *given, size_t given_count)
{
    size_t length = name_bytes(variable);
    for (size_t i = 0; i < given_count; i++)
        if (name_bytes(given[i]) == length && strncmp(given[i], variable, length) == 0)
            return true;
    return false;
}

/* NULL: there is nothing to add. */
static char *variable_of(const char *text)
{
    const char *value = getenv(text);
    char *variable = NULL;
    if (strchr(text, '='))
        return strdup(text);
    if (value && asprintf(&variable, "%s=%s", text, value) < 0)
        return NULL;
    return variable;
}

char **environment_make(const json_t *image, const char *const *given, size_t given_count)
{
    char **environment = calloc(json_array_size(image) + given_count + 1, sizeof(*environment));
    const json_t *text;
    size_t count = 0, i;
    if (!environment)
        return NULL;
    json_array_foreach(image, i, text)
    {
        const char *variable = json_string_value(text);
        /* What has no name or no value is no variable. */
        if (variable && variable[0] != '=' && strchr(variable, '=') &&
            !is_given(variable, given, given_count))
            environment[count++] = strdup(variable);
        count -= count && !environment[count - 1];
    }
    for (i = 0; i < given_count; i++) {
        if (is_given(given[i], given + i + 1, given_count - i - 1))
            continue;
        environment[count] = variable_of(given[i]);
        count += environment[count] != NULL;
    }
    return environment;
}

void environment_free(char **environment)
{
    for (size_t i = 0; environment && environment[i]; i++)
        free(environment[i]);
    free(environment);
}
