/* SPDX-License-Identifier: MIT */
#include "runtime/instruments_inside.h"

#include "runtime/coroutine.h"
#include "tests/unit/runtime/loop_fixture.h"

#define N_EVENTS 4

static uint64_t counter(const AioContext *ctx, size_t offset)
{
    struct aio_instruments in;

    aio_context_instruments(ctx, &in);
    return atomic_load_relaxed((const uint64_t *)((const char *)in.counters + offset));
}

#define COUNTER(ctx, name) counter(ctx, offsetof(struct aio_counters, name))

static void a_program_reads_what_its_context_counts(void **state)
{
    AioContext *ctx;
    int n = 0;

    assert_int_equal(aio_context_new(NULL, &ctx), 0);
    assert_int_equal(aio_bh_schedule_oneshot(ctx, count_call, &n), 0);
    assert_int_equal(COUNTER(ctx, bh_run), 0);
    while (n == 0)
        aio_poll(ctx, true);
    assert_int_equal(COUNTER(ctx, bh_run), 1);
    assert_true(COUNTER(ctx, polls) >= 1);
    aio_context_unref(ctx);
}

static void coroutine_fn end_at_once(void *opaque)
{
}

/* Memory of the creator's, of the least size. */
struct handed {
    struct aio_counters counters;
    struct co_entry coroutines[1];
    struct recorder_event events[N_EVENTS];
    uint64_t n_recorded;
};

static struct aio_instruments hand_over(struct handed *memory)
{
    return (struct aio_instruments){.counters = &memory->counters,
        .coroutines = memory->coroutines,
        .events = memory->events,
        .n_recorded = &memory->n_recorded,
        .n_coroutines = 1,
        .n_events = N_EVENTS};
}

static void what_was_counted_outlives_the_context(void **state)
{
    struct handed *memory = calloc(1, sizeof *memory);
    struct aio_instruments in = hand_over(memory);
    AioContext *ctx;

    assert_int_equal(aio_context_new(&(struct aio_config){.instruments = &in}, &ctx), 0);
    aio_context_set_current(ctx);
    for (int i = 0; i < 3; i++)
        coroutine_enter(coroutine_create(end_at_once, NULL));
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    assert_int_equal(memory->counters.co_created, 3);
    assert_int_equal(memory->counters.co_alive, 0);
    assert_int_equal(memory->counters.co_alive_high, 1);
    assert_true(memory->n_recorded >= 6);
    free(memory);
}

/* It died with coroutines; who comes after it has none of them. */
static void what_is_taken_over_of_a_dead_context_lists_no_coroutine(void **state)
{
    struct handed *memory = calloc(1, sizeof *memory);
    struct aio_instruments in = hand_over(memory);
    AioContext *ctx;

    memory->coroutines[0].id = 77;
    memory->counters.co_alive = 1;
    assert_int_equal(aio_context_new(&(struct aio_config){.instruments = &in}, &ctx), 0);
    assert_int_equal(memory->coroutines[0].id, 0);
    assert_int_equal(memory->counters.co_alive, 0);
    aio_context_unref(ctx);
    free(memory);
}

static void the_recorder_keeps_the_newest_events(void **state)
{
    struct handed *memory = calloc(1, sizeof *memory);
    struct aio_instruments in = hand_over(memory);

    for (uint64_t i = 1; i <= N_EVENTS + 2; i++)
        recorder_note_at(&in, i, RECORDER_STATE, i, 0);
    assert_int_equal(memory->n_recorded, N_EVENTS + 2);
    for (uint64_t i = 0; i < N_EVENTS; i++)
        assert_int_equal(memory->events[i].a, i < 2 ? N_EVENTS + 1 + i : i + 1);
    free(memory);
}

/* ---- on each monitor ---- */

static const struct aio_counters *counters(const struct loop *loop)
{
    return loop->ctx->instruments.counters;
}

static void recorder_keeps_the_newest_events(void **state)
{
    struct recorder_event events[4] = {0};
    uint64_t n_recorded = 0;
    struct aio_instruments in = {.events = events, .n_recorded = &n_recorded, .n_events = 4};

    for (uint64_t i = 0; i < 6; i++)
        recorder_note(&in, RECORDER_STATE, i, 2 * i);
    assert_int_equal(n_recorded, 6);
    for (uint64_t i = 2; i < 6; i++) {
        assert_int_equal(events[i % 4].kind, RECORDER_STATE);
        assert_int_equal(events[i % 4].a, i);
        assert_int_equal(events[i % 4].b, 2 * i);
        assert_int_not_equal(events[i % 4].ns, 0);
    }
}

/* Turns the loop until a timer has fired that is due after so long. */
static void turn_until_due(struct loop *loop, int64_t length_ns)
{
    AioTimer timer;
    int calls = 0;

    aio_timer_init(loop->ctx, &timer, count_call, &calls);
    timer_mod_ns(&timer, aio_clock_ns() + length_ns);
    while (calls == 0)
        aio_poll(loop->ctx, true);
}

static void wait_is_recorded_with_its_length(void **state)
{
    struct loop *loop = *state;
    const struct recorder_event *events = loop->ctx->instruments.events;
    int64_t length_ns = LOOP_MS;
    uint64_t begin;

    do { /* who had no processor until it was due has not waited */
        length_ns *= 2;
        assert_true(length_ns < LOOP_DEADLINE_NS);
        begin = *loop->ctx->instruments.n_recorded;
        turn_until_due(loop, length_ns);
    } while (*loop->ctx->instruments.n_recorded == begin || events[begin].kind != RECORDER_SLEEP);
    assert_in_range(events[begin].a, 1, length_ns);
    assert_int_equal(events[begin + 1].kind, RECORDER_WAKE);
    assert_int_equal(events[begin + 1].a, events[begin + 1].ns - events[begin].ns);
    assert_true(counters(loop)->busy_ns >= counters(loop)->longest_turn_ns);
}

static void loop_that_never_waits_is_not_shown_as_idle(void **state)
{
    struct loop *loop = *state;
    uint64_t before_ns = counters(loop)->busy_ns;
    int64_t end_ns = aio_clock_ns() + 20 * LOOP_MS;

    while (aio_clock_ns() < end_ns)
        aio_poll(loop->ctx, false);
    for (int turn = 0; turn < 64; turn++)
        aio_poll(loop->ctx, false);
    assert_true(counters(loop)->busy_ns - before_ns >= 20 * LOOP_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_program_reads_what_its_context_counts),
        cmocka_unit_test(what_was_counted_outlives_the_context),
        cmocka_unit_test(what_is_taken_over_of_a_dead_context_lists_no_coroutine),
        cmocka_unit_test(the_recorder_keeps_the_newest_events),
    };
    const struct CMUnitTest cases[] = {
        LOOP_CASE(recorder_keeps_the_newest_events),
        LOOP_CASE(wait_is_recorded_with_its_length),
        LOOP_CASE(loop_that_never_waits_is_not_shown_as_idle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) + LOOP_RUN(cases);
}
