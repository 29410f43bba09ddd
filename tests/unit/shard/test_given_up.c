/* SPDX-License-Identifier: MIT */
/*
 * A shard is given up for good. Whatever another one has asked of it ends with the error that says
 * so, whether it had been begun, was on its way, or is asked from now on; and what was set apart
 * for it comes back. Shard 0 asks, shard 1 is given up, shard 2 lives on.
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

#include "runtime/co_sleep.h"
#include "runtime/coroutine_sanitize.h"
#include "shard/arena.h"
#include "shard/gather.h"
#include "shard/lock.h"
#include "shard/portable.h"
#include "shard/remote_bh.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_NAP, M_NAP_ONCE, M_ECHO, N_METHODS };

enum { ASKER, GONE, WITNESS, N_SHARDS };

/* What is asked of the shard; each is a coroutine. Its end: begun, on its way, asked afterwards. 0:
 * does not come to be so. X(name, begun, on_its_way, afterwards) */
#define OPS(X)                                          \
    X(call, -EHOSTDOWN, -EHOSTDOWN, -EHOSTDOWN)         \
    X(call_once, -EOWNERDEAD, -EHOSTDOWN, -EHOSTDOWN)   \
    X(gather, -EHOSTDOWN, -EHOSTDOWN, -EHOSTDOWN)       \
    X(gather_once, -EOWNERDEAD, -EHOSTDOWN, -EHOSTDOWN) \
    X(lock, -EHOSTDOWN, -EHOSTDOWN, -EHOSTDOWN)         \
    X(bottom_half, 0, -EHOSTDOWN, -EHOSTDOWN)           \
    X(move, 0, -EHOSTDOWN, -EHOSTDOWN)                  \
    X(schedule, 0, -EHOSTDOWN, -EHOSTDOWN)              \
    X(wake, 0, 0, -ESRCH)

enum op {
#define X(name, ...) OP_##name,
    OPS(X)
#undef X
        N_OPS
};

enum phase { BEGUN, ON_ITS_WAY, AFTERWARDS, N_PHASES };

static const struct {
    const char *name;
    int ends[N_PHASES];
} ops[] = {
#define X(name, begun, on_its_way, afterwards) {#name, {begun, on_its_way, afterwards}},
    OPS(X)
#undef X
};

enum {
    WORD_PHASE, /* how many are to be started */
    WORD_NAPS,  /* methods that nap in the shard */
    WORD_HELD,  /* the witness has the lock */
    WORD_THERE, /* a coroutine waits in the shard */
    WORD_LEFT,  /* the asker is done with all */
    WORD_ENDS,  /* + phase * N_OPS + op: 1 - its status, once it has ended */
};

_Static_assert(WORD_ENDS + N_PHASES * N_OPS <= 64, "the board has room");

static struct rig rig; /* for methods too, which run in children of the test */

static const struct shard_mutex mutex = {.id = 11, .home = GONE};

/* ---- methods ---- */

static int coroutine_fn run_nap(struct service_call *call)
{
    if (service_shard(call) != GONE)
        return 0;
    atomic_fetch_add(&rig.board->words[WORD_NAPS], 1);
    return service_sleep_ns(call, INT64_MAX);
}

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static const struct service_method methods[N_METHODS] = {
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = SERVICE_IDEMPOTENT, .help = "sleeps"},
    [M_NAP_ONCE] = {.name = "nap-once", .run = run_nap, .help = "sleeps, not to be run twice"},
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
};

