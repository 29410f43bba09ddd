/* SPDX-License-Identifier: MIT */
/*
 * What deaths mean for calls, where it is not as simple as one callee and a caller that looks at
 * once. Peer 0 calls, peer 1 serves, peer 2 is where a coroutine of peer 1's may have moved.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/arena.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_NAP, M_NAP_ONCE, M_ASK, M_ASK_MANY, M_COUNT };

/* By call, from WORD_END on: how it ended. Runs are counted by all methods. */
enum { WORD_RUNS, WORD_STARTED, WORD_WAKE, WORD_GONE, WORD_UNWANTED, WORD_END = 8 };

#define N_CALLS     8
#define DEADLINE_NS (INT64_C(60) * 1000000000)

static struct rig *rig_of_test; /* for methods, which run in children of the test */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    atomic_fetch_add(&rig_of_test->board->words[WORD_RUNS], 1);
    return service_reply(call, args, len);
}

static int coroutine_fn run_nap(struct service_call *call)
{
    struct rig_board *board = rig_of_test->board;

    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (!atomic_load(&board->words[WORD_WAKE]))
        if (service_sleep_ns(call, 500000) == -ECANCELED) {
            atomic_fetch_add(&board->words[WORD_UNWANTED], 1);
            return -ECANCELED;
        }
    return 0;
}

/* Asks shard 2 for a nap, and hands on how that ended. */
static int coroutine_fn run_ask(struct service_call *call)
{
    void *data;
    size_t len;
    int r = service_call_shard(call, 2, "judge.nap", "", 0, &data, &len);

    free(data);
    return r;
}

static int coroutine_fn run_ask_many(struct service_call *call)
{
    struct service_part parts[] = {{.shard = 2}, {.shard = 2}};
    int r = service_gather(call, "judge.nap", parts, 2, 0);

    for (int i = 0; i < 2; i++)
        free(parts[i].data);
    return r;
}

static const struct service_method methods[] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .help = "args back, not to be run twice"},
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = SERVICE_IDEMPOTENT, .help = "sleeps"},
    [M_ASK] = {.name = "ask", .run = run_ask, .help = "calls another shard"},
    [M_ASK_MANY] = {.name = "ask-many", .run = run_ask_many, .help = "twice at a time"},
    [M_NAP_ONCE] = {.name = "nap-once", .run = run_nap, .help = "sleeps, not to be run twice"},
};

static const struct service judge_service = {.abi = SERVICE_ABI,
    .name = "judge",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

/* ---- the caller: as many calls of each method as it is told, at once ---- */

struct batch {
    struct rig_end *end;
    struct mesh_call calls[N_CALLS];
    uint32_t n_calls, n_ended;
};

static struct batch *batch_of_end;

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct batch *batch = batch_of_end;

    atomic_store(
        &batch->end->rig->board->words[WORD_END + (call - batch->calls)], (uint64_t)answer->end);
    batch->n_ended++;
}

static bool all_have_ended(void *opaque)
{
    return ((struct batch *)opaque)->n_ended == ((struct batch *)opaque)->n_calls;
}

static const uint32_t naps[] = {M_NAP, M_NAP_ONCE};
static const uint32_t asks[] = {M_ASK, M_ASK_MANY};
static const uint32_t naps_and_echoes[] = {M_NAP, M_NAP_ONCE, M_ECHO, M_ECHO};

static void call_all(struct rig_end *end, const uint32_t *which, uint32_t n)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch_of_end = batch;
    batch->end = end;
    batch->n_calls = n;
    for (uint32_t i = 0; i < n; i++) {
        batch->calls[i] = (struct mesh_call){.target = 1,
            .method = which[i],
            .args = "x",
            .args_len = 1,
            .deadline_ns = INT64_MAX,
            .done = on_done};
        assert_int_equal(mesh_call_start(end->mesh, &batch->calls[i]), 0);
    }
    aio_poll(end->ctx, false);
    atomic_store(&end->rig->board->words[WORD_STARTED], 1);
    rig_poll_until(end, all_have_ended, batch);
    free(batch);
    atomic_store(&end->rig->board->words[WORD_GONE], 1);
}

static void napping_body(struct rig_end *end)
{
    call_all(end, naps, 2);
}

static void asking_body(struct rig_end *end)
{
    call_all(end, asks, 2);
}

static bool three_nap(void *opaque)
{
    return atomic_load(&((struct rig *)opaque)->board->words[WORD_RUNS]) == 3;
}

