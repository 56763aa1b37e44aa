/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_PAGETABLES_H
#define NIDO_FIRMWARE_X86_PAGETABLES_H

#include "vm/mem.h"

/* Maps the first 4 GiB one to one, writable and executable, in 2 MiB pages (1 GiB pages would need
 * a CPU flag). Six pages at LOW_PAGE_TABLES_GPA, the first of which goes into CR3. */
int pagetables_write(struct mem *mem);

#endif
