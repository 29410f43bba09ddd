/* SPDX-License-Identifier: MIT */
/*
 * shard/mesh.c, caller.c, serve.c, judge.c, estate.c: a call ends once, whoever dies on the way,
 * and its slot and buffers come back.
 *
 * Two ends, a page of heap each. The supervisor is a thread that waits for the
 * death, does what shard/death.c does, and goes on as the replacement.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage.h"

#define CALLER  0
#define CALLEE  1
#define SECOND  2 /* another caller */
#define N_CALLS STAGE_CALLS
#define LARGE   200 /* more than is inline */

enum { M_ECHO, M_ONCE, M_LARGE, N_METHODS };

static struct {
    struct stage stage;
    struct stage_end caller;
    struct stage_end callee;
    struct stage_end second;
    struct stage_end heirs[2]; /* of whoever died */
    struct mesh_call calls[N_CALLS];
    uint8_t args[LARGE];
    uint32_t n_calls;
    uint32_t method;
    size_t args_len;
    struct mesh_call second_call;
    uint32_t n_second_ended;
    uint32_t n_to_end; /* callers that have not ended */
    uint32_t n_ended;  /* of these, all the caller's own */
    uint32_t n_in_doubt;
    uint32_t n_not_done;
    uint32_t n_taken_back;
    uint32_t runs[EXPLORER_MAX_THREADS]; /* by whoever ran the method */
} s;

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    s.runs[explorer_self()]++;
    serve_put_reply(call, call->args, call->args_len);
    return 0;
}

static int coroutine_fn run_large(struct service_call *call)
{
    uint8_t bytes[LARGE];

    s.runs[explorer_self()]++;
    memset(bytes, (int)call->slot + 1, sizeof(bytes));
    serve_put_reply(call, bytes, sizeof(bytes));
    return 0;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = ""},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = ""},
    [M_LARGE] = {.name = "large", .run = run_large, .flags = SERVICE_IDEMPOTENT, .help = ""},
};

/* ---- the stage ---- */

static bool uses(uint32_t caller, uint32_t callee, uint32_t depth)
{
    return callee == CALLEE && depth == 0;
}

static void begin_stage(uint32_t n_shards, uint32_t method, uint32_t n_calls, size_t args_len)
{
    const struct stage_plan plan = {
        .n_shards = n_shards, .methods = methods, .n_methods = N_METHODS, .uses = uses};

    memset(&s, 0, sizeof s);
    stage_begin(&s.stage, &plan);
    s.method = method;
    s.n_calls = n_calls;
    s.args_len = args_len;
    memset(s.args, 7, sizeof s.args);
    stage_open(&s.stage, &s.caller, CALLER);
    stage_open(&s.stage, &s.callee, CALLEE);
}

static void begin_with(uint32_t method, uint32_t n_calls, size_t args_len)
{
    begin_stage(2, method, n_calls, args_len);
    stage_settle(&s.caller);
    stage_settle(&s.callee);
}

/* ---- the caller ---- */

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    s.n_ended++;
    if (answer->end == CALL_END_DONE) {
        const uint8_t *bytes = answer->data;
        explorer_check(answer->len == (s.method == M_LARGE ? LARGE : s.args_len));
        for (size_t i = 0; i < answer->len; i++)
            explorer_check(bytes[i] == (s.method == M_LARGE ? call->slot + 1 : 7));
        return;
    }
    s.n_not_done++;
    if (answer->end == CALL_END_IN_DOUBT)
        s.n_in_doubt++;
    if (answer->end == CALL_END_CANCELLED)
        s.n_taken_back++;
}

static void start_call(struct stage_end *end, uint32_t i)
{
    s.calls[i] = (struct mesh_call){.target = CALLEE,
        .method = s.method,
        .args = s.args,
        .args_len = s.args_len,
        .deadline_ns = INT64_MAX,
        .done = on_done};
    explorer_check(mesh_call_start(end->mesh, &s.calls[i]) == 0);
}

static void start_calls(struct stage_end *end)
{
    for (uint32_t i = 0; i < s.n_calls; i++)
        start_call(end, i);
}

static void call_and_wait(void)
{
    start_calls(&s.caller);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn(&s.caller.loop, true);
    stage_flush(&s.caller);
    stage_is_over(&s.stage);
}

/* Each once the one before has ended. */
static void call_in_turn(void)
{
    for (uint32_t i = 0; i < s.n_calls; i++) {
        start_call(&s.caller, i);
        while (s.n_ended <= i)
            parts_mesh_turn(&s.caller.loop, true);
    }
    stage_flush(&s.caller);
    stage_is_over(&s.stage);
}

