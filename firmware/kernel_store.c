/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/kernel_store.h"

#include "base/own.h"
#include "firmware/boot.h"
#include "firmware/bootfile.h"
#include "firmware/guest/program.h"
#include "firmware/guest/tar.h"
#include "firmware/guest_initrd.h"
#include "firmware/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES  (1u << 20)
#define TEMPORARY   ".new-"
#define DEFAULT     "default"
#define MAKING      "new-initrd-"
#define INITRD      "initrd-"
#define LINE_FORMAT "%s: cannot be written"

int kernel_store_path(char path[PATH_MAX], struct nido_error *err)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int length = -1;
    if (data && data[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/nido/kernels", data);
    else if (home && home[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/.local/share/nido/kernels", home);
    if (length < 0)
        return error_set(err, ENOENT, "there is no place for kernels: set HOME, or XDG_DATA_HOME");
    return length < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
}

/* [DIRECTORY]/NAME[/FILE] */
static int join(char path[PATH_MAX], const char *directory, const char *name, const char *file,
                struct nido_error *err)
{
    int n =
        snprintf(path, PATH_MAX, "%s/%s%s%s", directory, name, file ? "/" : "", file ? file : "");
    return n < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "%.100s...: too long a path", path);
}

static bool is_name(const char *name)
{
    return kernel_name_is_good(name, strlen(name)) && strcmp(name, DEFAULT) != 0;
}

static int check_name(const char *name, struct nido_error *err)
{
    char shown[KERNEL_NAME_BYTES];
    if (is_name(name))
        return 0;
    snprintf(shown, sizeof(shown), "%.100s", name);
    tar_harmless(shown);
    return error_set(err, EINVAL,
                     "'%s' is no name for a kernel: they are of letters, digits and . + ~ _ -, and "
                     "begin with a letter or a digit",
                     shown);
}

/* ---- files ---- */

static int make_directories(char *path, struct nido_error *err)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_errno(err, errno, "%s: cannot be made", path);
    return 0;
}

static int append(FILE *to, const char *path, struct nido_error *err)
{
    own_bootfile struct bootfile from = {.fd = -1};
    own_mem uint8_t *buffer = malloc(COPY_BYTES);
    int ret = buffer ? bootfile_open(&from, path, err) : error_set(err, ENOMEM, "out of memory");
    for (uint64_t done = 0; ret == 0 && done < from.size_bytes;) {
        uint64_t left = from.size_bytes - done;
        size_t piece = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        ret = bootfile_read(&from, done, buffer, piece, err);
        if (ret == 0 && fwrite(buffer, 1, piece, to) != piece)
            ret = error_errno(err, errno, "the copy cannot be written");
        done += piece;
    }
    return ret < 0 ? error_prefix(err, "%s", path) : 0;
}

static int finish_file(FILE *file, const char *path, struct nido_error *err)
{
    /* Without the sync, a host that loses power could keep the name and lose the bytes. */
    bool failed = ferror(file) || fflush(file) != 0 || fdatasync(fileno(file)) < 0;
    if (fclose(file) != 0 || failed)
        return error_errno(err, errno ? errno : EIO, LINE_FORMAT, path);
    return 0;
}

static int create_file(FILE **file, const char *path, struct nido_error *err)
{
    *file = fopen(path, "we");
    return *file ? 0 : error_errno(err, errno, LINE_FORMAT, path);
}

static int copy_kernel(const char *to, const char *from, struct nido_error *err)
{
    FILE *file;
    int ret = create_file(&file, to, err);
    if (ret < 0)
        return ret;
    ret = append(file, from, err);
    int finished = finish_file(file, to, ret < 0 ? NULL : err);
    return ret < 0 ? ret : finished;
}

static int write_modules(const char *to, const char *modules_path, struct nido_error *err)
{
    FILE *file;
    int ret = create_file(&file, to, err);
    if (ret < 0)
        return ret;
    ret = guest_initrd_modules(file, modules_path, err);
    int finished = finish_file(file, to, ret < 0 ? NULL : err);
    return ret < 0 ? ret : finished;
}

/* Files only, as nothing else is made in an entry. A symbolic link goes by itself: what it leads to is
 * another's. */
static void remove_entry(const char *path)
{
    char inside[PATH_MAX];
    if (unlink(path) == 0)
        return;
    DIR *listing = opendir(path);
    for (struct dirent *file; listing && (file = readdir(listing));)
        if (file->d_name[0] != '.' && join(inside, path, file->d_name, NULL, NULL) == 0)
            unlink(inside);
    if (listing)
        closedir(listing);
    rmdir(path);
}

/* Nobody but who holds the lock has an entry that is not in place yet. */
static void sweep(const char *store)
{
    char path[PATH_MAX];
    DIR *listing = opendir(store);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)) == 0 &&
            join(path, store, entry->d_name, NULL, NULL) == 0)
            remove_entry(path);
    if (listing)
        closedir(listing);
}

