/* SPDX-License-Identifier: MIT */
#include "runtime/co_cancel.h"
/*
 * A scope costs nothing until its coroutine waits: then the scope, if it has a token, is linked in
 * the token's list, and the earliest deadline arms a timer. Afterwards both are taken back.
 *
 * Everything about one wait but the cancelling happens in one thread, the home of the context in
 * which the coroutine waits. co_cancel() moves each scope from its token's list to the inbox of
 * that context and schedules the context's bottom half, all under the token's lock. So nothing is
 * allocated, and a coroutine that is woken otherwise takes its scope back from wherever it is by
 * then: with the token's lock taken nobody else is about to touch the scope, or the context.
 *
 * The bottom half, or the timer, asks withdraw(), outside the coroutine. Only where that says that
 * the event will not come is the coroutine woken here, so there is one wake always.
 *
 * Locks: token, then inbox. No callback runs under either.
 *
 * Orderings  first                          then               ordered by              if broken
 *   SET    what co_cancel()'s caller did  co_cancelled() true  release, acquire       stale reasons
 */
#include <assert.h>
#include <errno.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/co_wait.h"
#include "runtime/coroutine_inside.h"
#include "runtime/tail_queue.h"

enum place {
    NOWHERE,
    AT_TOKEN, /* in token->waiting, under its lock */
    IN_INBOX, /* in ctx->cancel_inbox; put there under the token's lock too */
};

/* One wait in scopes, on the stack of the coroutine that waits. All fields are its thread's. */
struct scoped_wait {
    struct co_wait *wait;
    Coroutine *co;
    int result;
    bool was_asked; /* withdraw() ran */
};

/* ---- tokens ---- */

void co_cancel_init(CoCancel *token)
{
    *token = (CoCancel){.cancelled = 0};
    pthread_mutex_init(&token->lock, NULL);
}

void co_cancel_deinit(CoCancel *token)
{
    if (token->waiting)
        bug("a CoCancel ends while coroutine %s waits in a scope of it",
            ((struct scoped_wait *)token->waiting->wait)->co->name);
    pthread_mutex_destroy(&token->lock);
}

/* Under the token's lock. */
static void post(CoScope *scope)
{
    struct cancel_inbox *inbox = &scope->ctx->cancel_inbox;

    pthread_mutex_lock(&inbox->lock);
    tail_queue_append(inbox->first, inbox->last, scope);
    scope->place = IN_INBOX;
    pthread_mutex_unlock(&inbox->lock);
    bh_schedule(inbox->bh);
}

void co_cancel(CoCancel *token)
{
    assert(token);
    pthread_mutex_lock(&token->lock);
    atomic_store_release(&token->cancelled, (uint32_t)1); /* SET */
    while (token->waiting) {
        CoScope *scope = token->waiting;

        tail_queue_remove(token->waiting_last, scope);
        post(scope);
    }
    pthread_mutex_unlock(&token->lock);
}

bool co_cancelled(const CoCancel *token)
{
    return atomic_load_acquire(&token->cancelled) != 0; /* SET */
}

/* ---- scopes ---- */

static void begin(CoScope *scope, CoCancel *token, int64_t deadline_ns, bool is_shield)
{
    Coroutine *self = co_self_in("co_scope_begin");
    const CoScope *outer = self->scope;

    if (outer && !is_shield && outer->deadline_ns < deadline_ns)
        deadline_ns = outer->deadline_ns;
    *scope = (CoScope){.outer = self->scope,
        .token = token,
        .deadline_ns = deadline_ns,
        .is_shield = is_shield,
        .place = NOWHERE};
    self->scope = scope;
}

void coroutine_fn co_scope_begin(CoScope *scope, CoCancel *token, int64_t deadline_ns)
{
    begin(scope, token, deadline_ns, false);
}

void coroutine_fn co_scope_begin_shielded(CoScope *scope, CoCancel *token, int64_t deadline_ns)
{
    begin(scope, token, deadline_ns, true);
}

void coroutine_fn co_scope_end(CoScope *scope)
{
    Coroutine *self = co_self_in(__func__);

    if (self->scope != scope)
        bug("coroutine %s ends a scope that is not its innermost", self->name);
    self->scope = scope->outer;
}

/* The next scope outwards that has power where this one has, or NULL. */
static CoScope *next_outer(const CoScope *scope)
{
    return scope->is_shield ? NULL : scope->outer;
}

static int status_of(const CoScope *innermost)
{
    for (const CoScope *s = innermost; s; s = next_outer(s))
        if (s->token && co_cancelled(s->token))
            return -ECANCELED;
    if (innermost->deadline_ns != CO_NO_DEADLINE && innermost->deadline_ns <= aio_clock_ns())
        return -ETIMEDOUT;
    return 0;
}

int coroutine_fn co_scope_status(void)
{
    const CoScope *scope = co_self_in(__func__)->scope;

    return scope ? status_of(scope) : 0;
}

