/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's end of nido cp: a process that is a command of nido's own instead of the root's. */
#include "firmware/guest/copy.h"

#include "firmware/guest/guest.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PERMISSIONS 01777
#define ALL_MODES   07777

static void complain(void *self, const char *text)
{
    dprintf(STDERR_FILENO, "%s\n", text);
}

static int write_out(void *self, const void *bytes, size_t count)
{
    while (count) {
        ssize_t n = write(STDOUT_FILENO, bytes, count);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            bytes = (const char *)bytes + n;
            count -= (size_t)n;
        }
    }
    return 0;
}

static ssize_t read_in(void *self, void *bytes, size_t count)
{
    ssize_t n;
    while ((n = read(STDIN_FILENO, bytes, count)) < 0 && errno == EINTR)
        continue;
    return n < 0 ? -errno : n;
}

static int pack_out(const struct command *command)
{
    static struct packer packer = {.write = write_out, .complain = complain};
    return pack_trees(&packer, command->argv) < 0 || packer.complaints;
}

static int unpack_in(const struct command *command)
{
    static struct tar_reader reader = {.read = read_in};
    const struct unpack_rules rules = {.mode_mask = command->flags & COMMAND_SETUID ? ALL_MODES
                                                                                    : PERMISSIONS};
    struct unpack_place place;
    char why[TAR_WHY_BYTES];
    if (unpack_open(&place, command->argv[0], command->flags & COMMAND_INTO, why) == 0 &&
        unpack_trees(&reader, &place, &rules, why) == 0)
        return 0;
    complain(NULL, why);
    return 1;
}

/* No program is executed that would close what is not for it: other commands' streams among it, which would
 * not end before this one does. */
static void close_the_rest(void)
{
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0) == 0)
        return;
    for (int fd = STDERR_FILENO + 1; fd < 4096; fd++)
        close(fd);
}

int copy_run(const struct command *command)
{
    close_the_rest();
    prctl(PR_SET_NAME, "nido-cp");
    umask(022);
    return command->flags & COMMAND_PACK ? pack_out(command) : unpack_in(command);
}
