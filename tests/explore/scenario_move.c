/* SPDX-License-Identifier: MIT */
/*
 * shard/portable.c, arena.c: a coroutine that moves, waits and is woken goes on once, and in one
 * shard at a time, whoever dies; it ends with the shard that runs it, and with no other. One that
 * serves a call answers from its home, or from its home's heir.
 *
 * What the coroutine counts are plain variables: two shards that ran it at once, or one that did
 * not know all that the one before had done, would be a race.
 */
#include <errno.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/portable.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage.h"

#define N_LEGS 3
#define LOCAL  0x5eed

/* Who is who. */
enum { HERE, THERE, BEYOND, N };

static struct {
    struct stage stage;
    struct stage_end ends[N];
    struct stage_end heirs[N];
    struct mesh_call call;
    uint32_t n_shards;
    uint32_t method;
    uint32_t legs[N_LEGS]; /* times that each part of the way was gone */
    uint32_t began;        /* it will end by itself, unless its shard dies */
    uint64_t waits;        /* which coroutine */
    uint32_t n_woken;
    bool may_be_lost; /* it was on the CPU of one that died, or never began */
    bool came_back;   /* it was refused */
    uint32_t runs[EXPLORER_MAX_THREADS];
    uint32_t n_told;
    bool in_doubt;
} s;

/* ---- coroutines ---- */

static void coroutine_fn begin_leg(struct mesh *mesh, uint32_t leg, uint32_t shard)
{
    explorer_check(mesh->self == shard);
    s.legs[leg]++;
}

/* There and back. */
static void coroutine_fn go_round(struct mesh *mesh, void *opaque)
{
    volatile uint32_t local = LOCAL;
    int r;

    begin_leg(mesh, 0, HERE);
    atomic_store_release(&s.began, 1);
    r = shard_co_move(&mesh, THERE);
    explorer_check(local == LOCAL);
    explorer_check(r == 0 || r == -EHOSTDOWN);
    begin_leg(mesh, 1, r == 0 ? THERE : HERE);
    s.came_back = r < 0;
    r = shard_co_move(&mesh, HERE);
    explorer_check(local == LOCAL && r == 0);
    begin_leg(mesh, 2, HERE);
    stage_is_over(&s.stage);
}

static void knock(uint32_t peer)
{
    struct doorbell bell = {&segment_bell(&s.stage.seg, peer)->words, (int)peer};

    doorbell_knock(&bell);
}

/* Waits here until it is woken, in whichever shard. */
static void coroutine_fn wait_here(struct mesh *mesh, void *opaque)
{
    begin_leg(mesh, 0, HERE);
    atomic_store_release(&s.began, 1);
    atomic_store_release(&s.waits, shard_co_self());
    for (uint32_t peer = THERE; peer < s.n_shards; peer++)
        knock(peer);
    explorer_check(shard_co_wait(&mesh, "a wake") == 0);
    s.legs[1]++;
    stage_is_over(&s.stage);
}

/* ---- methods that move ---- */

enum { M_ECHO, M_ONCE, N_METHODS };

static int coroutine_fn run_away(struct service_call *call)
{
    int r;

    s.runs[explorer_self()]++;
    r = serve_move(call, BEYOND);
    return r;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "away",
        .run = run_away,
        .flags = SERVICE_IDEMPOTENT | SERVICE_PORTABLE,
        .help = ""},
    [M_ONCE] = {.name = "once", .run = run_away, .flags = SERVICE_PORTABLE, .help = ""},
};

/* ---- shards ---- */

static void serve_there(void)
{
    stage_serve_to_the_last(&s.stage, &s.ends[THERE]);
}

static void serve_beyond(void)
{
    stage_serve_to_the_last(&s.stage, &s.ends[BEYOND]);
}

static void send_round(void)
{
    explorer_check(portable_start(s.ends[HERE].mesh, go_round, NULL, "round", NULL) == 0);
    stage_serve_to_the_last(&s.stage, &s.ends[HERE]);
}

static void start_one_that_waits(void)
{
    explorer_check(portable_start(s.ends[HERE].mesh, wait_here, NULL, "waits", NULL) == 0);
    stage_serve_to_the_last(&s.stage, &s.ends[HERE]);
}

