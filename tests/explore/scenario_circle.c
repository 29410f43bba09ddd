/* SPDX-License-Identifier: MIT */
/*
 * Calls within calls, round a circle of three: each shard calls the next one, which for that calls
 * the next one, which for that calls the first. Each pair has one slot of each depth, so that all
 * of them are taken at once; nobody waits for ever, whoever dies.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "shard/call.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage.h"

#define N 3

static struct {
    struct stage stage;
    struct stage_end ends[N];
    struct stage_end heir;
    struct mesh_call calls[N];
    uint8_t hops[N];       /* of each one's call: its arguments */
    uint32_t n_told[N];    /* ends of its call: one */
    uint32_t has_ended[N]; /* its call, or it has died and nothing of it is left */
    uint32_t n_callers;    /* the first so many call */
} s;

static uint32_t next_of(uint32_t shard)
{
    return (shard + 1) % N;
}

/* ---- the method ---- */

/* As many hops further; answers how many it was. */
static int coroutine_fn run_round(struct service_call *call)
{
    uint8_t left = call->args[0], came = 0;
    struct call_answer answer;

    if (left > 0) {
        left--;
        struct call_request request = {.target = next_of(call->mesh->self),
            .args = &left,
            .args_len = 1,
            .deadline_ns = INT64_MAX,
            .depth = call->depth + 1,
            .path = path_within(call->path, call->depth, call->mesh->self)};
        int r = shard_call(call->mesh, &request, &answer);
        if (r < 0)
            return r;
        explorer_check(answer.len == 1);
        came = *(const uint8_t *)answer.data + 1;
        call_answer_deinit(&answer);
    }
    serve_put_reply(call, &came, 1);
    return 0;
}

static const struct service_method methods[] = {
    {.name = "round", .run = run_round, .flags = SERVICE_IDEMPOTENT, .help = ""},
};

/* ---- a shard ---- */

static void on_told(struct mesh_call *call, const struct mesh_answer *answer)
{
    uint32_t i = (uint32_t)(call - s.calls);

    explorer_check(answer->end == CALL_END_DONE && answer->len == 1);
    explorer_check(*(const uint8_t *)answer->data == N - 1);
    s.n_told[i]++;
}

/* Whoever finds that all have, ends it. */
static void note_end(uint32_t shard)
{
    atomic_store_release(&s.has_ended[shard], 1);
    atomic_full_fence();
    for (uint32_t i = 0; i < s.n_callers; i++)
        if (!atomic_load_acquire(&s.has_ended[i]))
            return;
    stage_is_over(&s.stage);
}

static void call_next(uint32_t self)
{
    if (self >= s.n_callers) {
        stage_serve(&s.stage, &s.ends[self]);
        return;
    }
    s.calls[self] = (struct mesh_call){.target = next_of(self),
        .args = &s.hops[self],
        .args_len = 1,
        .deadline_ns = INT64_MAX,
        .done = on_told};
    explorer_check(mesh_call_start(s.ends[self].mesh, &s.calls[self]) == 0);
    while (s.n_told[self] == 0)
        parts_mesh_turn(&s.ends[self].loop, true);
    note_end(self);
    stage_serve(&s.stage, &s.ends[self]);
}

static void run_first(void)
{
    call_next(0);
}

static void run_second(void)
{
    call_next(1);
}

static void run_third(void)
{
    call_next(2);
}

/* What the dead one had under way has come back before the heir says that its call has ended. */
static void replace(uint32_t dead)
{
    if (!explorer_wait_for_crash_of(dead))
        return;
    stage_bury(&s.stage, dead, PEER_DYING);
    stage_replace(&s.stage, &s.heir, dead);
    while (stage_has_calls(&s.stage, dead, next_of(dead)))
        parts_mesh_turn(&s.heir.loop, true);
    stage_flush(&s.heir);
    if (dead < s.n_callers)
        note_end(dead);
    stage_serve(&s.stage, &s.heir);
}

static void replace_first(void)
{
    replace(0);
}

static void replace_second(void)
{
    replace(1);
}

static void replace_third(void)
{
    replace(2);
}

/* ---- begin, end ---- */

static bool uses(uint32_t caller, uint32_t callee, uint32_t depth)
{
    return callee == next_of(caller) && depth < N;
}

