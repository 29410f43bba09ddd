/* SPDX-License-Identifier: MIT */
/* No death leaves a portable coroutine in two hands or in none. */
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>

#include "runtime/coroutine_overflow.h"
#include "shard/crash_handler.h"
#include "tests/unit/shard/portable_fixture.h"

/* Goes to shard 0, which lives, and from there to shard 1, which does not. */
static int coroutine_fn run_away(struct service_call *call)
{
    CHECK(service_move(call, 0) == 0);
    note(WORD_READY, 1);
    service_move(call, 1);
    bad("it lives on");
    return 0;
}

static const struct service_method methods[] = {
    {.name = "away", .flags = SERVICE_PORTABLE, .help = "moves", .run = run_away},
};
static const struct service deaths_service = {
    .abi = SERVICE_ABI, .name = "deaths", .help = "for tests", .methods = methods, .n_methods = 1};
static const struct service *const service = &deaths_service;

/* ---- deaths ---- */

static void coroutine_fn go_to_the_dead(struct mesh *mesh, void *opaque)
{
    int r = shard_co_move(&mesh, 1);

    (void)opaque;
    note(WORD_STATUS, (uint64_t)-r);
    note(WORD_WHERE, (uint64_t)getpid());
    note(WORD_DONE, 1);
}

static bool never(void *opaque)
{
    (void)opaque;
    return false;
}

static void start_to_the_dead(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, go_to_the_dead, NULL, "go", NULL) == 0);
    aio_poll(end->ctx, false); /* tells */
    note(WORD_READY, 1);
    rig_serve(end);
}

/* It has moved to a shard that is not there. */
static void send_one_to_the_dead(void)
{
    rig_fork(&rig, 0, start_to_the_dead);
    rig_wait_word(&rig, WORD_READY, 1);
    assert_int_equal(n_in_use(), 1);
}

static void one_on_its_way_to_a_dead_shard_goes_on_in_the_replacement(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    send_one_to_the_dead();
    rig_bury(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), 0);
    assert_int_equal(noted(WORD_WHERE), rig.ends[1].pid);
}

static bool nothing_keeps_it(void *opaque)
{
    return noted(WORD_READY) && mesh_is_idle(((struct rig_end *)opaque)->mesh);
}

static void leaving_body(struct rig_end *end)
{
    note(WORD_GO, 1);
    rig_poll_until(end, nothing_keeps_it, end);
}

static void one_that_would_go_to_a_shard_that_is_restarted_arrives_in_the_replacement(void **state)
{
    struct peer_control *control = segment_control(&rig.seg, 1);

    (void)state;
    if (!IN_PROCESSES)
        skip();
    rig_fork(&rig, 1, leaving_body);
    rig_wait_word(&rig, WORD_GO, 1);
    atomic_store_release(&control->state, PEER_RESTARTING);
    send_one_to_the_dead();
    rig_join(&rig, 1);
    assert_int_equal(noted(WORD_DONE), 0);
    rig_bury(&rig, 1, false);
    atomic_store_release(&control->state, PEER_UP);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), 0);
    assert_int_equal(noted(WORD_WHERE), rig.ends[1].pid);
    wait_until_nothing_is_under_way();
}

/* Should it leave, the replacement goes on with it. */
static void one_on_its_way_does_not_keep_the_shard_from_leaving(void **state)
{
    struct rig_end end;
    arena_co co;

    (void)state;
    rig_begin(&rig, 1, &end);
    co = arena_create(&rig.seg, 0, 0);
    assert_true(co != 0 && arena_move(&rig.seg, co, 0, 1));
    assert_true(mesh_is_idle(end.mesh));
    assert_true(arena_enter(&rig.seg, co, 1));
    assert_false(mesh_is_idle(end.mesh));
    arena_end(&rig.seg, co, 1);
    rig_finish(&end);
}

static void one_whose_sender_died_too_goes_on_all_the_same(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    send_one_to_the_dead();
    rig_kill(&rig, 0, false);
    rig_bury(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_WHERE), rig.ends[1].pid);
}

static void one_on_its_way_to_a_shard_given_up_goes_on_where_it_was(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    send_one_to_the_dead();
    rig_bury(&rig, 1, true);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), EHOSTDOWN);
    assert_int_equal(noted(WORD_WHERE), rig.ends[0].pid);
}

