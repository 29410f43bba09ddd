/* SPDX-License-Identifier: MIT */
/* Methods that move while they serve a call. */
#include "shard/shard_alloc.h"
#include "tests/unit/shard/portable_fixture.h"

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

enum {
    M_NOTHING,
    M_VISIT,
    M_VISIT_ONCE,
    M_FAIL_AWAY,
    M_CARRY,
    M_WITH_LOCK,
    M_COMPUTE,
    M_WAIT_HERE
};

static int coroutine_fn run_visit(struct service_call *call);
static int coroutine_fn run_fail_away(struct service_call *call);

static int coroutine_fn run_carry(struct service_call *call);
static int coroutine_fn run_with_lock(struct service_call *call);

static int coroutine_fn run_compute(struct service_call *call);
static int coroutine_fn run_wait_here(struct service_call *call);

static const struct service_method methods[] = {
    [M_NOTHING] = {.name = "nothing", .run = run_nothing, .help = "does nothing"},
    [M_VISIT] = {.name = "visit",
        .run = run_visit,
        .flags = SERVICE_PORTABLE | SERVICE_IDEMPOTENT,
        .help = "goes to shard 2 and waits there"},
    [M_VISIT_ONCE] = {.name = "visit-once",
        .run = run_visit,
        .flags = SERVICE_PORTABLE,
        .help = "the same, not to be run twice"},
    [M_FAIL_AWAY] = {.name = "fail-away",
        .run = run_fail_away,
        .flags = SERVICE_PORTABLE,
        .help = "goes to shard 2 and fails there"},
    [M_CARRY] = {.name = "carry",
        .run = run_carry,
        .flags = SERVICE_PORTABLE,
        .help = "goes to shard 2 with its arguments, and answers with how many are whole"},
    [M_WITH_LOCK] = {.name = "with-lock",
        .run = run_with_lock,
        .flags = SERVICE_PORTABLE,
        .help = "takes a lock between shards, and can't move until it has let go of it"},
    [M_COMPUTE] = {.name = "compute",
        .run = run_compute,
        .flags = SERVICE_PORTABLE,
        .help = "computes, yielding, until one of its like has gone elsewhere"},
    [M_WAIT_HERE] = {.name = "wait-here",
        .run = run_wait_here,
        .help = "yields until all its like have begun"},
};
static const struct service moving_service = {.abi = SERVICE_ABI,
    .name = "portable",
    .help = "for tests",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0])};
static const struct service *const service = &moving_service;

/* ---- methods that move ---- */

static int coroutine_fn run_visit(struct service_call *call)
{
    size_t len;
    const char *args = service_args(call, &len);
    char reply[64];
    int r = service_move(call, 2);

    if (r < 0)
        return r;
    CHECK(service_shard(call) == 2 && service_is_wanted(call));
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (noted(WORD_GO) == 0 && service_is_wanted(call))
        co_sleep_ns(1000000);
    if (!service_is_wanted(call))
        note(WORD_STATUS, 1);
    snprintf(reply, sizeof(reply), "%.*s from 2", (int)len, args);
    return service_reply(call, reply, strlen(reply)); /* at home */
}

static int coroutine_fn run_fail_away(struct service_call *call)
{
    int r = service_move(call, 2);

    return r < 0 ? r : service_fail(call, -ENOTTY, "no terminal in shard %u", service_shard(call));
}

static void coroutine_fn ask(struct mesh *mesh, uint32_t method)
{
    struct call_answer answer;
    int r = shard_call(mesh,
        &(struct call_request){.target = 1,
            .method = method,
            .args = "hello",
            .args_len = 5,
            .deadline_ns = INT64_MAX},
        &answer);

    note(WORD_END, answer.end);
    if (answer.end == CALL_END_DONE)
        CHECK(r == 0 && answer.len == 12 && memcmp(answer.data, "hello from 2", 12) == 0);
    if (answer.end == CALL_END_FAILED)
        CHECK(r == -ENOTTY && strcmp(answer.data, "no terminal in shard 2") == 0);
    call_answer_deinit(&answer);
    note(WORD_DONE, 1);
}

static void coroutine_fn ask_visit(void *opaque)
{
    ask(opaque, M_VISIT);
}

static void coroutine_fn ask_visit_once(void *opaque)
{
    ask(opaque, M_VISIT_ONCE);
}

static void coroutine_fn ask_fail_away(void *opaque)
{
    ask(opaque, M_FAIL_AWAY);
}

static CoroutineEntry *question;

static void ask_and_serve(struct rig_end *end)
{
    coroutine_enter(coroutine_create(question, end->mesh));
    rig_serve(end);
}

static void let_three_begin(CoroutineEntry *entry)
{
    question = entry;
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, ask_and_serve);
}

static void check_end(enum call_end end)
{
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_END), end);
    assert_int_equal(noted(WORD_BAD), 0);
    wait_until_nothing_is_under_way();
    rig_stop_all(&rig);
    assert_true(rig_balances(&rig));
}

