/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_ARM64_LAYOUT_H
#define NIDO_FIRMWARE_ARM64_LAYOUT_H

#include "base/checked.h"

/*
 * What lies where at the start of RAM. Image's base is 2 MiB aligned; since Linux 4.6 a kernel takes
 * the RAM below it for its own, so nothing is lost (Documentation/arch/arm64/booting.rst).
 *
 *   RAM_BASE_GPA      the device tree, at most DEVICETREE_BYTES
 *   IMAGE_BASE_GPA    the kernel, at its text_offset from here
 *   the end of RAM    the initrd, as high as it goes
 */
#define RAM_BASE_GPA     GIB
#define DEVICETREE_GPA   RAM_BASE_GPA
#define DEVICETREE_BYTES (128 * KIB)
#define IMAGE_BASE_GPA   (RAM_BASE_GPA + 2 * MIB)

/* booting.rst: kernel and initrd lie in one window of 32 GiB, aligned to 1 GiB. */
#define INITRD_END_GPA (RAM_BASE_GPA + 32 * GIB)

/* Linux's COMMAND_LINE_SIZE, less the NUL. */
#define CMDLINE_BYTES 2047u

#endif
