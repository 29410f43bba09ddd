/* SPDX-License-Identifier: MIT */
/*
 * The hand-over of a CoMutex with an unlocker that comes in before any access that a locker makes,
 * and a second locker before any access that the unlocker makes. The source of the locks is
 * compiled in here, with the hook on, in place of the library's. It says nothing of store buffers:
 * accesses happen in the program's order.
 */
#define SHERD_ATOMIC_HOOK
#include "runtime/co_mutex.c"

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/runtime/loop_thread.h"

#define MOST_ACCESSES 200 /* of all in a case; one that spins for another would make more */
#define MOST_POINTS   40
#define NEVER         (MOST_ACCESSES + 1)

static struct {
    AioContext *ctx;
    CoMutex mutex;
    int before_lock_access;   /* the holder comes in before this access of the first locker */
    int before_unlock_access; /* and the second locker before this one of the holder */
    int *countdown;           /* one of the two, or NULL */
    Coroutine *holder;
    int n_accesses;
    int n_inside;
    int n_done;
} s;

static void coroutine_fn lock_and_unlock(void *opaque)
{
    co_mutex_lock(&s.mutex);
    assert(s.n_inside++ == 0);
    aio_co_schedule(s.ctx, coroutine_self());
    coroutine_yield();
    s.n_inside--;
    co_mutex_unlock(&s.mutex);
    s.n_done++;
}

static void coroutine_fn hold_until_entered(void *opaque)
{
    co_mutex_lock(&s.mutex);
    coroutine_yield();
    s.countdown = &s.before_unlock_access;
    co_mutex_unlock(&s.mutex);
    s.countdown = NULL;
    s.n_done++;
}

/* Runs who is next to come in; whatever it waits for, it comes back by its yield. */
static void come_in(void)
{
    bool is_holder = s.countdown == &s.before_lock_access;

    s.countdown = NULL;
    coroutine_enter(is_holder ? s.holder : coroutine_create(lock_and_unlock, NULL));
}

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    assert(++s.n_accesses < MOST_ACCESSES);
    if (s.countdown && --*s.countdown == 0)
        come_in();
}

/* Whether the first locker made so many accesses that the holder could come in. */
static bool run_case(int before_lock_access, int before_unlock_access)
{
    memset(&s.mutex, 0, sizeof s.mutex);
    s.n_accesses = s.n_inside = s.n_done = 0;
    s.countdown = NULL;
    coroutine_enter(s.holder = coroutine_create(hold_until_entered, NULL));
    s.before_lock_access = before_lock_access;
    s.before_unlock_access = before_unlock_access;
    s.countdown = &s.before_lock_access;
    coroutine_enter(coroutine_create(lock_and_unlock, NULL));
    bool came_in = s.before_lock_access <= 0;
    s.countdown = NULL;
    if (!came_in)
        coroutine_enter(s.holder);
    for (int i = 0; i < 10; i++)
        aio_poll(s.ctx, false);
    assert_int_equal(s.n_done, s.before_unlock_access <= 0 ? 3 : 2);
    assert_int_equal(s.mutex.locked, 0);
    assert_int_equal(s.mutex.handoff, 0);
    return came_in;
}

static void whoever_comes_in_when_all_get_the_mutex_in_turn(void **state)
{
    int n_points = 0;

    s.ctx = test_context_new();
    aio_context_set_current(s.ctx);
    for (int i = 1; run_case(i, 1); i++) {
        assert_true(++n_points < MOST_POINTS);
        for (int k = 2; k < MOST_POINTS; k++)
            run_case(i, k);
        run_case(i, NEVER); /* nobody comes to the help of one who spins */
    }
    assert_true(n_points >= 5);
    aio_context_set_current(NULL);
    aio_context_unref(s.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_comes_in_when_all_get_the_mutex_in_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
