/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_CLI_H
#define NIDO_CLI_CLI_H

/* The front end: one function for each command. It alone turns errors into exit statuses. */

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

/* Exit statuses that are nido's own. Below 123 they are the guest's command's. */
#define EXIT_GUEST_CRASHED        123
#define EXIT_TIME_LIMIT           124
#define EXIT_NIDO_FAILED          125
#define EXIT_COMMAND_NOT_RUNNABLE 126
#define EXIT_COMMAND_NOT_FOUND    127
#define EXIT_SIGNAL_BASE          128

/* argv[0] is the command's own name. Returns the exit status. */
int cmd_run(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_balloon(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_kernel(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

/* The value of `flag` at argv[*at], which is behind an equals sign or the next word; *at is then that of its last word.
 * NULL: it is another flag, or has no value. */
char *cli_flag_value(const char *flag, int argc, char **argv, int *at);

/* Adds SIGHUP to those that are taken, unless whoever started this process ignores it: nohup(1) does. */
void cli_add_hangup(sigset_t *set);

/* The flags: those that fit a screen, or all. */
void help_run(FILE *to, bool all);

#endif
