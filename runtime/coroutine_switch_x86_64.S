/* SPDX-License-Identifier: MIT */
/*
 * coroutine_switch.h for x86-64 (System V ABI)
 *
 * A position is the stack pointer with this below the return address:
 *
 *      sp + 0    MXCSR (4 bytes), x87 control word (2), unused (2)
 *      sp + 8    r15, r14, r13, r12, rbx, rbp
 *      sp + 56   where to go on
 *
 * Both stacks have this layout at the moment of the exchange, so the same unwind information holds
 * before and after it.
 *
 * It goes on by pop and jmp: a ret would be predicted to return to this stack's own caller, wrongly
 * each time.
 *
 * How the control words are loaded depends on the processor, by which the dynamic linker picks one
 * of two co_switch. On Intel's, loading MXCSR costs some 50 ns where the sticky status flags differ,
 * so the control bits are compared, and it is loaded when one of those differs. On AMD's, a load
 * costs 0.4 ns in any case, and to read back what was just stored four times that.
 */
#define FRAME_BYTES 64
#define STICKY      0x3f

/* Pushes a position but for its return address. */
.macro save
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        pushq   %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r12, 0
        pushq   %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r13, 0
        pushq   %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r14, 0
        pushq   %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r15, 0
        subq    $8, %rsp
        .cfi_adjust_cfa_offset 8
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
.endm

/* Pops a position whose control words are loaded, and goes on there. */
.macro go_on
        addq    $8, %rsp
        .cfi_adjust_cfa_offset -8
        popq    %r15
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r15
        popq    %r14
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r14
        popq    %r13
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r13
        popq    %r12
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r12
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        popq    %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbp
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rcx
        jmp     *%rcx
.endm

        .text
        .p2align 4
        .type   switch_comparing, @function
switch_comparing:
        .cfi_startproc
        save
        movl    (%rsp), %eax
        xorl    (%rsi), %eax
        andl    $~STICKY, %eax
        movzwl  4(%rsp), %ecx
        xorw    4(%rsi), %cx
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        orl     %ecx, %eax
        jnz     2f
1:      .cfi_remember_state
        go_on
        .cfi_restore_state
2:      ldmxcsr (%rsp)
        fldcw   4(%rsp)
        jmp     1b
        .cfi_endproc
        .size   switch_comparing, . - switch_comparing

        .p2align 4
        .type   switch_loading, @function
switch_loading:
        .cfi_startproc
        save
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        ldmxcsr (%rsp)
        fldcw   4(%rsp)
        go_on
        .cfi_endproc
        .size   switch_loading, . - switch_loading

/* Called once, by the dynamic linker: the address of the co_switch to be used. */
        .p2align 4
        .type   choose, @function
choose:
        .cfi_startproc
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        xorl    %eax, %eax
        cpuid
        cmpl    $0x444d4163, %ecx       /* "cAMD": AuthenticAMD */
        leaq    switch_comparing(%rip), %rax
        leaq    switch_loading(%rip), %rcx
        cmoveq  %rcx, %rax
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_endproc
        .size   choose, . - choose

        .globl  co_switch
        .hidden co_switch
        .type   co_switch, @gnu_indirect_function
        .set    co_switch, choose

/* void *co_switch_prepare(void *low, size_t bytes, void (*entry)(void *), void *opaque) */
        .p2align 4
        .globl  co_switch_prepare
        .hidden co_switch_prepare
        .type   co_switch_prepare, @function
co_switch_prepare:
        .cfi_startproc
        leaq    (%rdi, %rsi), %rax
        andq    $-16, %rax
        subq    $FRAME_BYTES, %rax
        stmxcsr (%rax)
        fnstcw  4(%rax)
        movw    $0, 6(%rax)
        movq    $0, 8(%rax)             /* r15 */
        movq    $0, 16(%rax)            /* r14 */
        movq    %rcx, 24(%rax)          /* r13: opaque */
        movq    %rdx, 32(%rax)          /* r12: entry */
        movq    $0, 40(%rax)            /* rbx */
        movq    $0, 48(%rax)            /* rbp: ends a walk along frame pointers */
        leaq    co_switch_start(%rip), %rcx
        movq    %rcx, 56(%rax)
        ret
        .cfi_endproc
        .size   co_switch_prepare, . - co_switch_prepare

/* void co_switch_return(void) */
        .p2align 4
        .globl  co_switch_return
        .hidden co_switch_return
        .type   co_switch_return, @function
co_switch_return:
        .cfi_startproc
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rcx
        jmp     *%rcx
        .cfi_endproc
        .size   co_switch_return, . - co_switch_return

/* The outermost frame of a coroutine: has no return address, which ends a backtrace. */
        .p2align 4
        .type   co_switch_start, @function
co_switch_start:
        .cfi_startproc
        .cfi_undefined %rip
        movq    %r13, %rdi
        call    *%r12
        ud2
        .cfi_endproc
        .size   co_switch_start, . - co_switch_start

        .section .note.GNU-stack, "", @progbits
