/* SPDX-License-Identifier: Apache-2.0 */
/* /modules/list has a line for each module: its name, then the files to load, in order.
 *
 * They come without their signatures. Whoever made this initrd has given the kernel as well, so
 * there is nothing to protect; and to check them is a third of the way from nothing to a command:
 * a hash over each file, by the kernel's slowest code, and an RSA operation. Linux notes that
 * ("tainted", E). One that insists on signatures gets them (module.sig_enforce=1, lockdown).
 */
#include "firmware/guest/guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_BYTES       1024
#define SIGNED_BYTES_MAX (8u << 20)
#define VIRTIO_DEVICES   "/sys/bus/virtio/devices"

/* virtio 1.2, section 5 */
static const struct {
    unsigned id;
    const char *name;
} drivers[] = {{1, "virtio_net"}, {2, "virtio_blk"},     {3, "virtio_console"},
               {4, "virtio_rng"}, {5, "virtio_balloon"}, {19, "vmw_vsock_virtio_transport"},
               {26, "virtiofs"}};

/* The bytes of `path` behind the `count` that are there already. */
static bool append(const char *path, uint8_t *bytes, size_t *count)
{
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, bytes + *count, SIGNED_BYTES_MAX - *count)) > 0)
        *count += (size_t)n;
    if (fd >= 0)
        close(fd);
    return n == 0;
}

/* For a kernel that insists: the file as the distribution signed it. */
static int load_signed(const char *path, const char *signature_path)
{
    size_t count = 0;
    uint8_t *bytes = malloc(SIGNED_BYTES_MAX);
    int ret = -1;
    errno = EKEYREJECTED;
    if (bytes && append(path, bytes, &count) && append(signature_path, bytes, &count))
        ret = (int)syscall(SYS_init_module, bytes, count, "");
    free(bytes);
    return ret;
}

static void load_file(const char *file)
{
    char path[256], signature_path[260], name[128];
    /* Another one needed it, too, or it is built in. */
    snprintf(name, sizeof(name), "/sys/module/%.*s", (int)strcspn(file, "."), file);
    if (access(name, F_OK) == 0)
        return;
    snprintf(path, sizeof(path), "/modules/%s", file);
    snprintf(signature_path, sizeof(signature_path), "%s.sig", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    int ret = (int)syscall(SYS_finit_module, fd, "", 0);
    if (ret < 0 && (errno == EKEYREJECTED || errno == EPERM))
        ret = load_signed(path, signature_path);
    if (ret < 0 && errno != EEXIST)
        dprintf(STDERR_FILENO, "nido: module %s: %s\n", file, strerror(errno));
    close(fd);
}

void modules_load(const char *name)
{
    char line[LINE_BYTES], *rest;
    FILE *list = fopen("/modules/list", "re");
    while (list && fgets(line, sizeof(line), list)) {
        const char *word = strtok_r(line, " \n", &rest);
        if (!word || strcmp(word, name) != 0)
            continue;
        while ((word = strtok_r(NULL, " \n", &rest)))
            load_file(word);
        break;
    }
    if (list)
        fclose(list);
}

static unsigned device_id(const char *device)
{
    char path[300], text[16] = "";
    snprintf(path, sizeof(path), VIRTIO_DEVICES "/%s/device", device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    return n > 0 ? (unsigned)strtoul(text, NULL, 0) : 0;
}

void modules_load_drivers(void)
{
    modules_load("virtio_mmio");
    modules_load("pvpanic_mmio");
    DIR *devices = opendir(VIRTIO_DEVICES);
    for (struct dirent *entry; devices && (entry = readdir(devices));) {
        unsigned id = device_id(entry->d_name);
        for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
            if (drivers[i].id == id)
                modules_load(drivers[i].name);
    }
    if (devices)
        closedir(devices);
}