static void one_that_can_not_arrive_is_taken_back_by_its_senders_replacement(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    send_one_to_the_dead();
    rig_kill(&rig, 0, false);
    rig_bury(&rig, 1, true);
    assert_int_equal(n_in_use(), 1);
    rig_fork(&rig, 0, rig_serve);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), EHOSTDOWN);
    assert_int_equal(noted(WORD_WHERE), rig.ends[0].pid);
}

static void one_between_two_that_are_given_up_is_ended(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    send_one_to_the_dead();
    rig_bury(&rig, 1, true);
    rig_kill(&rig, 0, true);
    assert_int_equal(n_in_use(), 0);
}

/* ---- without a supervisor ---- */

static uint32_t n_sent_to(uint32_t target)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < rig.seg.geometry.n_portable; slot++) {
        struct arena_word w = arena_read(&rig.seg, slot);
        n += w.state == ARENA_QUEUED && w.owner == target;
    }
    return n;
}

static void wait_until_one_is_sent_to(uint32_t target)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20000000000);

    while (n_sent_to(target) == 0) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

static void on_away(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    note(WORD_STATUS, (uint64_t)-answer->status);
    note(WORD_DONE, 1);
}

static bool orphan_is_done(void *opaque)
{
    struct rig_end *end = opaque;

    if (noted(WORD_GO))
        mesh_orphaned(end->mesh);
    return noted(WORD_DONE) && mesh_is_idle(end->mesh);
}

static void orphan_body(struct rig_end *end)
{
    rig_poll_until(end, orphan_is_done, end);
    atomic_fetch_add(&board->words[WORD_END], 1);
    rig_serve(end);
}

static void asking_orphan_body(struct rig_end *end)
{
    struct mesh_call call = {.target = 2, .deadline_ns = INT64_MAX, .done = on_away};

    CHECK(mesh_call_start(end->mesh, &call) == 0);
    orphan_body(end);
}

/* The call was served by shard 2, which lives, as does the caller. */
static void a_call_whose_coroutine_was_between_two_that_died_at_once_ends_for_orphans(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    rig_fork(&rig, 0, rig_serve);
    rig_fork(&rig, 2, orphan_body);
    rig_fork(&rig, 3, asking_orphan_body);
    rig_wait_word(&rig, WORD_READY, 1);
    wait_until_one_is_sent_to(1);
    kill(rig.ends[0].pid, SIGKILL);
    rig_join(&rig, 0);
    note(WORD_GO, 1);
    rig_wait_word(&rig, WORD_END, 2);
    assert_int_equal(noted(WORD_STATUS), EOWNERDEAD); /* it was begun, and is not to be repeated */
    assert_int_equal(n_in_use(), 0);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- half-way ---- */

/* Dies on the loop's stack, when the word says that it is on its way and nobody was told. */
static void move_word_and_die(Coroutine *co, void *opaque)
{
    arena_co name = shard_co_self() ? 0 : noted(WORD_CO);

    (void)opaque;
    co_portable_leave(co);
    arena_move(&rig.seg, name, 0, 1);
    raise(SIGKILL);
}

static void coroutine_fn die_half_way(struct mesh *mesh, void *opaque)
{
    (void)mesh;
    (void)opaque;
    note(WORD_CO, shard_co_self());
    co_yield_then("death", move_word_and_die, NULL);
    note(WORD_WHERE, (uint64_t)getpid());
    note(WORD_DONE, 1);
}

static void start_dying(struct rig_end *end)
{
    portable_start(end->mesh, die_half_way, NULL, "die", NULL);
    rig_poll_until(end, never, NULL);
}

/* Has looked at all words, as each does when it begins. */
static void serve_after_a_look(struct rig_end *end)
{
    while (aio_poll(end->ctx, false))
        continue;
    note(WORD_READY, 1);
    rig_serve(end);
}

static void one_whose_sender_died_before_it_told_is_found_by_its_target(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    rig_fork(&rig, 1, serve_after_a_look);
    rig_wait_word(&rig, WORD_READY, 1);
    rig_fork(&rig, 0, start_dying);
    rig_join(&rig, 0);
    assert_int_equal(n_in_use(), 1);
    rig_bury(&rig, 0, false);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_WHERE), rig.ends[1].pid);
}

