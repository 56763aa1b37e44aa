/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/kernels.h"

#include "base/log.h"
#include "base/own.h"
#include "firmware/boot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

int kernels_add_host(char name[KERNEL_NAME_BYTES], struct nido_error *err)
{
    char path[PATH_MAX], modules[PATH_MAX];
    struct utsname host;
    uname(&host);
    snprintf(name, KERNEL_NAME_BYTES, "%s", host.release);
    snprintf(modules, sizeof(modules), "/lib/modules/%s", host.release);
    /* Debian and most others put it into /boot; Fedora, beside its modules. */
    for (unsigned i = 0; i < 2; i++) {
        if (i == 0)
            snprintf(path, sizeof(path), "/boot/vmlinuz-%s", host.release);
        else
            snprintf(path, sizeof(path), "/lib/modules/%s/vmlinuz", host.release);
        if (access(path, F_OK) < 0)
            continue;
        int ret = kernel_store_add(name, path, modules, err);
        return ret < 0 ? error_prefix(err, "kernel %s", name) : 0;
    }
    return error_set(err, ENOENT,
                     "the host's own kernel (%s) is not in /boot; install one for guests, such as "
                     "Debian's linux-image-cloud-amd64 or -arm64, and say: nido kernel add "
                     "/boot/vmlinuz-...",
                     host.release);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A directory's name has them behind it where a shell has completed it. */
static void drop_slashes(char *path)
{
    for (size_t length = strlen(path); length > 1 && path[length - 1] == '/'; length--)
        path[length - 1] = '\0';
}

int kernels_add_file(const char *path, const char *modules, char name[KERNEL_NAME_BYTES],
                     struct nido_error *err)
{
    char found[PATH_MAX];
    const char *base = last_part(path), *dash = strchr(base, '-');
    /* Before its name is taken for a kernel's. */
    int ret = boot_check(path, err);
    if (ret < 0)
        return error_prefix(err, "kernel %s", path);
    if (!modules && !dash)
        return error_set(err, EINVAL,
                         "kernel %s: its name does not tell its version, as vmlinuz-VERSION does; "
                         "say where its modules are: --modules /lib/modules/VERSION",
                         path);
    if (snprintf(found, sizeof(found), "%s%s", modules ? "" : "/lib/modules/",
                 modules ? modules : dash + 1) >= (int)sizeof(found))
        return error_set(err, ENAMETOOLONG, "kernel %s: its modules: too long a path", path);
    drop_slashes(found);
    if (snprintf(name, KERNEL_NAME_BYTES, "%s", dash ? dash + 1 : last_part(found)) >=
        (int)KERNEL_NAME_BYTES)
        return error_set(err, ENAMETOOLONG, "kernel %s: too long a name", path);
    if (access(found, F_OK) < 0)
        return error_errno(err, errno, "kernel %s: its modules, %s", path, found);
    ret = kernel_store_add(name, path, found, err);
    return ret < 0 ? error_prefix(err, "kernel %s", path) : 0;
}

static void count_one(const char *name, bool is_default, void *self)
{
    ++*(unsigned *)self;
}

/* Jobs that start at once on a new host all come here. */
static int add_the_first(char name[KERNEL_NAME_BYTES], struct nido_error *err)
{
    own_fd int lock_fd = kernel_store_lock(err);
    if (lock_fd < 0)
        return lock_fd;
    if (kernel_store_default(name, NULL) == 0)
        return 0;
    unsigned present = 0;
    int ret = kernel_store_each(count_one, &present, err);
    if (ret == 0 && present)
        ret = error_set(err, ENOENT,
                        "no kernel is the default; choose one of 'nido kernel ls': nido kernel "
                        "default NAME");
    if (ret == 0)
        ret = kernels_add_host(name, err);
    if (ret == 0)
        log_info("kernel %s: added to nido's kernels", name);
    return ret;
}

int kernels_choose(const char *wanted, struct stored_kernel *kernel, struct nido_error *err)
{
    char name[KERNEL_NAME_BYTES];
    int ret = 0;
    if (wanted && strchr(wanted, '/'))
        return error_set(err, EINVAL,
                         "--kernel %s: with --root it names a kernel of 'nido kernel ls'; add this "
                         "one first: nido kernel add %s",
                         wanted, wanted);
    if (wanted)
        return kernel_store_find(wanted, kernel, err);
    if (kernel_store_default(name, NULL) < 0)
        ret = add_the_first(name, err);
    return ret < 0 ? ret : kernel_store_find(name, kernel, err);
}