typedef int wake_fn(struct mesh *mesh, arena_co co);

static int wake_where_it_is(struct mesh *mesh, arena_co co)
{
    return shard_co_wake(mesh, co);
}

static int wake_at_home(struct mesh *mesh, arena_co co)
{
    return shard_co_schedule(mesh, co, mesh->self);
}

static void wake_with(struct stage_end *end, wake_fn *wake)
{
    arena_co co = atomic_or_seq(&s.waits, 0); /* the newest: a dead one may have taken the knock */

    while (co == 0 && !atomic_load_acquire(&s.stage.over)) {
        parts_mesh_turn(&end->loop, true);
        co = atomic_load_acquire(&s.waits);
    }
    if (co) {
        int r = wake(end->mesh, co);
        explorer_check(r == 0 || r == -ESRCH);
    }
    stage_serve_to_the_last(&s.stage, end);
}

static void wake_from_there(void)
{
    wake_with(&s.ends[THERE], wake_where_it_is);
}

static void wake_from_beyond(void)
{
    wake_with(&s.ends[BEYOND], wake_where_it_is);
}

static void wake_to_there(void)
{
    wake_with(&s.ends[THERE], wake_at_home);
}

/* ---- deaths ---- */

/* What its death takes with it: a coroutine that it runs, or that waits in it; or one that it would
 * have begun. */
static void note_loss(uint32_t dead)
{
    struct arena_word w = arena_read(&s.stage.seg, 0);
    bool is_its = w.owner == dead && (w.state == ARENA_RUNNING || w.state == ARENA_SUSPENDED);
    bool never_was = dead == HERE && w.state == ARENA_FREE && w.generation == 0;

    if (is_its || never_was)
        s.may_be_lost = true;
}

static bool bury(uint32_t dead, enum peer_state state)
{
    if (!explorer_wait_for_crash_of(dead))
        return false;
    note_loss(dead);
    stage_bury(&s.stage, dead, state);
    if (state == PEER_DYING)
        stage_replace(&s.stage, &s.heirs[dead], dead);
    /* In this order: one that is not seen there before it began is still to come. */
    bool began = dead == HERE || atomic_load_acquire(&s.began);

    if (began && arena_co_at(&s.stage.seg, 0) == 0) /* it has ended, or is lost */
        stage_is_over(&s.stage);
    return true;
}

static void replace_here(void)
{
    if (bury(HERE, PEER_DYING))
        stage_serve_to_the_last(&s.stage, &s.heirs[HERE]);
}

static void replace_there(void)
{
    if (bury(THERE, PEER_DYING))
        stage_serve_to_the_last(&s.stage, &s.heirs[THERE]);
}

static void give_there_up(void)
{
    if (bury(THERE, PEER_FAILED))
        stage_is_quiet(&s.stage, THERE);
}

/* Its heir wakes again: the dead one may not have got as far, and two wakes are one. */
static void replace_waker(void)
{
    if (bury(THERE, PEER_DYING))
        wake_with(&s.heirs[THERE], wake_where_it_is);
}

/* ---- a call that is served elsewhere ---- */

static void on_told(struct mesh_call *call, const struct mesh_answer *answer)
{
    s.n_told++;
    explorer_check(answer->end == CALL_END_DONE || answer->end == CALL_END_IN_DOUBT);
    s.in_doubt = answer->end == CALL_END_IN_DOUBT;
}

static void call_there(void)
{
    s.call = (struct mesh_call){
        .target = THERE, .method = s.method, .deadline_ns = INT64_MAX, .done = on_told};
    explorer_check(mesh_call_start(s.ends[HERE].mesh, &s.call) == 0);
    while (s.n_told == 0)
        parts_mesh_turn(&s.ends[HERE].loop, true);
    stage_is_over(&s.stage);
    stage_serve_to_the_last(&s.stage, &s.ends[HERE]);
}

