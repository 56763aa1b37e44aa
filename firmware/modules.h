/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_MODULES_H
#define NIDO_FIRMWARE_MODULES_H

/*
 * A kernel's modules, by its modules.dep (depmod(8)): "PATH: DEPENDENCY...", paths from the
 * directory that the file is in, the dependencies complete and in the order from the last to be
 * loaded to the first. What is built into the kernel has no line there.
 */

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define MODULE_NAME_BYTES 64u
#define MODULE_DEPS_MAX   32u

struct module {
    char name[MODULE_NAME_BYTES]; /* as the kernel says it: "virtio_rng" of virtio-rng.ko.xz */
    const char *path;
    char *deps; /* between spaces */
};

/* Zero-initialised; all strings lie in `text`. */
struct modules {
    char *text;
    struct module *all;
    size_t count;
};

/* Takes over `text`, from malloc(), also on failure. Lines that make no sense are passed over. */
int modules_parse(struct modules *modules, char *text, struct nido_error *err);
void modules_finish(struct modules *modules);

/* NULL: there is none of that name. */
const struct module *modules_find(const struct modules *modules, const char *name);

/* The modules to load for this one, in order; it is the last. Returns how many, or a negative
 * errno where one is not there (-ENOENT) or they are too many (-E2BIG). */
int modules_order(const struct modules *modules, const struct module *module,
                  const struct module *order[MODULE_DEPS_MAX], struct nido_error *err);

#endif
