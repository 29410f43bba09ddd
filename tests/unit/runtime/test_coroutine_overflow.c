/* SPDX-License-Identifier: MIT */
/*
 * What is said of a stack that overflows, and that the process then dies as it would have.
 */
#include "tests/unit/runtime/death.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime/coroutine.h"
#include "runtime/coroutine_overflow.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/instruments_inside.h"

#if defined(CO_WITH_ASAN) || defined(CO_WITH_TSAN)
#define UNDER_SANITIZER true
#else
#define UNDER_SANITIZER false
#endif

/* Not a tail call: what it returns is used afterwards. */
static int recurse(volatile int *depth)
{
    volatile int below = *depth + 1;

    return below < INT_MAX ? recurse(&below) + *depth : 0;
}

static void coroutine_fn overflow(void *opaque)
{
    volatile int depth = 0;

    exit(recurse(&depth));
}

static void coroutine_fn enter_one_that_overflows(void *opaque)
{
    coroutine_enter(coroutine_create_full(overflow, NULL, "the inner one", (size_t)64 * 1024));
}

static void coroutine_fn write_to_null(void *opaque)
{
    volatile char *volatile nowhere = NULL;

    *nowhere = 1;
}

static void say(const CoroutineOverflow *overflow, void *opaque)
{
    ssize_t n = write(STDERR_FILENO, opaque, strlen(opaque));

    n += write(STDERR_FILENO, overflow->text, overflow->text_bytes);
    assert(n > 0 && strlen(overflow->text) == overflow->text_bytes);
}

static void watch(const char *prefix)
{
    assert(coroutine_overflow_watch(say, (void *)(uintptr_t)prefix) == 0);
}

static void enter(CoroutineEntry *entry, const char *name)
{
    coroutine_enter(coroutine_create_full(entry, NULL, name, 0));
}

static void overflow_here(void)
{
    watch("old: ");
    watch("here: ");
    enter(overflow, "deep one");
}

static void overflow_of_the_inner(void)
{
    watch("");
    enter(enter_one_that_overflows, "the outer one");
}

static void *overflow_in_thread(void *opaque)
{
    watch("thread: ");
    enter(overflow, "threaded");
    return NULL;
}

static void overflow_in_another_thread(void)
{
    pthread_t thread;

    assert(pthread_create(&thread, NULL, overflow_in_thread, NULL) == 0);
    pthread_join(thread, NULL);
}

static void overflow_unwatched(void)
{
    watch("");
    coroutine_overflow_unwatch();
    coroutine_overflow_unwatch();
    enter(overflow, "silent");
}

static void fault_in_coroutine(void)
{
    watch("");
    enter(write_to_null, "not deep");
}

static void fault_outside(void)
{
    volatile char *volatile nowhere = NULL;

    watch("");
    *nowhere = 1;
}

static void sent_by_kill(void)
{
    watch("");
    raise(SIGSEGV);
}

static void ignored_before(void)
{
    signal(SIGSEGV, SIG_IGN);
    watch("");
    raise(SIGSEGV);
    _exit(42);
}

static void fault_ignored_before(void)
{
    signal(SIGSEGV, SIG_IGN);
    fault_outside();
}

static void say_and_leave(int signum)
{
    static const char text[] = " and the handler before";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);

    _exit(n > 0 ? 42 : 1);
}

static void say_more_and_leave(int signum, siginfo_t *info, void *machine)
{
    say_and_leave(info->si_signo == SIGSEGV && machine ? signum : 0);
}

static void overflow_with_handler_before(void)
{
    signal(SIGSEGV, say_and_leave);
    watch("");
    enter(overflow, "chained");
}

static void overflow_with_siginfo_handler_before(void)
{
    struct sigaction action = {.sa_sigaction = say_more_and_leave, .sa_flags = SA_SIGINFO};

    sigaction(SIGSEGV, &action, NULL);
    watch("");
    enter(overflow, "chained");
}