/* ---- the end of a wait ---- */

/* A scope is over. Returns whether the wait is, which then has its result. */
static bool withdraw(struct scoped_wait *waiting, int error)
{
    if (waiting->was_asked)
        return false;
    waiting->was_asked = true;
    if (!waiting->wait->withdraw(waiting->wait))
        return false;
    waiting->result = error;
    return true;
}

static CoScope *take_from_inbox(struct cancel_inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    CoScope *scope = inbox->first;
    if (scope) {
        tail_queue_remove(inbox->last, scope);
        scope->place = NOWHERE;
    }
    pthread_mutex_unlock(&inbox->lock);
    return scope;
}

static void inbox_bh(void *opaque)
{
    AioContext *ctx = opaque;
    CoScope *scope;

    while ((scope = take_from_inbox(&ctx->cancel_inbox))) {
        struct scoped_wait *waiting = scope->wait;

        if (withdraw(waiting, -ECANCELED))
            aio_co_wake(waiting->co);
    }
}

static void on_deadline(void *opaque)
{
    struct scoped_wait *waiting = opaque;

    if (withdraw(waiting, -ETIMEDOUT))
        aio_co_wake(waiting->co);
}

/* ---- waiting ---- */

Coroutine *coroutine_fn co_wait_self(const char *why)
{
    Coroutine *self = coroutine_self();

    if (!self || !self->ctx)
        bug("%s outside a coroutine of a context", why);
    return self;
}

static void attach(CoScope *scope, struct scoped_wait *waiting)
{
    CoCancel *token = scope->token;

    scope->wait = waiting;
    scope->ctx = waiting->co->ctx;
    pthread_mutex_lock(&token->lock);
    tail_queue_append(token->waiting, token->waiting_last, scope);
    scope->place = AT_TOKEN;
    if (co_cancelled(token)) {
        tail_queue_remove(token->waiting_last, scope);
        post(scope);
    }
    pthread_mutex_unlock(&token->lock);
}

static void detach(CoScope *scope)
{
    struct cancel_inbox *inbox = &scope->ctx->cancel_inbox;

    pthread_mutex_lock(&scope->token->lock);
    if (scope->place == AT_TOKEN) {
        tail_queue_remove(scope->token->waiting_last, scope);
    } else if (scope->place == IN_INBOX) {
        pthread_mutex_lock(&inbox->lock);
        tail_queue_remove(inbox->last, scope);
        pthread_mutex_unlock(&inbox->lock);
    }
    scope->place = NOWHERE;
    pthread_mutex_unlock(&scope->token->lock);
}

static void coroutine_fn yield_in_context(Coroutine *self, const char *why)
{
    const AioContext *ctx = self->ctx;

    coroutine_yield_at(why);
    if (self->ctx != ctx)
        bug("coroutine %s was moved while it waits in %s", self->name, why);
}

/* With the tokens watched: yields with the deadline's timer armed. */
static void coroutine_fn yield_until(
    struct scoped_wait *waiting, int64_t deadline_ns, const char *why)
{
    AioTimer timer;

    if (deadline_ns == CO_NO_DEADLINE) {
        yield_in_context(waiting->co, why);
        return;
    }
    aio_timer_init(waiting->co->ctx, &timer, on_deadline, waiting);
    timer_mod_ns(&timer, deadline_ns);
    yield_in_context(waiting->co, why);
    timer_del(&timer);
}

const CoScope *co_scope_innermost(void)
{
    const Coroutine *self = coroutine_self();

    return self ? self->scope : NULL;
}

int coroutine_fn co_wait_in_scopes(struct co_wait *wait, const char *why)
{
    Coroutine *self = co_wait_self(why);
    CoScope *innermost = self->scope;
    struct scoped_wait waiting = {.wait = wait, .co = self};
    int over = status_of(innermost);

    if (over < 0) {
        if (!withdraw(&waiting, over))
            yield_in_context(self, why);
        return waiting.result;
    }
    for (CoScope *s = innermost; s; s = next_outer(s))
        if (s->token)
            attach(s, &waiting);
    yield_until(&waiting, innermost->deadline_ns, why);
    for (CoScope *s = innermost; s; s = next_outer(s))
        if (s->token)
            detach(s);
    return waiting.result;
}

/* ---- a context's part ---- */

int cancel_context_init(AioContext *ctx)
{
    struct cancel_inbox *inbox = &ctx->cancel_inbox;

    inbox->bh = aio_bh_new(ctx, inbox_bh, ctx);
    if (!inbox->bh)
        return -ENOMEM;
    pthread_mutex_init(&inbox->lock, NULL);
    return 0;
}

void cancel_context_deinit(AioContext *ctx)
{
    struct cancel_inbox *inbox = &ctx->cancel_inbox;

    if (!inbox->bh)
        return;
    bh_delete(inbox->bh);
    inbox->bh = NULL;
    pthread_mutex_destroy(&inbox->lock);
}
