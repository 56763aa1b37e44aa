/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/kernel_package.h"

#include "base/own.h"
#include "cli/helper.h"
#include "firmware/bootfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#define ANSWER_BYTES (PATH_MAX + KERNEL_NAME_BYTES + 4)
#define MAGIC        "!<arch>\ndebian-binary"
#define SUFFIX       ".deb"

static int check_package(const char *path, struct nido_error *err)
{
    char head[sizeof(MAGIC)];
    own_bootfile struct bootfile file = {.fd = -1};
    size_t length = strlen(MAGIC);
    int ret = bootfile_open_head(&file, path, head, &length, err);
    if (ret == 0 && (length < strlen(MAGIC) || memcmp(head, MAGIC, length) != 0))
        ret = error_set(err, EINVAL, "this is no Debian package");
    return ret < 0 ? error_prefix(err, "%s", path) : 0;
}

bool kernel_is_package(const char *path)
{
    size_t length = strlen(path);
    return (length > strlen(SUFFIX) && strcmp(path + length - strlen(SUFFIX), SUFFIX) == 0) ||
           check_package(path, NULL) == 0;
}

/* A package's modules are indexed when it is installed, which it is not. */
static int index_modules(const char *directory, const char *version, struct nido_error *err)
{
    char depmod[PATH_MAX], path[PATH_MAX], answer[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/lib/modules/%s/modules.dep", directory, version) >=
        (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "%s: too long", directory);
    if (access(path, F_OK) == 0)
        return 0;
    int ret = helper_find("depmod", "kmod", depmod, err);
    return ret < 0 ? ret
                   : helper_ask(depmod,
                                (char *const *)(uintptr_t)(const char *const[]){
                                    "depmod", "-b", directory, version, NULL},
                                answer, sizeof(answer), err);
}

/* `answer` is the directory and the version, a line each. */
static int take_in(char *answer, char name[KERNEL_NAME_BYTES], struct nido_error *err)
{
    char kernel[PATH_MAX], modules[PATH_MAX];
    const char *directory = strsep(&answer, "\n"), *version = strsep(&answer, "\n");
    if (!version || !*version ||
        snprintf(name, KERNEL_NAME_BYTES, "%s", version) >= (int)KERNEL_NAME_BYTES)
        return error_set(err, EPROTO, "nido-unpack gave no answer");
    if (snprintf(kernel, sizeof(kernel), "%s/vmlinuz-%s", directory, name) >= (int)sizeof(kernel) ||
        snprintf(modules, sizeof(modules), "%s/lib/modules/%s", directory, name) >=
            (int)sizeof(modules))
        return error_set(err, ENAMETOOLONG, "%s: too long", directory);
    int ret = index_modules(directory, name, err);
    return ret < 0 ? ret : kernel_store_add(name, kernel, modules, err);
}

/* It keeps what it has unpacked for as long as its input is open. */
static int start_unpack(struct helper *helper, char *const argv[], int *answer_fd, int *hold_fd,
                        struct nido_error *err)
{
    char unpack[PATH_MAX];
    int answer[2], hold[2];
    int ret = helper_find_unpack(unpack, err);
    if (ret < 0)
        return ret;
    if (pipe2(answer, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe can be made");
    *answer_fd = answer[0];
    own_fd int answer_begin = answer[1];
    if (pipe2(hold, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe can be made");
    *hold_fd = hold[1];
    own_fd int hold_end = hold[0];
    const int fds[HELPER_FDS] = {hold_end, answer_begin, -1, -1};
    return helper_start(helper, unpack, argv, fds, false, err);
}

int kernel_package_add(char *const *files, unsigned count, char name[KERNEL_NAME_BYTES],
                       struct nido_error *err)
{
    char answer[ANSWER_BYTES];
    struct helper helper = {.pid = 0};
    own_fd int answer_fd = -1, hold_fd = -1;
    for (unsigned i = 0; i < count; i++) {
        int checked = check_package(files[i], err);
        if (checked < 0)
            return checked;
    }
    own_mem char **argv = calloc(count + 3, sizeof(*argv));
    if (!argv)
        return error_set(err, ENOMEM, "out of memory");
    argv[0] = (char *)(uintptr_t) "nido-unpack";
    argv[1] = (char *)(uintptr_t) "package";
    memcpy(argv + 2, files, count * sizeof(*argv));
    int ret = start_unpack(&helper, argv, &answer_fd, &hold_fd, err);
    if (ret == 0)
        ret = helper_read_answer(answer_fd, answer, sizeof(answer), err);
    if (ret == 0 && answer[0])
        ret = take_in(answer, name, err);
    if (hold_fd >= 0)
        close(own_take_fd(&hold_fd));
    bool started = helper.pid;
    if (started && !helper_succeeds(&helper) && ret == 0)
        ret = helper_error(&helper, err);
    else if (ret == 0 && !answer[0])
        ret = error_set(err, EPROTO, "nido-unpack gave no answer");
    return ret < 0 ? error_prefix(err, "%s%s", files[0], count > 1 ? " and the others" : "") : 0;
}
