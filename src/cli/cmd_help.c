/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/run_flags.h"
#include "config/config.h"

#include <string.h>

#define HELP_COLUMN 27

int cmd_version(int argc, char **argv)
{
    puts("nido " NIDO_VERSION);
    return 0;
}

static void help_nido(FILE *to)
{
    fputs(
        "nido runs a virtual machine in one small process.\n"
        "\n"
        "  nido run --kernel FILE [FLAG...]   boot a machine; its console is this terminal\n"
        "  nido ps [--json]                   the machines that run\n"
        "  nido status|stats NAME [--json]    one of them: how it is, what it has done\n"
        "  nido pause|resume NAME             holds it, lets it go on\n"
        "  nido balloon NAME [SIZE]           what its balloon holds; how much it shall give back\n"
        "  nido console NAME                  its console, where it was started with --detach\n"
        "  nido stop NAME [--force]           presses its power button, or pulls its plug\n"
        "  nido run --root ROOT -- COMMAND    a command in a machine of its own\n"
        "  nido exec NAME -- COMMAND          one more command in there\n"
        "  nido cp SOURCE... DESTINATION      files to there or from it: NAME:PATH\n"
        "  nido kernel add|ls|default|rm      the kernels for that\n"
        "  nido doctor                        what this host can do, and what is missing\n"
        "  nido version | help [COMMAND]\n"
        "\n"
        "'nido help run' lists the flags. Manual: nido(1), nido-run(1), nido-config(5).\n",
        to);
}

/* On a screen, "FILE[,ro][,id=S]" is "FILE[,...]". */
static int print_flag(FILE *to, const struct config_key *key, bool all)
{
    const char *value = key->value ? key->value : "";
    int shown = (int)(all ? strlen(value) : strcspn(value, "["));
    return fprintf(to, "  --%s %.*s%s", key->name, shown, value, value[shown] ? "[,...]" : "");
}

static void help_key(FILE *to, const struct config_key *key, bool all)
{
    int column = print_flag(to, key, all);
    if (column >= HELP_COLUMN) {
        putc('\n', to);
        column = 0;
    }
    fprintf(to, "%*s%s", HELP_COLUMN - column, "", key->help);
    if (key->initial)
        fprintf(to, " (default: %s)", key->initial);
    putc('\n', to);
}

static void help_keys(FILE *to, const struct config_key *keys, unsigned count, bool all)
{
    for (unsigned i = 0; i < count; i++)
        if (all || keys[i].common)
            help_key(to, &keys[i], all);
}

void help_run(FILE *to, bool all)
{
    fputs("nido run --kernel FILE | --root ROOT [FLAG...] [-- COMMAND...]\n\n", to);
    help_keys(to, config_keys, config_key_count, all);
    help_keys(to, run_keys, run_key_count, all);
    if (all)
        fputs("\nIn a terminal: Ctrl-A x leaves, Ctrl-A c shows the status, Ctrl-A h helps.\n", to);
    else
        fputs("\n'nido help run all' lists all flags and forms; the manual: man nido-run\n", to);
    fputs("Exit status: the command's; 0 the guest powered off or rebooted; 123 crashed;\n"
          "124 its time limit came; 125 nido failed; 128+n signal n ended it.\n",
          to);
}

int cmd_help(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "run") == 0)
        help_run(stdout, argc > 2 && strcmp(argv[2], "all") == 0);
    else
        help_nido(argc > 0 ? stdout : stderr);
    return 0;
}
