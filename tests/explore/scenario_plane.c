/* SPDX-License-Identifier: MIT */
/*
 * ipc/plane/plane.c, lane.c, intake.c, ledger.c and ipc/client/local_lane.h: a request reaches its
 * shard and its end the client, whoever of the two is about to sleep.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage_plane.h"

#define MAX_REQUESTS (PLANE_STAGE_ENTRIES + 1)

enum { M_ECHO, M_NAP, N_METHODS };

static struct {
    struct plane_stage stage;
    struct plane_end shard;
    struct plane_client clients[PLANE_STAGE_CLIENTS];
    uint32_t n_requests; /* of each client */
    uint32_t n_naps;
} s;

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    return call->outside->reply(call, call->args, call->args_len);
}

static int coroutine_fn run_nap(struct service_call *call)
{
    s.n_naps++;
    call->sleeper = coroutine_self();
    if (!call->abandoned)
        coroutine_yield_at("a cancel");
    return -ECANCELED;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = ""},
    [M_NAP] = {.name = "nap", .run = run_nap, .help = ""},
};

/* ---- the stage ---- */

static void begin_with(
    uint32_t n_clients, uint32_t n_requests, uint32_t n_ledger, uint64_t position)
{
    const struct plane_stage_plan plan = {.methods = methods,
        .n_methods = N_METHODS,
        .n_clients = n_clients,
        .n_ledger = n_ledger,
        .position = position};

    memset(&s, 0, sizeof s);
    plane_stage_begin(&s.stage, &plan);
    s.n_requests = n_requests;
    plane_stage_open(&s.stage, &s.shard);
    for (uint32_t i = 0; i < n_clients; i++)
        plane_client_begin(&s.stage, &s.clients[i], i);
}

static void begin_one(void)
{
    begin_with(1, 1, 4, 0);
}

static void begin_two(void)
{
    begin_with(1, 2, 4, 0);
}

static void begin_two_clients(void)
{
    begin_with(2, 1, 4, 0);
}

/* One slot, and the one that is kept. */
static void begin_narrow(void)
{
    begin_with(1, 2, 2, 0);
}

static void begin_more_than_a_ring(void)
{
    begin_with(1, MAX_REQUESTS, 4, 0);
}

static void begin_at_the_wrap_of_turns(void)
{
    begin_with(1, 3, 4, UINT32_MAX - 1);
}

static void end(void)
{
    for (uint32_t i = 0; i < s.stage.plan.n_clients; i++)
        plane_stage_check(&s.stage, i, s.n_requests);
}

/* ---- clients ---- */

static void push(struct plane_client *client, uint64_t id)
{
    plane_client_push(client, id, M_ECHO);
}

static void take(struct plane_client *client, uint64_t id)
{
    struct plane_completion completion = plane_client_await(client);

    explorer_check(completion.id == id && completion.end == CALL_END_DONE);
    explorer_check(completion.len == 1 && completion.inline_answer[0] == (uint8_t)id);
}

static struct plane_client *own(void)
{
    return &s.clients[explorer_self()];
}

/* Each once the one before has ended. */
static void call_in_turn(void)
{
    for (uint64_t id = 1; id <= s.n_requests; id++) {
        push(own(), id);
        plane_client_flush(own());
        take(own(), id);
    }
    plane_stage_is_over(&s.stage);
}

/* One fence and at most one byte for all of them. */
static void call_together(void)
{
    for (uint64_t id = 1; id <= s.n_requests; id++)
        push(own(), id);
    plane_client_flush(own());
    for (uint64_t id = 1; id <= s.n_requests; id++)
        take(own(), id);
    plane_stage_is_over(&s.stage);
}

/* Half a ring at most is under way. */
static void call_through_a_window(void)
{
    uint64_t pushed = 0, taken = 0;

    while (taken < s.n_requests) {
        while (pushed < s.n_requests && pushed - taken < PLANE_STAGE_ENTRIES / 2)
            push(own(), ++pushed);
        plane_client_flush(own());
        while (taken < pushed)
            take(own(), ++taken);
    }
    plane_stage_is_over(&s.stage);
}

/* One in each ring: either may be the first to be seen. */
static void call_in_both_rings(void)
{
    struct local_lane *lane = &own()->lane;
    uint64_t ids = 0;

    push(own(), 1);
    plane_client_fill(&lane->urgent, 2, M_ECHO, PLANE_URGENT);
    local_lane_push(lane, &lane->urgent);
    plane_client_flush(own());
    ids += plane_client_await(own()).id;
    ids += plane_client_await(own()).id;
    explorer_check(ids == 1 + 2);
    plane_stage_is_over(&s.stage);
}

static void take_cancelled(uint64_t id)
{
    struct plane_completion completion = plane_client_await(own());

    explorer_check(completion.id == id && completion.end == CALL_END_CANCELLED);
}

static void cancel_a_nap(void)
{
    plane_client_push(own(), 1, M_NAP);
    plane_client_flush(own());
    plane_client_cancel(own(), 1, 0);
    plane_client_flush(own());
    take_cancelled(1);
    explorer_check(s.n_naps == 1);
    plane_stage_is_over(&s.stage);
}

