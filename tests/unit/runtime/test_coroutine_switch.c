/* SPDX-License-Identifier: MIT */
/*
 * What a switch of stacks keeps: registers and floating-point control words, in each variant that a
 * processor may get.
 */
#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/coroutine_switch.h"

/* The two of x86-64, of which co_switch is one; elsewhere there are none. */
__attribute__((weak)) void co_switch_comparing(void **ret_from, void *to);
__attribute__((weak)) void co_switch_loading(void **ret_from, void *to);
__attribute__((weak, noreturn)) void co_switch_last_comparing(void *to);
__attribute__((weak, noreturn)) void co_switch_last_loading(void *to);

struct variant {
    void (*go)(void **ret_from, void *to);
    void (*last)(void *to);
};

static const struct variant the_machines_own = {co_switch, co_switch_last};
static const struct variant comparing = {co_switch_comparing, co_switch_last_comparing};
static const struct variant loading = {co_switch_loading, co_switch_last_loading};

/* ---- two stacks ---- */

static struct variant variant;
static void *outside;
static void *inside;
static char stack[64 * 1024] __attribute__((aligned(64)));

static int setup(void **state)
{
    const struct variant *v = *state;

    if (!v->go)
        return 0;
    variant = *v;
    return 0;
}

static void begin(void (*entry)(void *opaque))
{
    inside = co_switch_prepare(stack, sizeof stack, entry, stack);
    variant.go(&outside, inside);
}

static void yield(void)
{
    variant.go(&inside, outside);
}

static void resume(void)
{
    variant.go(&outside, inside);
}

#define SKIP_UNLESS_THERE(state)                     \
    do {                                             \
        if (!((const struct variant *)*(state))->go) \
            skip();                                  \
    } while (0)

/* ---- control words ---- */

/* All that the ABI has a callee keep: rounding, exception masks, denormals, x87 precision. */
struct control {
    uint64_t vector;
    uint64_t x87;
};

#if defined(__x86_64__)
#define STICKY UINT32_C(0x3f)

static struct control control_now(void)
{
    uint32_t mxcsr;
    uint16_t word;

    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(word));
    return (struct control){.vector = mxcsr & ~STICKY, .x87 = word};
}

static void control_set(struct control control)
{
    uint32_t mxcsr = (uint32_t)control.vector;
    uint16_t word = (uint16_t)control.x87;

    __asm__ volatile("ldmxcsr %0\n\tfldcw %1" ::"m"(mxcsr), "m"(word));
}

static const struct control controls[] = {
    {0x1f80, 0x037f}, /* as a process begins */
    {0x9fc0, 0x037f}, /* denormals are zero, both ways */
    {0x1f80, 0x027f}, /* x87 in double precision */
    {0x5f80, 0x0b7f}, /* round up */
};
#elif defined(__aarch64__)
static struct control control_now(void)
{
    uint64_t fpcr;

    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (struct control){.vector = fpcr};
}

static void control_set(struct control control)
{
    __asm__ volatile("msr fpcr, %0" ::"r"(control.vector));
}

static const struct control controls[] = {
    {0, 0}, {UINT64_C(1) << 24, 0}, /* denormals are zero */
    {UINT64_C(1) << 22, 0},         /* round up */
    {UINT64_C(3) << 22, 0},         /* round to zero */
};
#else
static struct control control_now(void)
{
    return (struct control){.vector = (uint64_t)fegetround()};
}

static void control_set(struct control control)
{
    fesetround((int)control.vector);
}

static const struct control controls[] = {
    {FE_TONEAREST, 0}, {FE_UPWARD, 0}, {FE_DOWNWARD, 0}, {FE_TOWARDZERO, 0}};
#endif

#define N_CONTROLS (sizeof controls / sizeof *controls)

static size_t inner_control;
static int n_wrong; /* inside: no assertion may jump from stack to stack */

static void expect_control(size_t i)
{
    struct control now = control_now();

    n_wrong += memcmp(&now, &controls[i], sizeof now) != 0;
}

static void keep_own(void *opaque)
{
    control_set(controls[inner_control]);
    for (int i = 0; i < 3; i++) {
        yield();
        expect_control(inner_control);
    }
    variant.last(outside);
}

