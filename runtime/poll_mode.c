/* SPDX-License-Identifier: MIT */
#include "runtime/poll_mode.h"
/*
 * Each event source has a while of its own, for which it is worth looking: it grows where an event
 * came later than that but within the limit, and shrinks where a wait outlasted the limit, for then
 * looking would have been in vain for every source there is. The loop looks as long as the longest
 * one says. So a source that is seldom ready does not make the loop look long, and does not keep
 * it from looking for a busy one.
 *
 * notify_me stays down meanwhile, so nobody pays a system call to tell this loop. All that a nudge
 * or a ring tells of is looked at instead: `notified` and the pushed bottom halves in each round;
 * timers, and idle bottom halves by aio_compute_timeout(), whenever the clock is read. Fds with
 * io_poll are asked by it, between their begin and end; all others by the monitor where it says
 * that it must be asked: io_uring's looks into its ring in memory, epoll's makes a system call. So
 * plain fds are looked at in each round like the others, and in each turn, however busy those are.
 *
 * The clock costs as much as some rounds, so what comes within the first CLOCK_ROUNDS needs none.
 *
 * A handler that is quiet while others keep the loop from sleeping is dropped after some seconds,
 * until its fd is ready again.
 *
 * After the ends each io_poll is asked once more: what came after its last look and before the end
 * has signalled nothing. Then the loop may sleep.
 *
 * Orderings        first        then           ordered by                      if broken
 *   PARAM  (nothing)            max_ns, grow,  none: each by itself; a notify  a turn looks as long
 *                               shrink         follows                         as before
 *   GONE   (see handler.c)
 *   LINK   (see bh.c)           bh_list        a glance: the turn takes it     a round later
 *   TOLD   begin, end           the handler    handler_lock, and the wait that (none: a store of a
 *                               in use         first saw fd ready              pointer is whole)
 */
#include <assert.h>
#include <errno.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

#define CLOCK_ROUNDS 32
#define FIRST_NS     ((int64_t)4000)
#define DEFAULT_GROW 2

/* ---- parameters, from any thread ---- */

int aio_context_set_poll_params(AioContext *ctx, int64_t max_ns, int64_t grow, int64_t shrink)
{
    if (max_ns < 0 || grow < 0 || shrink < 0)
        return -EINVAL;
    atomic_store_relaxed(&ctx->poll.grow, grow);     /* PARAM */
    atomic_store_relaxed(&ctx->poll.shrink, shrink); /* PARAM */
    atomic_store_relaxed(&ctx->poll.max_ns, max_ns); /* PARAM */
    aio_notify(ctx);
    return 0;
}

int aio_set_fd_poll(AioContext *ctx, int fd, IOHandler *io_poll_begin, IOHandler *io_poll_end)
{
    int r = -ENOENT;

    pthread_mutex_lock(&ctx->handler_lock);
    if (fd >= 0 && (uint32_t)fd < ctx->handlers_capacity) {
        struct aio_handler *handler = ctx->handlers[fd];

        if (handler && handler->io_poll) {
            atomic_store_relaxed(&handler->poll.begin, io_poll_begin); /* TOLD */
            atomic_store_relaxed(&handler->poll.end, io_poll_end);     /* TOLD */
            r = 0;
        }
    }
    pthread_mutex_unlock(&ctx->handler_lock);
    return r;
}

static int64_t max_ns(const AioContext *ctx)
{
    return atomic_load_relaxed(&ctx->poll.max_ns); /* PARAM */
}

/* ---- the list of polled handlers ---- */

/* Whether io_poll tells all that the monitor could (but for an error, which a sleep finds). */
static bool is_silent(const struct aio_handler *handler)
{
    return handler->io_poll && !handler->io_write;
}

static void enlist(AioContext *ctx, struct aio_handler *handler)
{
    struct aio_handler **first = &ctx->poll.polled;

    if (handler->poll.link)
        return;
    handler->poll.next = *first;
    handler->poll.link = first;
    if (*first)
        (*first)->poll.link = &handler->poll.next;
    *first = handler;
    ctx->poll.n_silent += is_silent(handler);
}

void poll_mode_forget(AioContext *ctx, struct aio_handler *handler)
{
    struct polled *poll = &handler->poll;

    if (!poll->link)
        return;
    *poll->link = poll->next;
    if (poll->next)
        poll->next->poll.link = poll->link;
    poll->link = NULL;
    ctx->poll.n_silent -= is_silent(handler);
}

