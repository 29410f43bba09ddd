/* SPDX-License-Identifier: MIT */
/*
 * Who is alive in a context, as a tool reads it from the instruments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/coroutine.h"
#include "runtime/instruments_inside.h"
#include "tests/unit/runtime/loop_thread.h"

#define N_ENTRIES 4

/* What the creator of a context lends it. */
struct lent {
    struct aio_counters counters;
    struct co_entry entries[N_ENTRIES];
    struct aio_instruments instruments;
};

static struct lent here;
static struct lent there;
static AioContext *ctx;
static AioContext *other; /* polled by this thread too, in its turn */

static AioContext *context_with(struct lent *lent)
{
    struct aio_config config = {
        .engine = AIO_ENGINE_THREADS,
        .instruments = &lent->instruments,
    };
    AioContext *made = NULL;

    memset(lent, 0, sizeof *lent);
    lent->instruments = (struct aio_instruments){
        .counters = &lent->counters,
        .coroutines = lent->entries,
        .n_coroutines = N_ENTRIES,
    };
    assert_int_equal(aio_context_new(&config, &made), 0);
    return made;
}

static int setup(void **state)
{
    ctx = context_with(&here);
    other = context_with(&there);
    aio_context_set_current(ctx);
    return 0;
}

static int teardown(void **state)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    aio_context_unref(other);
    return 0;
}

static int n_listed(const struct lent *lent)
{
    int n = 0;

    for (int i = 0; i < N_ENTRIES; i++)
        n += lent->entries[i].id != 0;
    return n;
}

static const struct co_entry *only_entry(const struct lent *lent)
{
    assert_int_equal(n_listed(lent), 1);
    for (int i = 0; i < N_ENTRIES; i++)
        if (lent->entries[i].id != 0)
            return &lent->entries[i];
    return NULL;
}

static const char why[] = "a reason";

static void coroutine_fn wait_twice(void *opaque)
{
    coroutine_yield_at(why);
    coroutine_yield_at(why);
}

static void coroutine_fn look_at_own_entry(void *opaque)
{
    assert_int_equal(only_entry(&here)->wait_site, 0);
    coroutine_yield_at(why);
    assert_int_equal(only_entry(&here)->wait_site, 0);
}

static void an_entry_tells_name_function_and_why_it_waits(void **state)
{
    int64_t before_ns = aio_clock_ns();
    Coroutine *co = coroutine_create(look_at_own_entry, NULL);
    const struct co_entry *entry = only_entry(&here);

    assert_string_equal(entry->name, "look_at_own_entry");
    assert_int_equal(entry->entry, (uintptr_t)look_at_own_entry);
    assert_in_range(entry->created_ns, (uint64_t)before_ns, (uint64_t)aio_clock_ns());
    coroutine_enter(co);
    assert_int_equal(entry->wait_site, (uintptr_t)why);
    coroutine_enter(co);
    assert_int_equal(n_listed(&here), 0);
}

static void a_long_name_is_cut(void **state)
{
    const char *name = "a_name_of_more_than_thirty_one_bytes_in_all";
    Coroutine *co = coroutine_create_full(look_at_own_entry, NULL, name, 0);

    assert_int_equal(strlen(only_entry(&here)->name), 31);
    assert_memory_equal(only_entry(&here)->name, name, 31);
    coroutine_enter(co);
    coroutine_enter(co);
}

static void a_full_registry_is_counted_and_holds_up_nobody(void **state)
{
    Coroutine *all[N_ENTRIES + 2];

    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < N_ENTRIES + 2; i++)
            coroutine_enter(all[i] = coroutine_create(wait_twice, NULL));
        assert_int_equal(n_listed(&here), N_ENTRIES);
        assert_int_equal(here.counters.co_unlisted, 2 * round);
        assert_int_equal(here.counters.co_alive, N_ENTRIES + 2);
        for (int i = 0; i < N_ENTRIES + 2; i++) {
            coroutine_enter(all[i]);
            coroutine_enter(all[i]);
        }
        assert_int_equal(n_listed(&here), 0);
    }
    assert_int_equal(here.counters.co_alive, 0);
    assert_int_equal(here.counters.co_alive_high, N_ENTRIES + 2);
    assert_int_equal(here.counters.co_created, 2 * (N_ENTRIES + 2));
    assert_int_equal(here.counters.co_switches, 3 * 2 * (N_ENTRIES + 2));
}

