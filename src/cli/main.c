/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/log.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", cmd_run},         {"ps", cmd_ps},
    {"status", cmd_status},   {"stats", cmd_stats},
    {"console", cmd_console}, {"pause", cmd_pause},
    {"resume", cmd_resume},   {"balloon", cmd_balloon},
    {"stop", cmd_stop},       {"doctor", cmd_doctor},
    {"kernel", cmd_kernel},   {"exec", cmd_exec},
    {"cp", cmd_cp},           {"version", cmd_version},
    {"help", cmd_help},       {"--version", cmd_version},
    {"--help", cmd_help},     {"-h", cmd_help},
};

/* A descriptor that the caller closed would be given to the next open(): the VM must not become standard
 * output. */
static void fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return;
}

/* What a command printed may still be on its way, to a disk that is full. */
static int flush_output(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    log_error("standard output: cannot be written");
    return status ? status : EXIT_NIDO_FAILED;
}

static bool asks_for_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int main(int argc, char **argv)
{
    fill_standard_descriptors();
    if (argc < 2) {
        cmd_help(0, argv);
        return EXIT_NIDO_FAILED;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        /* Only that of run has flags enough for a page of their own. */
        if (argc > 2 && commands[i].run != cmd_run && asks_for_help(argv[2]))
            return flush_output(cmd_help(1, argv));
        return flush_output(commands[i].run(argc - 1, argv + 1));
    }
    log_error("'%s' is not a command; 'nido help' lists them", argv[1]);
    return EXIT_NIDO_FAILED;
}
