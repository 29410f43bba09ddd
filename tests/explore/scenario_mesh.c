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
#include "shard/estate.h"
#include "tests/explore/explorer.h"
#include "tests/explore/parts_mesh.h"
#include "tests/explore/scenarios.h"

#define CALLER        0
#define CALLEE        1
#define N_CALLS       2
#define LARGE         200 /* more than is inline */
#define SEGMENT_BYTES (256 * 1024)

enum { M_ECHO, M_ONCE, M_LARGE, N_METHODS };

struct end {
    struct parts_mesh_loop loop;
    struct mesh *mesh;
};

static uint8_t memory[SEGMENT_BYTES] __attribute__((aligned(4096)));

static struct {
    struct segment seg;
    struct end caller;
    struct end callee;
    struct end heirs[2]; /* of whoever died */
    struct mesh_call calls[N_CALLS];
    uint8_t args[LARGE];
    uint32_t n_calls;
    uint32_t method;
    size_t args_len;
    uint32_t n_ended; /* of these, all the caller's own */
    uint32_t n_in_doubt;
    uint32_t n_not_done;
    uint32_t n_taken_back;
    uint32_t runs[EXPLORER_MAX_THREADS]; /* by whoever ran the method */
    uint32_t over;                       /* the callee may leave */
    /* What is done wrong. */
    bool tells_first;
    bool sets_no_bit;
    bool empty_bitmap;
    bool same_incarnation;
    bool keeps_hot;
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

/* ---- ends ---- */

static struct doorbell bell_of(uint32_t peer)
{
    return (struct doorbell){.words = &segment_bell(&s.seg, peer)->words, .fd = (int)peer};
}

static const int bell_fds[] = {0, 1, 2, 3};

static void open_end(struct end *end, uint32_t peer)
{
    struct doorbell bell = bell_of(peer);
    uint32_t incarnation = segment_control(&s.seg, peer)->incarnation;
    struct mesh_config config = {.segment = &s.seg,
        .peer = peer,
        .incarnation = s.same_incarnation ? 1 : incarnation,
        .ctx = (AioContext *)&end->loop,
        .bell_fds = bell_fds};

    parts_mesh_loop_init(&end->loop, &bell);
    explorer_check(mesh_new(&config, &end->mesh) == 0);
}

/* The first turn of a loop that is not the replacement of another, and finds nothing. */
static void settle(struct end *end)
{
    end->loop.source->dispatch(end->loop.source->opaque);
    end->loop.source->flush(end->loop.source->opaque);
}

static void plan(struct segment_geometry *geometry)
{
    uint64_t bytes;

    explorer_check(segment_geometry_plan(2, 0, geometry, &bytes) == 0);
    geometry->slots_shard = SEGMENT_MIN_SLOTS;
    geometry->slots_gateway = 1;
    geometry->n_events = 1;
    geometry->n_coroutines = 0;
    geometry->n_portable = 0;
    geometry->heap_bytes = SEGMENT_PAGE;
}

/* Loads of what nobody uses need not be steps: slots but those of the first calls. */
static void name_constants(void)
{
    uint32_t n = segment_call_slots(&s.seg, CALLER, CALLEE);

    for (uint32_t peer = 0; peer < s.seg.n_peers; peer++)
        explorer_constant(&segment_bitmap(&s.seg, peer)->senders[1],
            (SEGMENT_BITMAP_WORDS - 1) * sizeof(uint64_t));
    explorer_constant(
        segment_call(&s.seg, CALLER, CALLEE, N_CALLS), (n - N_CALLS) * sizeof(struct call_slot));
    explorer_constant(
        segment_serve(&s.seg, CALLEE, CALLER, N_CALLS), (n - N_CALLS) * sizeof(struct serve_slot));
    explorer_constant(segment_call(&s.seg, CALLEE, CALLER, 0), n * sizeof(struct call_slot));
    explorer_constant(segment_serve(&s.seg, CALLER, CALLEE, 0), n * sizeof(struct serve_slot));
}

static void begin_with(uint32_t method, uint32_t n_calls, size_t args_len)
{
    struct segment_geometry geometry;

    memset(&s, 0, sizeof s);
    memset(memory, 0, sizeof memory);
    parts_mesh_reset(methods, N_METHODS);
    plan(&geometry);
    explorer_check(segment_init(&s.seg, memory, sizeof memory, &geometry, "explored") == 0);
    for (uint32_t peer = 0; peer < s.seg.n_peers; peer++) {
        segment_control(&s.seg, peer)->incarnation = 1;
        segment_control(&s.seg, peer)->state = PEER_UP;
    }
    name_constants();
    s.method = method;
    s.n_calls = n_calls;
    s.args_len = args_len;
    memset(s.args, 7, sizeof s.args);
    open_end(&s.caller, CALLER);
    open_end(&s.callee, CALLEE);
    settle(&s.caller);
    settle(&s.callee);
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

static void start_call(struct end *end, uint32_t i)
{
    s.calls[i] = (struct mesh_call){.target = CALLEE,
        .method = s.method,
        .args = s.args,
        .args_len = s.args_len,
        .deadline_ns = INT64_MAX,
        .done = on_done};
    explorer_check(mesh_call_start(end->mesh, &s.calls[i]) == 0);
}

static void start_calls(struct end *end)
{
    for (uint32_t i = 0; i < s.n_calls; i++)
        start_call(end, i);
}

static void let_callee_leave(void)
{
    struct doorbell bell = bell_of(CALLEE);

    explorer_may_crash(false);
    atomic_store_release(&s.over, 1);
    doorbell_knock(&bell);
}

static void call_and_wait(void)
{
    start_calls(&s.caller);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn(&s.caller.loop, true);
    s.caller.loop.source->flush(s.caller.loop.source->opaque);
    let_callee_leave();
}

/* Each once the one before has ended. */
static void call_in_turn(void)
{
    for (uint32_t i = 0; i < s.n_calls; i++) {
        start_call(&s.caller, i);
        while (s.n_ended <= i)
            parts_mesh_turn(&s.caller.loop, true);
    }
    s.caller.loop.source->flush(s.caller.loop.source->opaque);
    let_callee_leave();
}

static void call_late(void)
{
    start_calls(&s.caller);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn_late(&s.caller.loop);
    let_callee_leave();
}

static bool any_slot_is_taken(void)
{
    for (uint32_t slot = 0; slot < segment_call_slots(&s.seg, CALLER, CALLEE); slot++)
        if (word_state(segment_call(&s.seg, CALLER, CALLEE, slot)->word) != CALL_FREE)
            return true;
    return false;
}

static void wait_for_slots(struct end *end)
{
    while (any_slot_is_taken())
        parts_mesh_turn(&end->loop, true);
    end->loop.source->flush(end->loop.source->opaque);
    let_callee_leave();
}

static void call_and_take_back(void)
{
    start_calls(&s.caller);
    s.caller.loop.source->flush(s.caller.loop.source->opaque);
    for (uint32_t i = 0; i < s.n_calls; i++)
        mesh_call_cancel(s.caller.mesh, &s.calls[i]);
    while (s.n_ended < s.n_calls)
        parts_mesh_turn(&s.caller.loop, true);
    wait_for_slots(&s.caller);
}

/* ---- the callee ---- */

static void serve_with(struct end *end)
{
    while (!atomic_load_acquire(&s.over))
        parts_mesh_turn(&end->loop, true);
    explorer_may_crash(false);
    parts_mesh_turn(&end->loop, false);
    explorer_check(end->mesh->heap.n_used == 0);
}

static void serve_calls(void)
{
    serve_with(&s.callee);
}

/* ---- the supervisor ---- */

static void tell_the_living(uint32_t dead)
{
    uint32_t living = dead == CALLER ? CALLEE : CALLER;
    struct doorbell bell = bell_of(living);

    if (s.sets_no_bit)
        doorbell_knock(&bell);
    else
        estate_tell(&s.seg, dead, living, bell.fd);
}

static void settle_estate(uint32_t dead, enum peer_state state)
{
    if (s.tells_first) {
        estate_pass_on(&s.seg, dead, state);
        tell_the_living(dead);
        estate_mend(&s.seg, dead);
        return;
    }
    estate_mend(&s.seg, dead);
    estate_pass_on(&s.seg, dead, state);
    tell_the_living(dead);
}

static void open_heir(struct end *heir, uint32_t dead)
{
    struct commons_bitmap *bitmap = segment_bitmap(&s.seg, dead);

    if (!s.empty_bitmap)
        estate_prepare(&s.seg, dead);
    open_end(heir, dead);
    if (s.keeps_hot)
        atomic_store_relaxed(&segment_hot(&s.seg, dead)->senders[0], 1 << CALLER);
    if (s.empty_bitmap)
        atomic_xchg_seq(&bitmap->senders[0], 0);
}

static void replace_callee(void)
{
    if (!explorer_wait_for_crash())
        return;
    settle_estate(CALLEE, PEER_DYING);
    open_heir(&s.heirs[0], CALLEE);
    serve_with(&s.heirs[0]);
}

/* The replacement dies too. */
static void replace_callee_and_die(void)
{
    explorer_may_crash(false); /* as the supervisor */
    if (!explorer_wait_for_crash_of(1))
        return;
    settle_estate(CALLEE, PEER_DYING);
    explorer_may_crash(true);
    open_heir(&s.heirs[0], CALLEE);
    serve_with(&s.heirs[0]);
}

static void replace_callee_again(void)
{
    if (!explorer_wait_for_crash_of(2))
        return;
    settle_estate(CALLEE, PEER_DYING);
    open_heir(&s.heirs[1], CALLEE);
    serve_with(&s.heirs[1]);
}

static void give_callee_up(void)
{
    if (explorer_wait_for_crash())
        settle_estate(CALLEE, PEER_FAILED);
}

static void replace_caller(void)
{
    if (!explorer_wait_for_crash())
        return;
    settle_estate(CALLER, PEER_DYING);
    open_heir(&s.heirs[0], CALLER);
    wait_for_slots(&s.heirs[0]);
    explorer_check(s.heirs[0].mesh->heap.n_used == 0);
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
    const struct pair_stats *stats = segment_pair(&s.seg, CALLER, CALLEE);
    uint64_t ended = 0;

    for (int end = 0; end < N_CALL_ENDS; end++)
        ended += stats->ends[end];
    explorer_check(!any_slot_is_taken());
    explorer_check(stats->calls_submitted == ended);
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
    s.keeps_hot = true;
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
    s.sets_no_bit = true;
}

static void begin_empty_bitmap(void)
{
    begin();
    s.empty_bitmap = true;
}

static void begin_same_incarnation(void)
{
    begin_once();
    s.same_incarnation = true;
}

static void begin_tells_first(void)
{
    begin_large();
    s.tells_first = true;
}

static void free_call_early(const struct ring_rx *rx, uint64_t n, const struct message *message)
{
    if (message->kind == MESSAGE_CALL)
        atomic_store_release(rx->head, rx->next + n + 1);
}

/* So that it is not found again, as if its message had been freed. */
static void begin_freeing_early(void)
{
    begin();
    parts_mesh_on_peek(free_call_early);
}

/* The callee may use the buffer again, while it is being read. */
static void give_answer_back_early(
    const struct ring_rx *rx, uint64_t n, const struct message *message)
{
    struct link *link = &s.caller.mesh->links[CALLEE];
    const struct message taken = {.kind = MESSAGE_ANSWER_TAKEN,
        .slot = message->slot,
        .generation = message->generation,
        .incarnation = 1};

    if (message->kind != MESSAGE_ANSWER || (uintptr_t)rx - (uintptr_t)link >= sizeof(*link))
        return;
    mesh_push(s.caller.mesh, CALLEE, &taken);
    s.caller.loop.source->flush(s.caller.loop.source->opaque);
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
#define UNDISTURBED  \
    {                \
        .crashes = 1 \
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
    {"what_must_not_run_twice_runs_once_or_is_in_doubt", begin_once, end_once, DAILY_DEAD,
        LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"a_callee_given_up_leaves_no_call_hanging", begin, end_ended, DAILY_DEAD, LONG_DEAD,
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
    {"wrong: a message is freed before its call is noted as started", begin_freeing_early, end_done,
        DAILY_DEAD, LONG_DEAD,
        {{"caller", call_and_wait}, {"callee", serve_calls, .may_crash = true},
            {"heir", replace_callee}}},
    {"wrong: an answer is given back before it is read", begin_giving_back_early, end_done, DAILY,
        LONG, {{"caller", call_and_wait}, {"callee", serve_calls}}},
    {NULL},
};
