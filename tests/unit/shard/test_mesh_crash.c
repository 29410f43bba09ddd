/* SPDX-License-Identifier: MIT */
/*
 * An end of the mesh dies at its k-th store to shared memory, for every k, and the accounts must
 * balance after. Where it would die at a load, others see what they see after the store before.
 *
 * Built with SHERD_ATOMIC_HOOK, so that each access through runtime/atomic.h passes atomic_hook()
 * below; the end that is to die counts stores inside the segment and kills itself with SIGKILL at
 * the chosen one. The test's process plays the supervisor.
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

#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_ONCE, M_HANG, M_HANG_ONCE, M_COUNT };

enum { WORD_ENDED, WORD_WRONG, WORD_IN_DOUBT, WORD_RUNS, WORD_DEATHS };

#define N_CALLS 6
#define LARGE   5000

/* ---- dying at the k-th store ---- */

static struct {
    const uint8_t *base;
    uint64_t bytes;
    uint64_t left; /* stores to live through; 0: for ever */
} fuse;

/* A caller that takes its call back just before the callee notes it as started. */
static struct {
    const volatile void *started;
    uint64_t *word;
    uint64_t *number;
} withdrawal;

/* A callee that dies at its next access after it has noted a call as started. */
static struct {
    const volatile void *started;
    bool marked;
} last_word;

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)address;

    (void)file;
    (void)line;
    if (access == ATOMIC_STORE && address && address == withdrawal.started) {
        withdrawal.started = NULL;
        *withdrawal.word = (*withdrawal.word & ~UINT64_C(0xff)) | CALL_ABANDONED;
        *withdrawal.number += 1;
    }
    if (last_word.marked)
        kill(getpid(), SIGKILL);
    last_word.marked = access == ATOMIC_STORE && address && address == last_word.started;
    if (!fuse.left || at < fuse.base || at >= fuse.base + fuse.bytes ||
        (access != ATOMIC_STORE && access != ATOMIC_RMW))
        return;
    if (--fuse.left == 0)
        kill(getpid(), SIGKILL);
}

static void light_fuse(const struct rig_end *end, uint64_t stores)
{
    fuse.base = end->rig->seg.base;
    fuse.bytes = end->rig->seg.bytes;
    fuse.left = stores;
}

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    void *room;

    if (len <= SEGMENT_INLINE_BYTES)
        return service_reply(call, args, len);
    int r = service_reply_room(call, len, &room);

    if (r < 0)
        return r;
    memcpy(room, args, len);
    return service_reply_done(call, len);
}

static int coroutine_fn run_hang(struct service_call *call)
{
    return service_sleep_ns(call, INT64_MAX);
}

static const struct service_method methods[] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = "args back, not to be run twice"},
    [M_HANG] = {.name = "hang", .run = run_hang, .flags = SERVICE_IDEMPOTENT, .help = "sleeps"},
    [M_HANG_ONCE] = {.name = "hang-once", .run = run_hang, .help = "sleeps, not to be run twice"},
};

static const struct service crash_service = {.abi = SERVICE_ABI,
    .name = "crash",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

/* ---- the caller ---- */

struct batch;

struct numbered_call {
    struct mesh_call call;
    struct batch *batch;
};

struct batch {
    struct rig_end *end;
    struct numbered_call calls[N_CALLS];
    uint8_t args[LARGE];
    uint64_t n_ended;
};

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct batch *batch = ((struct numbered_call *)call)->batch;
    struct rig_board *board = batch->end->rig->board;

    batch->n_ended++;
    if (answer->end == CALL_END_IN_DOUBT && answer->status == -EOWNERDEAD && call->method == M_ONCE)
        atomic_fetch_add(&board->words[WORD_IN_DOUBT], 1);
    else if (answer->end != CALL_END_DONE || answer->len != call->args_len ||
             memcmp(answer->data, call->args, answer->len) != 0)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
    atomic_fetch_add(&board->words[WORD_ENDED], 1);
}

static bool batch_is_over(void *opaque)
{
    return ((struct batch *)opaque)->n_ended == N_CALLS;
}

