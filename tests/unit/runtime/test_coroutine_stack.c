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
#include "tests/unit/runtime/guard_markers.h"

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

static void write_below(struct co_stack *stack)
{
    assert(stack);
    ((volatile char *)stack->low)[0] = 1;
    ((volatile char *)stack->low)[-1] = 1;
}

static void write_to_guard(void)
{
    struct co_stack *first = co_stack_take(0);
    struct co_stack *second = co_stack_take(0);

    assert(first && second);
    co_stack_give(second);
    write_below(co_stack_take(0)); /* from the pool, and still guarded */
}

static void write_to_odd_guard(void)
{
    write_below(co_stack_take(100000));
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

#define STACK_KIB   ((long)COROUTINE_STACK_BYTES / 1024)
#define BURST       1000
#define LARGE_BURST 12000

static struct co_stack *stacks[BURST];

static void take(int n)
{
    for (int i = 0; i < n; i++)
        assert_non_null(stacks[i] = co_stack_take(0));
}

static void give(int n)
{
    for (int i = 0; i < n; i++)
        co_stack_give(stacks[i]);
}

/* Sanitizers map memory of their own at any time. */
static void assert_kib_freed(long before_kib, long expected_kib)
{
    assert_true(UNDER_SANITIZER || before_kib - mapped_kib() >= expected_kib);
}

static void a_thread_keeps_what_it_had_out_at_once(void **state)
{
    take(BURST);
    give(BURST);
    long idle_kib = mapped_kib();
    take(BURST);
    assert_true(mapped_kib() - idle_kib < STACK_KIB);
    give(BURST);
}

static void a_large_burst_is_kept_as_a_small_one_is(void **state)
{
    struct co_stack **burst = calloc(LARGE_BURST, sizeof *burst);

    assert_non_null(burst);
    for (int i = 0; i < LARGE_BURST; i++)
        assert_non_null(burst[i] = co_stack_take(0));
    long all_kib = mapped_kib();
    for (int i = 0; i < LARGE_BURST; i++)
        co_stack_give(burst[i]);
    assert_true(UNDER_SANITIZER || all_kib - mapped_kib() < STACK_KIB);
    free(burst);
    assert_int_equal(coroutine_pool_set_max(0), 0);
    assert_int_equal(coroutine_pool_set_max(COROUTINE_POOL_MAX), 0);
}

static void a_burst_is_forgotten_with_use(void **state)
{
    take(BURST);
    give(BURST);
    long idle_kib = mapped_kib();
    for (int i = 0; i < 300000; i++)
        co_stack_give(co_stack_take(0));
    assert_kib_freed(idle_kib, (BURST - 2 * CO_STACK_POOL_MIN) * STACK_KIB);
}

static void a_thread_keeps_no_more_than_it_was_told(void **state)
{
    assert_int_equal(coroutine_pool_set_max(BURST - 100), 0);
    take(BURST);
    long all_kib = mapped_kib();
    give(BURST);
    assert_kib_freed(all_kib, 100 * STACK_KIB);
    assert_int_equal(coroutine_pool_set_max(0), 0);
    assert_kib_freed(all_kib, BURST * STACK_KIB);
    co_stack_give(co_stack_take(0));
    assert_kib_freed(all_kib, BURST * STACK_KIB);
    assert_int_equal(coroutine_pool_set_max(COROUTINE_POOL_MAX), 0);
}

static void a_lower_limit_unmaps_only_what_is_beyond_it(void **state)
{
    take(BURST);
    give(BURST);
    long all_kib = mapped_kib();
    assert_int_equal(coroutine_pool_set_max(BURST - 100), 0);
    assert_kib_freed(all_kib, 100 * STACK_KIB);
    assert_true(UNDER_SANITIZER || all_kib - mapped_kib() < 200 * STACK_KIB);
    assert_int_equal(coroutine_pool_set_max(COROUTINE_POOL_MAX), 0);
}

static void in_a_thread(void *(*fn)(void *))
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, fn, NULL), 0);
    pthread_join(thread, NULL);
}

static void *give_burst(void *opaque)
{
    give(BURST);
    return NULL;
}

static void *take_burst(void *opaque)
{
    take(BURST);
    return NULL;
}

static int compare_addresses(const void *a, const void *b)
{
    uintptr_t left = *(const uintptr_t *)a;
    uintptr_t right = *(const uintptr_t *)b;

    return (left > right) - (left < right);
}