/* Takes both back once all that they have asked for has begun. */
static void asking_no_more_body(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch_of_end = batch;
    batch->end = end;
    batch->n_calls = 2;
    for (uint32_t i = 0; i < 2; i++) {
        batch->calls[i] = (struct mesh_call){
            .target = 1, .method = asks[i], .deadline_ns = INT64_MAX, .done = on_done};
        assert_int_equal(mesh_call_start(end->mesh, &batch->calls[i]), 0);
    }
    rig_poll_until(end, three_nap, end->rig);
    for (uint32_t i = 0; i < 2; i++)
        mesh_call_cancel(end->mesh, &batch->calls[i]);
    rig_poll_until(end, all_have_ended, batch);
    free(batch);
    rig_serve(end);
}

static void mixed_body(struct rig_end *end)
{
    call_all(end, naps_and_echoes, 4);
}

/* ---- helpers ---- */

static void open_rig(struct rig *rig, uint32_t n_shards)
{
    rig_open(rig, n_shards, &judge_service);
    rig_of_test = rig;
}

static uint64_t end_of(const struct rig *rig, uint32_t call)
{
    return atomic_load(&rig->board->words[WORD_END + call]);
}

/* Two naps are under way in peer 1: one that may run again, and one that may not. */
static void begin_naps(struct rig *rig)
{
    open_rig(rig, 2);
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, napping_body);
    rig_wait_word(rig, WORD_RUNS, 2);
}

/* That shard has died, and its replacement was allowed to wake. */
static void check_naps(const struct rig *rig)
{
    assert_int_equal(end_of(rig, 0), CALL_END_DONE);
    assert_int_equal(end_of(rig, 1), CALL_END_IN_DOUBT);
}

static void stop(struct rig *rig, uint32_t peer)
{
    int status;

    assert_int_equal(kill(rig->ends[peer].pid, SIGSTOP), 0);
    assert_int_equal(waitpid(rig->ends[peer].pid, &status, WUNTRACED), rig->ends[peer].pid);
    assert_true(WIFSTOPPED(status));
}

static void go_on(struct rig *rig, uint32_t peer)
{
    assert_int_equal(kill(rig->ends[peer].pid, SIGCONT), 0);
}

static void check_all_came_back(struct rig *rig)
{
    assert_true(rig_balances(rig));
    assert_int_equal(rig_slots_in_use(rig), 0);
    rig_close(rig);
}

/* ---- cases ---- */

static void a_caller_judges_long_after_the_replacement_began(void **state)
{
    struct rig rig;

    (void)state;
    begin_naps(&rig);
    stop(&rig, 0);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    go_on(&rig, 0);
    rig_wait_word(&rig, WORD_END + 1, 1);
    rig_wait_word(&rig, WORD_RUNS, 3); /* the idempotent one alone */
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_join(&rig, 0);
    check_naps(&rig);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 3);
    check_all_came_back(&rig);
}

/* Two naps run in the first incarnation; the echoes are queued while nobody serves; the second runs
 * these and dies as well; all before the caller looks. */
static void a_target_dies_twice_before_a_stopped_caller_judges(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, mixed_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
    stop(&rig, 0);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_RUNS, 4);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    go_on(&rig, 0);
    rig_wait_word(&rig, WORD_RUNS, 5);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_join(&rig, 0);
    check_naps(&rig);
    for (uint32_t echo = 2; echo < 4; echo++)
        assert_true(end_of(&rig, echo) == CALL_END_DONE || end_of(&rig, echo) == CALL_END_IN_DOUBT);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 5);
    check_all_came_back(&rig);
}

static const uint32_t one_echo[] = {M_ECHO};

/* Told that nothing of it was begun, and then calls once more when it is there again. */
static void calling_twice_body(struct rig_end *end)
{
    call_all(end, naps_and_echoes, 4);
    rig_wait_word(end->rig, WORD_WAKE, 1);
    call_all(end, one_echo, 1);
}

static void what_was_told_not_to_have_begun_does_not_run_when_the_shard_is_back(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, calling_twice_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
    rig_bury(&rig, 1, true);
    rig_wait_word(&rig, WORD_GONE, 1);
    for (uint32_t call = 0; call < 4; call++)
        assert_int_equal(end_of(&rig, call), CALL_END_NOT_STARTED);
    segment_control(&rig.seg, 1)->state = PEER_UP;
    rig_fork(&rig, 1, rig_serve);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_join(&rig, 0);
    assert_int_equal(end_of(&rig, 0), CALL_END_DONE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 1);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->dropped, 4);
    check_all_came_back(&rig);
}