static void call_late(void)
{
    start_calls(&s.caller);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn_late(&s.caller.loop);
    stage_is_over(&s.stage);
}

static void wait_for_slots(struct stage_end *end)
{
    while (stage_has_calls(&s.stage, CALLER, CALLEE))
        parts_mesh_turn(&end->loop, true);
    stage_flush(end);
    stage_is_over(&s.stage);
}

static void on_second_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    explorer_check(answer->end == CALL_END_DONE);
    s.n_second_ended++;
}

static void note_caller_end(void)
{
    if (atomic_add_seq(&s.n_to_end, (uint32_t)-1) == 1)
        stage_is_over(&s.stage);
}

/* One of two that call at once. */
static void call_beside_another(void)
{
    start_calls(&s.caller);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn(&s.caller.loop, true);
    note_caller_end();
}

static void call_as_second(void)
{
    s.second_call = (struct mesh_call){.target = CALLEE,
        .method = s.method,
        .args = s.args,
        .args_len = s.args_len,
        .deadline_ns = INT64_MAX,
        .done = on_second_done};
    explorer_check(mesh_call_start(s.second.mesh, &s.second_call) == 0);
    while (s.n_second_ended == 0)
        parts_mesh_turn(&s.second.loop, true);
    note_caller_end();
}

static void call_and_take_back(void)
{
    start_calls(&s.caller);
    stage_flush(&s.caller);
    for (uint32_t i = 0; i < s.n_calls; i++)
        mesh_call_cancel(s.caller.mesh, &s.calls[i]);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn(&s.caller.loop, true);
    wait_for_slots(&s.caller);
}

/* ---- the callee ---- */

static void serve_calls(void)
{
    stage_serve(&s.stage, &s.callee);
}

/* ---- the supervisor, and whom it starts ---- */

static void replace_callee(void)
{
    if (!explorer_wait_for_crash())
        return;
    stage_bury(&s.stage, CALLEE, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[0], CALLEE);
    stage_serve(&s.stage, &s.heirs[0]);
}

/* The replacement dies too. */
static void replace_callee_and_die(void)
{
    explorer_may_crash(false); /* as the supervisor */
    if (!explorer_wait_for_crash_of(1))
        return;
    stage_bury(&s.stage, CALLEE, PEER_DYING);
    explorer_may_crash(true);
    stage_replace(&s.stage, &s.heirs[0], CALLEE);
    stage_serve(&s.stage, &s.heirs[0]);
}

static void replace_callee_again(void)
{
    if (!explorer_wait_for_crash_of(2))
        return;
    stage_bury(&s.stage, CALLEE, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[1], CALLEE);
    stage_serve(&s.stage, &s.heirs[1]);
}

static void give_callee_up(void)
{
    if (explorer_wait_for_crash())
        stage_bury(&s.stage, CALLEE, PEER_FAILED);
}

static void take_over_caller(struct stage_end *heir)
{
    stage_replace(&s.stage, heir, CALLER);
    wait_for_slots(heir);
    explorer_check(heir->mesh->heap.n_used == 0);
}

static void replace_caller(void)
{
    if (!explorer_wait_for_crash_of(CALLER))
        return;
    stage_bury(&s.stage, CALLER, PEER_DYING);
    take_over_caller(&s.heirs[0]);
}

/* The replacement dies too, maybe before it has taken over. */
static void replace_caller_and_die(void)
{
    explorer_may_crash(false); /* as the supervisor */
    if (!explorer_wait_for_crash_of(CALLER))
        return;
    stage_bury(&s.stage, CALLER, PEER_DYING);
    explorer_may_crash(true);
    take_over_caller(&s.heirs[0]);
}

static void replace_caller_again(void)
{
    if (!explorer_wait_for_crash_of(2))
        return;
    stage_bury(&s.stage, CALLER, PEER_DYING);
    take_over_caller(&s.heirs[1]);
}

static void replace_callee_too(void)
{
    if (!explorer_wait_for_crash_of(CALLEE))
        return;
    stage_bury(&s.stage, CALLEE, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[1], CALLEE);
    stage_serve(&s.stage, &s.heirs[1]);
}

/* ---- what holds in the end ---- */

static uint32_t total_runs(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < EXPLORER_MAX_THREADS; i++)
        n += s.runs[i];
    return n;
}

static void check_accounts(void)
{
    stage_check(&s.stage);
}

static void end_done(void)
{
    check_accounts();
    explorer_check(s.n_ended == s.n_calls && s.n_not_done == 0);
}

