/* SPDX-License-Identifier: MIT */
/*
 * What of a pair's two lanes comes first, counted in messages. The callee is turned by the test
 * itself, in the same thread, so that nothing depends on time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

#define MOST_AHEAD 64 /* bulk messages of one sender that an urgent one may find under way */

static uint64_t served[2]; /* by lane, told by the arguments */
static uint64_t bulk_before_urgent;

static int coroutine_fn run_count(struct service_call *call)
{
    size_t len;
    const char *args = service_args(call, &len);

    if (len && args[0] == 'u')
        bulk_before_urgent = served[LANE_NORMAL];
    served[len && args[0] == 'u' ? LANE_URGENT : LANE_NORMAL]++;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "count", .run = run_count, .flags = SERVICE_IDEMPOTENT, .help = "counts"},
};

static const struct service test_service = {
    .abi = SERVICE_ABI, .name = "test", .help = "for tests", .methods = methods, .n_methods = 1};

/* ---- two ends in one thread ---- */

struct two {
    struct rig rig;
    struct rig_end ends[2];
};

static void turn(struct rig_end *end)
{
    aio_context_set_current(end->ctx);
    aio_poll(end->ctx, false);
    aio_context_set_current(NULL);
}

static void two_open(struct two *two)
{
    served[0] = served[1] = 0;
    bulk_before_urgent = 0;
    rig_open(&two->rig, 2, &test_service);
    for (uint32_t peer = 0; peer < 2; peer++)
        rig_begin(&two->rig, peer, &two->ends[peer]);
    for (int i = 0; i < 2; i++)
        for (uint32_t peer = 0; peer < 2; peer++)
            turn(&two->ends[peer]);
}

static void two_close(struct two *two)
{
    for (uint32_t peer = 0; peer < 2; peer++)
        rig_finish(&two->ends[peer]);
    assert_true(rig_balances(&two->rig));
    assert_int_equal(rig_slots_in_use(&two->rig), 0);
    rig_close(&two->rig);
}

static uint64_t n_done;

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    assert_int_equal(answer->end, CALL_END_DONE);
    n_done++;
}

static void start(struct two *two, struct mesh_call *call, enum mesh_lane lane)
{
    *call = (struct mesh_call){.target = 1,
        .lane = lane,
        .args = lane == LANE_URGENT ? "u" : "n",
        .args_len = 1,
        .deadline_ns = INT64_MAX,
        .done = on_done};
    aio_context_set_current(two->ends[0].ctx);
    assert_int_equal(mesh_call_start(two->ends[0].mesh, call), 0);
    aio_context_set_current(NULL);
}

static void turn_until(struct two *two, uint64_t n)
{
    while (n_done < n) {
        turn(&two->ends[0]);
        turn(&two->ends[1]);
    }
}

/* ---- cases ---- */

#define N_BULK 5000

static void an_urgent_call_overtakes_thousands_that_are_queued(void **state)
{
    struct mesh_call *bulk = calloc(N_BULK, sizeof(*bulk)), urgent;
    struct two two;

    (void)state;
    two_open(&two);
    n_done = 0;
    for (int i = 0; i < N_BULK; i++)
        start(&two, &bulk[i], LANE_NORMAL);
    start(&two, &urgent, LANE_URGENT);
    turn(&two.ends[0]);
    turn(&two.ends[1]);
    assert_int_equal(served[LANE_URGENT], 1);
    assert_int_equal(bulk_before_urgent, 0);
    turn_until(&two, N_BULK + 1);
    assert_int_equal(served[LANE_NORMAL], N_BULK);
    two_close(&two);
    free(bulk);
}

static void bulk_work_yields_to_an_urgent_call_after_a_turn_of_it(void **state)
{
    struct mesh_call *bulk = calloc(N_BULK, sizeof(*bulk)), urgent;
    struct two two;

    (void)state;
    two_open(&two);
    n_done = 0;
    for (int i = 0; i < N_BULK; i++)
        start(&two, &bulk[i], LANE_NORMAL);
    turn(&two.ends[0]);
    turn(&two.ends[1]); /* it is in the midst of them */
    assert_true(served[LANE_NORMAL] > 0);
    assert_true(served[LANE_NORMAL] <= MOST_AHEAD);
    start(&two, &urgent, LANE_URGENT);
    turn(&two.ends[0]);
    turn(&two.ends[1]);
    assert_int_equal(served[LANE_URGENT], 1);
    assert_true(bulk_before_urgent <= MOST_AHEAD);
    turn_until(&two, N_BULK + 1);
    two_close(&two);
    free(bulk);
}

/* Without a bit of the sender's: what is left is the receiver's to remember. */
static void what_one_turn_leaves_in_a_ring_is_pending_for_the_next(void **state)
{
    struct mesh_call bulk[MOST_AHEAD + 1];
    struct two two;

    (void)state;
    two_open(&two);
    n_done = 0;
    for (int i = 0; i < MOST_AHEAD + 1; i++)
        start(&two, &bulk[i], LANE_NORMAL);
    turn(&two.ends[0]);
    turn(&two.ends[1]);
    assert_in_range(served[LANE_NORMAL], 1, MOST_AHEAD); /* fewer where they took long */
    assert_int_equal(atomic_load_relaxed(&segment_bitmap(&two.rig.seg, 1)->senders[0]), 0);
    assert_true(two.ends[1].mesh->source.pending(two.ends[1].mesh));
    while (served[LANE_NORMAL] < MOST_AHEAD + 1)
        turn(&two.ends[1]);
    turn_until(&two, MOST_AHEAD + 1);
    assert_false(two.ends[1].mesh->source.pending(two.ends[1].mesh));
    two_close(&two);
}

static void messages_are_counted_in_the_lane_of_their_slot(void **state)
{
    struct mesh_call calls[3];
    struct two two;

    (void)state;
    two_open(&two);
    n_done = 0;
    start(&two, &calls[0], LANE_URGENT);
    start(&two, &calls[1], LANE_URGENT);
    start(&two, &calls[2], LANE_NORMAL);
    turn_until(&two, 3);
    const struct pair_stats *caller = segment_pair(&two.rig.seg, 0, 1);
    const struct pair_stats *callee = segment_pair(&two.rig.seg, 1, 0);
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++) {
        uint64_t n = lane == LANE_URGENT ? 2 : 1;
        assert_int_equal(caller->pushed[lane], n);
        assert_int_equal(callee->popped[lane], n);
        assert_int_equal(callee->pushed[lane], n);
        assert_int_equal(caller->popped[lane], n);
        assert_int_equal(callee->high_water[lane], n);
    }
    two_close(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_urgent_call_overtakes_thousands_that_are_queued),
        cmocka_unit_test(bulk_work_yields_to_an_urgent_call_after_a_turn_of_it),
        cmocka_unit_test(what_one_turn_leaves_in_a_ring_is_pending_for_the_next),
        cmocka_unit_test(messages_are_counted_in_the_lane_of_their_slot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