/* ---- the callbacks ---- */

static void tell(AioContext *ctx, IOHandler *cb, void *opaque)
{
    if (!cb)
        return;
    ctx->poll.in_callback = true;
    cb(opaque);
    ctx->poll.in_callback = false;
}

static void tell_begin(AioContext *ctx)
{
    for (struct aio_handler *h = ctx->poll.polled; h; h = h->poll.next) {
        if (!h->io_poll || h->poll.has_begun || handler_is_deleted(h))
            continue;
        h->poll.has_begun = true;
        tell(ctx, atomic_load_relaxed(&h->poll.begin), h->opaque); /* TOLD */
    }
}

/* Returns whether it was told. */
static bool tell_one_end(AioContext *ctx, struct aio_handler *handler)
{
    if (!handler->poll.has_begun)
        return false;
    handler->poll.has_begun = false;
    if (!handler_is_deleted(handler))
        tell(ctx, atomic_load_relaxed(&handler->poll.end), handler->opaque); /* TOLD */
    return true;
}

/* Returns whether any was told. */
static bool tell_end(AioContext *ctx)
{
    bool told = false;

    for (struct aio_handler *h = ctx->poll.polled; h; h = h->poll.next)
        told |= tell_one_end(ctx, h);
    return told;
}

/* One whose io_poll_ready runs, in a turn around this one, has been told already. */
static bool is_asked(const struct aio_handler *handler)
{
    return handler->io_poll && !handler->poll.is_running && !handler_is_deleted(handler);
}

/* Returns whether it is ready. */
static bool ask(AioContext *ctx, struct aio_handler *handler)
{
    if (!is_asked(handler))
        return false;
    ctx->poll.in_callback = true;
    bool ready = handler->io_poll(handler->opaque);
    ctx->poll.in_callback = false;

    if (ready) {
        handler->poll.is_ready = true;
        handler->poll.was_quiet = false;
        fdmon_add_ready(ctx, handler, 0);
    }
    return ready;
}

/* Returns whether one is ready. */
static bool ask_handlers(AioContext *ctx)
{
    bool found = false;

    for (struct aio_handler *h = ctx->poll.polled, *next; h; h = next) {
        next = h->poll.next;
        if (handler_is_deleted(h))
            poll_mode_forget(ctx, h);
        else
            found |= ask(ctx, h);
    }
    return found;
}

/* ---- looking ---- */

/* What is no fd. */
static bool own_pending(AioContext *ctx)
{
    return doorbell_is_rung(&ctx->bell) || atomic_load_relaxed(&ctx->bh_list) || /* LINK */
           context_has_completions(ctx) || sources_pending(ctx);
}

static bool ask_monitor(AioContext *ctx)
{
    ctx->poll.was_asked = ctx->monitor->need_wait(ctx);
    if (!ctx->poll.was_asked)
        return false;
    context_monitor_wait(ctx, 0);
    return ctx->ready || context_has_completions(ctx);
}

/* The monitor comes last: where something else is there, the turn asks it in any case. */
static bool look(AioContext *ctx)
{
    ctx->poll.was_asked = false;
    return own_pending(ctx) || (ctx->poll.polled && ask_handlers(ctx)) || ask_monitor(ctx);
}

static int64_t longest_ns(const AioContext *ctx)
{
    int64_t longest_ns = ctx->poll.own_ns;

    for (const struct aio_handler *h = ctx->poll.polled; h; h = h->poll.next)
        if (h->poll.while_ns > longest_ns)
            longest_ns = h->poll.while_ns;
    return longest_ns < max_ns(ctx) ? longest_ns : max_ns(ctx);
}

/* Whether the while is over, or something of the loop's own is due. */
static bool is_over(AioContext *ctx, int64_t while_ns)
{
    struct poll_mode *poll = &ctx->poll;

    poll->now_ns = aio_clock_ns();
    if (poll->began_ns == 0) {
        poll->began_ns = poll->now_ns;
        context_wait_begins(ctx, poll->now_ns);
    }
    context_wait_ends(ctx, poll->now_ns);
    return poll->now_ns - poll->began_ns >= while_ns || aio_compute_timeout(ctx) == 0;
}

