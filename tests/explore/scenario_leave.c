/* SPDX-License-Identifier: MIT */
/*
 * ipc/gateway/attach_closed.c and ipc/plane/lane.c, plane_shard.c: a shard that is given up, or
 * that leaves in order, tells its clients how far it came. What it did not take has not run, so
 * they may submit it elsewhere; and who uses the lane anew finds it nobody else's.
 *
 * One thread is the supervisor: it learns of a death, and goes on as the shard that is started
 * again.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage_gateway.h"

#define N_IDS      3 /* requests, from 1 on */
#define LANE_BYTES 2048

enum { M_ONCE, N_METHODS };

static struct {
    struct plane_stage stage;
    struct plane_end ends[2];
    struct gateway_end gateways[2];
    struct plane_client client;
    uint32_t runs[N_IDS];
    uint32_t n_ends[N_IDS];
    uint32_t leaves; /* the shard has been told to */
    char restart;    /* what is posted when an operator may start a shard again */
} s;

/* ---- the stage ---- */

static int coroutine_fn run_once(struct service_call *call)
{
    s.runs[call->args[0]]++;
    return call->outside->reply(call, call->args, call->args_len);
}

static const struct service_method methods[N_METHODS] = {
    [M_ONCE] = {.name = "once", .run = run_once, .help = ""},
};

static const struct plane_stage_plan plan = {
    .methods = methods, .n_methods = N_METHODS, .n_clients = 1, .n_ledger = 4};

static void begin(void)
{
    memset(&s, 0, sizeof s);
    gateway_stage_begin(&s.stage, &plan);
    plane_stage_open(&s.stage, &s.ends[0]);
    gateway_stage_open(&s.stage, &s.gateways[0]);
    gateway_stage_attach(&s.stage, &s.ends[0], &s.client, 0);
}

static void begin_without_a_gateway(void)
{
    memset(&s, 0, sizeof s);
    parts_gateway_reset();
    plane_stage_begin(&s.stage, &plan);
    plane_stage_open(&s.stage, &s.ends[0]);
    plane_client_begin(&s.stage, &s.client, 0);
}

/* ---- the client ---- */

static void push(uint64_t id)
{
    plane_client_push(&s.client, id, M_ONCE);
}

static void note_end(const struct plane_completion *completion)
{
    explorer_check(completion->id > 0 && completion->id < N_IDS);
    explorer_check(s.n_ends[completion->id]++ == 0);
    explorer_check(completion->end == CALL_END_DONE || completion->end == CALL_END_IN_DOUBT);
}

/* Whether it was told one of `what` before all of n have ended. */
static bool await_ends(uint32_t n, uint32_t what)
{
    struct plane_completion completion;

    for (uint32_t i = 0; i < n; i++) {
        if (!gateway_client_await(&s.client, what, &completion))
            return true;
        note_end(&completion);
    }
    return false;
}

static void take_last(void)
{
    struct plane_completion completion;

    while (local_lane_pop(&s.client.lane, &completion))
        note_end(&completion);
}

/* Requests 1 to n were pushed at positions 0 to n - 1. */
static void check_untaken(uint64_t first, uint64_t n)
{
    for (uint64_t position = first; position < n; position++)
        explorer_check(s.runs[position + 1] == 0 && s.n_ends[position + 1] == 0);
}

/* As on_closed() in ipc/client/local_life.c. */
static void clear_lane(void)
{
    static const uint8_t zeros[LANE_BYTES];

    memcpy(s.client.lane.words, zeros, sizeof(zeros));
    plane_client_begin(&s.stage, &s.client, 0);
}

/* What the shard never took, or, where that had been taken, another. */
static void use_lane_anew(uint64_t taken)
{
    uint64_t id = taken == 0 ? 1 : 2;
    uint32_t told;

    clear_lane();
    parts_connection_say(0, SAID_OPEN);
    told = parts_connection_wait(0, TOLD_OPENED_AGAIN | TOLD_REFUSED | TOLD_OVER);
    if (told & (TOLD_REFUSED | TOLD_OVER))
        return;
    push(id);
    plane_client_flush(&s.client);
    if (!await_ends(1, TOLD_OVER))
        explorer_check(s.n_ends[id] == 1);
}

static void call_and_go_on(void)
{
    push(1);
    plane_client_flush(&s.client);
    if (await_ends(1, TOLD_CLOSED | TOLD_OVER) && !(parts_connection_told(0) & TOLD_OVER)) {
        uint64_t taken = parts_connection_taken(0);
        take_last();
        check_untaken(taken, 1);
        explorer_post(&s.restart);
        use_lane_anew(taken);
    } else {
        explorer_post(&s.restart);
    }
    plane_stage_is_over(&s.stage);
}

/* As untaken_from() in ipc/client/local_loss.c. */
static void call_until_it_leaves(void)
{
    push(1);
    push(2);
    plane_client_flush(&s.client);
    if (!await_ends(2, TOLD_OVER))
        return;
    uint64_t closed = atomic_load_acquire(&s.client.lane.words->closed);

    if (closed == 0)
        return;
    check_untaken(closed - 1, 2);
    explorer_check(atomic_load_relaxed(&s.client.lane.words->urgent_closed) == 1);
}

static void call_through_it(void)
{
    push(1);
    push(2);
    plane_client_flush(&s.client);
    explorer_check(!await_ends(2, TOLD_OVER));
    plane_stage_is_over(&s.stage);
}