static void make_current(AioContext *next)
{
    aio_context_set_current(NULL);
    aio_context_set_current(next);
}

static void run_other(void)
{
    make_current(other);
    while (aio_poll(other, false))
        continue;
    make_current(ctx);
}

static void coroutine_fn move_over(void *opaque)
{
    aio_co_reschedule_self(other);
    coroutine_yield_at(why);
}

static void who_moves_is_counted_where_it_is(void **state)
{
    Coroutine *co = coroutine_create(move_over, NULL);

    assert_int_equal(here.counters.co_alive, 1);
    coroutine_enter(co);
    assert_int_equal(here.counters.co_alive, 0);
    assert_int_equal(n_listed(&here), 0);
    run_other();
    assert_int_equal(there.counters.co_alive, 1);
    assert_string_equal(only_entry(&there)->name, "move_over");
    aio_co_wake(co);
    run_other();
    assert_int_equal(there.counters.co_alive, 0);
    assert_int_equal(here.counters.co_created + there.counters.co_created, 1);
}

/* Takes coroutines of ctx into other from the thread of neither. */
static void *take_away(void *opaque)
{
    Coroutine **all = opaque;

    for (int i = 0; i < N_ENTRIES + 1; i++)
        aio_co_schedule(other, all[i]);
    return NULL;
}

static void take_all_away(Coroutine **all)
{
    pthread_t thread;

    for (int i = 0; i < N_ENTRIES + 1; i++)
        coroutine_enter(all[i] = coroutine_create(wait_twice, NULL));
    assert_int_equal(pthread_create(&thread, NULL, take_away, all), 0);
    pthread_join(thread, NULL);
    run_other();
    assert_int_equal(there.counters.co_alive, N_ENTRIES + 1);
}

static void end_all(Coroutine **all)
{
    for (int i = 0; i < N_ENTRIES + 1; i++)
        aio_co_wake(all[i]);
    run_other();
    assert_int_equal(there.counters.co_alive, 0);
    assert_int_equal(n_listed(&there), 0);
}

static void who_was_taken_away_is_let_go_at_the_next_change(void **state)
{
    Coroutine *all[N_ENTRIES + 1];

    take_all_away(all);
    assert_int_equal(here.counters.co_alive, N_ENTRIES + 1);
    Coroutine *co = coroutine_create(look_at_own_entry, NULL);
    assert_int_equal(here.counters.co_alive, 1);
    coroutine_enter(co);
    coroutine_enter(co);
    end_all(all);
    assert_int_equal(here.counters.co_created, N_ENTRIES + 2);
    assert_int_equal(there.counters.co_created, 0);
}

static void a_context_may_end_while_its_coroutines_wait(void **state)
{
    Coroutine *all[N_ENTRIES + 1];

    for (int i = 0; i < N_ENTRIES + 1; i++)
        coroutine_enter(all[i] = coroutine_create(wait_twice, NULL));
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    assert_int_equal(n_listed(&here), 0);
    for (int i = 0; i < N_ENTRIES + 1; i++)
        aio_co_schedule(other, all[i]);
    ctx = context_with(&here); /* for teardown */
    run_other();
    end_all(all);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(an_entry_tells_name_function_and_why_it_waits),
        CASE(a_long_name_is_cut),
        CASE(a_full_registry_is_counted_and_holds_up_nobody),
        CASE(who_moves_is_counted_where_it_is),
        CASE(who_was_taken_away_is_let_go_at_the_next_change),
        CASE(a_context_may_end_while_its_coroutines_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