/* There is room for one nap: the other waits in the ring, and its cancel behind it. */
static void cancel_what_waits(void)
{
    plane_client_push(own(), 1, M_NAP);
    plane_client_push(own(), 2, M_NAP);
    plane_client_flush(own());
    plane_client_cancel(own(), 2, 1);
    plane_client_flush(own());
    take_cancelled(2);
    plane_client_cancel(own(), 1, 0);
    plane_client_flush(own());
    take_cancelled(1);
    explorer_check(s.n_naps == 1);
    plane_stage_is_over(&s.stage);
}

/* ---- clients that do it wrong ---- */

static void look_before_the_fence(void)
{
    push(own(), 1);
    if (local_lane_wants_bell(&own()->lane))
        local_lane_ring(&own()->lane);
    local_lane_fence();
    take(own(), 1);
    plane_stage_is_over(&s.stage);
}

static void look_before_the_push(void)
{
    bool wants = local_lane_wants_bell(&own()->lane);

    push(own(), 1);
    local_lane_fence();
    if (wants)
        local_lane_ring(&own()->lane);
    take(own(), 1);
    plane_stage_is_over(&s.stage);
}

static void arm_without_a_second_look(void)
{
    push(own(), 1);
    plane_client_flush(own());
    if (!local_lane_has(&own()->lane)) {
        local_lane_arm(&own()->lane);
        local_lane_fence();
        explorer_fd_wait(own()->lane.bell_fd, false);
    }
    take(own(), 1);
    plane_stage_is_over(&s.stage);
}

static void arm_without_a_fence(void)
{
    push(own(), 1);
    plane_client_flush(own());
    local_lane_arm(&own()->lane);
    if (!local_lane_has(&own()->lane))
        explorer_fd_wait(own()->lane.bell_fd, false);
    take(own(), 1);
    plane_stage_is_over(&s.stage);
}

static void fill_after_the_push(void)
{
    struct local_ring *ring = &own()->lane.ring;
    struct plane_submission *entry = local_ring_next(ring);

    local_lane_push(&own()->lane, ring);
    entry->method = M_ECHO;
    plane_client_flush(own());
    plane_client_await(own());
    plane_stage_is_over(&s.stage);
}

/* ---- the shard ---- */

static void serve(void)
{
    plane_stage_serve(&s.stage, &s.shard);
}

/* Its lane has been quiet for so long that the next look in vain has its client ring. */
static void serve_and_lose_patience(void)
{
    struct lane *lane = s.shard.plane->lanes[0];

    lane->n_quiet = UINT32_MAX - 1;
    s.shard.loop.source->dispatch(s.shard.plane);
    plane_stage_serve(&s.stage, &s.shard);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define DAILY_LARGE                        \
    {                                      \
        .preemptions = 1, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 3, .stale_loads = 2 \
    }

const struct scenario plane_scenarios[] = {
    {"a_request_wakes_a_shard_and_its_end_the_client", begin_one, end, DAILY, LONG,
        {{"client", call_in_turn}, {"shard", serve}}},
    {"a_shard_that_slept_is_woken_again", begin_two, end, DAILY, LONG,
        {{"client", call_in_turn}, {"shard", serve}}},
    {"one_fence_and_one_byte_are_enough_for_a_batch", begin_two, end, DAILY, LONG,
        {{"client", call_together}, {"shard", serve}}},
    {"two_clients_are_both_heard", begin_two_clients, end, DAILY_LARGE, DAILY,
        {{"first", call_in_turn}, {"second", call_in_turn}, {"shard", serve}}},
    {"a_quiet_lane_is_told_to_ring_and_nothing_pushed_meanwhile_is_lost", begin_one, end, DAILY,
        LONG, {{"client", call_in_turn}, {"shard", serve_and_lose_patience}}},
    {"a_request_waits_for_a_slot_and_goes_on", begin_narrow, end, DAILY, LONG,
        {{"client", call_together}, {"shard", serve}}},
    {"an_entry_of_a_ring_is_used_again", begin_more_than_a_ring, end, DAILY_LARGE, DAILY,
        {{"client", call_through_a_window}, {"shard", serve}}},
    {"turns_wrap", begin_at_the_wrap_of_turns, end, DAILY_LARGE, DAILY,
        {{"client", call_together}, {"shard", serve}}},
    {"a_cancel_ends_what_runs", begin_one, end, DAILY, LONG,
        {{"client", cancel_a_nap}, {"shard", serve}}},
    {"a_cancel_is_heard_behind_what_waits", begin_narrow, end, DAILY_LARGE, DAILY,
        {{"client", cancel_what_waits}, {"shard", serve}}},
    {"each_ring_of_a_lane_is_looked_into", begin_two, end, DAILY, LONG,
        {{"client", call_in_both_rings}, {"shard", serve}}},

    {"wrong: looks whether to ring before the fence", begin_one, end, DAILY, LONG,
        {{"client", look_before_the_fence}, {"shard", serve}}},
    {"wrong: looks whether to ring before it has pushed", begin_one, end, DAILY, LONG,
        {{"client", look_before_the_push}, {"shard", serve}}},
    {"wrong: sleeps without a look behind client_sleeps", begin_one, end, DAILY, LONG,
        {{"client", arm_without_a_second_look}, {"shard", serve}}},
    {"wrong: looks for a completion without a fence", begin_one, end, DAILY, LONG,
        {{"client", arm_without_a_fence}, {"shard", serve}}},
    {"wrong: writes to an entry that it has pushed", begin_one, end, DAILY, LONG,
        {{"client", fill_after_the_push}, {"shard", serve}}},
    {NULL},
};
