/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/reset_vector.h"

#include "firmware/x86/layout.h"

int reset_vector_write(struct mem *mem)
{
    static const uint8_t code[] = {
        0xb0, 0xfe, /* mov $0xfe, %al: pulse the reset line */
        0xe6, 0x64, /* out %al, $0x64 */
        0xf4,       /* hlt */
        0xeb, 0xfd, /* jmp to the hlt */
    };
    return mem_write(mem, RESET_VECTOR_GPA, code, sizeof(code));
}