static void replace_caller(void)
{
    if (!explorer_wait_for_crash_of(HERE))
        return;
    stage_bury(&s.stage, HERE, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[HERE], HERE);
    while (stage_has_calls(&s.stage, HERE, THERE))
        parts_mesh_turn(&s.heirs[HERE].loop, true);
    stage_is_over(&s.stage);
    stage_serve_to_the_last(&s.stage, &s.heirs[HERE]);
}

static void replace_served(uint32_t dead)
{
    if (!explorer_wait_for_crash_of(dead))
        return;
    stage_bury(&s.stage, dead, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[dead], dead);
    stage_serve_to_the_last(&s.stage, &s.heirs[dead]);
}

static void replace_home(void)
{
    replace_served(THERE);
}

static void replace_beyond(void)
{
    replace_served(BEYOND);
}

/* ---- begin ---- */

static bool uses(uint32_t caller, uint32_t callee, uint32_t depth)
{
    return depth == SEGMENT_DEPTH_BUILTIN || (caller == HERE && callee == THERE && depth == 0);
}

static void begin_with(uint32_t n_shards, uint32_t method)
{
    const struct stage_plan plan = {.n_shards = n_shards,
        .n_portable = 1,
        .methods = methods,
        .n_methods = N_METHODS,
        .uses = uses};

    memset(&s, 0, sizeof(s));
    s.n_shards = n_shards;
    s.method = method;
    stage_begin(&s.stage, &plan);
    for (uint32_t i = 0; i < n_shards; i++)
        stage_open(&s.stage, &s.ends[i], i);
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < n_shards; i++)
            stage_settle(&s.ends[i]);
}

static void begin_two(void)
{
    begin_with(2, M_ECHO);
}

static void begin_three(void)
{
    begin_with(3, M_ECHO);
}

static void begin_once(void)
{
    begin_with(3, M_ONCE);
}

static void begin_sets_no_bit(void)
{
    begin_two();
    s.stage.sets_no_bit = true;
}

static void begin_empty_bitmap(void)
{
    begin_two();
    s.stage.empty_bitmap = true;
}

/* ---- end ---- */

static void check_legs(uint32_t n)
{
    stage_check(&s.stage);
    for (uint32_t leg = 0; leg < n; leg++)
        explorer_check(s.legs[leg] == 1 || (s.legs[leg] == 0 && s.may_be_lost));
}

static void end_round(void)
{
    check_legs(3);
}

static void end_woken(void)
{
    check_legs(2);
}

static void end_told(void)
{
    stage_check(&s.stage);
    explorer_check(s.n_told == 1 && !s.in_doubt);
}

static void end_told_once(void)
{
    uint32_t n_runs = 0;

    stage_check(&s.stage);
    for (uint32_t i = 0; i < EXPLORER_MAX_THREADS; i++)
        n_runs += s.runs[i];
    explorer_check(s.n_told == 1 && n_runs <= 1 && (n_runs == 1 || s.in_doubt));
}

static void end_any(void)
{
    stage_check(&s.stage);
}