static void end_once(void)
{
    check_accounts();
    explorer_check(s.n_ended == s.n_calls && s.n_not_done == s.n_in_doubt);
    explorer_check(total_runs() <= s.n_calls);
    explorer_check(total_runs() + s.n_in_doubt >= s.n_calls);
    /* Nobody runs what its caller was told to be in doubt, but the one that died. */
    explorer_check(s.n_in_doubt == 0 || s.runs[2] == 0);
}

static void end_ended(void)
{
    check_accounts();
    explorer_check(s.n_ended == s.n_calls);
}

/* ---- beginnings ---- */

static void begin(void)
{
    begin_with(M_ECHO, 1, 8);
}

/* All bits of the callee are set, as they are in its first turn. */
static void begin_fresh_callee(void)
{
    begin_stage(2, M_ECHO, 1, 8);
    stage_settle(&s.caller);
}

static void begin_two_callers(void)
{
    begin_stage(3, M_ECHO, 1, 8);
    stage_open(&s.stage, &s.second, SECOND);
    s.n_to_end = 2;
    for (uint32_t round = 0; round < 2; round++) {
        stage_settle(&s.caller);
        stage_settle(&s.callee);
        stage_settle(&s.second);
    }
}

/* The callee looks into the caller's rings without being told, and ceases to in its next turn. */
static void begin_hot(void)
{
    struct mesh *mesh;

    begin();
    mesh = s.callee.mesh;
    hot_add(&mesh->hot, CALLER, mesh->links[CALLER].rx);
    mesh->hot.peers[0].quiet = true;
    mesh->hot.turns_left = 1;
}

/* Of one that is dead. */
static void begin_hot_for_nobody(void)
{
    begin();
    s.stage.keeps_hot = true;
}

static void begin_once(void)
{
    begin_with(M_ONCE, 1, 8);
}

static void begin_two(void)
{
    begin_with(M_ECHO, 2, 8);
}

static void begin_large(void)
{
    begin_with(M_LARGE, 1, LARGE);
}

static void begin_two_large(void)
{
    begin_with(M_LARGE, 2, 8);
}

static void begin_sets_no_bit(void)
{
    begin();
    s.stage.sets_no_bit = true;
}

static void begin_empty_bitmap(void)
{
    begin();
    s.stage.empty_bitmap = true;
}

static void begin_same_incarnation(void)
{
    begin_once();
    s.stage.same_incarnation = true;
}

static void begin_tells_first(void)
{
    begin_large();
    s.stage.tells_first = true;
}

/* The callee may use the buffer again, while it is being read. */
static void give_answer_back_early(
    const struct ring_rx *rx, uint64_t n, const struct message *message)
{
    struct link *link = &s.caller.mesh->links[CALLEE];
    const struct message taken = {
        .kind = MESSAGE_ANSWER_TAKEN, .slot = message->slot, .generation = message->generation};

    if (message->kind != MESSAGE_ANSWER || (uintptr_t)rx - (uintptr_t)link >= sizeof(*link))
        return;
    mesh_push(s.caller.mesh, CALLEE, &taken);
    stage_flush(&s.caller);
    explorer_step();
}

static void begin_giving_back_early(void)
{
    begin_two_large();
    parts_mesh_on_peek(give_answer_back_early);
}

#define DAILY                              \
    {                                      \
        .preemptions = 1, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 2, .stale_loads = 2 \
    }
#define DAILY_DEAD                                       \
    {                                                    \
        .preemptions = 1, .stale_loads = 0, .crashes = 1 \
    }
#define UNDISTURBED                    \
    {                                  \
        .stale_loads = 1, .crashes = 1 \
    }
#define LONG_DEAD                                        \
    {                                                    \
        .preemptions = 2, .stale_loads = 1, .crashes = 1 \
    }