static void each_stack_keeps_its_own_control_words(void **state)
{
    SKIP_UNLESS_THERE(state);
    struct control before = control_now();

    for (size_t outer = 0; outer < N_CONTROLS; outer++) {
        for (inner_control = 0; inner_control < N_CONTROLS; inner_control++) {
            control_set(controls[outer]);
            begin(keep_own);
            for (int i = 0; i < 3; i++) {
                expect_control(outer);
                resume();
            }
            expect_control(outer); /* after its end */
        }
    }
    control_set(before);
    assert_int_equal(n_wrong, 0);
}

static void change_outer_meanwhile(void *opaque)
{
    for (size_t i = 0; i < N_CONTROLS; i++) {
        expect_control(1);
        yield();
    }
    variant.last(outside);
}

static void a_new_stack_begins_with_those_of_who_enters_it(void **state)
{
    SKIP_UNLESS_THERE(state);
    struct control before = control_now();

    control_set(controls[1]);
    begin(change_outer_meanwhile);
    for (size_t i = 0; i < N_CONTROLS; i++) {
        control_set(controls[i]);
        resume();
        expect_control(i);
    }
    control_set(before);
    assert_int_equal(n_wrong, 0);
}

static void raise_sticky_flag(void *opaque)
{
    feraiseexcept(FE_INEXACT);
    yield();
    variant.last(outside);
}

static void status_flags_are_no_reason_to_change_control_words(void **state)
{
    SKIP_UNLESS_THERE(state);
    struct control before = control_now();

    feclearexcept(FE_ALL_EXCEPT);
    begin(raise_sticky_flag);
    resume();
    struct control after = control_now();
    assert_memory_equal(&after, &before, sizeof after);
}

/* ---- registers ---- */

/* More values than registers, all alive over the switch; a compiler keeps what it can in those that
 * a callee must keep. */
static uint64_t hold_many(uint64_t seed, void (*there)(void))
{
    uint64_t a = seed, b = a * 3 + 1, c = b * 3 + 1, d = c * 3 + 1, e = d * 3 + 1, f = e * 3 + 1;
    double x = (double)(seed % 1000) + 0.5, y = x * 3;

    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
    there();
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
    return a ^ b ^ c ^ d ^ e ^ f ^ (uint64_t)(x + y);
}

static void nowhere(void)
{
}

static void hold_inside(void *opaque)
{
    for (uint64_t i = 0; i < 100; i++)
        n_wrong += hold_many(i * 7919, yield) != hold_many(i * 7919, nowhere);
    variant.last(outside);
}

static void callee_saved_registers_are_kept(void **state)
{
    SKIP_UNLESS_THERE(state);
    begin(hold_inside);
    for (uint64_t i = 0; i < 100; i++)
        n_wrong += hold_many(i * 104729, resume) != hold_many(i * 104729, nowhere);
    assert_int_equal(n_wrong, 0);
}

static void check_alignment(void *opaque)
{
    _Alignas(16) volatile char aligned[16] = {1};

    n_wrong += ((uintptr_t)aligned & 15) != 0 || opaque != stack;
    n_wrong += ((uintptr_t)__builtin_frame_address(0) & 15) != 0;
    variant.last(outside);
}

static void a_stack_begins_aligned_with_its_argument(void **state)
{
    SKIP_UNLESS_THERE(state);
    begin(check_alignment);
    assert_int_equal(n_wrong, 0);
}

#define CASE(f, v)                                                \
    {                                                             \
#f " (" #v ")", f, setup, NULL, (void *)(uintptr_t) & (v) \
    }
#define CASES(v)                                                     \
    CASE(each_stack_keeps_its_own_control_words, v),                 \
        CASE(a_new_stack_begins_with_those_of_who_enters_it, v),     \
        CASE(status_flags_are_no_reason_to_change_control_words, v), \
        CASE(callee_saved_registers_are_kept, v),                    \
        CASE(a_stack_begins_aligned_with_its_argument, v)

int main(void)
{
    const struct CMUnitTest tests[] = {CASES(the_machines_own), CASES(comparing), CASES(loading)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
