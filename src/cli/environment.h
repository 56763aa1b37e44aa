/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_ENVIRONMENT_H
#define NIDO_CLI_ENVIRONMENT_H

/* The environment of a command in a guest. */

#include <jansson.h>

/* What an image says (texts NAME=VALUE; NULL: there is none), and over it what was given: NAME=VALUE, or
 * NAME for the value that it has here, or none where it has none here. A list that ends with NULL; NULL:
 * out of memory. */
char **environment_make(const json_t *image, const char *const *given, size_t given_count);
void environment_free(char **environment); /* takes NULL */

#endif