static const struct service service = {.abi = SERVICE_ABI,
    .name = "given-up",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

/* ---- what is asked ---- */

static arena_co there; /* that waits in the shard, as it was told to the asker */

static int coroutine_fn call(struct mesh *mesh, uint32_t method)
{
    struct call_answer answer;
    int r = shard_call(mesh,
        &(struct call_request){.target = GONE, .method = method, .deadline_ns = INT64_MAX},
        &answer);

    call_answer_deinit(&answer);
    return r;
}

/* Of the others all must have come. */
static int coroutine_fn gather(struct mesh *mesh, uint32_t method)
{
    struct gather_call calls[] = {{.target = WITNESS}, {.target = GONE}, {.target = ASKER}};
    int r = shard_gather(
        mesh, &(struct gather_request){.method = method, .deadline_ns = INT64_MAX}, calls, 3);

    if (calls[0].status != 0 || calls[1].status != r || calls[2].status != 0)
        r = -EIO;
    gather_deinit(calls, 3);
    return r;
}

/* The first to say how it ended is believed. */
static void say_end(_Atomic uint64_t *word, int status)
{
    uint64_t none = 0;

    atomic_compare_exchange_strong(word, &none, 1 - (uint64_t)status);
}

static void nothing(struct mesh *mesh, const void *args, size_t len)
{
    (void)mesh;
    (void)args;
    (void)len;
}

static void on_bh_done(void *opaque, enum call_end end, int status)
{
    *(int *)opaque = end == CALL_END_NOT_STARTED ? status : -EIO;
}

static int coroutine_fn bottom_half(struct mesh *mesh)
{
    int told = 1;
    int r = shard_bh_schedule(mesh,
        &(struct shard_bh){.target = GONE, .fn = nothing, .done = on_bh_done, .opaque = &told});

    while (r == 0 && told == 1)
        co_sleep_ns(100000);
    return r < 0 ? r : told;
}

/* Goes on in another process, so what it keeps is on its stack; it says there how it ended. */
static void coroutine_fn moving(struct mesh *mesh, void *opaque)
{
    _Atomic uint64_t *word = opaque;
    struct mesh *here = mesh;
    int r = shard_co_move(&mesh, GONE);

    say_end(word, here == mesh ? r : -EIO);
}

static void coroutine_fn waiting(struct mesh *mesh, void *opaque)
{
    _Atomic uint64_t *word = opaque;
    say_end(word, shard_co_wait(&mesh, "to be scheduled"));
}

static int coroutine_fn schedule(struct mesh *mesh, _Atomic uint64_t *word)
{
    arena_co co;
    int r = portable_start(mesh, waiting, word, "scheduled", &co);

    if (r == 0)
        r = shard_co_schedule(mesh, co, GONE);
    if (r < 0) {
        say_end(word, r);
        shard_co_wake(mesh, co);
    }
    return r;
}

/* Its status, or 1: a coroutine of its own tells it. */
static int coroutine_fn ask(struct mesh *mesh, enum op op, _Atomic uint64_t *word)
{
    switch (op) {
    case OP_call:
    case OP_call_once:
        return call(mesh, op == OP_call ? M_NAP : M_NAP_ONCE);
    case OP_gather:
    case OP_gather_once:
        return gather(mesh, op == OP_gather ? M_NAP : M_NAP_ONCE);
    case OP_lock:
        return shard_mutex_lock(mesh, &mutex, INT64_MAX);
    case OP_bottom_half:
        return bottom_half(mesh);
    case OP_move:
        return portable_start(mesh, moving, word, "moves", NULL) < 0 ? -EIO : 1;
    case OP_schedule:
        return schedule(mesh, word) < 0 ? -EHOSTDOWN : 1;
    case OP_wake:
        return shard_co_wake(mesh, there);
    case N_OPS:
        break;
    }
    return -EIO;
}

struct asking {
    struct rig_end *end;
    enum phase phase;
    enum op op;
};

static _Atomic uint64_t *end_word(enum phase phase, enum op op)
{
    return &rig.board->words[WORD_ENDS + phase * N_OPS + op];
}

static void coroutine_fn asking_entry(void *opaque)
{
    struct asking asking = *(struct asking *)opaque;
    _Atomic uint64_t *word = end_word(asking.phase, asking.op);
    int r = ask(asking.end->mesh, asking.op, word);

    if (r <= 0)
        say_end(word, r);
}

static void start_phase(struct rig_end *end, enum phase phase)
{
    for (enum op op = 0; op < N_OPS; op++) {
        struct asking asking = {end, phase, op};
        if (ops[op].ends[phase])
            aio_co_enter(end->ctx, coroutine_create(asking_entry, &asking));
    }
}

/* One that goes to the shard, and waits there for a wake that comes too late. */
static void coroutine_fn staying(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    if (shard_co_move(&mesh, GONE) < 0)
        return;
    atomic_store(&rig.board->words[WORD_THERE], 1);
    shard_co_wait(&mesh, "for ever");
}

static bool nothing_is_left(void *opaque)
{
    struct rig_end *end = opaque;

    (void)opaque;
    return atomic_load(&rig.board->words[WORD_LEFT]) && mesh_is_idle(end->mesh) &&
           rig_slots_in_use(&rig) == 0;
}

static bool next_phase_is_due(void *opaque)
{
    return atomic_load(&rig.board->words[WORD_PHASE]) > *(uint64_t *)opaque;
}

static void asking_body(struct rig_end *end)
{
    assert_int_equal(portable_start(end->mesh, staying, NULL, "stays", &there), 0);
    for (uint64_t phase = 0; phase < N_PHASES; phase++) {
        rig_poll_until(end, next_phase_is_due, &phase);
        start_phase(end, (enum phase)phase);
    }
    rig_poll_until(end, nothing_is_left, end);
}

static void coroutine_fn holding_entry(void *opaque)
{
    struct rig_end *end = opaque;

    assert_int_equal(shard_mutex_lock(end->mesh, &mutex, INT64_MAX), 0);
    atomic_store(&rig.board->words[WORD_HELD], 1);
    while (!atomic_load(&rig.board->words[WORD_LEFT]))
        co_sleep_ns(100000);
    assert_int_equal(shard_mutex_unlock(end->mesh, &mutex), 0);
}

static void witness_body(struct rig_end *end)
{
    aio_co_enter(end->ctx, coroutine_create(holding_entry, end));
    rig_serve(end);
}

/* ---- the test's own ---- */

static void wait_for_ends(enum phase phase)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;

    for (enum op op = 0; op < N_OPS; op++) {
        if (!ops[op].ends[phase])
            continue;
        while (atomic_load(end_word(phase, op)) == 0) {
            if (aio_clock_ns() > deadline_ns)
                fail_msg("%s, phase %d: it hangs", ops[op].name, (int)phase);
            sched_yield();
        }
        int status = (int)(1 - atomic_load(end_word(phase, op)));
        if (status != ops[op].ends[phase])
            fail_msg("%s, phase %d: it ended with %d", ops[op].name, (int)phase, status);
    }
}

