/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE_TRIES    400
#define DEVICE_WAIT_US  5000
#define SERIAL_BYTES    32
#define DISK_PATH_BYTES 64
#define LINKS_MAX       8

/* Nido's own, in the memory that is mounted there. */
#define NIDO_DIRECTORY "/run/nido"

void root_mount_basics(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
}

static bool is_written_disk; /* the root, below no overlay */

static int fail(char *why, size_t why_bytes, const char *what)
{
    snprintf(why, why_bytes, "%s: %s", what, strerror(errno));
    return -1;
}

static bool has_serial(const char *disk, const char *serial)
{
    char path[DISK_PATH_BYTES + 32], text[SERIAL_BYTES] = "";
    snprintf(path, sizeof(path), "/sys/block/%.60s/serial", disk);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    return n > 0 && strcmp(text, serial) == 0;
}

/* The device file of the disk with that serial number. */
static bool find_disk(const char *serial, char path[DISK_PATH_BYTES])
{
    bool found = false;
    DIR *disks = opendir("/sys/block");
    for (struct dirent *entry; !found && disks && (entry = readdir(disks));) {
        if (strlen(entry->d_name) > DISK_PATH_BYTES - sizeof("/dev/") ||
            !has_serial(entry->d_name, serial))
            continue;
        snprintf(path, DISK_PATH_BYTES, "/dev/%.50s", entry->d_name);
        found = access(path, F_OK) == 0;
    }
    if (disks)
        closedir(disks);
    return found;
}

static bool wait_for_disk(const char *serial, char path[DISK_PATH_BYTES])
{
    for (unsigned i = 0; i < DEVICE_TRIES; i++) {
        if (find_disk(serial, path))
            return true;
        usleep(DEVICE_WAIT_US);
    }
    errno = ENODEV;
    return false;
}

static int mount_root(const struct setup *setup, const char *target, char *why, size_t why_bytes)
{
    char disk[DISK_PATH_BYTES];
    unsigned long flags = setup->flags & SETUP_WRITABLE ? 0 : MS_RDONLY;
    if (setup->flags & SETUP_SHARE) {
        return mount(setup->source, target, "virtiofs", flags, NULL) == 0
                   ? 0
                   : fail(why, why_bytes, "the share cannot be mounted");
    }
    modules_load(setup->fstype);
    if (!wait_for_disk(setup->source, disk))
        return fail(why, why_bytes, "the root's disk does not appear");
    if (mount(disk, target, setup->fstype, flags, NULL) == 0)
        return 0;
    /* A journal that cannot be replayed, since the disk is read-only. */
    if (flags && strcmp(setup->fstype, "ext4") == 0 &&
        mount(disk, target, "ext4", flags, "noload") == 0)
        return 0;
    return fail(why, why_bytes, "the root's disk cannot be mounted");
}

/* What is written goes to memory, or to a disk that is thrown away. */
static int mount_scratch(const struct setup *setup, char *why, size_t why_bytes)
{
    char disk[DISK_PATH_BYTES];
    mkdir("/scratch", 0755);
    if (!*setup->scratch)
        return mount("scratch", "/scratch", "tmpfs", 0, "mode=0755") == 0
                   ? 0
                   : fail(why, why_bytes, "memory for what is written");
    modules_load("ext4");
    if (!wait_for_disk(setup->scratch, disk) || mount(disk, "/scratch", "ext4", 0, NULL) < 0)
        return fail(why, why_bytes, "the scratch disk cannot be mounted");
    return 0;
}

static int mount_overlay(const struct setup *setup, char *why, size_t why_bytes)
{
    mkdir("/lower", 0755);
    if (mount_root(setup, "/lower", why, why_bytes) < 0 || mount_scratch(setup, why, why_bytes) < 0)
        return -1;
    modules_load("overlay");
    mkdir("/scratch/upper", 0755);
    mkdir("/scratch/work", 0755);
    struct stat root;
    if (stat("/lower", &root) == 0)
        chmod("/scratch/upper", root.st_mode & 07777);
    if (mount("overlay", "/root", "overlay", 0,
              "lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work") < 0)
        return fail(why, why_bytes, "the overlay on the root cannot be mounted");
    return 0;
}

static void mount_in(const char *source, const char *target, const char *type, unsigned long flags,
                     const char *options)
{
    mkdir(target, 0755);
    mount(source, target, type, flags, options);
}

