/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/modules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROWTH 512u

/* The kernel takes '-' and '_' for the same, and says '_'. False: that is no module's file. */
static bool set_name(struct module *module)
{
    const char *slash = strrchr(module->path, '/');
    const char *base = slash ? slash + 1 : module->path;
    const char *suffix = strstr(base, ".ko");
    size_t length = suffix ? (size_t)(suffix - base) : 0;
    if (length == 0 || length >= MODULE_NAME_BYTES || (suffix[3] && suffix[3] != '.'))
        return false;
    for (size_t i = 0; i < length; i++)
        module->name[i] = base[i] == '-' ? '_' : base[i];
    return true;
}

static int add(struct modules *modules, const struct module *module)
{
    if (modules->count % GROWTH == 0) {
        struct module *more = realloc(modules->all, (modules->count + GROWTH) * sizeof(*more));
        if (!more)
            return -ENOMEM;
        modules->all = more;
    }
    modules->all[modules->count++] = *module;
    return 0;
}

int modules_parse(struct modules *modules, char *text, struct nido_error *err)
{
    char *rest = text, *line;
    *modules = (struct modules){.text = text};
    while ((line = strsep(&rest, "\n"))) {
        char *colon = strchr(line, ':');
        if (!colon)
            continue;
        *colon = '\0';
        struct module module = {.path = line, .deps = colon + 1};
        if (set_name(&module) && add(modules, &module) < 0) {
            modules_finish(modules);
            return error_set(err, ENOMEM, "out of memory");
        }
    }
    return 0;
}

void modules_finish(struct modules *modules)
{
    free(modules->text);
    free(modules->all);
    *modules = (struct modules){0};
}

const struct module *modules_find(const struct modules *modules, const char *name)
{
    for (size_t i = 0; i < modules->count; i++)
        if (strcmp(modules->all[i].name, name) == 0)
            return &modules->all[i];
    return NULL;
}

static const struct module *find_path(const struct modules *modules, const char *path,
                                      size_t length)
{
    for (size_t i = 0; i < modules->count; i++)
        if (strlen(modules->all[i].path) == length &&
            memcmp(modules->all[i].path, path, length) == 0)
            return &modules->all[i];
    return NULL;
}

int modules_order(const struct modules *modules, const struct module *module,
                  const struct module *order[MODULE_DEPS_MAX], struct nido_error *err)
{
    unsigned count = 0;
    const char *start = module->deps, *end = start + strlen(start);
    while (end > start) {
        const char *word = end;
        while (word > start && word[-1] != ' ')
            word--;
        if (word < end) {
            if (count == MODULE_DEPS_MAX - 1)
                return error_set(err, E2BIG, "module %s needs more than %u others", module->name,
                                 MODULE_DEPS_MAX - 1);
            order[count] = find_path(modules, word, (size_t)(end - word));
            if (!order[count++])
                return error_set(err, ENOENT, "module %s needs %.*s, which modules.dep has not",
                                 module->name, (int)(end - word), word);
        }
        end = word > start ? word - 1 : start;
    }
    order[count++] = module;
    return (int)count;
}