/* Small and large, idempotent and not, all in flight together. */
static void run_batch(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch->end = end;
    for (size_t at = 0; at < LARGE; at++)
        batch->args[at] = (uint8_t)(at * 13 + 5);
    for (uint32_t i = 0; i < N_CALLS; i++) {
        batch->calls[i] = (struct numbered_call){.batch = batch,
            .call = {.target = 1,
                .method = i % 2 ? M_ONCE : M_ECHO,
                .args = batch->args,
                .args_len = i < N_CALLS / 2 ? 20 + i : LARGE - i,
                .deadline_ns = INT64_MAX,
                .done = on_done}};
        assert_int_equal(mesh_call_start(end->mesh, &batch->calls[i].call), 0);
    }
    rig_poll_until(end, batch_is_over, batch);
    free(batch);
}

static bool nothing_in_use(void *opaque)
{
    return rig_slots_in_use(opaque) == 0;
}

static void calling_body(struct rig_end *end)
{
    run_batch(end);
    rig_poll_until(end, nothing_in_use, end->rig);
}

/* ---- the one that dies: how long it lives stands in the board ---- */

#define WORD_FUSE 10

static void dying_callee_body(struct rig_end *end)
{
    light_fuse(end, atomic_load(&end->rig->board->words[WORD_FUSE]));
    rig_serve(end);
}

static void dying_caller_body(struct rig_end *end)
{
    light_fuse(end, atomic_load(&end->rig->board->words[WORD_FUSE]));
    run_batch(end);
}

static void open_rig(struct rig *rig, uint64_t stores)
{
    rig_open(rig, 2, &crash_service);
    atomic_store(&rig->board->words[WORD_FUSE], stores);
}

static void check_accounts(struct rig *rig, uint64_t stores)
{
    if (!rig_balances(rig) || rig_slots_in_use(rig) || atomic_load(&rig->board->words[WORD_WRONG]))
        fail_msg("death at store %llu: %llu slots in use, %llu wrong ends",
            (unsigned long long)stores, (unsigned long long)rig_slots_in_use(rig),
            (unsigned long long)atomic_load(&rig->board->words[WORD_WRONG]));
}

/* Waits for the doomed one; false where it outlived its fuse and left, or still serves. */
static bool dies(struct rig *rig, uint32_t peer, unsigned ended_word, uint64_t ended)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;
    siginfo_t info = {0};

    for (;;) {
        assert_int_equal(
            waitid(P_PID, (id_t)rig->ends[peer].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
        if (info.si_pid)
            return info.si_code == CLD_KILLED;
        if (atomic_load(&rig->board->words[ended_word]) >= ended)
            return false;
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

/* ---- cases ---- */

/* True where the callee died within its fuse. */
static bool callee_dies_at(uint64_t stores)
{
    struct rig rig;
    bool died;

    open_rig(&rig, stores);
    rig_fork(&rig, 1, dying_callee_body);
    rig_fork(&rig, 0, calling_body);
    died = dies(&rig, 1, WORD_ENDED, N_CALLS);
    if (died) {
        rig_join(&rig, 1);
        rig_bury(&rig, 1, false);
        atomic_store(&rig.board->words[WORD_FUSE], 0);
        rig_fork(&rig, 1, dying_callee_body);
    }
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), N_CALLS);
    check_accounts(&rig, stores);
    rig_close(&rig);
    return died;
}

static void a_callee_that_dies_at_any_store_loses_and_doubles_no_call(void **state)
{
    uint64_t stores = 1;

    (void)state;
    while (callee_dies_at(stores))
        stores++;
    print_message("callee: %llu places to die\n", (unsigned long long)stores - 1);
    assert_true(stores > 50);
}

/* callee_too: it is killed when the caller has died, so neither's replacement may rely on what the
 * other remembers. */
static bool caller_dies_at(uint64_t stores, bool callee_too)
{
    struct rig rig;
    bool died;

    open_rig(&rig, stores);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, dying_caller_body);
    died = dies(&rig, 0, WORD_ENDED, UINT64_MAX);
    if (callee_too)
        rig_kill(&rig, 1, false);
    rig_join(&rig, 0);
    rig_bury(&rig, 0, false);
    atomic_store(&rig.board->words[WORD_ENDED], 0);
    rig_fork(&rig, 0, calling_body);
    if (callee_too)
        rig_fork(&rig, 1, rig_serve);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), N_CALLS);
    check_accounts(&rig, stores);
    rig_close(&rig);
    return died;
}