int kernel_store_lock(struct nido_error *err)
{
    char store[PATH_MAX];
    int ret = kernel_store_path(store, err);
    if (ret == 0)
        ret = make_directories(store, err);
    if (ret < 0)
        return ret;
    own_fd int fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "%s: cannot be opened", store);
    do
        ret = flock(fd, LOCK_EX);
    while (ret < 0 && errno == EINTR);
    if (ret < 0)
        return error_errno(err, errno, "%s: cannot be locked", store);
    sweep(store);
    return own_take_fd(&fd);
}

/* ---- its initrd ---- */

static int write_initrd(FILE *file, const char *modules, struct nido_error *err)
{
    int ret = guest_initrd_program(file, err);
    return ret < 0 ? ret : append(file, modules, err);
}

/* A process in another container may have the same number, and make the same. */
static int create_temporary(FILE **file, char *path, struct nido_error *err)
{
    own_fd int fd = mkostemp(path, O_CLOEXEC);
    *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!*file)
        return error_errno(err, errno, LINE_FORMAT, path);
    own_take_fd(&fd);
    return 0;
}

/* Of those that did not finish theirs, and of other nidos, which make it again. */
static void sweep_initrds(const char *entry)
{
    own_fd int fd = open(entry, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    leftovers_sweep(fd, MAKING);
    leftovers_sweep(fd, INITRD);
}

/* Of this nido's program. */
static int initrd_path(char path[PATH_MAX], const char *entry, struct nido_error *err)
{
    char file[64];
    snprintf(file, sizeof(file), INITRD "%016" PRIx64 ".img", guest_program_hash());
    return join(path, entry, file, NULL, err);
}

static int make_initrd(const char *entry, const char *initrd, struct nido_error *err)
{
    char modules[PATH_MAX], temporary[PATH_MAX];
    FILE *file = NULL;
    int ret = join(modules, entry, "modules.cpio", NULL, err);
    if (ret == 0)
        ret = join(temporary, entry, MAKING "XXXXXX", NULL, err);
    if (ret == 0)
        ret = create_temporary(&file, temporary, err);
    if (ret < 0)
        return ret;
    ret = write_initrd(file, modules, err);
    int finished = finish_file(file, temporary, ret < 0 ? NULL : err);
    ret = ret < 0 ? ret : finished;
    if (ret == 0 && rename(temporary, initrd) < 0)
        ret = error_errno(err, errno, LINE_FORMAT, initrd);
    if (ret < 0)
        unlink(temporary);
    sweep_initrds(entry);
    return ret;
}

/* ---- entries ---- */

static int fill_entry(const char *entry, const char *kernel_path, const char *modules_path,
                      struct nido_error *err)
{
    char path[PATH_MAX];
    int ret = join(path, entry, "vmlinuz", NULL, err);
    if (ret == 0)
        ret = copy_kernel(path, kernel_path, err);
    if (ret == 0)
        ret = join(path, entry, "modules.cpio", NULL, err);
    if (ret == 0)
        ret = write_modules(path, modules_path, err);
    if (ret == 0)
        ret = initrd_path(path, entry, err);
    return ret < 0 ? ret : make_initrd(entry, path, err);
}

/* In the place of one that may be there, and that a machine may be about to start with: where the file
 * system can, a kernel of that name is there all the time. */
static int put_in_place(const char *temporary, const char *entry, struct nido_error *err)
{
    if (rename(temporary, entry) == 0)
        return 0;
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, entry, RENAME_EXCHANGE) == 0) {
        remove_entry(temporary);
        return 0;
    }
    /* The last is an overlay's answer, for a directory of one of its lower layers. */
    if (errno != EINVAL && errno != ENOSYS && errno != EXDEV)
        return error_errno(err, errno, LINE_FORMAT, entry);
    remove_entry(entry);
    return rename(temporary, entry) == 0 ? 0 : error_errno(err, errno, LINE_FORMAT, entry);
}

