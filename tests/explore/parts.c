/* SPDX-License-Identifier: MIT */
/*
 * What stands for the parts of runtime/ that the scenarios do without: a loop whose only fd is its
 * doorbell, and coroutines that are the scenario's threads themselves. redirect.h gives each
 * another name, so that the library may have its own beside it.
 */
#include "tests/explore/parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/aio_sqe.h"
#include "runtime/bug.h"
#include "runtime/co_registry.h"
#include "runtime/co_wait.h"
#include "tests/explore/explorer.h"

static struct {
    AioContext *current[EXPLORER_MAX_THREADS + 1];
    Coroutine coroutines[EXPLORER_MAX_THREADS];
    struct aio_counters counters[EXPLORER_MAX_THREADS];
    uint32_t n_contexts;
    uint32_t n_stacks; /* taken in this run */
} p;

/* ---- contexts ---- */

static int wait_for_bell(AioContext *ctx, int64_t timeout_ns)
{
    if (timeout_ns != 0)
        explorer_fd_wait(ctx->bell.fd, timeout_ns > 0);
    ctx->ready = (void *)ctx; /* some handler: handlers_dispatch() below takes no look at it */
    return 0;
}

static bool need_no_wait(const AioContext *ctx)
{
    return false;
}

static void flush_nothing(AioContext *ctx)
{
}

static const struct fdmon_ops monitor = {
    .name = "explorer", .wait = wait_for_bell, .need_wait = need_no_wait};
static const struct engine_ops engine = {.flush = flush_nothing};

void parts_reset(void)
{
    memset(&p, 0, sizeof p);
}

void parts_context_init(AioContext *ctx)
{
    memset(ctx, 0, sizeof *ctx);
    ctx->refs = 1;
    ctx->bell = (struct doorbell){.words = &ctx->own_words, .fd = (int)p.n_contexts};
    ctx->monitor = &monitor;
    ctx->engine = &engine;
    ctx->instruments.counters = &p.counters[p.n_contexts++];
    ctx->instruments.running = &ctx->own_running;
    bh_init(ctx);
}

AioContext *aio_context_current(void)
{
    return p.current[explorer_self() + 1];
}

void aio_context_set_current(AioContext *ctx)
{
    p.current[explorer_self() + 1] = ctx;
}

/* No scenario turns any but its current one. */
AioContext *context_replace_turning(AioContext *ctx)
{
    return NULL;
}

AioContext *aio_context_ref(AioContext *ctx)
{
    return ctx;
}

void aio_context_unref(AioContext *ctx)
{
}

/* ---- what else is in a turn ---- */

bool handlers_dispatch(AioContext *ctx)
{
    doorbell_drain_fd(&ctx->bell);
    ctx->ready = NULL;
    return false;
}

void handlers_free_deleted(AioContext *ctx)
{
}

bool timers_run(AioContext *ctx)
{
    return false;
}

int64_t timers_timeout_ns(AioContext *ctx)
{
    return -1;
}

bool disk_dispatch_completed(AioContext *ctx)
{
    return false;
}

bool aio_sqe_dispatch(AioContext *ctx)
{
    return false;
}

bool poll_mode_run(AioContext *ctx, int64_t timeout_ns)
{
    return false;
}

void poll_mode_slept(AioContext *ctx, int64_t begin_ns, int64_t end_ns)
{
}

void poll_mode_learn(AioContext *ctx)
{
}

int64_t aio_clock_ns(void)
{
    return 0;
}

void recorder_note_at(const struct aio_instruments *in, uint64_t now_ns, enum recorder_kind kind,
    uint64_t a, uint64_t b)
{
}

void bug(const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    explorer_fail("bug: %s", text);
}

/* ---- coroutines ---- */

void parts_begin_coroutine(AioContext *ctx)
{
    p.coroutines[explorer_self()].ctx = ctx;
}

/* Outside of them for a thread that has not begun one. */
Coroutine *coroutine_self(void)
{
    Coroutine *self = &p.coroutines[explorer_self()];

    return self->ctx ? self : NULL;
}

bool in_coroutine(void)
{
    return coroutine_self() != NULL;
}

Coroutine *coroutine_fn co_wait_self(const char *why)
{
    return coroutine_self();
}

const CoScope *co_scope_innermost(void)
{
    return NULL;
}

/* There are none. */
int coroutine_fn co_wait_in_scopes(struct co_wait *wait, const char *why)
{
    explorer_fail("%s waits in a scope", why);
}

void coroutine_fn coroutine_yield_at(const char *why)
{
    explorer_wait(coroutine_self());
}

void aio_co_wake(Coroutine *co)
{
    explorer_post(co);
}

/* Coroutines of their own (scenario_coroutine.c), which nobody lists. */

#define N_STACKS    2
#define STACK_BYTES (32 * 1024)

static char stacks[N_STACKS][STACK_BYTES] __attribute__((aligned(64)));

struct co_stack *co_stack_take(size_t bytes)
{
    if (p.n_stacks == N_STACKS)
        explorer_fail("more than %d coroutines", N_STACKS);
    char *low = stacks[p.n_stacks++];
    struct co_stack *stack = (void *)(low + STACK_BYTES - sizeof *stack);

    *stack = (struct co_stack){.low = low, .bytes = STACK_BYTES};
    return stack;
}

void co_stack_give(struct co_stack *stack)
{
}

struct co_registry *co_registry_new(const struct aio_instruments *instruments)
{
    return (void *)instruments;
}

void co_registry_close(struct co_registry *registry)
{
}

void co_registry_add(struct co_registry *registry, Coroutine *co)
{
}

void co_registry_remove(Coroutine *co)
{
}

void co_registry_remove_from_afar(Coroutine *co)
{
}

void co_registry_leave_for(AioContext *to, Coroutine *co)
{
}

int cancel_context_init(AioContext *ctx)
{
    return 0;
}

void cancel_context_deinit(AioContext *ctx)
{
}