static void a_caller_that_dies_at_any_store_leaves_no_slot_behind(void **state)
{
    uint64_t stores = 1;

    (void)state;
    while (caller_dies_at(stores, false))
        stores++;
    print_message("caller: %llu places to die\n", (unsigned long long)stores - 1);
    assert_true(stores > 50);
}

static void caller_and_callee_may_die_together(void **state)
{
    uint64_t stores = 1;

    (void)state;
    while (caller_dies_at(stores, true))
        stores += 3;
}

static void failing_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct batch *batch = ((struct numbered_call *)call)->batch;

    batch->n_ended++;
    assert_int_equal(answer->end, CALL_END_NOT_STARTED);
    assert_int_equal(answer->status, -EHOSTDOWN);
}

static void refused_body(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch->end = end;
    for (uint32_t i = 0; i < N_CALLS; i++) {
        batch->calls[i] = (struct numbered_call){.batch = batch,
            .call = {.target = 1, .args = "", .deadline_ns = INT64_MAX, .done = failing_done}};
        assert_int_equal(mesh_call_start(end->mesh, &batch->calls[i].call), 0);
        atomic_fetch_add(&end->rig->board->words[WORD_RUNS], 1);
    }
    aio_poll(end->ctx, false);
    atomic_store(&end->rig->board->words[WORD_DEATHS], 1);
    rig_poll_until(end, batch_is_over, batch);
    free(batch);
}

static void a_callee_given_up_ends_what_was_not_started_and_refuses_the_rest(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 0);
    rig_fork(&rig, 0, refused_body);
    rig_wait_word(&rig, WORD_DEATHS, 1);
    rig_bury(&rig, 1, true);
    rig_join(&rig, 0);
    assert_true(rig_balances(&rig));
    assert_int_equal(rig_slots_in_use(&rig), 0);
    rig_fork(&rig, 0, refused_body); /* now it is refused at once */
    rig_join(&rig, 0);
    rig_close(&rig);
}

static void on_given_up(struct mesh_call *call, const struct mesh_answer *answer)
{
    bool idempotent = call->method == M_HANG;

    ((struct numbered_call *)call)->batch->n_ended++;
    assert_int_equal(answer->end, idempotent ? CALL_END_FAILED : CALL_END_IN_DOUBT);
    assert_int_equal(answer->status, idempotent ? -EHOSTDOWN : -EOWNERDEAD);
    assert_true(answer->len > 0);
}

static bool two_have_begun(void *opaque)
{
    return atomic_load_acquire(&segment_pair(&((struct rig *)opaque)->seg, 1, 0)->calls_started) ==
           2;
}

static bool two_have_ended(void *opaque)
{
    return ((struct batch *)opaque)->n_ended == 2;
}

static void hanging_body(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    for (uint32_t i = 0; i < 2; i++) {
        batch->calls[i] = (struct numbered_call){.batch = batch,
            .call = {.target = 1,
                .method = i ? M_HANG_ONCE : M_HANG,
                .args = "",
                .deadline_ns = INT64_MAX,
                .done = on_given_up}};
        assert_int_equal(mesh_call_start(end->mesh, &batch->calls[i].call), 0);
    }
    rig_poll_until(end, two_have_begun, end->rig);
    atomic_store(&end->rig->board->words[WORD_RUNS], 1);
    rig_poll_until(end, two_have_ended, batch);
    free(batch);
    atomic_store(&end->rig->board->words[WORD_ENDED], 2);
}

