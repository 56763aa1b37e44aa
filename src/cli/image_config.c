/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/image_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The texts live as long as the configuration. */
static size_t add_words(char **argv, size_t count, const json_t *words)
{
    const json_t *word;
    size_t i;
    json_array_foreach(words, i, word) if (json_is_string(word)) argv[count++] =
        (char *)(uintptr_t)json_string_value(word);
    return count;
}

/* What was given takes the place of the image's Cmd, which its Entrypoint has for arguments. */
static int set_command(struct job_flags *flags, struct nido_error *err)
{
    const json_t *entrypoint = json_object_get(flags->made.config, "entrypoint");
    const json_t *cmd = json_object_get(flags->made.config, "cmd");
    size_t given = 0, count;
    while (flags->command && flags->command[given])
        given++;
    char **argv =
        calloc(json_array_size(entrypoint) + json_array_size(cmd) + given + 1, sizeof(char *));
    if (!argv)
        return error_set(err, ENOMEM, "out of memory");
    flags->made.argv = argv;
    count = add_words(argv, 0, entrypoint);
    if (given)
        memcpy(argv + count, flags->command, given * sizeof(char *));
    else
        add_words(argv, count, cmd);
    if (!argv[0] || !*argv[0])
        return error_set(err, EINVAL,
                         "the image does not say what to run; say it: -- COMMAND [ARGUMENT]...");
    flags->command = argv;
    return 0;
}

static int set_directory(struct job_flags *flags, struct nido_error *err)
{
    const char *directory = json_string_value(json_object_get(flags->made.config, "workdir"));
    if (flags->directory || !directory || !*directory)
        return 0;
    if (asprintf(&flags->made.directory, "%s%s", *directory == '/' ? "" : "/", directory) < 0) {
        flags->made.directory = NULL;
        return error_set(err, ENOMEM, "out of memory");
    }
    flags->directory = flags->made.directory;
    return 0;
}

int image_config_apply(struct job_flags *flags, json_t *config, struct nido_error *err)
{
    flags->made.config = config;
    if (!flags->user)
        flags->user = json_string_value(json_object_get(config, "user"));
    int ret = set_command(flags, err);
    return ret < 0 ? ret : set_directory(flags, err);
}

void image_config_finish(struct job_flags *flags)
{
    json_decref(flags->made.config);
    free(flags->made.argv);
    free(flags->made.directory);
    flags->made = (struct made_root){.config = NULL};
}