static void coroutine_fn stay_there(struct mesh *mesh, void *opaque)
{
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_READY, 1);
    shard_co_wait(&mesh, "nothing");
    bad("it lives on");
    (void)opaque;
}

static void start_to_stay(struct rig_end *end)
{
    arena_co co;

    CHECK(portable_start(end->mesh, stay_there, NULL, "stay", &co) == 0);
    note(WORD_CO, co);
    rig_serve(end);
}

static void one_that_waits_in_a_shard_ends_with_it_and_a_wake_says_so(void **state)
{
    uint32_t owner;

    (void)state;
    if (!IN_PROCESSES)
        skip();
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, start_to_stay);
    rig_wait_word(&rig, WORD_READY, 1);
    rig_kill(&rig, 1, false);
    assert_int_equal(n_in_use(), 0);
    assert_int_equal(
        arena_wake(&rig.seg, noted(WORD_CO), 2, ARENA_WHERE_IT_IS, &owner), ARENA_GONE);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- its stack's end ---- */

static int coroutine_fn recurse(volatile int *depth)
{
    volatile int below = *depth + 1;

    return below < INT_MAX ? recurse(&below) + *depth : 0;
}

static void coroutine_fn overflow_there(struct mesh *mesh, void *opaque)
{
    volatile int depth = 0;

    (void)opaque;
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_READY, 1);
    note(WORD_END, (uint64_t)recurse(&depth));
}

static void note_overflow(const CoroutineOverflow *overflow, void *opaque)
{
    (void)overflow;
    (void)opaque;
    crash_handler_note_overflow();
}

static void serve_with_last_words(struct rig_end *end)
{
    const struct segment *seg = &end->rig->seg;
    struct crash_handler handler = {
        .record = segment_crash(seg, end->peer), .running = &segment_part(seg, end->peer)->running};

    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    CHECK(crash_handler_install(&handler) == 0);
    CHECK(coroutine_overflow_watch(note_overflow, NULL) == 0);
    rig_serve(end);
}

static void start_to_overflow(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, overflow_there, NULL, "endless", NULL) == 0);
    rig_serve(end);
}

static void one_that_overflows_its_stack_away_from_home_is_named_with_what_it_began_in(void **state)
{
    static struct crash_record record;
    char line[256], entry[32];

    (void)state;
    if (SANITIZED)
        skip();
    rig_fork(&rig, 1, serve_with_last_words);
    rig_fork(&rig, 0, start_to_overflow);
    rig_wait_word(&rig, WORD_READY, 1);
    rig_join(&rig, 1);
    assert_int_equal(crash_record_read(segment_crash(&rig.seg, 1), &record), 0);
    assert_true(record.flags & CRASH_OVERFLOW);
    assert_string_equal(record.coroutine_name, "endless");
    assert_int_equal(record.coroutine_entry, (uint64_t)(uintptr_t)overflow_there);
    crash_record_line(&record, line, sizeof line);
    assert_non_null(strstr(line, "stack overflow of coroutine endless ("));
    snprintf(entry, sizeof entry, "created at 0x%" PRIx64, record.coroutine_entry);
    assert_non_null(strstr(line, entry));
    rig_bury(&rig, 1, false);
    assert_int_equal(n_in_use(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_on_its_way_to_a_dead_shard_goes_on_in_the_replacement),
        CASE(one_that_would_go_to_a_shard_that_is_restarted_arrives_in_the_replacement),
        CASE(one_on_its_way_does_not_keep_the_shard_from_leaving),
        CASE(one_whose_sender_died_too_goes_on_all_the_same),
        CASE(one_on_its_way_to_a_shard_given_up_goes_on_where_it_was),
        CASE(one_that_can_not_arrive_is_taken_back_by_its_senders_replacement),
        CASE(one_between_two_that_are_given_up_is_ended),
        CASE(a_call_whose_coroutine_was_between_two_that_died_at_once_ends_for_orphans),
        CASE(one_whose_sender_died_before_it_told_is_found_by_its_target),
        CASE(one_that_waits_in_a_shard_ends_with_it_and_a_wake_says_so),
        CASE(one_that_overflows_its_stack_away_from_home_is_named_with_what_it_began_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