static bool no_slot_in_use(void *opaque)
{
    return rig_slots_in_use(opaque) == 0;
}

static void idle_until_all_is_free_body(struct rig_end *end)
{
    rig_poll_until(end, no_slot_in_use, end->rig);
}

/* The replacement of peer 0 has taken over. */
static void wait_until_none_waits(struct rig *rig)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;
    uint32_t n_waiting = 1;

    while (n_waiting > 0) {
        assert_true(aio_clock_ns() < deadline_ns);
        n_waiting = 0;
        for (uint32_t slot = 0; slot < segment_call_slots(&rig->seg, 0, 1); slot++) {
            uint64_t word = atomic_load_acquire(&segment_call(&rig->seg, 0, 1, slot)->word);
            n_waiting += (word & 0xff) == CALL_WAITING;
        }
        sched_yield();
    }
}

static void a_replacement_cancels_what_the_dead_one_had_asked_and_nobody_began(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, mixed_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, idle_until_all_is_free_body);
    wait_until_none_waits(&rig);
    rig_fork(&rig, 1, rig_serve);
    rig_join(&rig, 0);
    assert_true(atomic_load(&rig.board->words[WORD_RUNS]) == 0);
    check_all_came_back(&rig);
}

/* As if the slot of a call that had ended were in use again, and the message of that not yet
 * sent. */
static void begin_another_in(struct rig *rig, uint32_t slot)
{
    struct call_slot *call = segment_call(&rig->seg, 0, 1, slot);
    struct pair_stats *stats = segment_pair(&rig->seg, 0, 1);

    call->word += 1 << 8;
    call->position = *segment_tail(
        &rig->seg, 0, 1, segment_slot_lane(segment_call_slots(&rig->seg, 0, 1), slot));
    stats->ends[CALL_END_DONE]++;
    stats->calls_submitted++;
}

static void a_call_never_sent_comes_back_though_its_place_in_the_ring_is_taken(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, mixed_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
    kill(rig.ends[0].pid, SIGKILL);
    rig_join(&rig, 0);
    begin_another_in(&rig, 0); /* the replacement tells of slots 1, 2 and 3 */
    rig_bury(&rig, 0, false);
    rig_fork(&rig, 0, idle_until_all_is_free_body);
    wait_until_none_waits(&rig);
    rig_fork(&rig, 1, rig_serve);
    rig_join(&rig, 0);
    assert_int_equal(segment_pair(&rig.seg, 0, 1)->ends[CALL_END_CANCELLED], 1);
    check_all_came_back(&rig);
}

static uint64_t n_sent(const struct rig *rig)
{
    return atomic_load_acquire(segment_tail(&rig->seg, 0, 1, LANE_NORMAL)) +
           atomic_load_acquire(segment_tail(&rig->seg, 0, 1, LANE_URGENT));
}

/* It tells what is abandoned once it has found the rings empty. */
static void recovering_body(struct rig_end *end)
{
    for (int i = 0; i < 4; i++)
        aio_poll(end->ctx, false);
    atomic_fetch_add(&end->rig->board->words[WORD_GONE], 1);
    idle_until_all_is_free_body(end);
}

static void one_that_dies_again_and_again_fills_no_ring_of_a_peer_that_does_not_look(void **state)
{
    uint64_t n_before;
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, mixed_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
    n_before = n_sent(&rig);
    for (uint64_t death = 1; death <= 20; death++) {
        rig_kill(&rig, 0, false);
        rig_fork(&rig, 0, recovering_body);
        rig_wait_word(&rig, WORD_GONE, death);
        assert_int_equal(n_sent(&rig), n_before + 4); /* that each is abandoned */
    }
    rig_fork(&rig, 1, rig_serve);
    rig_join(&rig, 0);
    check_all_came_back(&rig);
}

static void a_method_learns_that_its_dead_caller_wants_no_answer(void **state)
{
    struct rig rig;

    (void)state;
    begin_naps(&rig);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, idle_until_all_is_free_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_UNWANTED]), 2);
    assert_int_equal(segment_pair(&rig.seg, 0, 1)->ends[CALL_END_NONE], 2);
    check_all_came_back(&rig);
}

/* What it had called called others. */
static void what_a_dead_caller_had_asked_for_ends_all_the_way_down(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 2, rig_serve);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, asking_body);
    rig_wait_word(&rig, WORD_RUNS, 3);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, idle_until_all_is_free_body);
    rig_wait_word(&rig, WORD_UNWANTED, 3);
    rig_join(&rig, 0);
    rig_stop_all(&rig);
    check_all_came_back(&rig);
}