/* What programs expect to find; a root that lacks the directory, and is read-only, goes without. */
static void furnish(void)
{
    mount_in("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
             "mode=0620,gid=5,ptmxmode=0666");
    mount_in("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    mount_in("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_in("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
    if (mkdir("/tmp", 01777) == 0)
        chmod("/tmp", 01777);
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            return;
}

/* Nothing could run there, and what nido makes in it would hide that. */
static int check_root(char *why, size_t why_bytes)
{
    unsigned found = 0;
    DIR *root = opendir("/root");
    for (struct dirent *entry; root && (entry = readdir(root));)
        found += entry->d_name[0] != '.' && strcmp(entry->d_name, "lost+found") != 0;
    if (root)
        closedir(root);
    if (found)
        return 0;
    snprintf(why, why_bytes, "the root is empty: there is no program in it");
    return -1;
}

/* The initrd's own root cannot be moved away (there is nothing below it), so the new one is moved
 * over it. */
static int switch_root(char *why, size_t why_bytes)
{
    static const char *const moved[][2] = {{"/dev", "dev"}, {"/proc", "proc"}, {"/sys", "sys"}};
    if (chdir("/root") < 0)
        return fail(why, why_bytes, "the root");
    for (size_t i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
        mkdir(moved[i][1], 0755);
        if (mount(moved[i][0], moved[i][1], NULL, MS_MOVE, NULL) < 0) {
            snprintf(why, why_bytes, "the root has no directory /%s", moved[i][1]);
            return -1;
        }
    }
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return fail(why, why_bytes, "the root cannot be entered");
    return 0;
}

void root_make_directories(const char *path)
{
    char part[PATH_MAX];
    for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
        snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
        mkdir(part, 0755);
    }
    mkdir(path, 0755);
}

static void make_directory_of(const char *file)
{
    char above[PATH_MAX];
    snprintf(above, sizeof(above), "%.*s", (int)(strrchr(file, '/') - file), file);
    if (*above)
        root_make_directories(above);
}

/* Where a file would be, a symbolic link may lead into what is empty so early, such as /run. */
static void make_way_to(const char *file)
{
    char at[PATH_MAX], link[PATH_MAX], end[PATH_MAX];
    snprintf(at, sizeof(at), "%s", file);
    make_directory_of(at);
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        ssize_t n = readlink(at, link, sizeof(link) - 1);
        if (n <= 0)
            return;
        link[n] = '\0';
        int directory = link[0] == '/' ? 0 : (int)(strrchr(at, '/') + 1 - at);
        if (snprintf(end, sizeof(end), "%.*s%s", directory, at, link) >= (int)sizeof(end))
            return;
        memcpy(at, end, sizeof(at));
        make_directory_of(at);
    }
}

/* One file over another, which is made if it is not there. */
static int bind_file(const char *file, const char *target)
{
    make_way_to(target);
    int fd = open(target, O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0644);
    if (fd < 0 && errno != ETXTBSY && errno != EACCES)
        return -1;
    if (fd >= 0)
        close(fd);
    return mount(file, target, NULL, MS_BIND, NULL);
}

/* The directory that it is alone in is mounted out of sight. */
static int mount_file(const char *tag, const char *target, const char *name)
{
    char directory[128], file[512];
    snprintf(directory, sizeof(directory), NIDO_DIRECTORY "/%.40s", tag);
    snprintf(file, sizeof(file), "%s/%.255s", directory, name);
    root_make_directories(directory);
    if (mount(tag, directory, "virtiofs", 0, NULL) < 0)
        return -1;
    int ret = bind_file(file, target), code = errno;
    umount2(directory, MNT_DETACH);
    rmdir(directory);
    errno = code;
    return ret;
}

static int mount_share(char *const *share)
{
    if (*share[2])
        return mount_file(share[0], share[1], share[2]);
    root_make_directories(share[1]);
    return mount(share[0], share[1], "virtiofs", 0, NULL);
}

static int mount_shares(char *const *shares, char *why, size_t why_bytes)
{
    for (; shares[0] && shares[1] && shares[2]; shares += 3) {
        if (mount_share(shares) == 0)
            continue;
        snprintf(why, why_bytes, "share %s cannot be mounted at %.150s: %s", shares[0], shares[1],
                 strerror(errno));
        return -1;
    }
    return 0;
}

static int put_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return -1;
    fputs(text, file);
    return fclose(file);
}

/* What is written to a root that is kept is the command's alone. */
int root_put_file(const struct setup *setup, const char *path, const char *text)
{
    if (setup->flags & SETUP_WRITABLE) {
        char kept[128];
        snprintf(kept, sizeof(kept), NIDO_DIRECTORY "/%.40s", strrchr(path, '/') + 1);
        root_make_directories(NIDO_DIRECTORY);
        return put_text(kept, text) == 0 ? bind_file(kept, path) : -1;
    }
    make_way_to(path);
    if (put_text(path, text) == 0)
        return 0;
    /* A link that leads nowhere. */
    unlink(path);
    return put_text(path, text);
}

/* Nobody runs any more, but the last may not be gone yet. A file system that is written no more needs no
 * repair when it is mounted again. */
void root_leave(void)
{
    sync();
    for (unsigned i = 0; is_written_disk && i < DEVICE_TRIES; i++) {
        if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0 || errno != EBUSY)
            return;
        usleep(DEVICE_WAIT_US);
    }
}

int root_enter(const struct setup *setup, char *why, size_t why_bytes)
{
    mkdir("/root", 0755);
    int ret = setup->flags & SETUP_WRITABLE ? mount_root(setup, "/root", why, why_bytes)
                                            : mount_overlay(setup, why, why_bytes);
    is_written_disk = (setup->flags & (SETUP_WRITABLE | SETUP_SHARE)) == SETUP_WRITABLE;
    if (ret == 0)
        ret = check_root(why, why_bytes);
    if (ret == 0)
        ret = switch_root(why, why_bytes);
    if (ret < 0)
        return ret;
    furnish();
    if (*setup->hostname)
        sethostname(setup->hostname, strlen(setup->hostname));
    return mount_shares(setup->shares, why, why_bytes);
}
