/* SPDX-License-Identifier: Apache-2.0 */
/* /etc/passwd and /etc/group by hand: the C library's way needs shared libraries of the root's. */
#include "firmware/guest/guest.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 4096
#define FIELDS_MAX 7

/* Cuts a line at its colons; returns how many fields there are. */
static unsigned cut(char *line, char *fields[FIELDS_MAX])
{
    unsigned count = 0;
    line[strcspn(line, "\n")] = '\0';
    while (line && count < FIELDS_MAX)
        fields[count++] = strsep(&line, ":");
    return count;
}

static bool parse_id(const char *text, unsigned *id)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    *id = (unsigned)value;
    return *text >= '0' && *text <= '9' && !*end && value < UINT_MAX;
}

/* The line whose name is `name`, or whose number it is where `by_number`. */
static bool find_line(const char *path, const char *name, bool by_number, char line[LINE_BYTES],
                      char *fields[FIELDS_MAX])
{
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, LINE_BYTES, file))
        found = cut(line, fields) >= 3 && strcmp(fields[by_number ? 2 : 0], name) == 0;
    if (file)
        fclose(file);
    return found;
}

static bool is_member(char *members, const char *name)
{
    char *word;
    while ((word = strsep(&members, ",")))
        if (strcmp(word, name) == 0)
            return true;
    return false;
}

static void add_groups(struct user *user, const char *name)
{
    char line[LINE_BYTES], *fields[FIELDS_MAX];
    FILE *file = fopen("/etc/group", "re");
    while (file && user->group_count < USER_GROUPS_MAX && fgets(line, sizeof(line), file)) {
        unsigned gid;
        if (cut(line, fields) >= 4 && is_member(fields[3], name) && parse_id(fields[2], &gid))
            user->groups[user->group_count++] = gid;
    }
    if (file)
        fclose(file);
}

static int find_group(const char *text, struct user *user)
{
    char line[LINE_BYTES], *fields[FIELDS_MAX];
    if (parse_id(text, &user->gid))
        return 0;
    return find_line("/etc/group", text, false, line, fields) && parse_id(fields[2], &user->gid)
               ? 0
               : -1;
}

static int find_name(const char *name, struct user *user)
{
    char line[LINE_BYTES], *fields[FIELDS_MAX] = {NULL};
    bool is_number = parse_id(name, &user->uid);
    if (!find_line("/etc/passwd", name, is_number, line, fields))
        return is_number ? 0 : -1; /* a number needs no name */
    if (!fields[5] || !parse_id(fields[2], &user->uid) || !parse_id(fields[3], &user->gid))
        return -1;
    snprintf(user->home, sizeof(user->home), "%s", fields[5]);
    add_groups(user, fields[0]);
    return 0;
}

int user_find(const char *text, struct user *user)
{
    char name[256];
    const char *group = strchr(text, ':');
    *user = (struct user){.home = "/"};
    size_t length = group ? (size_t)(group - text) : strlen(text);
    if (length >= sizeof(name))
        return -1;
    memcpy(name, text, length);
    name[length] = '\0';
    if (!*text) {
        snprintf(user->home, sizeof(user->home), "/root");
        find_name("0", user);
        return 0;
    }
    if (find_name(name, user) < 0)
        return -1;
    if (!group)
        return 0;
    user->group_count = 0;
    return find_group(group + 1, user);
}