static void what_a_call_taken_back_had_asked_for_ends_all_the_way_down(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 2, rig_serve);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, asking_no_more_body);
    rig_wait_word(&rig, WORD_UNWANTED, 3);
    for (int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS; rig_slots_in_use(&rig) > 0;) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
    assert_int_equal(end_of(&rig, 0), CALL_END_CANCELLED);
    assert_int_equal(end_of(&rig, 1), CALL_END_CANCELLED);
    rig_stop_all(&rig);
    check_all_came_back(&rig);
}

static void caller_and_callee_die_at_once(void **state)
{
    struct rig rig;

    (void)state;
    begin_naps(&rig);
    kill(rig.ends[1].pid, SIGKILL);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, idle_until_all_is_free_body); /* judges what its own dead self had asked */
    rig_join(&rig, 1);
    rig_bury(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 2);
    check_all_came_back(&rig);
}

/* ---- coroutines that moved: the test writes what a move would ---- */

/* As if the coroutines that serve slots 0 and 1 had moved from peer 1 to peer 2. */
static void move_both(struct rig *rig, arena_co *ret_cos)
{
    for (uint32_t slot = 0, n = 0; slot < segment_call_slots(&rig->seg, 0, 1) && n < 2; slot++) {
        if ((segment_call(&rig->seg, 0, 1, slot)->word & 0xff) != CALL_WAITING)
            continue;
        ret_cos[n] = arena_create(&rig->seg, 2, n);
        assert_true(ret_cos[n] != 0 && arena_suspend(&rig->seg, ret_cos[n], 2));
        segment_serve(&rig->seg, 1, 0, slot)->co = ret_cos[n++];
    }
}

static bool was_judged(struct rig *rig)
{
    rig_wait_word(rig, WORD_END + 1, 1);
    return true;
}

static void begin_away(struct rig *rig, arena_co *ret_cos)
{
    open_rig(rig, 3);
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 2, rig_serve);
    rig_fork(rig, 0, napping_body);
    rig_wait_word(rig, WORD_RUNS, 2);
    move_both(rig, ret_cos);
}

static void a_call_whose_coroutine_moved_outlives_its_home_and_dies_where_it_is(void **state)
{
    struct rig rig;
    arena_co cos[2];

    (void)state;
    begin_away(&rig, cos);
    for (uint32_t death = 0; death < 2; death++) {
        rig_kill(&rig, 1, false);
        rig_fork(&rig, 1, rig_serve);
    }
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 2);
    assert_int_equal(end_of(&rig, 1), CALL_END_NONE);
    rig_kill(&rig, 2, false);
    assert_true(was_judged(&rig));
    rig_wait_word(&rig, WORD_RUNS, 3);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_join(&rig, 0);
    check_naps(&rig);
    check_all_came_back(&rig);
}

static void a_home_given_up_ends_its_calls_wherever_their_coroutines_are(void **state)
{
    struct rig rig;
    arena_co cos[2];

    (void)state;
    begin_away(&rig, cos);
    rig_kill(&rig, 1, true);
    rig_join(&rig, 0);
    assert_int_equal(end_of(&rig, 0), CALL_END_FAILED);
    assert_int_equal(end_of(&rig, 1), CALL_END_IN_DOUBT);
    check_all_came_back(&rig);
}

/* ---- garbage ---- */

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void scribble(uint64_t *seed, void *from, size_t bytes)
{
    uint8_t *at = from;

    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(next_random(seed) >> 24);
}

static void echoing_body(struct rig_end *end)
{
    static const uint32_t echoes[] = {M_ECHO, M_ECHO, M_ECHO, M_ECHO};

    call_all(end, echoes, 4);
}

/* All that recovery reads of the dead one's part: its slots on both sides, and its redo record. */
static void scribble_part(struct rig *rig, uint32_t dead, uint64_t *seed)
{
    for (uint32_t other = 0; other < rig->seg.n_peers; other++) {
        uint32_t n_calls = segment_call_slots(&rig->seg, dead, other);
        uint32_t n_serves = segment_call_slots(&rig->seg, other, dead);
        if (n_calls)
            scribble(
                seed, segment_call(&rig->seg, dead, other, 0), n_calls * sizeof(struct call_slot));
        if (n_serves)
            scribble(seed, segment_serve(&rig->seg, dead, other, 0),
                n_serves * sizeof(struct serve_slot));
    }
    scribble(seed, &segment_part(&rig->seg, dead)->redo, sizeof(struct redo_record));
}

