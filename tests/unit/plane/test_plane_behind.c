/* SPDX-License-Identifier: MIT */
/* A shard that is behind: what it no longer begins, and whom it sends away. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/pace.h"
#include "shard/serve.h"
#include "tests/unit/plane/plane_rig.h"

enum { ECHO, HOLD, N_METHODS };

#define HOUR_NS   (INT64_C(3600) * 1000000000)
#define MINUTE_NS (INT64_C(60) * 1000000000)

static uint32_t holds; /* shard 1: 0: no; 1: it does; 2: it need not any more */

static int coroutine_fn run_echo(struct service_call *call)
{
    (void)call;
    return 0;
}

/* Keeps its shard's loop. */
static int coroutine_fn run_hold(struct service_call *call)
{
    (void)call;
    atomic_store_release(&holds, 1);
    while (atomic_load_acquire(&holds) != 2)
        ;
    return 0;
}

static const struct service_method methods[] = {
    [ECHO] = {"echo", run_echo, SERVICE_IDEMPOTENT, ""},
    [HOLD] = {"hold", run_hold, 0, ""}, /* not idempotent: it is begun with no other */
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = N_METHODS};

static int set_up(void **state)
{
    holds = 0;
    *state = plane_bench_new(&service, 0);
    return 0;
}

static void push(struct plane_bench *b, uint32_t shard, uint32_t method, uint32_t flags)
{
    struct plane_submission *entry = client_next(&b->client);

    entry->method = (uint16_t)method;
    entry->flags = (uint8_t)(PLANE_ARGS_INLINE | flags);
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = shard;
    entry->deadline_ns = (uint64_t)(aio_clock_ns() + MINUTE_NS);
    client_push(&b->client);
}

static void what_would_end_too_late_is_not_begun(void **state)
{
    struct plane_bench *b = *state;
    struct pace *pace = serve_pace(b->end.mesh);

    pace->held_ns[ECHO] = HOUR_NS;
    push(b, 0, ECHO, 0);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    pace->held_ns[ECHO] = HOUR_NS;
    pace->late_ns = aio_clock_ns() + HOUR_NS; /* and so it stays */
    push(b, 0, ECHO, 0);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_EXPIRED);
}

static void who_would_rather_not_wait_is_sent_away_by_the_shard_that_would_forward(void **state)
{
    struct plane_bench *b = *state;
    struct plane_completion c;
    int64_t until_ns;

    push(b, 1, HOLD, 0);
    while (!atomic_load_acquire(&holds))
        aio_poll(b->end.ctx, false);
    push(b, 1, ECHO, 0); /* which nobody takes */
    until_ns = aio_clock_ns() + 2 * PACE_WAIT_NS;
    while (aio_clock_ns() < until_ns)
        aio_poll(b->end.ctx, false);
    push(b, 1, ECHO, PLANE_REFUSE);
    c = plane_bench_await(b, &b->client);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -EAGAIN);
    assert_true(c.retry_us >= 1000);
    atomic_store_release(&holds, 2);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, plane_bench_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(what_would_end_too_late_is_not_begun),
        CASE(who_would_rather_not_wait_is_sent_away_by_the_shard_that_would_forward),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
