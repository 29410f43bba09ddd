/* SPDX-License-Identifier: MIT */
/*
 * Deaths while a death is being mended. Three ends call each other: small and large, once and
 * idempotent, nested, moving, and under a lock. One dies in the middle of it, and then
 *
 *   its replacement    at each store that it makes before its first turn is over
 *   one of its peers   at each store from the moment it is told
 *   the supervisor     at each store of its mending: then nobody mends anything, and what waits for
 *                      the dead is ended by those who wait
 *
 * is killed as well. Only stores are places to die at: to die at a load is to die after the store
 * before it. Some of them are tried; SHERD_CRASH_POINTS=N tries N, spread evenly.
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
#include "shard/estate.h"
#include "shard/lock.h"
#include "shard/portable.h"
#include "shard/serve.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_ONCE, M_RELAY, M_VISIT, M_LOCK, N_METHODS };

enum {
    WORD_OVER, /* + peer: its load is over */
    WORD_WRONG = 8,
    WORD_INSIDE,    /* who has the lock */
    WORD_RECOVERED, /* the doomed one's replacement has had its first turn */
    WORD_STORES,    /* that it made until then */
    WORD_ARMED,     /* the peer that is to die may count its stores */
    WORD_ORPHANED,  /* there is no supervisor any more */
};

#define N_ENDS      3
#define DOOMED      1
#define WITNESS     0 /* a peer of it */
#define N_CALLS     15
#define LARGE       5000
#define N_SAMPLES   16
#define DEADLINE_NS (INT64_C(20) * 1000000000)

static struct rig *rig_of_test; /* for methods and the hook, in children of the test */
static pid_t test_pid;

/* ---- dying at the k-th store ---- */

static struct {
    const uint8_t *base; /* NULL: it is out */
    uint64_t bytes;
    uint64_t left; /* stores to live through; 0: for ever */
    uint64_t n_made;
    bool when_armed; /* counts from WORD_ARMED on */
} fuse;

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)address;

    (void)file;
    (void)line;
    if (!fuse.base || at < fuse.base || at >= fuse.base + fuse.bytes ||
        (access != ATOMIC_STORE && access != ATOMIC_RMW) || getpid() == test_pid)
        return;
    if (fuse.when_armed && !atomic_load(&rig_of_test->board->words[WORD_ARMED]))
        return;
    fuse.n_made++;
    if (fuse.left > 0 && --fuse.left == 0)
        kill(getpid(), SIGKILL);
}

/* For the next child; the test's own process is fireproof. */
static void light_fuse(const struct rig *rig, uint64_t stores)
{
    fuse.base = rig->seg.base;
    fuse.bytes = rig->seg.bytes;
    fuse.left = stores;
    fuse.n_made = 0;
    fuse.when_armed = false;
}

static void put_out_fuse(void)
{
    fuse.base = NULL;
}

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

/* What the next one echoes. */
static int coroutine_fn run_relay(struct service_call *call)
{
    size_t len, answer_len = 0;
    const void *args = service_args(call, &len);
    uint32_t next = (service_shard(call) + 1) % service_n_shards(call);
    void *answer = NULL;
    int r = service_call_shard(call, next, "recovery.echo", args, len, &answer, &answer_len);

    if (r == 0)
        r = service_reply(call, answer, answer_len);
    free(answer);
    return r;
}

/* Goes to the next shard, and home by itself. */
static int coroutine_fn run_visit(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    int r = service_move(call, (service_shard(call) + 1) % N_ENDS);

    return r < 0 ? r : service_reply(call, args, len);
}

/* The word inside names who is in; who died in there left it, and the next is told. */
static int coroutine_fn run_lock(struct service_call *call)
{
    const struct shard_mutex mutex = {.id = 7, .home = DOOMED};
    struct rig_board *board = rig_of_test->board;
    uint64_t self = (uint64_t)getpid() << 32 | call->slot << 8 | call->from | 1u << 31;
    size_t len;
    const void *args = service_args(call, &len);
    int r = shard_mutex_lock(call->mesh, &mutex, INT64_MAX);

    if (r < 0 && r != -EOWNERDEAD)
        return r;
    if (atomic_exchange(&board->words[WORD_INSIDE], self) && r == 0)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
    if (r == -EOWNERDEAD)
        shard_mutex_consistent(call->mesh, &mutex);
    service_sleep_ns(call, 20000);
    if (atomic_exchange(&board->words[WORD_INSIDE], 0) != self)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
    shard_mutex_unlock(call->mesh, &mutex);
    return service_reply(call, args, len);
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = "args back, not to be run twice"},
    [M_RELAY] = {.name = "relay", .run = run_relay, .flags = SERVICE_IDEMPOTENT, .help = "echo"},
    [M_VISIT] = {.name = "visit",
        .run = run_visit,
        .flags = SERVICE_IDEMPOTENT | SERVICE_PORTABLE,
        .help = "moves"},
    [M_LOCK] = {.name = "lock", .run = run_lock, .flags = SERVICE_IDEMPOTENT, .help = "locks"},
};

