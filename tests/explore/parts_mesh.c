/* SPDX-License-Identifier: MIT */
/*
 * A coroutine has a stack of its own and is entered by the scenario's thread it was made in. One
 * that is woken is entered at once, which is where its loop would come to it next.
 */
#include "tests/explore/parts_mesh.h"

#include <errno.h>
#include <string.h>

#include "runtime/co_cancel.h"
#include "runtime/coroutine_switch.h"
#include "shard/poison.h"
#include "shard/portable_inside.h"
#include "tests/explore/explorer.h"

#define N_COROUTINES 8 /* of a thread at a time */
#define STACK_BYTES  (24 * 1024)

struct co {
    CoroutineEntry *entry;
    void *opaque;
    void *inside, *outside;
    struct co *entered_by;
    CoPortableFn *then, *ended; /* called by who entered it, once it is off its stack */
    void *then_opaque, *ended_opaque;
    uint32_t n_pins;
    bool taken;
};

static struct {
    const struct service_method *methods;
    uint32_t n_methods;
    parts_mesh_peek_fn *peek;
    struct co coroutines[EXPLORER_MAX_THREADS + 1][N_COROUTINES];
    struct co *running[EXPLORER_MAX_THREADS + 1];
} p;

static char stacks[EXPLORER_MAX_THREADS + 1][N_COROUTINES][STACK_BYTES]
    __attribute__((aligned(64)));

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

static void run_scheduled(struct parts_mesh_loop *loop)
{
    while (loop->n_scheduled > 0)
        coroutine_enter(loop->scheduled[--loop->n_scheduled]);
}

static void run_bhs(struct parts_mesh_loop *loop)
{
    run_scheduled(loop);
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
    return loop->n_scheduled > 0 || loop->source->pending(loop->source->opaque);
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

/* ---- what no scenario has ---- */

/* No method calls others. */
void co_cancel(CoCancel *token)
{
}

void co_cancel_deinit(CoCancel *token)
{
}

int coroutine_fn co_sleep_ns(int64_t ns)
{
    explorer_fail("no memory for a move");
}

int co_scope_status(void)
{
    return 0;
}

int code_ranges_init(struct code_ranges *ranges, const struct registry *registry)
{
    return 0;
}

void code_ranges_deinit(struct code_ranges *ranges)
{
}

bool code_ranges_has(const struct code_ranges *ranges, uintptr_t address)
{
    return true;
}

int coroutine_fn service_reply(struct service_call *call, const void *data, size_t len)
{
    serve_put_reply(call, data, len);
    return 0;
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
    co->then = co->ended;
    co->then_opaque = co->ended_opaque;
    co_switch(&never, co->outside);
    explorer_fail("a coroutine that has ended goes on");
}

Coroutine *coroutine_create_full(
    CoroutineEntry *entry, void *opaque, const char *name, size_t stack_bytes)
{
    uint32_t self = explorer_self() + 1;

    for (uint32_t i = 0; i < N_COROUTINES; i++) {
        struct co *co = &p.coroutines[self][i];
        if (co->taken)
            continue;
        *co = (struct co){.entry = entry, .opaque = opaque, .taken = true};
        co->inside = co_switch_prepare(stacks[self][i], STACK_BYTES, run_coroutine, co);
        return (Coroutine *)co;
    }
    explorer_fail("more than %d coroutines", N_COROUTINES);
}

static struct co **running(void)
{
    return &p.running[explorer_self() + 1];
}

/* What follows a switch out of it may give it away: it is not touched after that. */
void coroutine_enter(Coroutine *coroutine)
{
    struct co *co = (struct co *)coroutine;
    CoPortableFn *then;

    co->entered_by = *running();
    *running() = co;
    co_switch(&co->outside, co->inside);
    *running() = co->entered_by;
    then = co->then;
    co->then = NULL;
    if (then)
        then(coroutine, co->then_opaque);
}

bool coroutine_entered(const Coroutine *co)
{
    return *running() == (const struct co *)co;
}

Coroutine *coroutine_self(void)
{
    return (Coroutine *)*running();
}

bool in_coroutine(void)
{
    return *running() != NULL;
}

void coroutine_fn coroutine_yield_at(const char *why)
{
    struct co *co = *running();

    co_switch(&co->inside, co->outside);
}

void aio_co_wake(Coroutine *co)
{
    coroutine_enter(co);
}

void aio_co_schedule_at(AioContext *ctx, Coroutine *co, const char *site)
{
    struct parts_mesh_loop *loop = (struct parts_mesh_loop *)ctx;

    if (loop->n_scheduled == PARTS_MESH_SCHEDULED)
        explorer_fail("more than %d coroutines are scheduled", PARTS_MESH_SCHEDULED);
    loop->scheduled[loop->n_scheduled++] = co;
}

/* ---- coroutines in the segment ---- */

Coroutine *co_portable_create(void *low, size_t bytes, CoroutineEntry *entry, void *opaque,
    const char *name, CoPortableFn *ended, void *ended_opaque)
{
    struct co *co = (struct co *)(((uintptr_t)low + bytes - sizeof(*co)) & ~(uintptr_t)63);

    *co =
        (struct co){.entry = entry, .opaque = opaque, .ended = ended, .ended_opaque = ended_opaque};
    co->inside = co_switch_prepare(low, (size_t)((char *)co - (char *)low), run_coroutine, co);
    return (Coroutine *)co;
}

void co_portable_begins_in(Coroutine *co, const void *function)
{
}

void *co_portable_of(const Coroutine *coroutine, CoPortableFn *ended)
{
    const struct co *co = (const struct co *)coroutine;

    return co && co->ended == ended ? co->ended_opaque : NULL;
}

void coroutine_fn co_yield_then(const char *why, CoPortableFn *then, void *opaque)
{
    struct co *co = *running();

    co->then = then;
    co->then_opaque = opaque;
    co_switch(&co->inside, co->outside);
}

int coroutine_fn co_portable_check(const char **ret_why)
{
    *ret_why = (*running())->n_pins ? "it is pinned" : NULL;
    return *ret_why ? -EBUSY : 0;
}

void co_portable_leave(Coroutine *co)
{
}

void co_portable_arrive(Coroutine *co)
{
}

const void *co_portable_position(const Coroutine *co, const void **ret_end)
{
    *ret_end = co;
    return NULL;
}

void coroutine_fn co_pin(const char *why)
{
    (*running())->n_pins++;
}

void coroutine_fn co_unpin(void)
{
    (*running())->n_pins--;
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
