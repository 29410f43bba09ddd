/* SPDX-License-Identifier: MIT */
/* Calls between ends of a mesh that are threads of one process, so that TSan and ASan see all of
 * it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_FAIL, M_FORWARD, M_GATE, M_NAP, M_COMPLAIN, M_BURN, M_COUNT };

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static int coroutine_fn run_fail(struct service_call *call)
{
    service_reply(call, "lost", 4);
    return service_fail(
        call, -EACCES, "shard %u of %u will not", service_shard(call), service_n_shards(call));
}

/* Args: a string of shard numbers, the next one first; calls itself there with the rest. */
static int coroutine_fn run_forward(struct service_call *call)
{
    size_t len, reply_len;
    const char *args = service_args(call, &len);
    void *reply;
    int r;

    if (!len)
        return service_reply(call, "end", 3);
    r = service_call_shard(
        call, (uint32_t)(args[0] - '0'), "test.forward", args + 1, len - 1, &reply, &reply_len);
    if (r == 0)
        r = service_reply(call, reply, reply_len);
    free(reply);
    return r;
}

static _Atomic bool gate_is_open; /* one test at a time */

static int coroutine_fn run_gate(struct service_call *call)
{
    while (!atomic_load(&gate_is_open))
        co_sleep_ns(1000000);
    return service_reply(call, "open", 4);
}

/* Sleeps for a day, if it is let. */
static int coroutine_fn run_nap(struct service_call *call)
{
    int r;

    if (!service_is_wanted(call))
        return -ECANCELED;
    r = service_sleep_ns(call, INT64_C(86400) * 1000000000);
    return service_is_wanted(call) ? -EIO : r;
}

static int coroutine_fn run_complain(struct service_call *call)
{
    size_t len = 3 * SEGMENT_PAYLOAD_MAX;
    char *text = malloc(len + 1);
    int r;

    memset(text, 'x', len);
    text[len] = '\0';
    r = service_fail(call, -EIO, "%s", text);
    free(text);
    return r;
}

static struct {
    uint64_t n; /* that have begun */
    uint64_t n_before_others;
} burnt; /* the callee's, until it is joined */

static void others_have_their_turn(void *opaque)
{
    (void)opaque;
    burnt.n_before_others = burnt.n;
}

/* Holds the loop for a millisecond, of whatever processor time it gets in that. */
static int coroutine_fn run_burn(struct service_call *call)
{
    int64_t until_ns = aio_clock_ns() + 1000000;

    if (burnt.n++ == 0)
        aio_bh_schedule_oneshot(aio_context_current(), others_have_their_turn, NULL);
    while (aio_clock_ns() < until_ns)
        continue;
    return service_reply(call, NULL, 0);
}

static const struct service_method methods[] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_FAIL] = {.name = "fail", .run = run_fail, .help = "fails"},
    [M_FORWARD] = {.name = "forward", .run = run_forward, .help = "calls on"},
    [M_GATE] = {.name = "gate", .run = run_gate, .help = "waits for the gate"},
    [M_NAP] = {.name = "nap", .run = run_nap, .help = "sleeps for a day"},
    [M_COMPLAIN] = {.name = "complain", .run = run_complain, .help = "fails with a long text"},
    [M_BURN] = {.name = "burn", .run = run_burn, .flags = SERVICE_IDEMPOTENT, .help = "takes 1 ms"},
};