/* In a thread whose pool is empty. */
static void *take_the_same_thrice(void *opaque)
{
    static struct co_stack *before[BURST];

    for (int round = 0; round < 3; round++) {
        take(BURST);
        qsort(stacks, BURST, sizeof *stacks, compare_addresses);
        if (round > 0)
            assert_memory_equal(stacks, before, sizeof before);
        memcpy(before, stacks, sizeof before);
        in_a_thread(give_burst);
    }
    return NULL;
}

static void what_another_thread_gives_back_goes_home(void **state)
{
    in_a_thread(take_the_same_thrice);
}

static void stacks_outlive_the_thread_that_mapped_them(void **state)
{
    in_a_thread(take_burst);
    for (int i = 0; i < BURST; i++)
        memset(stacks[i]->low, 1, 100);
    long kib = mapped_kib();
    give(BURST);
    assert_kib_freed(kib, BURST * STACK_KIB);
}

static void other_sizes_are_kept_too(void **state)
{
    struct co_stack *small = co_stack_take(20000);

    assert_non_null(small);
    assert_in_range(co_stack_bytes(small), 20000, 32 * 1024);
    co_stack_give(small);
    assert_ptr_equal(co_stack_take(32 * 1024), small);
    co_stack_give(small);
}

/* ---- guards by mprotect() ---- */

static void *make_many(void *opaque)
{
    int n = 0;

    while (n < MANY && (stacks[0] = co_stack_take(16 * 1024)))
        n++;
    assert(n == MANY || errno == ENOMEM);
    *(int *)opaque = n;
    return NULL;
}

/* The pool of a thread has not looked yet which guards there are. */
static void make_without_markers(void)
{
    pthread_t thread;
    int n = 0;

    if (!refuse_guard_markers())
        _exit(77);
    assert(pthread_create(&thread, NULL, make_many, &n) == 0);
    pthread_join(thread, NULL);
    assert(n > 1000);
    /* others still find maps */
    for (int i = 0; i < 1000; i++)
        assert(mmap(NULL, 4096, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0) != MAP_FAILED);
    _exit(n == MANY ? 77 : 0);
}

static void guards_by_mprotect_leave_maps_to_others(void **state)
{
    char said[4096];
    int status = run_in_child(make_without_markers, said, sizeof said);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no filter of system calls here, or too many maps are allowed */
    assert_int_equal(status, 0);
}

/* ---- how deep ---- */

static void coroutine_fn use_some(void *opaque)
{
    char used[40000];

    memset(used, *(int *)opaque, sizeof used);
    __asm__ volatile("" ::"r"(used) : "memory");
    coroutine_yield();
}

static void the_high_water_mark_tells_how_deep_it_went(void **state)
{
    int n = 1;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    Coroutine *shallow = coroutine_create_full(yield_once, &n, "shallow", (size_t)16 << 20);
    Coroutine *deep = coroutine_create_full(use_some, &n, "deep", (size_t)16 << 20);

    coroutine_enter(shallow);
    coroutine_enter(deep);
    assert_true(coroutine_stack_bytes(deep) > (size_t)15 << 20);
    /* A page where we switch ourselves; swapcontext() and the dynamic linker save more than
     * that. */
    assert_in_range(coroutine_stack_high_water(shallow), 1, (UNDER_SANITIZER ? 16 : 8) * page);
    assert_in_range(coroutine_stack_high_water(deep), 40000, 40000 + 16 * page);
    coroutine_enter(shallow);
    coroutine_enter(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation_fails_where_there_is_no_memory),
        cmocka_unit_test(sizes_are_rounded_up_and_absurd_ones_refused),
        cmocka_unit_test(an_overflow_faults),
        cmocka_unit_test(a_thread_keeps_stacks_until_it_ends),
        cmocka_unit_test(a_thread_keeps_what_it_had_out_at_once),
        cmocka_unit_test(a_large_burst_is_kept_as_a_small_one_is),
        cmocka_unit_test(a_burst_is_forgotten_with_use),
        cmocka_unit_test(a_thread_keeps_no_more_than_it_was_told),
        cmocka_unit_test(a_lower_limit_unmaps_only_what_is_beyond_it),
        cmocka_unit_test(what_another_thread_gives_back_goes_home),
        cmocka_unit_test(stacks_outlive_the_thread_that_mapped_them),
        cmocka_unit_test(other_sizes_are_kept_too),
        cmocka_unit_test(guards_by_mprotect_leave_maps_to_others),
        cmocka_unit_test(the_high_water_mark_tells_how_deep_it_went),
        cmocka_unit_test(a_hundred_thousand_live_or_creation_fails_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
