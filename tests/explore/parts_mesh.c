/* SPDX-License-Identifier: MIT */
/*
 * A coroutine has a stack of its own and is entered by the scenario's thread it was made in. One
 * that is woken is entered at once, which is where its loop would come to it next.
 */
#include "tests/explore/parts_mesh.h"

#include <errno.h>
#include <string.h>

#include "runtime/coroutine_switch.h"
#include "shard/builtin.h"
#include "shard/lock_inside.h"
#include "shard/poison.h"
#include "shard/portable_inside.h"
#include "tests/explore/explorer.h"

#define N_COROUTINES 12
#define STACK_BYTES  (24 * 1024)

struct co {
    CoroutineEntry *entry;
    void *opaque;
    void *inside, *outside;
    struct co *entered_by;
    bool taken;
};

static struct {
    const struct service_method *methods;
    uint32_t n_methods;
    parts_mesh_peek_fn *peek;
    struct co coroutines[N_COROUTINES];
    struct co *running[EXPLORER_MAX_THREADS + 1];
} p;

static char stacks[N_COROUTINES][STACK_BYTES] __attribute__((aligned(64)));

void parts_mesh_reset(const struct service_method *methods, uint32_t n)
{
    memset(&p, 0, sizeof p);
    p.methods = methods;
    p.n_methods = n;
}

void parts_mesh_on_peek(parts_mesh_peek_fn *peek)
{
    p.peek = peek;
}

/* ---- the loop ---- */

void parts_mesh_loop_init(struct parts_mesh_loop *loop, const struct doorbell *bell)
{
    *loop = (struct parts_mesh_loop){.bell = *bell};
}

static void run_bhs(struct parts_mesh_loop *loop)
{
    for (uint32_t i = 0; i < loop->n_bhs; i++)
        if (loop->bhs[i].scheduled) {
            loop->bhs[i].scheduled = false;
            loop->bhs[i].run(loop->bhs[i].opaque);
        }
}

static bool has_work(const struct parts_mesh_loop *loop)
{
    for (uint32_t i = 0; i < loop->n_bhs; i++)
        if (loop->bhs[i].scheduled)
            return true;
    return loop->source->pending(loop->source->opaque);
}

static void sleep_and_work(struct parts_mesh_loop *loop, bool blocking)
{
    const struct aio_source *source = loop->source;

    if (doorbell_prepare_sleep(&loop->bell) && !has_work(loop) && blocking) {
        explorer_fd_wait(loop->bell.fd, false);
        doorbell_drain_fd(&loop->bell);
    }
    doorbell_end_sleep(&loop->bell);
    doorbell_accept(&loop->bell);
    source->dispatch(source->opaque);
}

void parts_mesh_turn(struct parts_mesh_loop *loop, bool blocking)
{
    loop->source->flush(loop->source->opaque);
    sleep_and_work(loop, blocking);
    loop->source->flush(loop->source->opaque);
    run_bhs(loop);
    loop->source->flush(loop->source->opaque);
}

void parts_mesh_turn_late(struct parts_mesh_loop *loop)
{
    sleep_and_work(loop, true);
    run_bhs(loop);
    loop->source->flush(loop->source->opaque);
}

void aio_add_source(AioContext *ctx, struct aio_source *source)
{
    ((struct parts_mesh_loop *)ctx)->source = source;
}

void aio_remove_source(AioContext *ctx, struct aio_source *source)
{
    ((struct parts_mesh_loop *)ctx)->source = NULL;
}

BH *aio_bh_new_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name)
{
    struct parts_mesh_loop *loop = (struct parts_mesh_loop *)ctx;
    struct parts_mesh_bh *bh = &loop->bhs[loop->n_bhs];

    if (loop->n_bhs == PARTS_MESH_BHS)
        explorer_fail("more than %d bottom halves", PARTS_MESH_BHS);
    loop->n_bhs++;
    *bh = (struct parts_mesh_bh){.loop = loop, .run = cb, .opaque = opaque};
    return (BH *)bh;
}

void bh_schedule(BH *bh)
{
    ((struct parts_mesh_bh *)bh)->scheduled = true;
}

void bh_delete(BH *bh)
{
}

/* No scenario has a deadline. */
void aio_timer_init(AioContext *ctx, AioTimer *timer, void (*cb)(void *opaque), void *opaque)
{
}

void timer_del(AioTimer *timer)
{
}

void timer_mod_ns(AioTimer *timer, int64_t deadline_ns)
{
    explorer_fail("a deadline");
}

