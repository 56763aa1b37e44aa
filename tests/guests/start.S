/* SPDX-License-Identifier: Apache-2.0 */
/* The entry of every test guest: PVH, 32-bit, paging off, %ebx = start_info. */
    .section .note.pvh, "a", @note
    .long 4, 4, 18              /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .section .text.start, "ax"
    .globl start
start:
    movl $stack_top, %esp
    pushl %ebx
    call guest_main
1:  call guest_reset
    jmp 1b

    .bss
    .balign 16
    .skip 16384
stack_top:

    .section .note.GNU-stack, "", @progbits