static const struct service test_service = {.abi = SERVICE_ABI,
    .name = "test",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

/* ---- driving an end from a coroutine ---- */

struct job {
    struct rig_end *end;
    void (*run)(struct job *job);
    bool done;
};

static void coroutine_fn job_entry(void *opaque)
{
    struct job *job = opaque;

    job->run(job);
    job->done = true;
}

static bool job_is_done(void *opaque)
{
    return ((struct job *)opaque)->done;
}

static void run_job(struct rig_end *end, void (*run)(struct job *job))
{
    struct job job = {.end = end, .run = run};

    coroutine_enter(coroutine_create(job_entry, &job));
    rig_poll_until(end, job_is_done, &job);
}

static int coroutine_fn call(struct job *job, uint32_t target, uint32_t method, const void *args,
    size_t len, struct call_answer *answer)
{
    return shard_call(job->end->mesh,
        &(struct call_request){.target = target,
            .method = method,
            .args = args,
            .args_len = len,
            .deadline_ns = INT64_MAX},
        answer);
}

static void rig_pair(struct rig *rig, rig_body_fn *body)
{
    atomic_store(&gate_is_open, false);
    rig_open(rig, 2, &test_service);
    rig_thread(rig, 1, rig_serve);
    rig_thread(rig, 0, body);
    rig_join(rig, 0);
    atomic_store(&rig->board->leave, 1);
    rig_join(rig, 1);
    assert_true(rig_balances(rig));
    assert_int_equal(rig_slots_in_use(rig), 0);
    for (uint32_t peer = 0; peer < rig->seg.n_peers; peer++)
        assert_int_equal(segment_pair(&rig->seg, 0, peer)->dropped, 0);
    rig_close(rig);
}

/* ---- cases ---- */

static void coroutine_fn echo_sizes(struct job *job)
{
    static const size_t sizes[] = {0, 1, 191, 192, 193, 4095, 4096, 4097, 65536, 1024 * 1024};
    struct call_answer answer;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *bytes = malloc(sizes[i] + 1);
        for (size_t at = 0; at < sizes[i]; at++)
            bytes[at] = (uint8_t)(at * 7 + i);
        assert_int_equal(call(job, 1, M_ECHO, bytes, sizes[i], &answer), 0);
        assert_int_equal(answer.end, CALL_END_DONE);
        assert_int_equal(answer.len, sizes[i]);
        if (sizes[i])
            assert_memory_equal(answer.data, bytes, sizes[i]);
        call_answer_deinit(&answer);
        free(bytes);
    }
}

static void echo_body(struct rig_end *end)
{
    run_job(end, echo_sizes);
    assert_true(mesh_is_idle(end->mesh));
}

static void answers_carry_arguments_back_at_every_size(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, echo_body);
}

static void coroutine_fn fail_once(struct job *job)
{
    struct call_answer answer;

    assert_int_equal(call(job, 1, M_FAIL, "", 0, &answer), -EACCES);
    assert_int_equal(answer.end, CALL_END_FAILED);
    assert_string_equal(answer.data, "shard 1 of 2 will not");
    call_answer_deinit(&answer);
}

static void fail_body(struct rig_end *end)
{
    run_job(end, fail_once);
}

static void a_failure_brings_its_text_and_not_the_reply(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, fail_body);
}

static void coroutine_fn refused_calls(struct job *job)
{
    struct call_answer answer;
    static uint8_t large[SEGMENT_PAYLOAD_MAX + 1];

    assert_int_equal(call(job, 2, M_ECHO, "", 0, &answer), -ENODEV);
    assert_int_equal(answer.end, CALL_END_NOT_STARTED);
    assert_int_equal(call(job, 1, M_COUNT, "", 0, &answer), -ENOENT);
    assert_int_equal(call(job, 1, M_ECHO, large, sizeof(large), &answer), -EMSGSIZE);
    assert_int_equal(call(job, 0, M_ECHO, large, sizeof(large), &answer), -EMSGSIZE);
}

static void refused_body(struct rig_end *end)
{
    run_job(end, refused_calls);
    assert_true(mesh_is_idle(end->mesh));
}

static void calls_that_cannot_be_made_are_refused_at_once(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, refused_body);
}

static void coroutine_fn nested_calls(struct job *job)
{
    struct call_answer answer;

    assert_int_equal(call(job, 1, M_FORWARD, "010", 3, &answer), 0);
    assert_memory_equal(answer.data, "end", 3);
    call_answer_deinit(&answer);
    assert_int_equal(call(job, 0, M_FORWARD, "101", 3, &answer), 0);
    call_answer_deinit(&answer);
    assert_int_equal(call(job, 1, M_FORWARD, "0101", 4, &answer), -ELOOP);
    call_answer_deinit(&answer);
    assert_int_equal(call(job, 1, M_FORWARD, "1111", 4, &answer), -ELOOP);
    call_answer_deinit(&answer);
}

static void nested_body(struct rig_end *end)
{
    run_job(end, nested_calls);
}

static void calls_nest_to_the_depth_limit_and_no_further(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, nested_body);
}

/* ---- many at once, without coroutines ---- */

struct storm {
    struct rig_end *end;
    uint64_t ended;
    uint64_t wrong;
    uint64_t n;
    struct mesh_call *calls;
    uint8_t *args;
    size_t args_len;
};

static struct storm *current_storm; /* one test at a time */

static void on_storm_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    current_storm->ended++;
    if (answer->end != CALL_END_DONE || answer->len != call->args_len ||
        memcmp(answer->data, call->args, answer->len) != 0)
        current_storm->wrong++;
}