static void wait_until_sent(uint64_t n_calls)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;

    while (atomic_load_acquire(&segment_pair(&rig.seg, ASKER, GONE)->calls_submitted) < n_calls) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

static void stop_shard(uint32_t shard)
{
    int status;

    assert_int_equal(kill(rig.ends[shard].pid, SIGSTOP), 0);
    assert_int_equal(waitpid(rig.ends[shard].pid, &status, WUNTRACED), rig.ends[shard].pid);
    assert_true(WIFSTOPPED(status));
}

static uint32_t n_asked(enum phase phase)
{
    uint32_t n = 0;

    for (enum op op = 0; op < N_OPS; op++)
        n += ops[op].ends[phase] != 0;
    return n;
}

static void what_was_asked_of_a_shard_given_up_ends_and_says_so(void **state)
{
    const struct pair_stats *sent;

    (void)state;
    rig_open(&rig, N_SHARDS, &service);
    sent = segment_pair(&rig.seg, ASKER, GONE);
    rig_fork(&rig, GONE, rig_serve);
    rig_fork(&rig, WITNESS, witness_body);
    rig_wait_word(&rig, WORD_HELD, 1);
    rig_fork(&rig, ASKER, asking_body);
    rig_wait_word(&rig, WORD_THERE, 1);
    atomic_store(&rig.board->words[WORD_PHASE], 1 + BEGUN);
    rig_wait_word(&rig, WORD_NAPS, 4);
    wait_until_sent(1 + n_asked(BEGUN)); /* the first was the coroutine that is there */
    stop_shard(GONE);
    atomic_store(&rig.board->words[WORD_PHASE], 1 + ON_ITS_WAY);
    wait_until_sent(1 + n_asked(BEGUN) + n_asked(ON_ITS_WAY));
    rig_kill(&rig, GONE, true);
    wait_for_ends(BEGUN);
    wait_for_ends(ON_ITS_WAY);
    uint64_t n_sent = atomic_load_acquire(&sent->calls_submitted);
    atomic_store(&rig.board->words[WORD_PHASE], 1 + AFTERWARDS);
    wait_for_ends(AFTERWARDS);
    assert_int_equal(atomic_load_acquire(&sent->calls_submitted), n_sent); /* nothing was sent */
    atomic_store(&rig.board->words[WORD_LEFT], 1);
    rig_join(&rig, ASKER);
    assert_true(rig_balances(&rig));
    assert_int_equal(rig_slots_in_use(&rig), 0);
    for (uint32_t slot = 0; slot < rig.seg.geometry.n_portable; slot++)
        assert_true(arena_co_at(&rig.seg, slot) == 0);
    rig_close(&rig);
}

