/* SPDX-License-Identifier: MIT */
/*
 * Portable coroutines over processes: they keep what a stack has, and no death leaves one in two
 * hands or in none. Where ThreadSanitizer can't follow, ends are threads, and nobody dies.
 */
#include <alloca.h>
#include <errno.h>
#include <fenv.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_portable.h"
#include "runtime/coroutine_sanitize.h"
#include "shard/portable.h"
#include "tests/unit/shard/mesh_rig.h"

#ifdef CO_WITH_TSAN
#define IN_PROCESSES false
#else
#define IN_PROCESSES true
#endif

/* Hops of a torture; SHERD_TORTURE_HOPS says more. */
#define HOPS 20000

enum {
    WORD_DONE,
    WORD_HOPS,
    WORD_STATUS,
    WORD_WHERE,
    WORD_CO,
    WORD_READY,
    WORD_BAD,
    WORD_GO,
    WORD_RUNS,
    WORD_END
};

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

enum { M_NOTHING, M_VISIT, M_VISIT_ONCE, M_FAIL_AWAY };

static int coroutine_fn run_visit(struct service_call *call);
static int coroutine_fn run_fail_away(struct service_call *call);

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
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "portable",
    .help = "for tests",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0])};

static struct rig rig;
static struct rig_board *board; /* the same address in all ends */
static uint64_t n_hops;

static int setup(void **state)
{
    const char *hops = getenv("SHERD_TORTURE_HOPS");

    (void)state;
    n_hops = hops ? strtoull(hops, NULL, 10) : HOPS;
    rig_open(&rig, 3, &service);
    board = rig.board;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static void begin(uint32_t peer, rig_body_fn *body)
{
    if (IN_PROCESSES)
        rig_fork(&rig, peer, body);
    else
        rig_thread(&rig, peer, body);
}

static void note(unsigned word, uint64_t value)
{
    atomic_store(&board->words[word], value);
}

static uint64_t noted(unsigned word)
{
    return atomic_load(&board->words[word]);
}

static void bad(const char *what)
{
    fprintf(stderr, "%s\n", what);
    atomic_fetch_add(&board->words[WORD_BAD], 1);
}

#define CHECK(condition) ((condition) ? (void)0 : bad(#condition))

static uint32_t n_in_use(void)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < rig.seg.geometry.n_portable; slot++)
        n += arena_co_at(&rig.seg, slot) != 0;
    return n;
}

/* ---- what a stack keeps ---- */

