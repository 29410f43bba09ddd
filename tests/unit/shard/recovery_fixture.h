/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * recovery_fixture - three ends that call each other: small and large, once and idempotent, nested,
 * moving, and under a lock; one of them dies in the middle of it
 *
 * Use:         open_rig(&rig); start_all(&rig, middle(k)); rig_fork(&rig, WITNESS, work); until
 *              all_is_over(): bury() whom has_died() tells, and fork its replacement;
 *              check_and_close()
 * Concurrency: light_fuse() before the fork is for that child alone: the test's own process is
 *              fireproof. Built with SHERD_ATOMIC_HOOK.
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
#define DEADLINE_NS (INT64_C(60) * 1000000000)

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
static inline void light_fuse(const struct rig *rig, uint64_t stores)
{
    fuse.base = rig->seg.base;
    fuse.bytes = rig->seg.bytes;
    fuse.left = stores;
    fuse.n_made = 0;
    fuse.when_armed = false;
}

static inline void put_out_fuse(void)
{
    fuse.base = NULL;
}

/* ---- methods ---- */

static inline int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

/* What the next one echoes. */
static inline int coroutine_fn run_relay(struct service_call *call)
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
static inline int coroutine_fn run_visit(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    int r = service_move(call, (service_shard(call) + 1) % N_ENDS);

    return r < 0 ? r : service_reply(call, args, len);
}

/* The word inside names who is in; who died in there left it, and the next is told. */
static inline int coroutine_fn run_lock(struct service_call *call)
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

static inline bool orphaned(const struct rig *rig)
{
    return atomic_load(&rig->board->words[WORD_ORPHANED]) != 0;
}

/* Without a supervisor it may also not have been started, or have failed within. */
static inline bool may_end_so(
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

static inline void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct load_call *one = (struct load_call *)call;
    struct load *load = one->load;

    load->n_ended++;
    if (++one->n_ended != 1 || !may_end_so(load->end->rig, call, answer))
        atomic_fetch_add(&load->end->rig->board->words[WORD_WRONG], 1);
}

static inline void start_call(struct load *load, uint32_t i)
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
static inline bool load_is_over(void *opaque)
{
    struct load *load = opaque;

    if (orphaned(load->end->rig))
        mesh_orphaned(load->end->mesh);
    return load->n_ended == N_CALLS;
}

static inline bool is_told_to_leave(void *opaque)
{
    struct rig_end *end = opaque;

    if (orphaned(end->rig))
        mesh_orphaned(end->mesh);
    return atomic_load(&end->rig->board->leave) != 0;
}

static inline void work(struct rig_end *end)
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

/* ---- the supervisor ---- */

static inline bool has_died(const struct rig *rig, uint32_t peer)
{
    siginfo_t info = {0};

    assert_int_equal(
        waitid(P_PID, (id_t)rig->ends[peer].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0;
}

static inline bool a_coroutine_lives(const struct rig *rig)
{
    for (uint32_t slot = 0; slot < rig->seg.geometry.n_portable; slot++)
        if (arena_co_at(&rig->seg, slot))
            return true;
    return false;
}

static inline bool a_lock_is_held(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
            if (atomic_load_acquire(&segment_locks(&rig->seg, peer)[idx].word) & LOCK_HELD)
                return true;
    return false;
}

static inline bool all_is_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        if (atomic_load(&rig->board->words[WORD_OVER + peer]) == 0 ||
            atomic_load_relaxed(&segment_part(&rig->seg, peer)->heap_used_bytes) != 0)
            return false;
    return rig_slots_in_use(rig) == 0 && !a_coroutine_lives(rig) && !a_lock_is_held(rig);
}

/* What is left, for who reads that a case failed. */
static inline void print_slots(const struct rig *rig)
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

static inline void complain(const struct rig *rig, const char *what)
{
    print_slots(rig);
    fail_msg("%s: after a minute over: %u%u%u, %llu slots in use, buffers %llu, %llu, %llu, %s, %s",
        what, (unsigned)rig->board->words[WORD_OVER], (unsigned)rig->board->words[WORD_OVER + 1],
        (unsigned)rig->board->words[WORD_OVER + 2], (unsigned long long)rig_slots_in_use(rig),
        (unsigned long long)segment_part(&rig->seg, 0)->heap_used_bytes,
        (unsigned long long)segment_part(&rig->seg, 1)->heap_used_bytes,
        (unsigned long long)segment_part(&rig->seg, 2)->heap_used_bytes,
        a_coroutine_lives(rig) ? "a coroutine lives" : "no coroutine",
        a_lock_is_held(rig) ? "a lock is held" : "no lock");
}

static inline void open_rig(struct rig *rig)
{
    rig_open(rig, N_ENDS, &service);
    rig_of_test = rig;
    test_pid = getpid();
}

/* The doomed one dies at its n-th store, in the middle of its work. */
static inline void start_all(struct rig *rig, uint64_t n)
{
    light_fuse(rig, n);
    rig_fork(rig, DOOMED, work);
    put_out_fuse();
    rig_fork(rig, 2, work);
}

static inline void bury(struct rig *rig, uint32_t peer)
{
    rig_join(rig, peer);
    rig_bury(rig, peer, false);
    atomic_store(&rig->board->words[WORD_OVER + peer], 0);
}

static inline void check_and_close(struct rig *rig, const char *what)
{
    if (!rig_balances(rig) || atomic_load(&rig->board->words[WORD_WRONG]) != 0)
        fail_msg("%s: the accounts do not balance, or a call ended wrongly", what);
    rig_close(rig);
}

/* Sampled k of [1, n], by number. */
static inline uint64_t sample(uint32_t i, uint32_t n_samples, uint64_t n)
{
    return n_samples < 2 ? 1 : 1 + (n - 1) * i / (n_samples - 1);
}

static inline uint32_t samples_wanted(void)
{
    const char *text = getenv("SHERD_CRASH_POINTS");

    return text ? (uint32_t)atoi(text) : N_SAMPLES;
}

/* Where in its work the doomed one dies: somewhere else each time. */
static inline uint64_t middle(uint64_t k)
{
    return 40 + k * 37 % 400;
}
