/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_PACKAGE_H
#define NIDO_UNPACK_PACKAGE_H

/*
 * Takes the kernel and its modules out of Debian packages (deb(5)): an ar archive whose members are
 * debian-binary, control.tar and data.tar, the latter two packed. Nothing else of a package is
 * written, and nothing of it is run.
 */

#include "base/error.h"

#include <stdint.h>

#define PACKAGE_VERSION_BYTES 128u
#define PACKAGE_BYTES_MAX     (8ull << 30) /* that are written */
#define PACKAGE_FILES_MAX     (1u << 20)

struct package {
    int fd; /* the directory where things go, which is empty at first */
    const char *architecture;
    char kernel[PACKAGE_VERSION_BYTES], modules[PACKAGE_VERSION_BYTES]; /* versions; "": none yet */
    char name[96];                                                      /* of the last package */
    unsigned files;
    uint64_t bytes;
};

/* Writes vmlinuz-VERSION and lib/modules/VERSION/... -ENOEXEC: it is for another architecture. */
int package_unpack(struct package *package, const char *path, struct nido_error *err);
/* After the last one: there is one kernel, with its modules. */
int package_check(const struct package *package, struct nido_error *err);

#endif