static void a_part_of_garbage_harms_neither_supervisor_nor_replacement(void **state)
{
    uint64_t seed = 88172645463325252u;

    (void)state;
    for (uint32_t round = 0; round < 12; round++) {
        struct rig rig;
        begin_naps(&rig);
        kill(rig.ends[0].pid, SIGKILL);
        kill(rig.ends[1].pid, SIGKILL);
        rig_join(&rig, 0);
        rig_join(&rig, 1);
        scribble_part(&rig, round % 2, &seed);
        rig_bury(&rig, 0, false);
        rig_bury(&rig, 1, false);
        atomic_store(&rig.board->words[WORD_GONE], 0);
        rig_fork(&rig, 1, rig_serve);
        rig_fork(&rig, 0, echoing_body);
        rig_wait_word(&rig, WORD_GONE, 1);
        for (uint32_t call = 0; call < 4; call++)
            assert_int_equal(end_of(&rig, call), CALL_END_DONE);
        rig_close(&rig);
    }
}

/* Each field of the record in turn is far out, with the others as they should be. */
static void a_redo_record_that_makes_no_sense_changes_nothing(void **state)
{
    const struct redo_record good = {
        .kind = REDO_END, .pair = 1, .slot = 3, .word = 5 << 8, .value = 9, .end = CALL_END_DONE};
    const struct redo_record bad[] = {
        {.kind = 77, .pair = 1, .slot = 3, .word = 5 << 8, .value = 9, .end = CALL_END_DONE},
        {.kind = REDO_END, .pair = 0, .slot = 3, .word = 5 << 8, .value = 9, .end = 1},
        {.kind = REDO_END, .pair = UINT32_MAX, .slot = 3, .word = 5 << 8, .value = 9, .end = 1},
        {.kind = REDO_END, .pair = 1, .slot = UINT32_MAX, .word = 5 << 8, .value = 9, .end = 1},
        {.kind = REDO_END, .pair = 1, .slot = 3, .word = 5 << 8 | 0x55, .value = 9, .end = 1},
        {.kind = REDO_END, .pair = 1, .slot = 3, .word = 5 << 8, .value = 9, .end = 99},
        {.kind = REDO_SUBMIT, .pair = 1, .slot = 3, .word = 5 << 8, .value = 9, .end = 99},
    };
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    struct redo_record *redo = &segment_part(&rig.seg, 0)->redo;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        *redo = bad[i];
        mesh_finish_redo(&rig.seg, 0);
        assert_int_equal(redo->kind, REDO_NONE);
        assert_int_equal(segment_call(&rig.seg, 0, 1, 3)->word, 0);
        assert_int_equal(segment_pair(&rig.seg, 0, 1)->ends[CALL_END_DONE], 0);
        assert_int_equal(segment_pair(&rig.seg, 0, 1)->calls_submitted, 0);
    }
    *redo = good;
    assert_true(mesh_finish_redo(&rig.seg, 0));
    assert_int_equal(segment_call(&rig.seg, 0, 1, 3)->word, 5 << 8);
    assert_int_equal(segment_pair(&rig.seg, 0, 1)->ends[CALL_END_DONE], 9);
    assert_false(mesh_finish_redo(&rig.seg, 0));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_caller_judges_long_after_the_replacement_began),
        cmocka_unit_test(a_target_dies_twice_before_a_stopped_caller_judges),
        cmocka_unit_test(what_was_told_not_to_have_begun_does_not_run_when_the_shard_is_back),
        cmocka_unit_test(a_replacement_cancels_what_the_dead_one_had_asked_and_nobody_began),
        cmocka_unit_test(a_call_never_sent_comes_back_though_its_place_in_the_ring_is_taken),
        cmocka_unit_test(one_that_dies_again_and_again_fills_no_ring_of_a_peer_that_does_not_look),
        cmocka_unit_test(a_method_learns_that_its_dead_caller_wants_no_answer),
        cmocka_unit_test(what_a_dead_caller_had_asked_for_ends_all_the_way_down),
        cmocka_unit_test(what_a_call_taken_back_had_asked_for_ends_all_the_way_down),
        cmocka_unit_test(caller_and_callee_die_at_once),
        cmocka_unit_test(a_call_whose_coroutine_moved_outlives_its_home_and_dies_where_it_is),
        cmocka_unit_test(a_home_given_up_ends_its_calls_wherever_their_coroutines_are),
        cmocka_unit_test(a_part_of_garbage_harms_neither_supervisor_nor_replacement),
        cmocka_unit_test(a_redo_record_that_makes_no_sense_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
