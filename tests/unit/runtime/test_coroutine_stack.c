/* SPDX-License-Identifier: MIT */
/*
 * Stacks: how many, how large, what guards them, and that they go back.
 */
#include "tests/unit/runtime/death.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime/coroutine.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/coroutine_stack.h"

#if defined(CO_WITH_ASAN) || defined(CO_WITH_TSAN)
#define MANY            2000
#define UNDER_SANITIZER true
#else
#define MANY            100000
#define UNDER_SANITIZER false
#endif

static void coroutine_fn yield_once(void *opaque)
{
    coroutine_yield();
    ++*(int *)opaque;
}

static long available_kib(void)
{
    char line[128];
    long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %ld kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

/* One page of stack and its share of page tables each. */
static void a_hundred_thousand_live_or_creation_fails_in_order(void **state)
{
    if (available_kib() < 2 * 1024 * 1024)
        skip();
    Coroutine **all = calloc(MANY, sizeof *all);
    int n_ended = 0;
    int n = 0;

    while (n < MANY && (all[n] = coroutine_create(yield_once, &n_ended)))
        coroutine_enter(all[n++]);
    if (n < MANY) { /* two maps a stack: no guard markers in this kernel */
        assert_int_equal(errno, ENOMEM);
        assert_true(n > 10000 || UNDER_SANITIZER);
    }
    for (int i = 0; i < n; i += 2)
        coroutine_enter(all[i]);
    for (int i = 1; i < n; i += 2)
        coroutine_enter(all[i]);
    assert_int_equal(n_ended, n);
    free(all);
}

static void limit_memory(void)
{
    struct rlimit limit;

    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = (rlim_t)100 << 20;
    setrlimit(RLIMIT_AS, &limit);
}

static void make_until_refused(void)
{
    int n_ended = 0;
    int n = 0;
    Coroutine *all[1000];

    limit_memory();
    while (n < 1000 && (all[n] = coroutine_create(yield_once, &n_ended)))
        n++;
    assert(n < 1000 && errno == ENOMEM);
    for (int i = 0; i < n; i++) {
        coroutine_enter(all[i]);
        coroutine_enter(all[i]);
    }
    assert(n_ended == n);
    assert(coroutine_create(yield_once, &n_ended));
}

/* qemu-user accepts such a limit and ignores it. */
static void map_more_than_the_limit(void)
{
    limit_memory();
    assert(
        mmap(NULL, (size_t)200 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
}

static void creation_fails_where_there_is_no_memory(void **state)
{
    char said[1024];

    if (UNDER_SANITIZER) /* their shadow is beyond any such limit */
        skip();
    if (run_in_child(map_more_than_the_limit, said, sizeof said) != 0)
        skip();
    assert_int_equal(run_in_child(make_until_refused, said, sizeof said), 0);
}

static void sizes_are_rounded_up_and_absurd_ones_refused(void **state)
{
    int n_ended = 0;
    size_t sizes[] = {1, 16384, 100001, COROUTINE_STACK_BYTES, 8 << 20};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Coroutine *co = coroutine_create_full(yield_once, &n_ended, "sized", sizes[i]);

        assert_non_null(co);
        coroutine_enter(co);
        coroutine_enter(co);
    }
    assert_int_equal(n_ended, 5);
    assert_null(coroutine_create_full(yield_once, &n_ended, "absurd", SIZE_MAX));
    assert_int_equal(errno, EINVAL);
}

static void write_to_guard(void)
{
    struct co_stack first;
    struct co_stack second;

    assert(co_stack_take(0, &first) && co_stack_take(0, &second));
    co_stack_give(&second);
    assert(co_stack_take(0, &second)); /* from the pool, and still guarded */
    ((volatile char *)second.low)[0] = 1;
    ((volatile char *)second.low)[-1] = 1;
}

static void write_to_odd_guard(void)
{
    struct co_stack stack;

    assert(co_stack_take(100000, &stack));
    ((volatile char *)stack.low)[0] = 1;
    ((volatile char *)stack.low)[-1] = 1;
}

static void coroutine_fn recurse(void *opaque)
{
    volatile char frame[1000];

    frame[0] = 1;
    if (frame[0]) /* always, but the compiler is not to know */
        recurse((void *)frame);
    frame[1] = frame[0];
}

static void overflow(void)
{
    coroutine_enter(coroutine_create(recurse, NULL));
}

static void an_overflow_faults(void **state)
{
    char said[65536];
    void (*const cases[])(void) = {write_to_guard, write_to_odd_guard, overflow};

    for (int i = 0; i < 3; i++) {
        int status = run_in_child(cases[i], said, sizeof said);

        if (UNDER_SANITIZER)
            assert_int_not_equal(status, 0); /* they catch the signal and exit */
        else
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

static long mapped_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmSize: %ld kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

static void *use_a_thousand(void *opaque)
{
    Coroutine *all[1000];
    int n_ended = 0;

    for (int i = 0; i < 1000; i++)
        coroutine_enter(all[i] = coroutine_create(yield_once, &n_ended));
    for (int i = 0; i < 1000; i++)
        coroutine_enter(all[i]);
    *(long *)opaque = mapped_kib();
    return NULL;
}

static void a_thread_keeps_stacks_until_it_ends(void **state)
{
    pthread_t thread;
    long inside_kib;

    assert_int_equal(pthread_create(&thread, NULL, use_a_thousand, &inside_kib), 0);
    pthread_join(thread, NULL);
    assert_true(inside_kib - mapped_kib() >= 1000 * (long)COROUTINE_STACK_BYTES / 1024);
}

static void a_thread_keeps_no_more_than_the_limit(void **state)
{
    static struct co_stack stacks[CO_STACK_POOL_MAX + 100];
    size_t n = sizeof stacks / sizeof *stacks;

    for (size_t i = 0; i < n; i++)
        assert_true(co_stack_take(0, &stacks[i]));
    long all_kib = mapped_kib();
    for (size_t i = 0; i < n; i++)
        co_stack_give(&stacks[i]);
    assert_true(all_kib - mapped_kib() >= 100 * (long)COROUTINE_STACK_BYTES / 1024);

    long idle_kib = mapped_kib();
    for (size_t i = 0; i < CO_STACK_POOL_MAX; i++)
        assert_true(co_stack_take(0, &stacks[i]));
    assert_true(mapped_kib() - idle_kib < (long)COROUTINE_STACK_BYTES / 1024);
    for (size_t i = 0; i < CO_STACK_POOL_MAX; i++)
        co_stack_give(&stacks[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation_fails_where_there_is_no_memory),
        cmocka_unit_test(sizes_are_rounded_up_and_absurd_ones_refused),
        cmocka_unit_test(an_overflow_faults),
        cmocka_unit_test(a_thread_keeps_stacks_until_it_ends),
        cmocka_unit_test(a_thread_keeps_no_more_than_the_limit),
        cmocka_unit_test(a_hundred_thousand_live_or_creation_fails_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
