/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_LOOP_DEVICE_H
#define NIDO_TESTS_UNIT_LOOP_DEVICE_H

/* A block device over a file, where the test runs as root and the kernel has the loop driver. */

#include "base/own.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>

/* A descriptor for loop_device_detach() and the device's path; -1 where there is none to be had. */
static inline int loop_device_attach(const char *image, char *path, size_t room)
{
    own_fd int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
        return -1;
    snprintf(path, room, "/dev/loop%d", number);
    own_fd int device = open(path, O_RDWR | O_CLOEXEC);
    own_fd int file = open(image, O_RDWR | O_CLOEXEC);
    if (device < 0 || file < 0 || ioctl(device, LOOP_SET_FD, file) < 0)
        return -1;
    return own_take_fd(&device);
}

static inline void loop_device_detach(int device)
{
    ioctl(device, LOOP_CLR_FD);
    close(device);
}

#endif