int kernel_store_add(const char *name, const char *kernel_path, const char *modules_path,
                     struct nido_error *err)
{
    char store[PATH_MAX], entry[PATH_MAX], temporary[PATH_MAX], mark[64];
    char present[KERNEL_NAME_BYTES];
    int ret = check_name(name, err);
    if (ret == 0)
        ret = boot_check(kernel_path, err);
    if (ret == 0)
        ret = kernel_store_path(store, err);
    if (ret == 0)
        ret = make_directories(store, err);
    snprintf(mark, sizeof(mark), TEMPORARY "%ld", (long)getpid());
    if (ret == 0)
        ret = join(temporary, store, mark, NULL, err);
    if (ret == 0)
        ret = join(entry, store, name, NULL, err);
    if (ret < 0)
        return ret;
    if (mkdir(temporary, 0700) < 0)
        return error_errno(err, errno, LINE_FORMAT, temporary);
    ret = fill_entry(temporary, kernel_path, modules_path, err);
    if (ret == 0)
        ret = put_in_place(temporary, entry, err);
    if (ret < 0) {
        remove_entry(temporary);
        return ret;
    }
    return kernel_store_default(present, NULL) == 0 ? 0 : kernel_store_set_default(name, err);
}

static int is_entry(const struct dirent *entry)
{
    return is_name(entry->d_name);
}

int kernel_store_each(void (*visit)(const char *name, bool is_default, void *self), void *self,
                      struct nido_error *err)
{
    char store[PATH_MAX], chosen[KERNEL_NAME_BYTES] = "";
    struct dirent **entries;
    int ret = kernel_store_path(store, err);
    if (ret < 0)
        return ret;
    kernel_store_default(chosen, NULL);
    int count = scandir(store, &entries, is_entry, alphasort);
    if (count < 0)
        return errno == ENOENT ? 0 : error_errno(err, errno, "%s: cannot be read", store);
    for (int i = 0; i < count; i++) {
        visit(entries[i]->d_name, strcmp(entries[i]->d_name, chosen) == 0, self);
        free(entries[i]);
    }
    free(entries);
    return 0;
}

static int entry_path(const char *name, char path[PATH_MAX], struct nido_error *err)
{
    char store[PATH_MAX];
    int ret = check_name(name, err);
    if (ret == 0)
        ret = kernel_store_path(store, err);
    if (ret == 0)
        ret = join(path, store, name, NULL, err);
    if (ret == 0 && access(path, F_OK) < 0)
        return error_set(err, ENOENT, "there is no kernel '%s'; 'nido kernel ls' lists them", name);
    return ret;
}

int kernel_store_remove(const char *name, struct nido_error *err)
{
    char path[PATH_MAX], chosen[KERNEL_NAME_BYTES];
    int ret = entry_path(name, path, err);
    if (ret < 0)
        return ret;
    bool was_default = kernel_store_default(chosen, NULL) == 0 && strcmp(chosen, name) == 0;
    remove_entry(path);
    if (access(path, F_OK) == 0)
        return error_set(err, EACCES, "%s: cannot be removed", path);
    if (was_default && kernel_store_path(path, NULL) == 0 &&
        join(path, strdupa(path), DEFAULT, NULL, NULL) == 0)
        unlink(path);
    return 0;
}

int kernel_store_default(char name[KERNEL_NAME_BYTES], struct nido_error *err)
{
    char store[PATH_MAX], path[PATH_MAX];
    int ret = kernel_store_path(store, err);
    if (ret == 0)
        ret = join(path, store, DEFAULT, NULL, err);
    if (ret < 0)
        return ret;
    ssize_t n = readlink(path, name, KERNEL_NAME_BYTES - 1);
    if (n <= 0)
        return error_set(err, ENOENT, "there is no default kernel");
    name[n] = '\0';
    return entry_path(name, path, err);
}

int kernel_store_set_default(const char *name, struct nido_error *err)
{
    char store[PATH_MAX], path[PATH_MAX], temporary[PATH_MAX];
    int ret = entry_path(name, path, err);
    if (ret == 0)
        ret = kernel_store_path(store, err);
    if (ret == 0)
        ret = join(path, store, DEFAULT, NULL, err);
    if (ret == 0)
        ret = join(temporary, store, TEMPORARY DEFAULT, NULL, err);
    if (ret < 0)
        return ret;
    if (symlink(name, temporary) < 0)
        return error_errno(err, errno, LINE_FORMAT, temporary);
    if (rename(temporary, path) == 0)
        return 0;
    ret = error_errno(err, errno, LINE_FORMAT, path);
    unlink(temporary);
    return ret;
}

int kernel_store_find(const char *name, struct stored_kernel *kernel, struct nido_error *err)
{
    char entry[PATH_MAX];
    int ret = entry_path(name, entry, err);
    if (ret == 0)
        ret = join(kernel->kernel_path, entry, "vmlinuz", NULL, err);
    if (ret == 0)
        ret = initrd_path(kernel->initrd_path, entry, err);
    if (ret < 0)
        return ret;
    snprintf(kernel->name, sizeof(kernel->name), "%s", name);
    return access(kernel->initrd_path, R_OK) == 0 ? 0
                                                  : make_initrd(entry, kernel->initrd_path, err);
}
