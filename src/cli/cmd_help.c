/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/run_flags.h"
#include "config/config.h"

#include <string.h>

#define HELP_COLUMN 36

int cmd_version(int argc, char **argv)
{
    puts("nido " NIDO_VERSION);
    return 0;
}

static void help_nido(FILE *to)
{
    fputs("nido runs a virtual machine in one small process.\n"
          "\n"
          "  nido run --kernel FILE [FLAG...]   boot a machine; its console is this terminal\n"
          "  nido ps [--json]                   the machines that run\n"
          "  nido status|pause|resume NAME      one of them\n"
          "  nido console NAME                  its console, where it was started with --detach\n"
          "  nido stop NAME [--force]           presses its power button, or pulls its plug\n"
          "  nido doctor                        what this host can do, and what is missing\n"
          "  nido version | help [COMMAND]\n"
          "\n"
          "'nido help run' lists the flags. Manual: nido(1), nido-run(1).\n",
          to);
}

void help_run(FILE *to)
{
    fputs("nido run --kernel FILE [FLAG...]\n\n", to);
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        int column = fprintf(to, "  --%s %s", key->name, key->value ? key->value : "");
        if (column >= HELP_COLUMN)
            column = fprintf(to, "\n") - 1;
        fprintf(to, "%*s%s\n", HELP_COLUMN - column, "", key->help);
    }
    run_flags_help(to, HELP_COLUMN);
    fputs("\n"
          "In a terminal: Ctrl-A x leaves, Ctrl-A c shows the status, Ctrl-A h helps.\n"
          "\n"
          "Exit status: 0 the guest powered off or rebooted; 123 it crashed; 124 its time limit "
          "came;\n"
          "125 nido failed; 128+n signal n ended it.\n",
          to);
}

int cmd_help(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "run") == 0)
        help_run(stdout);
    else
        help_nido(argc > 0 ? stdout : stderr);
    return 0;
}