/* Hops with a value in each register that a function must keep, and tells whether they were. */
static bool coroutine_fn hop_with_registers(struct mesh **mesh, uint32_t target, int *ret_status)
{
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
    register uint64_t rbx __asm__("rbx") = 0x1111222233334444;
    register uint64_t r12 __asm__("r12") = 0x2222333344445555;
    register uint64_t r13 __asm__("r13") = 0x3333444455556666;
    register uint64_t r14 __asm__("r14") = 0x4444555566667777;
    register uint64_t r15 __asm__("r15") = 0x5555666677778888;
    int status;

    __asm__ volatile("" : "+r"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
    status = shard_co_move(mesh, target);
    __asm__ volatile("" : "+r"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
    *ret_status = status;
    return rbx == 0x1111222233334444 && r12 == 0x2222333344445555 && r13 == 0x3333444455556666 &&
           r14 == 0x4444555566667777 && r15 == 0x5555666677778888;
#else
    *ret_status = shard_co_move(mesh, target);
    return true;
#endif
}

static uint64_t coroutine_fn sum_of(struct mesh **mesh, uint32_t target, int n, ...)
{
    va_list args;
    uint64_t sum = 0;

    va_start(args, n);
    for (int i = 0; i < n; i++) {
        if (i == n / 2)
            CHECK(shard_co_move(mesh, target) == 0);
        sum += va_arg(args, uint64_t);
    }
    va_end(args);
    return sum;
}

static uint32_t coroutine_fn deep(struct mesh **mesh, uint32_t depth, uint32_t target)
{
    volatile uint8_t frame[512];
    uint32_t below;

    memset((uint8_t *)frame, (int)depth, sizeof(frame));
    if (depth == 0)
        CHECK(shard_co_move(mesh, target) == 0);
    below = depth ? deep(mesh, depth - 1, target) : 0;
    for (size_t i = 0; i < sizeof(frame); i += 64)
        CHECK(frame[i] == (uint8_t)depth);
    return below + 1;
}

static void coroutine_fn keep_shapes(struct mesh **mesh, uint32_t target)
{
    size_t n = 100 + target * 100;
    volatile uint8_t *block = alloca(n);

    memset((uint8_t *)block, 0x5a, n);
    CHECK(sum_of(mesh, target, 6, UINT64_C(1), UINT64_C(20), UINT64_C(300), UINT64_C(4000),
              UINT64_C(50000), UINT64_C(600000)) == 654321);
    CHECK(deep(mesh, 20, (target + 1) % 3) == 21);
    for (size_t i = 0; i < n; i++)
        CHECK(block[i] == 0x5a);
}

static void coroutine_fn hop_about(struct mesh *mesh, void *opaque)
{
    volatile double local = 2.0 / 3.0;
    uint64_t hops = *(const uint64_t *)opaque;
    int status;

    fesetround(FE_UPWARD);
    for (uint64_t i = 1; i <= hops; i++) {
        uint32_t target = (uint32_t)(i % 3);
        CHECK(hop_with_registers(&mesh, target, &status));
        CHECK(status == 0);
        CHECK(fegetround() == FE_UPWARD);
        CHECK(local == 2.0 / 3.0);
        if (i % 100 == 0)
            keep_shapes(&mesh, target);
    }
    fesetround(FE_TONEAREST);
    note(WORD_HOPS, hops);
    note(WORD_DONE, 1);
}

static bool is_done(void *opaque)
{
    (void)opaque;
    return noted(WORD_DONE) != 0;
}

static void start_hopping(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, hop_about, &n_hops, "hop", NULL) == 0);
    rig_serve(end);
    CHECK(fegetround() == FE_TONEAREST); /* the loop's own mode */
}

static void one_that_hops_about_keeps_locals_registers_rounding_deep_frames_and_arguments(
    void **state)
{
    (void)state;
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, start_hopping);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_HOPS), n_hops);
    assert_int_equal(noted(WORD_BAD), 0);
    rig_stop_all(&rig);
    assert_int_equal(n_in_use(), 0);
    assert_true(rig_balances(&rig));
}

/* ---- what is refused ---- */

static void coroutine_fn ask_wrongly(struct mesh *mesh, void *opaque)
{
    CoMutex mutex;

    (void)opaque;
    CHECK(shard_co_move(&mesh, 3) == -ENODEV);
    CHECK(shard_co_move(&mesh, 0) == 0);
    CHECK(shard_co_move(&mesh, 2) == -EHOSTDOWN);
    co_mutex_init(&mutex);
    co_mutex_lock(&mutex);
    CHECK(shard_co_move(&mesh, 1) == -EBUSY);
    CHECK(shard_co_wait(&mesh, "a wake") == -EBUSY);
    CHECK(strstr(shard_co_holds(), "lock") != NULL);
    co_mutex_unlock(&mutex);
    co_pin("a buffer of its stack is being written");
    CHECK(shard_co_move(&mesh, 1) == -EBUSY);
    CHECK(strstr(shard_co_holds(), "buffer") != NULL);
    co_unpin();
    CHECK(shard_co_holds() == NULL);
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_DONE, 1);
}

static void start_asking(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, ask_wrongly, NULL, "ask", NULL) == 0);
    rig_serve(end);
}