static bool look_for(AioContext *ctx, int64_t while_ns)
{
    for (unsigned round = 1;; round++) {
        if (look(ctx))
            return true;
        if ((ctx->poll.was_asked || round % CLOCK_ROUNDS == 0) && is_over(ctx, while_ns))
            return aio_compute_timeout(ctx) == 0;
        atomic_pause();
    }
}

bool poll_mode_leave(AioContext *ctx)
{
    ctx->poll.was_asked = false;
    return tell_end(ctx) && ask_handlers(ctx);
}

bool poll_mode_run(AioContext *ctx, int64_t timeout_ns)
{
    assert(!ctx->poll.in_callback); /* a callback of this file's turns the loop */
    ctx->poll.began_ns = 0;
    ctx->poll.was_asked = false;
    if (timeout_ns == 0)
        return ctx->poll.polled && ask_handlers(ctx);

    int64_t while_ns = longest_ns(ctx);

    if (timeout_ns > 0 && timeout_ns < while_ns)
        while_ns = timeout_ns;
    if (while_ns > 0) {
        tell_begin(ctx);
        if (look_for(ctx, while_ns))
            return true;
    }
    return poll_mode_leave(ctx);
}

/* ---- learning ---- */

static void grow(const AioContext *ctx, int64_t *while_ns)
{
    int64_t factor = atomic_load_relaxed(&ctx->poll.grow); /* PARAM */
    int64_t limit_ns = max_ns(ctx);

    if (factor == 0)
        factor = DEFAULT_GROW;
    if (*while_ns == 0)
        *while_ns = FIRST_NS;
    else if (__builtin_mul_overflow(*while_ns, factor, while_ns))
        *while_ns = limit_ns;
    if (*while_ns > limit_ns)
        *while_ns = limit_ns;
}

static void shrink(const AioContext *ctx, int64_t *while_ns)
{
    int64_t divisor = atomic_load_relaxed(&ctx->poll.shrink); /* PARAM */

    *while_ns = divisor == 0 ? 0 : *while_ns / divisor;
}

static void shrink_all(AioContext *ctx)
{
    shrink(ctx, &ctx->poll.own_ns);
    for (struct aio_handler *h = ctx->poll.polled, *next; h; h = next) {
        next = h->poll.next;
        shrink(ctx, &h->poll.while_ns);
        if (h->poll.while_ns == 0 && !h->poll.has_begun)
            poll_mode_forget(ctx, h);
    }
}

static void grow_ready(AioContext *ctx, int64_t block_ns)
{
    bool own = own_pending(ctx);

    for (struct aio_handler *h = ctx->ready; h; h = h->next_ready) {
        h->poll.was_quiet = false;
        if (h->fd == ctx->bell.fd) {
            own = true;
        } else if (h->poll.while_ns < block_ns) {
            grow(ctx, &h->poll.while_ns);
            enlist(ctx, h);
        }
    }
    if (own && ctx->poll.own_ns < block_ns)
        grow(ctx, &ctx->poll.own_ns);
}

void poll_mode_slept(AioContext *ctx, int64_t begin_ns, int64_t end_ns)
{
    if (ctx->poll.began_ns == 0)
        ctx->poll.began_ns = begin_ns;
    ctx->poll.now_ns = end_ns;
}

void poll_mode_learn(AioContext *ctx)
{
    int64_t block_ns = ctx->poll.now_ns - ctx->poll.began_ns;

    if (ctx->poll.began_ns == 0) {
        ctx->poll.found_at_once = true; /* no while could be better */
        return;
    }
    if (block_ns > max_ns(ctx))
        shrink_all(ctx);
    else
        grow_ready(ctx, block_ns);
}

/* ---- those that are polled for others' sake ---- */

void poll_mode_tidy(AioContext *ctx, int64_t now_ns)
{
    if (now_ns - ctx->poll.tidied_ns < POLL_MODE_QUIET_NS)
        return;
    ctx->poll.tidied_ns = now_ns;
    for (struct aio_handler *h = ctx->poll.polled, *next; h; h = next) {
        next = h->poll.next;
        if (!h->poll.was_quiet) {
            h->poll.was_quiet = true;
        } else if (!tell_one_end(ctx, h) || !ask(ctx, h)) {
            h->poll.while_ns = 0;
            poll_mode_forget(ctx, h);
        }
    }
}