/* A sanitizer's handler reports and exits. */
static void assert_dies(void (*how)(void), const char *saying, const char *not_saying)
{
    static char said[1 << 20];
    int status = run_in_child(how, said, sizeof said);

    if (UNDER_SANITIZER)
        assert_int_not_equal(status, 0);
    else
        assert_int_equal(status & ~0x80, SIGSEGV); /* whether or not it leaves a core */
    if (saying)
        assert_non_null(strstr(said, saying));
    if (not_saying)
        assert_null(strstr(said, not_saying));
}

static void an_overflow_says_which_coroutine_and_how_deep(void **state)
{
    assert_dies(overflow_here, "here: coroutine deep one overflowed its stack of 2", "old: ");
    assert_dies(overflow_here, " bytes, fault at 0x", NULL);
}

static void of_nested_ones_the_one_that_ran_is_named(void **state)
{
    assert_dies(
        overflow_of_the_inner, "coroutine the inner one overflowed its stack of 6", "outer");
}

static void each_thread_that_watches_reports(void **state)
{
    assert_dies(
        overflow_in_another_thread, "thread: coroutine threaded overflowed its stack", NULL);
}

static void who_does_not_watch_dies_silently(void **state)
{
    assert_dies(overflow_unwatched, NULL, "overflowed its stack");
}

static void other_faults_are_not_called_an_overflow(void **state)
{
    assert_dies(fault_in_coroutine, NULL, "overflowed its stack");
    assert_dies(fault_outside, NULL, "overflowed its stack");
    assert_dies(sent_by_kill, NULL, "overflowed its stack");
}

/* As the kernel does it: what somebody sent is ignored, a fault is not. */
static void who_ignored_the_signal_goes_on_ignoring_it(void **state)
{
    char said[4096];
    int status = run_in_child(ignored_before, said, sizeof said);

    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    assert_dies(fault_ignored_before, NULL, "overflowed its stack");
}

static void the_handler_that_was_there_is_called_too(void **state)
{
    void (*const cases[])(void) = {
        overflow_with_handler_before, overflow_with_siginfo_handler_before};

    for (int i = 0; i < 2; i++) {
        char said[4096];
        int status = run_in_child(cases[i], said, sizeof said);

        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
        assert_non_null(strstr(said, "coroutine chained overflowed its stack"));
        assert_non_null(strstr(said, " and the handler before"));
    }
}

/* What a tool reads after the death. */
static struct aio_counters counters;
static struct recorder_event *events; /* shared with the child */
static uint64_t *n_recorded;

static void overflow_recorded(void)
{
    struct aio_instruments instruments = {
        .counters = &counters, .events = events, .n_events = 8, .n_recorded = n_recorded};
    struct co_entry entry;
    AioContext *ctx;

    instruments.coroutines = &entry;
    instruments.n_coroutines = 1;
    struct aio_config config = {.engine = AIO_ENGINE_THREADS, .instruments = &instruments};
    assert(aio_context_new(&config, &ctx) == 0);
    aio_context_set_current(ctx);
    watch("");
    enter(overflow, "recorded");
}

static void the_recorder_has_it_after_the_death(void **state)
{
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(memory != MAP_FAILED);
    n_recorded = (void *)memory;
    events = (void *)(memory + 64);
    assert_dies(overflow_recorded, "coroutine recorded overflowed", NULL);
    assert_int_equal(*n_recorded, 2);
    assert_int_equal(events[0].kind, RECORDER_CO_CREATE);
    assert_int_equal(events[1].kind, RECORDER_CO_OVERFLOW);
    assert_int_equal(events[1].a, events[0].a);
    munmap(memory, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_overflow_says_which_coroutine_and_how_deep),
        cmocka_unit_test(of_nested_ones_the_one_that_ran_is_named),
        cmocka_unit_test(each_thread_that_watches_reports),
        cmocka_unit_test(who_does_not_watch_dies_silently),
        cmocka_unit_test(other_faults_are_not_called_an_overflow),
        cmocka_unit_test(who_ignored_the_signal_goes_on_ignoring_it),
        cmocka_unit_test(the_handler_that_was_there_is_called_too),
        cmocka_unit_test(the_recorder_has_it_after_the_death),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