const struct scenario mesh_scenarios[] = {
    {"a_call_is_run_once_and_answered_once", begin_once, end_once, DAILY, LONG,
        {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {"two_large_answers_share_a_page_one_after_the_other", begin_two_large, end_done, DAILY, LONG,
        {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {"a_call_comes_while_its_callee_looks_for_the_first_time", begin_fresh_callee, end_done, DAILY,
        LONG, {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {"two_callers_are_both_heard", begin_two_callers, end_done, {.preemptions = 1},
        {.preemptions = 2},
        {{"caller", call_beside_another}, {"callee", serve_calls}, {"second", call_as_second}}},
    {"a_peer_that_is_looked_at_no_more_sets_its_bit_again", begin_hot, end_done, DAILY, LONG,
        {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {"who_was_looked_at_by_the_dead_tells_its_heir", begin_hot, end_done, UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"a_call_taken_back_ends_once_and_its_slot_comes_back", begin, end_ended, DAILY, LONG,
        {{"caller", call_and_take_back}, {"callee", serve_calls}}},
    {"large_bytes_outlive_the_death_of_the_callee", begin_large, end_done, UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"a_caller_that_dies_between_two_ends_keeps_its_counts", begin_two, check_accounts, UNDISTURBED,
        LONG_DEAD,
        {{"caller", call_in_turn, .may_crash = true}, {"callee", serve_calls},
            {"heir", replace_caller}}},
    {"a_caller_that_dies_anywhere_leaves_no_buffer_behind", begin_large, check_accounts,
        UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_wait, .may_crash = true}, {"callee", serve_calls},
            {"heir", replace_caller}}},
    {"a_caller_that_dies_while_it_takes_back_leaves_no_slot_behind", begin_two, check_accounts,
        UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_take_back, .may_crash = true}, {"callee", serve_calls},
            {"heir", replace_caller}}},
    {"a_callee_that_dies_anywhere_is_replaced_and_the_call_is_done", begin, end_done, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"what_runs_twice_or_is_in_doubt_is_decided_by_old_words_as_well", begin_once, end_once,
        UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"what_must_not_run_twice_runs_once_or_is_in_doubt", begin_once, end_once, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"a_callee_given_up_leaves_no_call_hanging", begin, end_ended, DAILY_DEAD, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"supervisor", give_callee_up}}},
    {"a_callee_given_up_leaves_no_call_hanging_though_that_is_seen_late", begin, end_ended,
        UNDISTURBED, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"supervisor", give_callee_up}}},
    {"a_callee_that_dies_twice_is_judged_by_a_slow_caller", begin_once, end_ended,
        {.stale_loads = 0, .crashes = 2}, {.preemptions = 1, .stale_loads = 0, .crashes = 2},
        {{"caller", call_and_wait},
            {"callee", serve_calls, .may_crash = true, .crashes_in = "start_call"},
            {"heir", replace_callee_and_die, .may_crash = true},
            {"second heir", replace_callee_again}}},
    {"a_caller_that_dies_anywhere_leaves_no_slot_behind", begin, check_accounts, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait, .may_crash = true}, {"callee", serve_calls},
            {"heir", replace_caller}}},

    {"caller_and_callee_die_together_and_leave_nothing_behind", begin_large, check_accounts,
        {.crashes = 2}, {.crashes = 2},
        {{"caller", call_and_wait, .may_crash = true, .crashes_in = "mesh_flush"},
            {"callee", serve_calls, .may_crash = true, .crashes_in = "run_started"},
            {"heir", replace_caller}, {"heir of the callee", replace_callee_too}}},
    {"caller_and_callee_die_anywhere_and_leave_nothing_behind", begin, check_accounts,
        {.crashes = 2}, {.crashes = 2},
        {{"caller", call_and_wait, .may_crash = true}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_caller}, {"heir of the callee", replace_callee_too}},
        .only_long = true},
    {"a_replacement_may_die_while_it_takes_over", begin_large, check_accounts, {.crashes = 2},
        {.preemptions = 1, .crashes = 2},
        {{"caller", call_and_wait, .may_crash = true, .crashes_in = "mesh_flush"},
            {"callee", serve_calls}, {"heir", replace_caller_and_die, .may_crash = true},
            {"second heir", replace_caller_again}}},

    {"wrong: rings after its sleep", begin, end_done, DAILY, LONG,
        {{"caller", call_late}, {"callee", serve_calls}}},
    {"wrong: the supervisor sets no bit", begin_sets_no_bit, end_done, DAILY_DEAD, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"wrong: a replacement begins with an empty bitmap", begin_empty_bitmap, end_done, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"wrong: a replacement leaves its predecessor's word for who is looked at",
        begin_hot_for_nobody, end_done, DAILY_DEAD, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"wrong: the started word tells no incarnation", begin_same_incarnation, end_once, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"wrong: peers are told before the dead one's estate is whole", begin_tells_first,
        check_accounts, DAILY_DEAD, LONG_DEAD,
        {{"caller", call_and_wait, .may_crash = true}, {"callee", serve_calls},
            {"heir", replace_caller}}},
    {"wrong: an answer is given back before it is read", begin_giving_back_early, end_done, DAILY,
        LONG, {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {NULL},
};
