/* SPDX-License-Identifier: Apache-2.0 */
/* /modules/list has a line for each module: its name, then the files to load, in order. */
#include "firmware/guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_BYTES 1024

static void load_file(const char *file)
{
    char path[256];
    snprintf(path, sizeof(path), "/modules/%s", file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    /* EEXIST: another one needed it, too. */
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
        dprintf(STDERR_FILENO, "nido: module %s: %s\n", file, strerror(errno));
    close(fd);
}

void modules_load(const char *name)
{
    char line[LINE_BYTES], *rest;
    FILE *list = fopen("/modules/list", "re");
    while (list && fgets(line, sizeof(line), list)) {
        const char *word = strtok_r(line, " \n", &rest);
        if (!word || strcmp(word, name) != 0)
            continue;
        while ((word = strtok_r(NULL, " \n", &rest)))
            load_file(word);
        break;
    }
    if (list)
        fclose(list);
}
