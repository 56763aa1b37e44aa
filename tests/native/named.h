/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_NATIVE_NAMED_H
#define NIDO_TESTS_NATIVE_NAMED_H

/* Detached machines, asked by name. They live in a runtime directory of the test program's own. */

#include "runner.h"

#include <jansson.h>

#define ARGS(...) ((const char *const[]){"--mem=32M", ##__VA_ARGS__, NULL})

extern struct runner r;    /* of the last command */
extern char directory[64]; /* the runtime directory */

/* Of a group of tests. */
int named_set_up(void **state);
int named_tear_down(void **state);

/* A command and its arguments, up to a NULL. */
void tell(const char *command, ...);

void start(const char *guest, const char *name);
/* With one more flag, or NULL. */
void start_with(const char *guest, const char *name, const char *more);

/* A number of its status. */
json_int_t status_of(const char *name, const char *key);

#endif
