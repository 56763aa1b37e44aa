/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_KERNEL_NAME_H
#define NIDO_FIRMWARE_KERNEL_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define KERNEL_NAME_BYTES 128u

/* Whether the first `length` bytes are a kernel's version, which is a file's name and is printed. */
static inline bool kernel_name_is_good(const char *name, size_t length)
{
    static const char characters[] = ".+~_-"
                                     "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                     "0123456789";
    return length > 0 && length < KERNEL_NAME_BYTES && strspn(name, characters) >= length &&
           !strchr(".+~_-", name[0]);
}

#endif