static const struct service service = {.abi = SERVICE_ABI,
    .name = "recovery",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

/* ---- the load of each end ---- */

struct load;

struct load_call {
    struct mesh_call call;
    struct load *load;
    uint32_t n_ended;
};

struct load {
    struct rig_end *end;
    struct load_call calls[N_CALLS];
    uint8_t args[LARGE];
    uint32_t n_ended;
};

static bool orphaned(const struct rig *rig)
{
    return atomic_load(&rig->board->words[WORD_ORPHANED]) != 0;
}

/* Without a supervisor it may also not have been started, or have failed within. */
static bool may_end_so(
    const struct rig *rig, const struct mesh_call *call, const struct mesh_answer *answer)
{
    switch (answer->end) {
    case CALL_END_DONE:
        return answer->len == call->args_len && memcmp(answer->data, call->args, answer->len) == 0;
    case CALL_END_IN_DOUBT:
        return call->method == M_ONCE && answer->status == -EOWNERDEAD;
    case CALL_END_NOT_STARTED:
    case CALL_END_FAILED:
        return orphaned(rig) && answer->status == -EHOSTDOWN;
    default:
        return false;
    }
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct load_call *one = (struct load_call *)call;
    struct load *load = one->load;

    load->n_ended++;
    if (++one->n_ended != 1 || !may_end_so(load->end->rig, call, answer))
        atomic_fetch_add(&load->end->rig->board->words[WORD_WRONG], 1);
}

static void start_call(struct load *load, uint32_t i)
{
    struct load_call *one = &load->calls[i];
    uint32_t method = i % N_METHODS;

    one->load = load;
    one->call = (struct mesh_call){.target = (load->end->peer + 1 + i % 2) % N_ENDS,
        .method = method,
        .args = load->args,
        .args_len = i < N_METHODS || method >= M_VISIT ? 30 + i : LARGE - i,
        .deadline_ns = INT64_MAX,
        .done = on_done};
    assert_int_equal(mesh_call_start(load->end->mesh, &one->call), 0);
}

/* Orphans look again and again, as a member does (member.c). */
static bool load_is_over(void *opaque)
{
    struct load *load = opaque;

    if (orphaned(load->end->rig))
        mesh_orphaned(load->end->mesh);
    return load->n_ended == N_CALLS;
}

static bool is_told_to_leave(void *opaque)
{
    struct rig_end *end = opaque;

    if (orphaned(end->rig))
        mesh_orphaned(end->mesh);
    return atomic_load(&end->rig->board->leave) != 0;
}

static void work(struct rig_end *end)
{
    struct load *load = calloc(1, sizeof(*load));

    load->end = end;
    for (size_t at = 0; at < LARGE; at++)
        load->args[at] = (uint8_t)(at * 11 + end->peer);
    for (uint32_t i = 0; i < N_CALLS; i++)
        start_call(load, i);
    rig_poll_until(end, load_is_over, load);
    free(load);
    atomic_store(&end->rig->board->words[WORD_OVER + end->peer], 1);
    rig_poll_until(end, is_told_to_leave, end);
}

/* Born with a fuse that is out once its first turn is over. */
static void recover_and_work(struct rig_end *end)
{
    aio_poll(end->ctx, false);
    atomic_store(&end->rig->board->words[WORD_STORES], fuse.n_made);
    put_out_fuse();
    atomic_store(&end->rig->board->words[WORD_RECOVERED], 1);
    work(end);
}

/* ---- the supervisor ---- */

static bool has_died(const struct rig *rig, uint32_t peer)
{
    siginfo_t info = {0};

    assert_int_equal(
        waitid(P_PID, (id_t)rig->ends[peer].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0;
}

static bool a_coroutine_lives(const struct rig *rig)
{
    for (uint32_t slot = 0; slot < rig->seg.geometry.n_portable; slot++)
        if (arena_co_at(&rig->seg, slot))
            return true;
    return false;
}

static bool a_lock_is_held(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
            if (atomic_load_acquire(&segment_locks(&rig->seg, peer)[idx].word) & LOCK_HELD)
                return true;
    return false;
}

static bool all_is_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        if (atomic_load(&rig->board->words[WORD_OVER + peer]) == 0 ||
            atomic_load_relaxed(&segment_part(&rig->seg, peer)->heap_used_bytes) != 0)
            return false;
    return rig_slots_in_use(rig) == 0 && !a_coroutine_lives(rig) && !a_lock_is_held(rig);
}

/* What is left, for who reads that a case failed. */
static void print_slots(const struct rig *rig)
{
    for (uint32_t from = 0; from < N_ENDS; from++)
        for (uint32_t to = 0; to < N_ENDS; to++)
            for (uint32_t i = 0; i < segment_call_slots(&rig->seg, from, to); i++) {
                const struct call_slot *call = segment_call(&rig->seg, from, to, i);
                const struct serve_slot *serve = segment_serve(&rig->seg, to, from, i);
                if ((call->word & 0xff) != CALL_FREE)
                    print_message(
                        "%u to %u, slot %u: word %llx, method %u, started %llx, co %llx\n", from,
                        to, i, (unsigned long long)call->word, call->method,
                        (unsigned long long)serve->started, (unsigned long long)serve->co);
            }
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        print_message(
            "incarnation of %u: %u\n", peer, segment_control(&rig->seg, peer)->incarnation);
}

static void complain(const struct rig *rig, const char *what)
{
    print_slots(rig);
    fail_msg("%s: after 20 s over: %u%u%u, %llu slots in use, buffers %llu, %llu, %llu, %s, %s",
        what, (unsigned)rig->board->words[WORD_OVER], (unsigned)rig->board->words[WORD_OVER + 1],
        (unsigned)rig->board->words[WORD_OVER + 2], (unsigned long long)rig_slots_in_use(rig),
        (unsigned long long)segment_part(&rig->seg, 0)->heap_used_bytes,
        (unsigned long long)segment_part(&rig->seg, 1)->heap_used_bytes,
        (unsigned long long)segment_part(&rig->seg, 2)->heap_used_bytes,
        a_coroutine_lives(rig) ? "a coroutine lives" : "no coroutine",
        a_lock_is_held(rig) ? "a lock is held" : "no lock");
}

static void open_rig(struct rig *rig)
{
    rig_open(rig, N_ENDS, &service);
    rig_of_test = rig;
    test_pid = getpid();
}

/* The doomed one dies at its n-th store, in the middle of its work. */
static void start_all(struct rig *rig, uint64_t n)
{
    light_fuse(rig, n);
    rig_fork(rig, DOOMED, work);
    put_out_fuse();
    rig_fork(rig, 2, work);
}

static void bury(struct rig *rig, uint32_t peer)
{
    rig_join(rig, peer);
    rig_bury(rig, peer, false);
    atomic_store(&rig->board->words[WORD_OVER + peer], 0);
}

static void check_and_close(struct rig *rig, const char *what)
{
    if (!rig_balances(rig) || atomic_load(&rig->board->words[WORD_WRONG]) != 0)
        fail_msg("%s: the accounts do not balance, or a call ended wrongly", what);
    rig_close(rig);
}

/* Sampled k of [1, n], by number. */
static uint64_t sample(uint32_t i, uint32_t n_samples, uint64_t n)
{
    return n_samples < 2 ? 1 : 1 + (n - 1) * i / (n_samples - 1);
}

static uint32_t samples_wanted(void)
{
    const char *text = getenv("SHERD_CRASH_POINTS");

    return text ? (uint32_t)atoi(text) : N_SAMPLES;
}

/* Where in its work the doomed one dies: somewhere else each time. */
static uint64_t middle(uint64_t k)
{
    return 40 + k * 37 % 400;
}

/* ---- the replacement dies ---- */

/* Returns how many stores the replacement made until its first turn was over: 0 where it died. */
static uint64_t replacement_dies_at(uint64_t stores)
{
    uint32_t n_deaths = 0;
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    struct rig rig;
    char what[64];

    snprintf(
        what, sizeof(what), "a replacement dies at its store %llu", (unsigned long long)stores);
    open_rig(&rig);
    start_all(&rig, middle(stores));
    rig_fork(&rig, WITNESS, work);
    while (n_deaths == 0 || !all_is_over(&rig)) {
        if (has_died(&rig, DOOMED)) {
            bury(&rig, DOOMED);
            if (n_deaths++ == 0)
                light_fuse(&rig, stores);
            rig_fork(&rig, DOOMED, n_deaths == 1 ? recover_and_work : work);
            put_out_fuse();
        }
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    uint64_t n_made = n_deaths == 1 ? atomic_load(&rig.board->words[WORD_STORES]) : 0;
    check_and_close(&rig, what);
    return n_made;
}

static void a_replacement_may_die_at_any_store_of_its_recovery(void **state)
{
    uint64_t n = replacement_dies_at(0);
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    assert_true(n > 20);
    for (uint32_t i = 0; i < n_samples; i++)
        n_died += replacement_dies_at(sample(i, n_samples, n)) == 0;
    print_message("%llu stores of a replacement, %u deaths\n", (unsigned long long)n, n_died);
    assert_true(n_died > n_samples / 2);
}

/* ---- a peer dies while it judges ---- */

static void work_on_a_fuse(struct rig_end *end)
{
    fuse.when_armed = true;
    work(end);
}

static bool witness_dies_at(uint64_t stores)
{
    bool dead[2] = {false, false};
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    struct rig rig;
    char what[64];

    snprintf(what, sizeof(what), "a peer dies %llu stores after it was told",
        (unsigned long long)stores);
    open_rig(&rig);
    light_fuse(&rig, stores);
    fuse.when_armed = true;
    rig_fork(&rig, WITNESS, work_on_a_fuse);
    start_all(&rig, middle(stores));
    while (!dead[DOOMED] || !all_is_over(&rig)) {
        for (uint32_t peer = 0; peer < 2; peer++)
            if (!dead[peer] && has_died(&rig, peer)) {
                dead[peer] = true;
                atomic_store(&rig.board->words[WORD_ARMED], 1);
                bury(&rig, peer);
                rig_fork(&rig, peer, work);
            }
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    check_and_close(&rig, what);
    return dead[WITNESS];
}

static void a_peer_may_die_at_any_store_while_it_judges(void **state)
{
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    for (uint32_t i = 0; i < n_samples; i++)
        n_died += witness_dies_at(sample(i, n_samples, 120));
    print_message("%u deaths while judging\n", n_died);
    assert_true(n_died > n_samples / 2);
}

/* ---- the supervisor dies ---- */

static struct rig_end *ends_of_supervisor;

/* As death.c and birth.c have it, up to the fork. */
static void mend(struct rig *rig)
{
    const struct segment *seg = &rig->seg;

    estate_mend(seg, DOOMED);
    estate_pass_on(seg, DOOMED, PEER_DYING);
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        if (peer != DOOMED && ends_of_supervisor[peer].running)
            estate_tell(seg, DOOMED, peer, rig->bells[peer]);
    estate_prepare(seg, DOOMED);
}

/* Returns how many stores it took: 0 where the supervisor died at one. */
static uint64_t mend_in_a_child(struct rig *rig, uint64_t stores)
{
    int status;
    pid_t pid;

    fflush(NULL);
    ends_of_supervisor = rig->ends;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        light_fuse(rig, stores);
        mend(rig);
        atomic_store(&rig->board->words[WORD_STORES], fuse.n_made);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 0 : atomic_load(&rig->board->words[WORD_STORES]);
}

/* Those who live have ended all that they had asked; what the dead one had asked is nobody's. */
static bool living_are_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        if (peer != DOOMED && atomic_load(&rig->board->words[WORD_OVER + peer]) == 0)
            return false;
    return true;
}

static uint64_t supervisor_dies_at(uint64_t stores)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    uint64_t n_made;
    struct rig rig;
    char what[64];

    snprintf(
        what, sizeof(what), "the supervisor dies at its store %llu", (unsigned long long)stores);
    open_rig(&rig);
    start_all(&rig, middle(stores));
    rig_fork(&rig, WITNESS, work);
    while (!has_died(&rig, DOOMED)) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
    rig_join(&rig, DOOMED);
    atomic_store_release(&segment_control(&rig.seg, DOOMED)->pid, 0);
    n_made = mend_in_a_child(&rig, stores);
    atomic_store(&rig.board->words[WORD_ORPHANED], 1);
    while (!living_are_over(&rig)) {
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    check_and_close(&rig, what);
    return n_made;
}

static void without_a_supervisor_the_living_end_what_they_asked_wherever_it_died(void **state)
{
    uint64_t n = supervisor_dies_at(0);
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    assert_true(n > 4);
    for (uint32_t i = 0; i < n_samples && i < n; i++)
        n_died += supervisor_dies_at(sample(i, n_samples < n ? n_samples : (uint32_t)n, n)) == 0;
    print_message("%llu stores of the supervisor, %u deaths\n", (unsigned long long)n, n_died);
    assert_true(n_died > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replacement_may_die_at_any_store_of_its_recovery),
        cmocka_unit_test(a_peer_may_die_at_any_store_while_it_judges),
        cmocka_unit_test(without_a_supervisor_the_living_end_what_they_asked_wherever_it_died),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
