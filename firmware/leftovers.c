/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void leftovers_sweep(int directory_fd, const char *prefix)
{
    struct stat st;
    time_t now = time(NULL);
    int fd = openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 &&
            fstatat(directory_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            now - st.st_mtime > LEFTOVERS_AGE_S)
            unlinkat(directory_fd, entry->d_name, 0);
    if (listing)
        closedir(listing);
}