void recorder_note(
    const struct aio_instruments *in, enum recorder_kind kind, uint64_t a, uint64_t b)
{
}

/* ---- methods ---- */

const struct service_method *registry_method(
    const struct registry *registry, uint32_t number, uint32_t *ret_service)
{
    if (ret_service)
        *ret_service = 0;
    return number < p.n_methods ? &p.methods[number] : NULL;
}

const struct service_method *builtin_method(uint32_t method)
{
    return NULL;
}

/* ---- no portable coroutines: test_portable.c has those ---- */

int portable_end_new(struct mesh *mesh, struct portable_end **ret_end)
{
    *ret_end = NULL;
    return 0;
}

void portable_end_free(struct portable_end *end)
{
}

arena_co portable_take(struct mesh *mesh)
{
    return 0;
}

void portable_run(
    struct mesh *mesh, arena_co co, portable_fn *entry, void *opaque, const char *name)
{
}

void portable_give(struct mesh *mesh, arena_co co)
{
}

int coroutine_fn shard_co_move(struct mesh **mesh, uint32_t target)
{
    return -ENOTSUP;
}

int coroutine_fn co_sleep_ns(int64_t ns)
{
    return 0;
}

const char *coroutine_fn shard_co_holds(void)
{
    return NULL;
}

uint32_t portable_n_here(const struct mesh *mesh)
{
    return 0;
}

void portable_judge(struct mesh *mesh, uint32_t peer, bool failed)
{
}

/* ---- no bottom halves of others, no locks ---- */

int code_ranges_init(struct code_ranges *ranges, const struct registry *registry)
{
    return 0;
}

void code_ranges_deinit(struct code_ranges *ranges)
{
}

int lock_end_new(struct mesh *mesh, struct lock_end **ret_end)
{
    *ret_end = NULL;
    return 0;
}

void lock_end_free(struct lock_end *end)
{
}

void lock_drop_all(struct mesh *mesh, const Coroutine *co)
{
}

void lock_end_wait(struct lock_wait *wait)
{
}

void lock_judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed)
{
}

/* Nothing crashes here: who dies was killed. */
bool poison_note(
    struct mesh *mesh, struct mesh_call *call, uint32_t dead, uint32_t home, uint64_t generation)
{
    return false;
}

void poison_park(struct mesh *mesh, struct mesh_call *call)
{
}

void poison_forget(struct mesh_call *call)
{
}

/* ---- coroutines ---- */

void coroutine_fn coroutine_set_work(uint64_t work)
{
}

static void run_coroutine(void *opaque)
{
    struct co *co = opaque;
    void *never;

    co->entry(co->opaque);
    co->taken = false;
    co_switch(&never, co->outside);
    explorer_fail("a coroutine that has ended goes on");
}

Coroutine *coroutine_create_full(
    CoroutineEntry *entry, void *opaque, const char *name, size_t stack_bytes)
{
    for (uint32_t i = 0; i < N_COROUTINES; i++) {
        struct co *co = &p.coroutines[i];
        if (co->taken)
            continue;
        *co = (struct co){.entry = entry, .opaque = opaque, .taken = true};
        co->inside = co_switch_prepare(stacks[i], STACK_BYTES, run_coroutine, co);
        return (Coroutine *)co;
    }
    explorer_fail("more than %d coroutines", N_COROUTINES);
}

void coroutine_enter(Coroutine *coroutine)
{
    struct co *co = (struct co *)coroutine;
    struct co **running = &p.running[explorer_self() + 1];

    co->entered_by = *running;
    *running = co;
    co_switch(&co->outside, co->inside);
    p.running[explorer_self() + 1] = co->entered_by;
}

bool coroutine_entered(const Coroutine *co)
{
    return p.running[explorer_self() + 1] == (const struct co *)co;
}

Coroutine *coroutine_self(void)
{
    return (Coroutine *)p.running[explorer_self() + 1];
}

void coroutine_fn coroutine_yield_at(const char *why)
{
    struct co *co = p.running[explorer_self() + 1];

    co_switch(&co->inside, co->outside);
}

void aio_co_wake(Coroutine *co)
{
    coroutine_enter(co);
}

/* ---- messages, on their way in ---- */

#undef ring_peek_at
bool ring_peek_at(const struct ring_rx *rx, uint64_t n, void *ret_payload);

bool parts_mesh_ring_peek_at(const struct ring_rx *rx, uint64_t n, void *ret_payload)
{
    if (!ring_peek_at(rx, n, ret_payload))
        return false;
    if (p.peek)
        p.peek(rx, n, ret_payload);
    return true;
}