/* ---- shards ---- */

static void serve(void)
{
    plane_stage_serve(&s.stage, &s.ends[0]);
}

static void serve_and_leave(void)
{
    while (!atomic_or_seq(&s.leaves, 0u))
        parts_plane_turn(&s.ends[0].loop);
    plane_close(s.ends[0].plane);
}

/* What comes is left for the next one. */
static void serve_and_return(void)
{
    while (!atomic_or_seq(&s.leaves, 0u))
        parts_plane_turn(&s.ends[0].loop);
    plane_drain(s.ends[0].plane, true);
    while (!plane_is_idle(s.ends[0].plane))
        parts_plane_turn(&s.ends[0].loop);
    plane_close(s.ends[0].plane);
}

/* ---- the supervisor ---- */

static void tell_to_leave(void)
{
    atomic_store_release(&s.leaves, 1);
    parts_plane_knock();
}

/* The connection may end before the shard has left. */
static void end_instance(void)
{
    tell_to_leave();
    parts_connection_tell(0, TOLD_OVER);
}

static void go_on_as_the_next(void)
{
    plane_stage_open(&s.stage, &s.ends[1]);
    plane_stage_serve(&s.stage, &s.ends[1]);
}

static void return_and_replace(void)
{
    tell_to_leave();
    explorer_wait_for_end_of(1);
    plane_stage_bury(&s.stage);
    go_on_as_the_next();
}

static bool give_up(void)
{
    if (!explorer_wait_for_crash_of(1))
        return false;
    gateway_stage_bury_shard(&s.stage, PEER_FAILED);
    plane_stage_is_quiet(&s.stage, 1);
    explorer_fd_write(PARTS_GATEWAY_FD);
    return true;
}

static void start_again(void)
{
    atomic_store_release(&segment_control(&s.stage.seg, 0)->state, (uint32_t)PEER_STARTING);
    go_on_as_the_next();
}

static void give_up_and_start_again(void)
{
    if (!give_up())
        return;
    explorer_wait(&s.restart);
    start_again();
}

/* Whether or not its clients have been told. */
static void give_up_and_start_at_once(void)
{
    if (give_up())
        start_again();
}

/* ---- the gateway ---- */

static void admit(void)
{
    gateway_stage_serve(&s.stage, &s.gateways[0]);
}

static void admit_after(void)
{
    if (!explorer_wait_for_crash_of(2))
        return;
    gateway_stage_bury(&s.stage);
    gateway_stage_open(&s.stage, &s.gateways[1]);
    gateway_stage_serve(&s.stage, &s.gateways[1]);
}

/* ---- what holds in the end ---- */

static void end(void)
{
    for (uint32_t id = 1; id < N_IDS; id++)
        explorer_check(s.runs[id] <= 1 && s.n_ends[id] <= 1);
}

/* Where it comes too late to tell the client, that is cut off for its shard's sake, and for nothing
 * of its own. */
static void end_given_up(void)
{
    uint32_t reason = segment_client(&s.stage.seg, 0)->reason;

    end();
    explorer_check(reason == CUT_NONE || reason == CUT_SHARD);
}

/* Nobody has left, as far as the client can tell. */
static void end_of_return(void)
{
    end();
    plane_stage_check(&s.stage, 0, 2);
    explorer_check(s.client.lane.words->closed == 0);
}

#define BOUNDS(p, s, c)                                        \
    {                                                          \
        .preemptions = (p), .stale_loads = (s), .crashes = (c) \
    }

const struct scenario leave_scenarios[] = {
    {"what_a_shard_that_leaves_did_not_take_has_not_run", begin_without_a_gateway, end,
        BOUNDS(2, 1, 0), BOUNDS(3, 1, 0),
        {{"client", call_until_it_leaves}, {"shard", serve_and_leave},
            {"supervisor", end_instance}}},
    {"what_it_leaves_in_the_ring_its_replacement_runs", begin_without_a_gateway, end_of_return,
        BOUNDS(2, 0, 0), BOUNDS(2, 1, 0),
        {{"client", call_through_it}, {"shard", serve_and_return},
            {"supervisor", return_and_replace}}},
    {"what_a_shard_that_is_given_up_did_not_take_runs_once", begin, end_given_up, BOUNDS(0, 1, 1),
        BOUNDS(1, 1, 1),
        {{"client", call_and_go_on}, {"shard", serve, .may_crash = true}, {"gateway", admit},
            {"supervisor", give_up_and_start_again}}},
    {"and_so_it_does_where_the_gateway_dies_too", begin, end_given_up, BOUNDS(0, 0, 2),
        BOUNDS(1, 0, 2),
        {{"client", call_and_go_on},
            {"shard", serve, .may_crash = true, .crashes_in = "ledger_commit"},
            {"gateway", admit, .may_crash = true, .crashes_in = "attach_closed.c"},
            {"supervisor", give_up_and_start_again}, {"next gateway", admit_after}}},
    {"a_lane_that_is_over_is_served_by_nobody", begin, end_given_up, BOUNDS(1, 1, 1),
        BOUNDS(2, 1, 1),
        {{"client", call_and_go_on},
            {"shard", serve, .may_crash = true, .crashes_in = "ledger_commit"}, {"gateway", admit},
            {"supervisor", give_up_and_start_at_once}}},
    {NULL},
};