static bool storm_is_over(void *opaque)
{
    struct storm *storm = opaque;

    return storm->ended == storm->n;
}

static void run_storm(struct rig_end *end, uint32_t method, uint64_t n, size_t args_len)
{
    struct storm storm = {.end = end, .n = n, .args_len = args_len};

    current_storm = &storm;
    storm.calls = calloc(n, sizeof(storm.calls[0]));
    storm.args = malloc(args_len + n);
    for (size_t at = 0; at < args_len + n; at++)
        storm.args[at] = (uint8_t)(at * 31);
    for (uint64_t i = 0; i < n; i++) {
        storm.calls[i] = (struct mesh_call){.target = 1,
            .method = method,
            .args = storm.args + i % 256,
            .args_len = args_len,
            .deadline_ns = INT64_MAX,
            .done = on_storm_done};
        assert_int_equal(mesh_call_start(end->mesh, &storm.calls[i]), 0);
    }
    rig_poll_until(end, storm_is_over, &storm);
    assert_int_equal(storm.wrong, 0);
    free(storm.calls);
    free(storm.args);
}

static void small_storm_body(struct rig_end *end)
{
    run_storm(end, M_ECHO, 5000, 16);
}

static void large_storm_body(struct rig_end *end)
{
    run_storm(end, M_ECHO, 200, 300000);
    assert_true(end->mesh != NULL);
}

static void calls_beyond_the_slots_wait_in_line_and_all_end(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, small_storm_body);
}

static void calls_beyond_the_heap_wait_for_buffers_and_all_end(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, large_storm_body);
}

static void burning_body(struct rig_end *end)
{
    run_storm(end, M_BURN, 100, 0);
}

/* Before it is known how long they take, a batch of them is begun at once. */
static void calls_that_take_long_let_others_have_their_turn_after_a_few(void **state)
{
    struct rig rig;

    (void)state;
    memset(&burnt, 0, sizeof(burnt));
    rig_pair(&rig, burning_body);
    assert_int_equal(burnt.n, 100);
    assert_in_range(burnt.n_before_others, 1, 2 * SERVE_BATCH);
}

/* ---- deadlines and cancelling ---- */

struct solo {
    struct mesh_call call;
    struct mesh_answer answer;
    unsigned n_done;
};

static void on_solo_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct solo *solo = (struct solo *)call;

    solo->answer = *answer;
    solo->n_done++;
}

static bool solo_is_done(void *opaque)
{
    return ((struct solo *)opaque)->n_done > 0;
}

struct pair_idle {
    struct rig *rig;
};

static bool no_slot_in_use(void *opaque)
{
    return rig_slots_in_use(opaque) == 0;
}

static void deadline_body(struct rig_end *end)
{
    struct solo solo = {.call = {.target = 1,
                            .method = M_GATE,
                            .args = "",
                            .deadline_ns = aio_clock_ns() + 30000000,
                            .done = on_solo_done}};

    assert_int_equal(mesh_call_start(end->mesh, &solo.call), 0);
    rig_poll_until(end, solo_is_done, &solo);
    assert_int_equal(solo.answer.end, CALL_END_EXPIRED);
    assert_int_equal(solo.answer.status, -ETIMEDOUT);
    /* On a slow machine it may have been too late to begin. */
    if (atomic_load_acquire(&segment_pair(&end->rig->seg, 1, 0)->calls_started))
        assert_int_equal(rig_slots_in_use(end->rig), 1);
    atomic_store(&gate_is_open, true);
    rig_poll_until(end, no_slot_in_use, end->rig);
    assert_int_equal(solo.n_done, 1);
}

static void a_call_past_its_deadline_ends_and_its_slot_comes_back_later(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, deadline_body);
}

static void cancel_body(struct rig_end *end)
{
    struct solo solo = {.call = {.target = 1,
                            .method = M_GATE,
                            .args = "",
                            .deadline_ns = INT64_MAX,
                            .done = on_solo_done}};

    assert_int_equal(mesh_call_start(end->mesh, &solo.call), 0);
    mesh_call_cancel(end->mesh, &solo.call);
    mesh_call_cancel(end->mesh, &solo.call);
    assert_int_equal(solo.n_done, 0);
    rig_poll_until(end, solo_is_done, &solo);
    assert_int_equal(solo.answer.end, CALL_END_CANCELLED);
    atomic_store(&gate_is_open, true);
    rig_poll_until(end, no_slot_in_use, end->rig);
    assert_int_equal(solo.n_done, 1);
}