static void a_move_that_can_not_be_leaves_it_where_it_is_and_says_why(void **state)
{
    (void)state;
    segment_control(&rig.seg, 2)->state = PEER_FAILED;
    begin(1, rig_serve);
    begin(0, start_asking);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

static void coroutine_fn wait_for_ever(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    shard_co_wait(&mesh, "nothing");
}

static void start_too_many(struct rig_end *end)
{
    uint32_t n = end->rig->seg.geometry.n_portable;
    arena_co last = 0;

    for (uint32_t i = 0; i < n; i++)
        CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", &last) == 0);
    CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", NULL) == -EAGAIN);
    CHECK(shard_co_wake(end->mesh, last) == 0);
    CHECK(shard_co_wake(end->mesh, last) == -ESRCH);
    CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", NULL) == 0);
    note(WORD_DONE, 1);
    rig_serve(end);
}

static void when_all_are_in_use_no_more_begin_until_one_ends(void **state)
{
    (void)state;
    begin(0, start_too_many);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- waits and wakes ---- */

#define WAKES 500

static void coroutine_fn wait_often(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_CO, shard_co_self());
    for (uint64_t i = 1; i <= WAKES; i++) {
        CHECK(shard_co_wait(&mesh, "the other shard") == 0);
        note(WORD_HOPS, i);
    }
    note(WORD_DONE, 1);
}

static void start_waiting(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, wait_often, NULL, "wait", NULL) == 0);
    rig_serve(end);
}

static bool has_name(void *opaque)
{
    (void)opaque;
    return noted(WORD_CO) != 0;
}

static bool has_counted(void *opaque)
{
    return noted(WORD_HOPS) >= *(const uint64_t *)opaque;
}

/* Each wake comes before or after its wait, as it happens; every second goes on in our shard. */
static void wake_often(struct rig_end *end)
{
    rig_poll_until(end, has_name, NULL);
    for (uint64_t i = 1; i <= WAKES; i++) {
        arena_co co = noted(WORD_CO);
        int r = i % 2 ? shard_co_wake(end->mesh, co) : shard_co_schedule(end->mesh, co, end->peer);

        CHECK(r == 0);
        rig_poll_until(end, has_counted, &i);
    }
    rig_poll_until(end, is_done, NULL);
    rig_serve(end);
}

static void one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told(void **state)
{
    (void)state;
    begin(1, rig_serve);
    begin(0, start_waiting);
    begin(2, wake_often);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
    rig_stop_all(&rig);
    assert_int_equal(n_in_use(), 0);
    assert_true(rig_balances(&rig));
}

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

/* The answer to the last notice of a move may still be on its way. */
static void wait_until_nothing_is_under_way(void)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20000000000);

    while (rig_slots_in_use(&rig) > 0 || n_in_use() > 0) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
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

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_that_hops_about_keeps_locals_registers_rounding_deep_frames_and_arguments),
        CASE(a_move_that_can_not_be_leaves_it_where_it_is_and_says_why),
        CASE(when_all_are_in_use_no_more_begin_until_one_ends),
        CASE(one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told),
        CASE(one_on_its_way_to_a_dead_shard_goes_on_in_the_replacement),
        CASE(one_whose_sender_died_too_goes_on_all_the_same),
        CASE(one_on_its_way_to_a_shard_given_up_goes_on_where_it_was),
        CASE(one_that_can_not_arrive_is_taken_back_by_its_senders_replacement),
        CASE(one_between_two_that_are_given_up_is_ended),
        CASE(one_whose_sender_died_before_it_told_is_found_by_its_target),
        CASE(one_that_waits_in_a_shard_ends_with_it_and_a_wake_says_so),
        CASE(a_method_that_moved_answers_from_home),
        CASE(a_method_that_fails_elsewhere_brings_its_text_home),
        CASE(a_method_whose_home_dies_answers_from_the_replacement_and_runs_once),
        CASE(one_that_dies_away_is_in_doubt_or_runs_again_though_its_home_lives),
        CASE(one_whose_caller_dies_sees_it_wherever_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
