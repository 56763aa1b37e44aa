/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <string.h>

char *cli_flag_value(const char *flag, int argc, char **argv, int *at)
{
    size_t length = strlen(flag);
    char *word = argv[*at];
    if (strncmp(word, flag, length) != 0)
        return NULL;
    if (word[length] == '=')
        return word + length + 1;
    if (word[length] || *at + 1 >= argc)
        return NULL;
    return argv[++*at];
}