static void a_cancelled_call_ends_once_and_its_slot_comes_back(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, cancel_body);
}

static void abandon_body(struct rig_end *end)
{
    struct solo naps[2] = {0};

    for (int i = 0; i < 2; i++) {
        naps[i].call = (struct mesh_call){.target = 1,
            .method = M_NAP,
            .args = "",
            .deadline_ns = INT64_MAX,
            .done = on_solo_done};
        assert_int_equal(mesh_call_start(end->mesh, &naps[i].call), 0);
    }
    while (atomic_load_acquire(&segment_pair(&end->rig->seg, 1, 0)->calls_started) < 2)
        aio_poll(end->ctx, false);
    mesh_call_cancel(end->mesh, &naps[0].call);
    rig_poll_until(end, solo_is_done, &naps[0]);
    while (rig_slots_in_use(end->rig) > 1)
        aio_poll(end->ctx, false);
    assert_int_equal(naps[1].n_done, 0);
    mesh_call_cancel(end->mesh, &naps[1].call);
    rig_poll_until(end, no_slot_in_use, end->rig);
}

static void a_method_that_sleeps_for_nobody_is_woken_and_its_slot_comes_back(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, abandon_body);
}

static void coroutine_fn complain_then_echo(struct job *job)
{
    struct call_answer answer;
    char bytes[1000] = "large enough for a shared buffer";

    assert_int_equal(call(job, 1, M_COMPLAIN, "", 0, &answer), -EIO);
    assert_int_equal(answer.len, SERVICE_ERROR_MAX);
    call_answer_deinit(&answer);
    assert_int_equal(call(job, 1, M_ECHO, bytes, sizeof(bytes), &answer), 0);
    call_answer_deinit(&answer);
}

static void complain_body(struct rig_end *end)
{
    run_job(end, complain_then_echo);
}

static void an_error_text_of_any_length_is_cut_and_hangs_nobody(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, complain_body);
}

/* ---- an answer read after the next call has begun ---- */

struct chained {
    struct solo next;
    struct mesh_call call;
    uint8_t bytes[50000];
    uint8_t other[50000];
    bool right;
};

static void on_chained_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct chained *chained = (struct chained *)((char *)call - offsetof(struct chained, call));

    assert_int_equal(mesh_call_start(call->mesh, &chained->next.call), 0);
    /* The other one is served, and its answer is on its way, before this one is read. */
    while (atomic_load_relaxed(&segment_pair(&call->mesh->seg, 1, 0)->pushed[LANE_NORMAL]) < 4)
        call->mesh->source.flush(call->mesh);
    chained->right = answer->len == sizeof(chained->bytes) &&
                     memcmp(answer->data, chained->bytes, answer->len) == 0;
}

static void chained_body(struct rig_end *end)
{
    struct chained *chained = calloc(1, sizeof(*chained));

    memset(chained->bytes, 1, sizeof(chained->bytes));
    memset(chained->other, 2, sizeof(chained->other));
    chained->call = (struct mesh_call){.target = 1,
        .method = M_ECHO,
        .args = chained->bytes,
        .args_len = sizeof(chained->bytes),
        .deadline_ns = INT64_MAX,
        .done = on_chained_done};
    chained->next.call = chained->call;
    chained->next.call.args = chained->other;
    chained->next.call.done = on_solo_done;
    assert_int_equal(mesh_call_start(end->mesh, &chained->call), 0);
    rig_poll_until(end, solo_is_done, &chained->next);
    assert_true(chained->right);
    free(chained);
}

static void an_answer_stays_while_its_reader_makes_the_next_call(void **state)
{
    struct rig rig;

    (void)state;
    rig_pair(&rig, chained_body);
}

/* ---- a hostile peer ---- */

/* The normal ring of shard 0 to shard 1. */
static void take_over_ring(struct ring_tx *tx, const struct segment *seg)
{
    ring_tx_init(tx, segment_ring(seg, 0, 1, LANE_NORMAL), segment_tail(seg, 0, 1, LANE_NORMAL),
        segment_head(seg, 0, 1, LANE_NORMAL), segment_ring_slots(seg, 0, 1, LANE_NORMAL));
}

