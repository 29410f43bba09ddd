/* SPDX-License-Identifier: MIT */
/* two_loops - a bottom half, a timer, and a coroutine that works in two threads by turns */
#include <err.h>
#include <pthread.h>
#include <stdio.h>

#include <sherd/coroutine.h>

static bool helper_stops, timer_fired, hopper_done;

static void *run_helper(void *opaque)
{
    AioContext *ctx = opaque;
    aio_context_set_current(ctx);
    while (!helper_stops)
        aio_poll(ctx, true);
    return NULL;
}

static void stop_helper(void *opaque)
{
    helper_stops = true; /* runs in the helper's thread: nobody else touches it */
}

static void greet(void *opaque)
{
    puts("a bottom half ran");
}

static void on_timer(void *opaque)
{
    puts("the timer fired");
    timer_fired = true;
}

static void coroutine_fn hop(void *opaque)
{
    AioContext *home = aio_context_current(), *helper = opaque;
    aio_co_reschedule_self(helper);
    puts("a coroutine is in the helper's thread");
    aio_co_reschedule_self(home);
    co_sleep_ns(1 * AIO_SCALE_MS);
    puts("it is back, and has slept");
    hopper_done = true;
}

int main(void)
{
    AioContext *ctx, *helper;
    AioTimer timer;
    pthread_t thread;
    if (aio_context_new(NULL, &ctx) < 0 || aio_context_new(NULL, &helper) < 0 ||
        pthread_create(&thread, NULL, run_helper, helper) != 0)
        errx(1, "no loop, or no thread");
    aio_context_set_current(ctx);
    aio_bh_schedule_oneshot(ctx, greet, NULL);
    aio_timer_init(ctx, &timer, on_timer, NULL);
    timer_mod_ns(&timer, aio_clock_ns() + 20 * AIO_SCALE_MS);
    Coroutine *co = coroutine_create(hop, helper);
    if (!co)
        errx(1, "no stack");
    coroutine_enter(co);
    while (!timer_fired || !hopper_done)
        aio_poll(ctx, true);
    aio_bh_schedule_oneshot(helper, stop_helper, NULL);
    pthread_join(thread, NULL);
    aio_context_unref(helper);
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return 0;
}
