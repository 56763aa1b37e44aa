/* SPDX-License-Identifier: Apache-2.0 */
/* nido kernel: the kernels that `nido run --root` starts guests with. */
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/kernel_package.h"
#include "cli/kernels.h"

#include <string.h>

static int fail(const struct nido_error *err)
{
    log_error("%s", err->text);
    return EXIT_NIDO_FAILED;
}

static int usage(void)
{
    log_error("usage: nido kernel add [FILE [--modules DIR] | PACKAGE.deb... | host]\n"
              "       nido kernel ls\n"
              "       nido kernel default|rm NAME");
    return EXIT_NIDO_FAILED;
}

static bool are_packages(int argc, char **argv)
{
    bool all = argc > 0;
    for (int i = 0; all && i < argc; i++)
        all = kernel_is_package(argv[i]);
    return all;
}

static int add(int argc, char **argv)
{
    char name[KERNEL_NAME_BYTES];
    struct nido_error err;
    bool host = argc == 0 || (argc == 1 && strcmp(argv[0], "host") == 0);
    bool with_modules = argc == 3 && strcmp(argv[1], "--modules") == 0;
    bool packages = !host && !with_modules && are_packages(argc, argv);
    int ret;
    if (!host && argc != 1 && !with_modules && !packages)
        return usage();
    own_fd int lock_fd = kernel_store_lock(&err);
    if (lock_fd < 0)
        return fail(&err);
    if (packages)
        ret = kernel_package_add(argv, (unsigned)argc, name, &err);
    else
        ret = host ? kernels_add_host(name, &err)
                   : kernels_add_file(argv[0], with_modules ? argv[2] : NULL, name, &err);
    if (ret < 0)
        return fail(&err);
    puts(name);
    return 0;
}

static int change(int (*how)(const char *name, struct nido_error *err), const char *name,
                  struct nido_error *err)
{
    own_fd int lock_fd = kernel_store_lock(err);
    return lock_fd < 0 ? lock_fd : how(name, err);
}

static void print_entry(const char *name, bool is_default, void *self)
{
    printf("%s%s\n", name, is_default ? "  (default)" : "");
}

int cmd_kernel(int argc, char **argv)
{
    struct nido_error err;
    int ret;
    if (argc >= 2 && strcmp(argv[1], "add") == 0)
        return add(argc - 2, argv + 2);
    if (argc == 2 && strcmp(argv[1], "ls") == 0)
        ret = kernel_store_each(print_entry, NULL, &err);
    else if (argc == 3 && strcmp(argv[1], "rm") == 0)
        ret = change(kernel_store_remove, argv[2], &err);
    else if (argc == 3 && strcmp(argv[1], "default") == 0)
        ret = change(kernel_store_set_default, argv[2], &err);
    else
        return usage();
    return ret < 0 ? fail(&err) : 0;
}
