/* SPDX-License-Identifier: MIT */
/*
 * coroutine_switch.h for aarch64 (AAPCS64)
 *
 * A position is the stack pointer with this above it:
 *
 *      sp + 0     x19 to x28
 *      sp + 80    x29 (frame pointer), x30 (where to go on)
 *      sp + 96    d8 to d15
 *      sp + 160   FPCR, not 0: leave it as it is
 *
 * Both stacks have this layout at the moment of the exchange, so the same unwind information holds
 * before and after it. FPCR is loaded only when it differs: writing it may drain the pipeline.
 *
 * It goes on by br: a ret would be predicted to return to this stack's own caller, wrongly each
 * time.
 */
#define FRAME_BYTES 176

/* Loads FPCR unless it is the position's already, or not to be loaded. x9: what is in force. */
.macro load_fpcr
        ldp     x11, x12, [sp, #160]
        cbnz    x12, 1f
        cmp     x9, x11
        b.eq    1f
        msr     fpcr, x11
1:
.endm

.macro go_on
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        ldp     x19, x20, [sp, #0]
        ldp     x21, x22, [sp, #16]
        ldp     x23, x24, [sp, #32]
        ldp     x25, x26, [sp, #48]
        ldp     x27, x28, [sp, #64]
        ldp     x29, x30, [sp, #80]
        add     sp, sp, #FRAME_BYTES
        .cfi_def_cfa_offset 0
        .cfi_restore x19
        .cfi_restore x20
        .cfi_restore x21
        .cfi_restore x22
        .cfi_restore x23
        .cfi_restore x24
        .cfi_restore x25
        .cfi_restore x26
        .cfi_restore x27
        .cfi_restore x28
        .cfi_restore x29
        .cfi_restore x30
        br      x30
.endm

        .text
        .p2align 4
        .globl  co_switch
        .hidden co_switch
        .type   co_switch, %function
co_switch:
        .cfi_startproc
        sub     sp, sp, #FRAME_BYTES
        .cfi_def_cfa_offset FRAME_BYTES
        stp     x19, x20, [sp, #0]
        stp     x21, x22, [sp, #16]
        stp     x23, x24, [sp, #32]
        stp     x25, x26, [sp, #48]
        stp     x27, x28, [sp, #64]
        stp     x29, x30, [sp, #80]
        .cfi_rel_offset x19, 0
        .cfi_rel_offset x20, 8
        .cfi_rel_offset x21, 16
        .cfi_rel_offset x22, 24
        .cfi_rel_offset x23, 32
        .cfi_rel_offset x24, 40
        .cfi_rel_offset x25, 48
        .cfi_rel_offset x26, 56
        .cfi_rel_offset x27, 64
        .cfi_rel_offset x28, 72
        .cfi_rel_offset x29, 80
        .cfi_rel_offset x30, 88
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        mrs     x9, fpcr
        stp     x9, xzr, [sp, #160]
        mov     x10, sp
        str     x10, [x0]
        mov     sp, x1
        load_fpcr
        go_on
        .cfi_endproc
        .size   co_switch, . - co_switch

/* void co_switch_last(void *to) */
        .p2align 4
        .globl  co_switch_last
        .hidden co_switch_last
        .type   co_switch_last, %function
co_switch_last:
        .cfi_startproc
        .cfi_undefined x30
        mrs     x9, fpcr
        mov     sp, x0
        .cfi_def_cfa_offset FRAME_BYTES
        load_fpcr
        go_on
        .cfi_endproc
        .size   co_switch_last, . - co_switch_last

/* void *co_switch_prepare(void *low, size_t bytes, void (*entry)(void *), void *opaque) */
        .p2align 4
        .globl  co_switch_prepare
        .hidden co_switch_prepare
        .type   co_switch_prepare, %function
co_switch_prepare:
        .cfi_startproc
        add     x9, x0, x1
        and     x9, x9, #-16
        sub     x0, x9, #FRAME_BYTES
        stp     x2, x3, [x0, #0]        /* x19: entry, x20: opaque */
        stp     xzr, xzr, [x0, #16]
        stp     xzr, xzr, [x0, #32]
        stp     xzr, xzr, [x0, #48]
        stp     xzr, xzr, [x0, #64]
        adr     x10, co_switch_start
        stp     xzr, x10, [x0, #80]     /* x29: 0 ends a walk along frame pointers */
        stp     xzr, xzr, [x0, #96]
        stp     xzr, xzr, [x0, #112]
        stp     xzr, xzr, [x0, #128]
        stp     xzr, xzr, [x0, #144]
        mov     x11, #1
        stp     xzr, x11, [x0, #160]    /* no FPCR */
        ret
        .cfi_endproc
        .size   co_switch_prepare, . - co_switch_prepare

/* void co_switch_return(void) */
        .p2align 4
        .globl  co_switch_return
        .hidden co_switch_return
        .type   co_switch_return, %function
co_switch_return:
        .cfi_startproc
        br      x30
        .cfi_endproc
        .size   co_switch_return, . - co_switch_return

/* The outermost frame of a coroutine: has no return address, which ends a backtrace. */
        .p2align 4
        .type   co_switch_start, %function
co_switch_start:
        .cfi_startproc
        .cfi_undefined x30
        mov     x0, x20
        blr     x19
        brk     #1
        .cfi_endproc
        .size   co_switch_start, . - co_switch_start

        .section .note.GNU-stack, "", %progbits
