/* SPDX-License-Identifier: Apache-2.0 */
/* The program for the guest, as it lies in nido. */
    .section .rodata
    .balign 16
    .globl guest_program_start
    .globl guest_program_end
guest_program_start:
    .incbin PROGRAM
guest_program_end:
    .section .note.GNU-stack, "", %progbits