static void a_method_that_moved_answers_from_home(void **state)
{
    (void)state;
    note(WORD_GO, 1);
    let_three_begin(ask_visit_once);
    check_end(CALL_END_DONE);
}

static void a_method_that_fails_elsewhere_brings_its_text_home(void **state)
{
    (void)state;
    let_three_begin(ask_fail_away);
    check_end(CALL_END_FAILED);
}

static void a_method_whose_home_dies_answers_from_the_replacement_and_runs_once(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    note(WORD_GO, 1);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_RUNS), 1);
}

static void one_that_dies_away_is_in_doubt_or_runs_again_though_its_home_lives(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 2, false);
    rig_fork(&rig, 2, rig_serve);
    check_end(CALL_END_IN_DOUBT);
    teardown(NULL);
    setup(NULL);
    let_three_begin(ask_visit);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 2, false);
    note(WORD_GO, 1);
    rig_fork(&rig, 2, rig_serve);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_RUNS), 2);
}

static void one_whose_caller_dies_sees_it_wherever_it_is(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, rig_serve);
    rig_wait_word(&rig, WORD_STATUS, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- large arguments ---- */

#define LARGE 40000

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 7 + i / 256);
}

static size_t n_whole(const struct service_call *call)
{
    size_t len, i = 0;
    const uint8_t *args = service_args(call, &len);

    while (i < len && args[i] == pattern(i))
        i++;
    return i;
}

/* The status of its move is what it replies with, beside how many bytes of its arguments are whole
 * after that, and after whatever has died. */
static int coroutine_fn run_carry(struct service_call *call)
{
    uint64_t reply[2];
    int r = service_move(call, 2);

    reply[0] = (uint64_t)-r;
    CHECK(n_whole(call) > 0);
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (noted(WORD_GO) == 0 && service_is_wanted(call))
        co_sleep_ns(1000000);
    reply[1] = n_whole(call);
    return service_reply(call, reply, sizeof(reply));
}

static size_t question_bytes;

static void coroutine_fn ask_carry(void *opaque)
{
    uint8_t *args = malloc(question_bytes);
    struct call_answer answer;
    uint64_t reply[2] = {0};

    for (size_t i = 0; i < question_bytes; i++)
        args[i] = pattern(i);
    CHECK(shard_call(opaque,
              &(struct call_request){.target = 1,
                  .method = M_CARRY,
                  .args = args,
                  .args_len = question_bytes,
                  .deadline_ns = INT64_MAX},
              &answer) == 0);
    note(WORD_END, answer.end);
    if (answer.len == sizeof(reply))
        memcpy(reply, answer.data, sizeof(reply));
    note(WORD_STATUS, reply[0]);
    note(WORD_HOPS, reply[1]);
    call_answer_deinit(&answer);
    free(args);
    note(WORD_DONE, 1);
}

static void large_arguments_come_along(void **state)
{
    (void)state;
    question_bytes = LARGE;
    note(WORD_GO, 1);
    let_three_begin(ask_carry);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_STATUS), 0);
    assert_int_equal(noted(WORD_HOPS), LARGE);
}

static void large_arguments_outlive_the_shard_that_they_came_to(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    question_bytes = LARGE;
    let_three_begin(ask_carry);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    note(WORD_GO, 1);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_HOPS), LARGE);
    assert_int_equal(noted(WORD_RUNS), 1);
}

static void arguments_that_are_too_long_to_travel_keep_their_method_at_home(void **state)
{
    (void)state;
    question_bytes = SHARD_ALLOC_MAX + 1;
    note(WORD_GO, 1);
    let_three_begin(ask_carry);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_STATUS), ENOTSUP);
    assert_int_equal(noted(WORD_HOPS), SHARD_ALLOC_MAX + 1);
}

static void where_memory_that_moves_is_used_up_arguments_stay_and_their_method_too(void **state)
{
    arena_co holder = arena_create(&rig.seg, 2, UINT32_MAX);

    (void)state;
    for (uint32_t chunk = 0; chunk < segment_n_chunks(&rig.seg); chunk++)
        *segment_chunk_tag(&rig.seg, chunk) = holder;
    question_bytes = LARGE;
    note(WORD_GO, 1);
    let_three_begin(ask_carry);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), EBUSY);
    assert_int_equal(noted(WORD_HOPS), LARGE);
    arena_end(&rig.seg, holder, 2);
    check_end(CALL_END_DONE);
}

