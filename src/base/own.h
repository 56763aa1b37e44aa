/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_OWN_H
#define NIDO_BASE_OWN_H

/*
 * Locals that clean up after themselves. A local so marked owns what it holds until it is moved out
 * with own_take_fd() / own_take_ptr().
 */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void own_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void own_free_mem(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

static inline void own_close_file(FILE **file)
{
    if (*file)
        fclose(*file);
}

#define own_fd   __attribute__((cleanup(own_close_fd)))
#define own_mem  __attribute__((cleanup(own_free_mem)))
#define own_file __attribute__((cleanup(own_close_file)))

static inline int own_take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define own_take_ptr(pointer)                                                                      \
    __extension__({                                                                                \
        __typeof__(pointer) taken_ = (pointer);                                                    \
        (pointer) = NULL;                                                                          \
        taken_;                                                                                    \
    })

#endif