static void scribble_body(struct rig_end *end)
{
    struct ring_tx *tx = calloc(1, sizeof(*tx));
    struct rig *rig = end->rig;
    /* Of before a withdrawal, so that the slot is looked at; then as good as new. */
    struct message message = {.kind = MESSAGE_CALL, .generation = 77, .withdrawals = 1};
    struct call_slot *slot = segment_call(&rig->seg, 0, 1, 0);

    take_over_ring(tx, &rig->seg);
    for (uint32_t kind = 0; kind < 8; kind++) {
        message.kind = kind;
        message.slot = kind % 2 ? UINT32_MAX : 3;
        assert_true(ring_push(tx, &message));
    }
    slot->args_off = UINT64_MAX - 8;
    slot->args_len = 4096;
    slot->method = M_ECHO;
    atomic_store_release(&slot->word, UINT64_C(77) << 8 | CALL_WAITING);
    message = (struct message){.kind = MESSAGE_CALL, .generation = 77, .withdrawals = 1};
    assert_true(ring_push(tx, &message));
    message = (struct message){.kind = MESSAGE_CALL,
        .generation = 78,
        .method = M_ECHO,
        .off = UINT64_MAX - 8,
        .len = 4096};
    assert_true(ring_push(tx, &message));
    atomic_or_seq(&segment_bitmap(&rig->seg, 1)->senders[0], 1);
    doorbell_knock(&(struct doorbell){&segment_bell(&rig->seg, 1)->words, rig->bells[1]});
    while (atomic_load_acquire(&segment_pair(&rig->seg, 1, 0)->popped[LANE_NORMAL]) < 10)
        aio_poll(end->ctx, false);
    free(tx);
    atomic_store(&rig->board->words[0], 1);
}

static void nonsense_in_a_ring_is_dropped_or_answered_and_harms_nobody(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &test_service);
    rig_thread(&rig, 1, rig_serve);
    rig_thread(&rig, 0, scribble_body);
    rig_wait_word(&rig, 0, 1);
    rig_join(&rig, 0);
    atomic_store(&rig.board->leave, 1);
    rig_join(&rig, 1);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->popped[LANE_NORMAL], 10);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->calls_started, 0);
    rig_close(&rig);
}

/* ---- a message twice ---- */

static void twice_body(struct rig_end *end)
{
    struct solo solo = {.call = {.target = 1,
                            .method = M_GATE,
                            .args = "",
                            .deadline_ns = INT64_MAX,
                            .done = on_solo_done}};
    struct message message = {.kind = MESSAGE_CALL, .generation = 1};
    struct ring_tx again;

    assert_int_equal(mesh_call_start(end->mesh, &solo.call), 0);
    message.slot = solo.call.slot;
    take_over_ring(&again, &end->rig->seg);
    assert_true(ring_push(&again, &message));
    atomic_store(&gate_is_open, true);
    rig_poll_until(end, solo_is_done, &solo);
    assert_int_equal(solo.answer.end, CALL_END_DONE);
}

static void a_call_published_twice_runs_once(void **state)
{
    struct rig rig;

    (void)state;
    atomic_store(&gate_is_open, false);
    rig_open(&rig, 2, &test_service);
    rig_thread(&rig, 1, rig_serve);
    rig_thread(&rig, 0, twice_body);
    rig_join(&rig, 0);
    atomic_store(&rig.board->leave, 1);
    rig_join(&rig, 1);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->calls_started, 1);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->dropped, 1);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_carry_arguments_back_at_every_size),
        cmocka_unit_test(a_failure_brings_its_text_and_not_the_reply),
        cmocka_unit_test(calls_that_cannot_be_made_are_refused_at_once),
        cmocka_unit_test(calls_nest_to_the_depth_limit_and_no_further),
        cmocka_unit_test(calls_beyond_the_slots_wait_in_line_and_all_end),
        cmocka_unit_test(calls_beyond_the_heap_wait_for_buffers_and_all_end),
        cmocka_unit_test(calls_that_take_long_let_others_have_their_turn_after_a_few),
        cmocka_unit_test(a_call_past_its_deadline_ends_and_its_slot_comes_back_later),
        cmocka_unit_test(a_cancelled_call_ends_once_and_its_slot_comes_back),
        cmocka_unit_test(a_method_that_sleeps_for_nobody_is_woken_and_its_slot_comes_back),
        cmocka_unit_test(an_error_text_of_any_length_is_cut_and_hangs_nobody),
        cmocka_unit_test(an_answer_stays_while_its_reader_makes_the_next_call),
        cmocka_unit_test(a_call_published_twice_runs_once),
        cmocka_unit_test(nonsense_in_a_ring_is_dropped_or_answered_and_harms_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