static void where_no_portable_coroutine_is_free_a_method_runs_at_home(void **state)
{
    uint32_t n = rig.seg.geometry.n_portable;
    arena_co *all = calloc(n, sizeof(*all));

    (void)state;
    for (uint32_t i = 0; i < n; i++)
        assert_true((all[i] = arena_create(&rig.seg, 2, i)) != 0);
    question_bytes = 10;
    note(WORD_GO, 1);
    let_three_begin(ask_carry);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_STATUS), ENOTSUP);
    assert_int_equal(noted(WORD_HOPS), 10);
    for (uint32_t i = 0; i < n; i++)
        arena_end(&rig.seg, all[i], 2);
    free(all);
    check_end(CALL_END_DONE);
}

/* ---- with a lock ---- */

static int coroutine_fn run_with_lock(struct service_call *call)
{
    int r = service_lock(call, "it");

    CHECK(r == 0);
    CHECK(service_move(call, 2) == -EBUSY);
    CHECK(strstr(shard_co_holds(), "lock") != NULL);
    CHECK(service_shard(call) == 1);
    CHECK(service_unlock(call, "it") == 0);
    r = service_move(call, 2);
    CHECK(r == 0 && service_lock(call, "it") == 0); /* from there too, and goes home without */
    return service_unlock(call, "it");
}

static void coroutine_fn ask_with_lock(void *opaque)
{
    struct call_answer answer;

    CHECK(shard_call(opaque,
              &(struct call_request){.target = 1, .method = M_WITH_LOCK, .deadline_ns = INT64_MAX},
              &answer) == 0);
    note(WORD_END, answer.end);
    call_answer_deinit(&answer);
    note(WORD_DONE, 1);
}

static void one_that_holds_a_lock_between_shards_stays_until_it_lets_go(void **state)
{
    (void)state;
    let_three_begin(ask_with_lock);
    check_end(CALL_END_DONE);
}

/* ---- yielding ---- */

#define N_YIELD 4

/* Until one of its like has been elsewhere: that may be shard 0, too. */
static int coroutine_fn run_compute(struct service_call *call)
{
    while (noted(WORD_WHERE) == 0 && service_is_wanted(call)) {
        CHECK(service_yield(call) == 0);
        if (service_shard(call) != 1)
            note(WORD_WHERE, 1);
    }
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    return service_reply(call, "there", 5);
}

/* No method that may move: who yields lets the others of its shard begin. */
static int coroutine_fn run_wait_here(struct service_call *call)
{
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (noted(WORD_RUNS) < N_YIELD && service_is_wanted(call))
        CHECK(service_yield(call) == 0 && service_shard(call) == 1);
    return service_reply(call, "here!", 5);
}

static uint32_t yielding_method;

static void coroutine_fn ask_one_that_yields(void *opaque)
{
    struct call_answer answer;

    CHECK(shard_call(opaque,
              &(struct call_request){
                  .target = 1, .method = yielding_method, .deadline_ns = INT64_MAX},
              &answer) == 0);
    CHECK(answer.end == CALL_END_DONE && answer.len == 5);
    call_answer_deinit(&answer);
    atomic_fetch_add(&board->words[WORD_DONE], 1);
}

static void ask_many_that_yield(struct rig_end *end)
{
    for (int i = 0; i < N_YIELD; i++)
        coroutine_enter(coroutine_create(ask_one_that_yields, end->mesh));
    rig_serve(end);
}

static void let_yield(uint32_t method)
{
    yielding_method = method;
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, ask_many_that_yield);
    rig_wait_word(&rig, WORD_DONE, N_YIELD);
    assert_int_equal(noted(WORD_RUNS), N_YIELD);
    assert_int_equal(noted(WORD_BAD), 0);
    wait_until_nothing_is_under_way();
    rig_stop_all(&rig);
    assert_true(rig_balances(&rig));
}

static void of_methods_that_yield_some_go_on_where_a_shard_sleeps_and_answer_from_home(void **state)
{
    (void)state;
    let_yield(M_COMPUTE);
}

static void a_method_that_may_not_move_yields_to_the_others_of_its_shard(void **state)
{
    (void)state;
    let_yield(M_WAIT_HERE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_method_that_moved_answers_from_home),
        CASE(a_method_that_fails_elsewhere_brings_its_text_home),
        CASE(a_method_whose_home_dies_answers_from_the_replacement_and_runs_once),
        CASE(one_that_dies_away_is_in_doubt_or_runs_again_though_its_home_lives),
        CASE(one_whose_caller_dies_sees_it_wherever_it_is),
        CASE(large_arguments_come_along),
        CASE(large_arguments_outlive_the_shard_that_they_came_to),
        CASE(arguments_that_are_too_long_to_travel_keep_their_method_at_home),
        CASE(where_memory_that_moves_is_used_up_arguments_stay_and_their_method_too),
        CASE(where_no_portable_coroutine_is_free_a_method_runs_at_home),
        CASE(one_that_holds_a_lock_between_shards_stays_until_it_lets_go),
        CASE(of_methods_that_yield_some_go_on_where_a_shard_sleeps_and_answer_from_home),
        CASE(a_method_that_may_not_move_yields_to_the_others_of_its_shard),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