static void a_callee_given_up_while_it_runs_leaves_in_doubt_only_what_may_not_run_twice(
    void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 0);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, hanging_body);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, true);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), 2);
    check_accounts(&rig, 0);
    rig_close(&rig);
}

static void withdrawn_body(struct rig_end *end)
{
    withdrawal.word = &segment_call(&end->rig->seg, 0, 1, 0)->word;
    withdrawal.number = segment_withdrawals(&end->rig->seg, 0, 1);
    withdrawal.started = &segment_serve(&end->rig->seg, 1, 0, 0)->started;
    rig_serve(end);
}

static void on_withdrawn(struct mesh_call *call, const struct mesh_answer *answer)
{
    ((struct numbered_call *)call)->batch->n_ended = N_CALLS;
    assert_int_equal(answer->end, CALL_END_CANCELLED);
    assert_int_equal(answer->status, -ECANCELED);
}

static void withdrawing_body(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch->calls[0] = (struct numbered_call){.batch = batch,
        .call = {.target = 1, .args = "", .deadline_ns = INT64_MAX, .done = on_withdrawn}};
    assert_int_equal(mesh_call_start(end->mesh, &batch->calls[0].call), 0);
    rig_poll_until(end, batch_is_over, batch);
    free(batch);
    atomic_store(&end->rig->board->words[WORD_ENDED], 1);
}

static void a_call_taken_back_while_it_is_noted_as_started_is_not_run(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 0);
    rig_fork(&rig, 1, withdrawn_body);
    rig_fork(&rig, 0, withdrawing_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), 1);
    assert_int_equal(segment_pair(&rig.seg, 1, 0)->calls_started, 0);
    check_accounts(&rig, 0);
    rig_close(&rig);
}

/* ---- the same death again and again ---- */

static void marking_body(struct rig_end *end)
{
    last_word.started = &segment_serve(&end->rig->seg, 1, 0, 0)->started;
    rig_serve(end);
}

static bool one_has_ended(void *opaque)
{
    return ((struct batch *)opaque)->n_ended == 1;
}

static void calling_once_body(struct rig_end *end)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    batch->end = end;
    batch->calls[0] = (struct numbered_call){.batch = batch,
        .call = {
            .target = 1, .args = "x", .args_len = 1, .deadline_ns = INT64_MAX, .done = on_done}};
    assert_int_equal(mesh_call_start(end->mesh, &batch->calls[0].call), 0);
    rig_poll_until(end, one_has_ended, batch);
    free(batch);
    rig_poll_until(end, nothing_in_use, end->rig);
}

static void a_callee_that_dies_over_each_call_it_marks_leaves_no_more_in_the_ring_each_time(
    void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 0);
    rig_fork(&rig, 1, marking_body);
    rig_fork(&rig, 0, calling_once_body);
    for (uint32_t death = 1; death <= 20; death++) {
        rig_join(&rig, 1);
        assert_true(ring_depth(segment_tail(&rig.seg, 0, 1, LANE_NORMAL),
                        segment_head(&rig.seg, 0, 1, LANE_NORMAL),
                        segment_ring_slots(&rig.seg, 0, 1, LANE_NORMAL)) <= 6);
        rig_bury(&rig, 1, false);
        rig_fork(&rig, 1, death < 20 ? marking_body : rig_serve);
    }
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), 1);
    check_accounts(&rig, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_callee_that_dies_at_any_store_loses_and_doubles_no_call),
        cmocka_unit_test(a_caller_that_dies_at_any_store_leaves_no_slot_behind),
        cmocka_unit_test(caller_and_callee_may_die_together),
        cmocka_unit_test(a_call_taken_back_while_it_is_noted_as_started_is_not_run),
        cmocka_unit_test(a_callee_given_up_ends_what_was_not_started_and_refuses_the_rest),
        cmocka_unit_test(
            a_callee_given_up_while_it_runs_leaves_in_doubt_only_what_may_not_run_twice),
        cmocka_unit_test(
            a_callee_that_dies_over_each_call_it_marks_leaves_no_more_in_the_ring_each_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