/* ---- what waits for a buffer ---- */

#define N_LARGE 8 /* to each: more than fit into a shard's heap */

struct large {
    struct mesh_call calls[2 * N_LARGE];
    uint8_t *args;
    uint32_t n_done, n_refused;
};

static struct large *large_of_end;

static void on_large_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct large *large = large_of_end;

    if (call->target == WITNESS)
        large->n_done += answer->end == CALL_END_DONE;
    else
        large->n_refused += answer->end == CALL_END_NOT_STARTED && answer->status == -EHOSTDOWN;
}

static bool large_are_over(void *opaque)
{
    const struct large *large = opaque;

    return large->n_done == N_LARGE && large->n_refused == N_LARGE;
}

static bool has_judged(void *opaque)
{
    struct rig_end *end = opaque;

    return segment_pair(&end->rig->seg, ASKER, GONE)->judged_incarnation == 2;
}

static void start_call(struct rig_end *end, struct large *large, uint32_t i, size_t args_len)
{
    large->calls[i] = (struct mesh_call){.target = i % 2 ? WITNESS : GONE,
        .method = M_ECHO,
        .args = large->args,
        .args_len = args_len,
        .deadline_ns = INT64_MAX,
        .done = on_large_done};
    assert_int_equal(mesh_call_start(end->mesh, &large->calls[i]), 0);
}

static bool none_is_under_way(void *opaque)
{
    return mesh_is_idle(((struct rig_end *)opaque)->mesh);
}

/* Slots that come back are taken again in the opposite order: so that a call which gets its buffer
 * from one that is judged has a slot that was looked at before. */
static void turn_slots_round(struct rig_end *end, struct large *large)
{
    for (uint32_t i = 0; i < 2 * N_LARGE; i += 2)
        start_call(end, large, i, 1);
    rig_poll_until(end, none_is_under_way, end);
}

static bool is_killed(void *opaque)
{
    (void)opaque;
    return atomic_load(&rig.board->words[WORD_HELD]) != 0;
}

/* Some of those to the shard come to have a buffer while it is judged, or after. */
static void large_body(struct rig_end *end)
{
    struct large large = {.args = calloc(1, SEGMENT_PAYLOAD_MAX)};

    large_of_end = &large;
    turn_slots_round(end, &large);
    atomic_store(&rig.board->words[WORD_PHASE], 1);
    rig_poll_until(end, is_killed, NULL);
    for (uint32_t i = 0; i < 2 * N_LARGE; i++)
        start_call(end, &large, i, SEGMENT_PAYLOAD_MAX);
    aio_poll(end->ctx, false);
    atomic_store(&rig.board->words[WORD_PHASE], 2);
    rig_poll_until(end, has_judged, end);
    atomic_store(&rig.board->words[WORD_LEFT], 1);
    rig_poll_until(end, large_are_over, &large);
    free(large.args);
}

static void what_waits_for_a_buffer_while_the_shard_is_given_up_is_not_sent_to_it(void **state)
{
    (void)state;
    rig_open(&rig, N_SHARDS, &service);
    rig_fork(&rig, GONE, rig_serve);
    rig_fork(&rig, ASKER, large_body);
    rig_wait_word(&rig, WORD_PHASE, 1);
    kill(rig.ends[GONE].pid, SIGKILL);
    rig_join(&rig, GONE);
    atomic_store(&rig.board->words[WORD_HELD], 1);
    rig_wait_word(&rig, WORD_PHASE, 2);
    assert_true(segment_pair(&rig.seg, ASKER, GONE)->calls_submitted < 2 * N_LARGE);
    rig_bury(&rig, GONE, true);
    rig_wait_word(&rig, WORD_LEFT, 1);
    rig_fork(&rig, WITNESS, rig_serve); /* and the buffers begin to come back */
    rig_join(&rig, ASKER);
    assert_true(rig_balances(&rig));
    assert_int_equal(rig_slots_in_use(&rig), 0);
    rig_close(&rig);
}

int main(void)
{
#ifdef CO_WITH_TSAN
    return 77; /* coroutines move between processes, of which it sees one */
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_asked_of_a_shard_given_up_ends_and_says_so),
        cmocka_unit_test(what_waits_for_a_buffer_while_the_shard_is_given_up_is_not_sent_to_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