static void begin_with(uint32_t n_callers)
{
    static const struct stage_plan plan = {
        .n_shards = N, .methods = methods, .n_methods = 1, .one_slot_each = true, .uses = uses};

    memset(&s, 0, sizeof(s));
    memset(s.hops, N - 1, sizeof(s.hops));
    s.n_callers = n_callers;
    stage_begin(&s.stage, &plan);
    for (uint32_t i = 0; i < N; i++)
        stage_open(&s.stage, &s.ends[i], i);
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < N; i++)
            stage_settle(&s.ends[i]);
}

static void begin(void)
{
    begin_with(N);
}

static void begin_one(void)
{
    begin_with(1);
}

static void begin_with_one_depth(void)
{
    begin();
    for (uint32_t i = 0; i < N; i++) {
        struct link *link = &s.ends[i].mesh->links[next_of(i)];
        for (uint32_t depth = 1; depth < N; depth++)
            link->classes[LANE_NORMAL][depth].free_slots = 0;
    }
}

static uint32_t n_told(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < N; i++) {
        explorer_check(s.n_told[i] <= 1);
        n += s.n_told[i];
    }
    return n;
}

static void end_of_all(void)
{
    stage_check(&s.stage);
    explorer_check(n_told() == s.n_callers);
}

static void end_of_living(void)
{
    stage_check(&s.stage);
    explorer_check(n_told() + 1 >= s.n_callers);
}

/* Three that call at once go through many orders even where none is disturbed, and so do those who
 * are told of a death. */
#define UNDISTURBED      \
    {                    \
        .preemptions = 0 \
    }
#define DISTURBED        \
    {                    \
        .preemptions = 1 \
    }
#define UNDISTURBED_DEAD \
    {                    \
        .crashes = 1     \
    }

const struct scenario circle_scenarios[] = {
    {"calls_within_calls_round_a_circle_all_end", begin, end_of_all, UNDISTURBED, DISTURBED,
        {{"first", run_first}, {"second", run_second}, {"third", run_third}}},
    {"a_call_goes_round_a_circle", begin_one, end_of_all, DISTURBED,
        {.preemptions = 2, .stale_loads = 1},
        {{"first", run_first}, {"second", run_second}, {"third", run_third}}},
    {"a_call_goes_round_though_a_callee_dies_with_it_begun", begin_one, end_of_all,
        UNDISTURBED_DEAD, UNDISTURBED_DEAD,
        {{"first", run_first},
            {"second", run_second, .may_crash = true, .crashes_in = "run_started"},
            {"third", run_third}, {"heir", replace_second}}},
    {"a_call_goes_round_though_a_callee_dies_with_it_answered", begin_one, end_of_all,
        UNDISTURBED_DEAD, UNDISTURBED_DEAD,
        {{"first", run_first}, {"second", run_second},
            {"third", run_third, .may_crash = true, .crashes_in = "mesh_flush"},
            {"heir", replace_third}}},
    {"who_calls_round_a_circle_may_die_while_it_is_called", begin_one, end_of_living,
        UNDISTURBED_DEAD, UNDISTURBED_DEAD,
        {{"first", run_first, .may_crash = true, .crashes_in = "run_started"},
            {"second", run_second}, {"third", run_third}, {"heir", replace_first}}},
    {"a_call_goes_round_though_its_first_callee_dies_anywhere", begin_one, end_of_all, UNDISTURBED,
        UNDISTURBED_DEAD,
        {{"first", run_first}, {"second", run_second, .may_crash = true}, {"third", run_third},
            {"heir", replace_second}},
        .only_long = true},
    {"a_call_goes_round_though_its_second_callee_dies_anywhere", begin_one, end_of_all, UNDISTURBED,
        UNDISTURBED_DEAD,
        {{"first", run_first}, {"second", run_second}, {"third", run_third, .may_crash = true},
            {"heir", replace_third}},
        .only_long = true},
    {"who_calls_round_a_circle_may_die_anywhere", begin_one, end_of_living, UNDISTURBED,
        UNDISTURBED_DEAD,
        {{"first", run_first, .may_crash = true}, {"second", run_second}, {"third", run_third},
            {"heir", replace_first}},
        .only_long = true},
    {"one_of_a_circle_may_die_while_all_call", begin, end_of_living, UNDISTURBED, UNDISTURBED_DEAD,
        {{"first", run_first},
            {"second", run_second, .may_crash = true, .crashes_in = "mesh_flush"},
            {"third", run_third}, {"heir", replace_second}},
        .only_long = true},

    {"wrong: calls within calls have no slots of their own", begin_with_one_depth, end_of_all,
        UNDISTURBED, DISTURBED,
        {{"first", run_first}, {"second", run_second}, {"third", run_third}}},
    {NULL},
};
