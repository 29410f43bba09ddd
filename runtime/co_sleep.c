/* SPDX-License-Identifier: MIT */
#include "runtime/co_sleep.h"
/*
 * The sleeper and its timer lie on the coroutine's stack. Who takes the sleeper out of its CoSleep,
 * under the lock, ends the sleep: the timer, a waker, or the end of a scope. The timer's callback
 * runs in the thread of the sleeper, so that it can't be under way when the coroutine goes on and
 * disarms it. Once a sleep has ended, another coroutine may sleep there before this one has run: so
 * timer and scope take their own sleeper, or nobody.
 *
 * The sleeper holds the right to enter itself, so that anyone else who wakes it aborts instead of
 * leaving an armed timer on a stack that is used otherwise. Who ends the sleep gives it up first.
 */
#include "runtime/bug.h"
#include "runtime/co_wait.h"
#include "runtime/coroutine_inside.h"

#define NO_END INT64_MAX

struct co_sleeper {
    struct co_wait wait;
    CoSleep *sleep;
    Coroutine *co;
    bool was_woken; /* written by who took it */
};

void co_sleep_init(CoSleep *sleep)
{
    *sleep = (CoSleep){.sleeper = NULL};
    pthread_mutex_init(&sleep->lock, NULL);
}

void co_sleep_deinit(CoSleep *sleep)
{
    if (sleep->sleeper)
        bug("a CoSleep ends while coroutine %s sleeps in it", sleep->sleeper->co->name);
    pthread_mutex_destroy(&sleep->lock);
}

/* ---- the end of a sleep ---- */

/* The sleeper, or this one only where it is not NULL, for who is the first to come; NULL for the
 * others. */
static struct co_sleeper *take_sleeper(CoSleep *sleep, const struct co_sleeper *only)
{
    pthread_mutex_lock(&sleep->lock);
    struct co_sleeper *sleeper = sleep->sleeper;
    if (only && sleeper != only)
        sleeper = NULL;
    if (sleeper)
        sleep->sleeper = NULL;
    pthread_mutex_unlock(&sleep->lock);
    if (sleeper)
        co_unclaim(sleeper->co);
    return sleeper;
}

static bool withdraw(struct co_wait *wait)
{
    const struct co_sleeper *own = (void *)wait; /* its first field */

    return take_sleeper(own->sleep, own) != NULL;
}

static void on_time(void *opaque)
{
    const struct co_sleeper *own = opaque;

    if (take_sleeper(own->sleep, own))
        aio_co_wake(own->co);
}

void co_sleep_wake(CoSleep *sleep)
{
    struct co_sleeper *sleeper = take_sleeper(sleep, NULL);

    if (!sleeper)
        return;
    sleeper->was_woken = true;
    if (in_coroutine())
        aio_co_wake(sleeper->co);
    else
        aio_co_schedule(sleeper->co->ctx, sleeper->co);
}

/* ---- sleeping ---- */

static int64_t after_ns(enum AioClock clock, int64_t ns, const char *why)
{
    int64_t now_ns = aio_clock_get_ns(co_wait_self(why)->ctx, clock);

    if (ns < 0)
        return now_ns;
    return ns < NO_END - 1 - now_ns ? now_ns + ns : NO_END - 1;
}

static void lie_down(CoSleep *sleep, struct co_sleeper *sleeper, const char *why)
{
    Coroutine *self = co_wait_self(why);

    *sleeper = (struct co_sleeper){.wait.withdraw = withdraw, .sleep = sleep, .co = self};
    co_claim(self, why);
    pthread_mutex_lock(&sleep->lock);
    if (sleep->sleeper)
        bug("coroutine %s in the CoSleep of %s", self->name, sleep->sleeper->co->name);
    sleep->sleeper = sleeper;
    pthread_mutex_unlock(&sleep->lock);
}

static int coroutine_fn sleep_until(
    CoSleep *sleep, enum AioClock clock, int64_t end_ns, const char *why)
{
    struct co_sleeper sleeper;
    AioTimer timer;

    lie_down(sleep, &sleeper, why);
    aio_timer_init_full(sleeper.co->ctx, &timer, clock, AIO_SCALE_NS, on_time, &sleeper);
    if (end_ns != NO_END)
        timer_mod_ns(&timer, end_ns);
    int r = co_wait(&sleeper.wait, why);
    timer_del(&timer);
    return r < 0 ? r : sleeper.was_woken;
}

int coroutine_fn co_sleep_ns_wakeable(CoSleep *sleep, enum AioClock clock, int64_t ns)
{
    return sleep_until(sleep, clock, after_ns(clock, ns, __func__), __func__);
}

int coroutine_fn co_sleep(CoSleep *sleep)
{
    return sleep_until(sleep, AIO_CLOCK_MONOTONIC, NO_END, __func__);
}

int coroutine_fn co_sleep_ns(int64_t ns)
{
    CoSleep sleep = {.sleeper = NULL}; /* that nobody else knows */

    return sleep_until(
        &sleep, AIO_CLOCK_MONOTONIC, after_ns(AIO_CLOCK_MONOTONIC, ns, __func__), __func__);
}
