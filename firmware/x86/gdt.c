/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/gdt.h"

#include "base/bytes.h"
#include "firmware/x86/layout.h"

int gdt_write(struct mem *mem)
{
    uint8_t table[GDT_BYTES] = {0};
    /* Intel SDM volume 3, 3.4.5: base 0, limit 0xfffff pages, accessed, ring 0. */
    put_le64(table + GDT_CODE64, 0x00af9b000000ffff);
    put_le64(table + GDT_DATA, 0x00cf93000000ffff);
    put_le64(table + GDT_CODE32, 0x00cf9b000000ffff);
    /* 7.2.2: a busy TSS at 0, 0x68 bytes long; nothing ever switches to it. */
    put_le64(table + GDT_TSS, 0x00008b0000000067);
    return mem_write(mem, LOW_GDT_GPA, table, sizeof(table));
}
