/* SPDX-License-Identifier: MIT */
/*
 * coroutine_switch.h for x86-64 (System V ABI)
 *
 * A position is the stack pointer with this below the return address:
 *
 *      sp + 0    MXCSR (4 bytes), x87 control word (2), not 0: leave both as they are (2)
 *      sp + 8    r15, r14, r13, r12, rbx, rbp
 *      sp + 56   where to go on
 *
 * Both stacks have this layout at the moment of the exchange, so the same unwind information holds
 * before and after it.
 *
 * It goes on by pop and jmp: a ret would be predicted to return to this stack's own caller, wrongly
 * each time.
 *
 * Each function begins a cache line, so that its cost does not depend on what is linked before it
 * (an enter and yield took 11.8 ns or 13.4).
 *
 * How the control words are loaded depends on the processor, by which the dynamic linker picks one
 * of two. On Intel's, loading MXCSR costs some 50 ns where the sticky status flags differ,
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
        movw    $0, 6(%rsp)
.endm

/* Goes to the label `same` where the control words of the position at `to` are in force, or are not
 * to be loaded. Those in force are at `now`. */
.macro compare now, to, same
        cmpw    $0, 6+\to
        jne     \same
        movl    \now, %eax
        xorl    \to, %eax
        andl    $~STICKY, %eax
        movzwl  4+\now, %ecx
        xorw    4+\to, %cx
        orl     %ecx, %eax
        jz      \same
.endm

.macro load
        ldmxcsr (%rsp)
        fldcw   4(%rsp)
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
        .p2align 6
        .globl  co_switch_comparing
        .hidden co_switch_comparing
        .type   co_switch_comparing, @function
co_switch_comparing:
        .cfi_startproc
        save
        movq    %rsp, (%rdi)
        movq    %rsp, %rdx
        movq    %rsi, %rsp
        compare 0(%rdx), 0(%rsp), 1f
        load
1:      go_on
        .cfi_endproc
        .size   co_switch_comparing, . - co_switch_comparing

        .p2align 6
        .globl  co_switch_loading
        .hidden co_switch_loading
        .type   co_switch_loading, @function
co_switch_loading:
        .cfi_startproc
        save
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        cmpw    $0, 6(%rsp)
        jne     1f
        load
1:      go_on
        .cfi_endproc
        .size   co_switch_loading, . - co_switch_loading

/* To the last switch from a stack it does not matter what that stack has. */
        .p2align 6
        .globl  co_switch_last_comparing
        .hidden co_switch_last_comparing
        .type   co_switch_last_comparing, @function
co_switch_last_comparing:
        .cfi_startproc
        .cfi_undefined %rip
        stmxcsr -8(%rsp)
        fnstcw  -4(%rsp)
        movq    %rsp, %rdx
        movq    %rdi, %rsp
        compare -8(%rdx), 0(%rsp), 1f
        load
1:      go_on
        .cfi_endproc
        .size   co_switch_last_comparing, . - co_switch_last_comparing

        .p2align 6
        .globl  co_switch_last_loading
        .hidden co_switch_last_loading
        .type   co_switch_last_loading, @function
co_switch_last_loading:
        .cfi_startproc
        .cfi_undefined %rip
        movq    %rdi, %rsp
        load
        go_on
        .cfi_endproc
        .size   co_switch_last_loading, . - co_switch_last_loading

/* Called once for each, by the dynamic linker: which function `name` is. */
.macro choose name, loading, comparing
        .p2align 6
        .type   choose_\name, @function
choose_\name:
        .cfi_startproc
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        xorl    %eax, %eax
        cpuid
        cmpl    $0x444d4163, %ecx       /* "cAMD": AuthenticAMD */
        leaq    \comparing(%rip), %rax
        leaq    \loading(%rip), %rcx
        cmoveq  %rcx, %rax
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_endproc
        .size   choose_\name, . - choose_\name

        .globl  \name
        .hidden \name
        .type   \name, @gnu_indirect_function
        .set    \name, choose_\name
.endm

        choose  co_switch, co_switch_loading, co_switch_comparing
        choose  co_switch_last, co_switch_last_loading, co_switch_last_comparing

/* void *co_switch_prepare(void *low, size_t bytes, void (*entry)(void *), void *opaque) */
        .p2align 6
        .globl  co_switch_prepare
        .hidden co_switch_prepare
        .type   co_switch_prepare, @function
co_switch_prepare:
        .cfi_startproc
        leaq    (%rdi, %rsi), %rax
        andq    $-16, %rax
        subq    $FRAME_BYTES, %rax
        movq    $-1, (%rax)             /* no control words */
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
        .p2align 6
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
        .p2align 6
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
