/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
int cmd_run(int argc, char **argv)
{
    return EXIT_NIDO_FAILED;
}
