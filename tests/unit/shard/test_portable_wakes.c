/* SPDX-License-Identifier: MIT */
/* Portable coroutines that wait, and who wakes them: from anywhere, at any moment, once. */
#include "tests/unit/shard/portable_fixture.h"

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "nothing", .run = run_nothing, .help = "does nothing"},
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "portable",
    .help = "for tests",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0])};

/* ---- waits and wakes ---- */

#define WAKES 500

static void coroutine_fn wait_often(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_CO, shard_co_self());
    for (uint64_t i = 1; i <= WAKES; i++) {
        CHECK(shard_co_wait(&mesh, "the other shard") == 0);
        note(WORD_HOPS, i);
    }
    note(WORD_DONE, 1);
}

static void start_waiting(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, wait_often, NULL, "wait", NULL) == 0);
    rig_serve(end);
}

static bool is_done(void *opaque)
{
    (void)opaque;
    return noted(WORD_DONE) != 0;
}

static bool has_name(void *opaque)
{
    (void)opaque;
    return noted(WORD_CO) != 0;
}

static bool has_counted(void *opaque)
{
    return noted(WORD_HOPS) >= *(const uint64_t *)opaque;
}

/* Each wake comes before or after its wait, as it happens; every second goes on in our shard. */
static void wake_often(struct rig_end *end)
{
    rig_poll_until(end, has_name, NULL);
    for (uint64_t i = 1; i <= WAKES; i++) {
        arena_co co = noted(WORD_CO);
        int r = i % 2 ? shard_co_wake(end->mesh, co) : shard_co_schedule(end->mesh, co, end->peer);

        CHECK(r == 0);
        rig_poll_until(end, has_counted, &i);
    }
    rig_poll_until(end, is_done, NULL);
    rig_serve(end);
}

static void one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told(void **state)
{
    (void)state;
    begin(1, rig_serve);
    begin(0, start_waiting);
    begin(2, wake_often);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
    rig_stop_all(&rig);
    assert_int_equal(n_in_use(), 0);
    assert_true(rig_balances(&rig));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