#define DAILY                              \
    {                                      \
        .preemptions = 1, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define DAILY_DEAD                     \
    {                                  \
        .stale_loads = 1, .crashes = 1 \
    }
#define LONG_DEAD                      \
    {                                  \
        .preemptions = 1, .crashes = 1 \
    }

const struct scenario move_scenarios[] = {
    {"a_coroutine_goes_there_and_back", begin_two, end_round, DAILY, LONG,
        {{"here", send_round}, {"there", serve_there}}},
    {"a_coroutine_goes_on_though_its_first_shard_dies", begin_two, end_round, DAILY_DEAD, LONG_DEAD,
        {{"here", send_round, .may_crash = true}, {"there", serve_there}, {"heir", replace_here}}},
    {"a_coroutine_goes_on_though_the_shard_it_goes_to_dies", begin_two, end_round, DAILY_DEAD,
        LONG_DEAD,
        {{"here", send_round}, {"there", serve_there, .may_crash = true}, {"heir", replace_there}}},
    {"a_coroutine_comes_back_from_a_shard_that_is_given_up", begin_two, end_round, DAILY_DEAD,
        LONG_DEAD,
        {{"here", send_round}, {"there", serve_there, .may_crash = true},
            {"supervisor", give_there_up}}},
    {"a_coroutine_goes_on_though_both_of_its_shards_die", begin_two, end_round, {.crashes = 2},
        {.crashes = 2},
        {{"here", send_round, .may_crash = true, .crashes_in = "mesh_flush"},
            {"there", serve_there, .may_crash = true, .crashes_in = "change_co"},
            {"heir", replace_here}, {"heir there", replace_there}}},
    {"a_wake_reaches_who_waits_or_is_about_to", begin_two, end_woken, DAILY, LONG,
        {{"here", start_one_that_waits}, {"there", wake_from_there}}},
    {"two_wakes_are_one", begin_three, end_woken, {.preemptions = 0}, {.preemptions = 1},
        {{"here", start_one_that_waits}, {"there", wake_from_there}, {"beyond", wake_from_beyond}}},
    {"a_coroutine_is_woken_to_another_shard", begin_two, end_woken, DAILY, LONG,
        {{"here", start_one_that_waits}, {"there", wake_to_there}}},
    {"a_wake_is_not_lost_with_its_sender", begin_two, end_woken, DAILY_DEAD, LONG_DEAD,
        {{"here", start_one_that_waits}, {"there", wake_from_there, .may_crash = true},
            {"heir", replace_waker}}},
    {"a_wake_of_one_that_dies_hangs_nobody", begin_two, end_woken, DAILY_DEAD, LONG_DEAD,
        {{"here", start_one_that_waits, .may_crash = true}, {"there", wake_from_there},
            {"heir", replace_here}}},

    {"a_call_is_served_elsewhere_and_answered_from_home", begin_three, end_told, {.preemptions = 0},
        DAILY, {{"caller", call_there}, {"home", serve_there}, {"away", serve_beyond}}},
    {"a_call_served_elsewhere_outlives_its_home", begin_once, end_told_once, {.crashes = 1},
        LONG_DEAD,
        {{"caller", call_there},
            {"home", serve_there, .may_crash = true, .crashes_in = "ring_publish"},
            {"away", serve_beyond}, {"heir", replace_home}}},
    {"a_call_served_elsewhere_is_run_again_where_that_dies", begin_three, end_told, {.crashes = 1},
        LONG_DEAD,
        {{"caller", call_there}, {"home", serve_there},
            {"away", serve_beyond, .may_crash = true, .crashes_in = "change_co"},
            {"heir", replace_beyond}}},
    {"a_call_served_elsewhere_may_lose_its_caller", begin_three, end_any, {.crashes = 1}, LONG_DEAD,
        {{"caller", call_there, .may_crash = true, .crashes_in = "mesh_flush"},
            {"home", serve_there}, {"away", serve_beyond}, {"heir", replace_caller}}},
    {"a_call_served_elsewhere_outlives_its_home_anywhere", begin_once, end_told_once,
        {.crashes = 1}, {.crashes = 1},
        {{"caller", call_there}, {"home", serve_there, .may_crash = true}, {"away", serve_beyond},
            {"heir", replace_home}},
        .only_long = true},
    {"a_call_served_elsewhere_is_run_again_wherever_that_dies", begin_three, end_told,
        {.crashes = 1}, {.crashes = 1},
        {{"caller", call_there}, {"home", serve_there}, {"away", serve_beyond, .may_crash = true},
            {"heir", replace_beyond}},
        .only_long = true},
    {"a_call_served_elsewhere_may_lose_its_caller_anywhere", begin_three, end_any, {.crashes = 1},
        {.crashes = 1},
        {{"caller", call_there, .may_crash = true}, {"home", serve_there}, {"away", serve_beyond},
            {"heir", replace_caller}},
        .only_long = true},

    {"wrong: no bit for a coroutine queued by the dead", begin_sets_no_bit, end_woken, DAILY_DEAD,
        LONG_DEAD,
        {{"here", start_one_that_waits}, {"there", wake_from_there, .may_crash = true},
            {"heir", replace_waker}}},
    {"wrong: the heir looks into nothing that was on its way", begin_empty_bitmap, end_round,
        DAILY_DEAD, LONG_DEAD,
        {{"here", send_round}, {"there", serve_there, .may_crash = true}, {"heir", replace_there}}},
    {NULL},
};
