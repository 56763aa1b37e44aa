/* SPDX-License-Identifier: Apache-2.0 */
#include "named.h"

#include "unit/cmocka_nido.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runner r;
char directory[64];

int named_set_up(void **state)
{
    strcpy(directory, "/tmp/nido-life-XXXXXX");
    assert_non_null(mkdtemp(directory));
    setenv("XDG_RUNTIME_DIR", directory, 1);
    return 0;
}

/* A test that failed may have left a machine, which would use a CPU for good. */
int named_tear_down(void **state)
{
    char command[256];
    snprintf(command, sizeof(command),
             "\"$NIDO\" ps | sed '1d; s/ .*//' | xargs -rn1 \"$NIDO\" stop --force; rm -rf %s",
             directory);
    return system(command);
}

void tell(const char *command, ...)
{
    const char *arguments[RUNNER_ARGS_MAX] = {command};
    va_list ap;
    va_start(ap, command);
    for (int i = 1; i < RUNNER_ARGS_MAX - 1 && arguments[i - 1]; i++)
        arguments[i] = va_arg(ap, const char *);
    va_end(ap);
    runner_command(&r, arguments);
}

void start_with(const char *guest, const char *name, const char *more)
{
    runner_run(&r, guest, ARGS("--detach", "--name", name, more));
    assert_int_equal(r.status, 0);
    assert_memory_equal(r.out_text, name, strlen(name));
}

void start(const char *guest, const char *name)
{
    start_with(guest, name, NULL);
}

json_int_t status_of(const char *name, const char *key)
{
    tell("status", name, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *status = json_loads(r.out_text, 0, NULL);
    json_int_t value = json_integer_value(json_object_get(status, key));
    json_decref(status);
    return value;
}
