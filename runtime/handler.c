/* SPDX-License-Identifier: MIT */
#include "runtime/context.h"
/*
 * One handler an fd, in a table by fd, under handler_lock. A change makes a new node and marks the
 * old one deleted, so the loop never sees half a change, and what the old one was seen ready for
 * is dropped with it (the monitor is level-triggered and will say it again of the new one).
 *
 * The loop may hold a pointer to a node in its ready list, in a callback, or in the monitor. So a
 * deleted node stays in deleted_handlers until the outermost aio_poll() is done with its fds and
 * the monitor no longer keeps it. Each step before a callback looks at `deleted` once more.
 *
 * The ready list is the context's and is emptied from its front: a nested aio_poll() goes on where
 * the outer one stopped.
 *
 * All that are watched are also in a list, in the order in which their fds were first watched, for
 * a monitor that must know them all.
 *
 * Orderings        first             then              ordered by               if broken
 *   GONE   all of who takes   deleted = true    release, acquire before    a callback runs after
 *          it off                               each callback              it was taken off
 *   LEFT   (nothing)          deleted_handlers  none: a glance; the lock   a node is freed a turn
 *                                               follows                    later
 *   COUNT  (see fdmon.c)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/probe.h"

#define FIRST_CAPACITY 64

/* ---- registration, from any thread ---- */

/* What is to stand for an fd; without callbacks, nothing. */
static struct aio_handler describe(int fd, IOHandler *io_read, IOHandler *io_write, void *opaque)
{
    return (struct aio_handler){.fd = fd,
        .events = (io_read ? POLLIN : 0) | (io_write ? POLLOUT : 0),
        .io_read = io_read,
        .io_write = io_write,
        .opaque = opaque};
}

/* Makes the table reach fd, where there is one: a number that is none may be of any size. */
static int reserve_fd(AioContext *ctx, uint32_t fd)
{
    if (fd < ctx->handlers_capacity)
        return 0;
    if (fcntl((int)fd, F_GETFD) < 0)
        return -errno;
    uint32_t capacity = ctx->handlers_capacity ? ctx->handlers_capacity : FIRST_CAPACITY;

    while (capacity <= fd)
        capacity *= 2;
    struct aio_handler **handlers = realloc(ctx->handlers, capacity * sizeof(*handlers));

    if (!handlers)
        return -ENOMEM;
    memset(handlers + ctx->handlers_capacity, 0,
        (capacity - ctx->handlers_capacity) * sizeof(*handlers));
    ctx->handlers = handlers;
    ctx->handlers_capacity = capacity;
    return 0;
}

static void retire(AioContext *ctx, struct aio_handler *handler)
{
    atomic_store_release(&handler->deleted, true); /* GONE */
    handler->next = ctx->deleted_handlers;
    atomic_store_relaxed(&ctx->deleted_handlers, handler); /* LEFT */
}

/* One that replaces another takes its place in the list; a new one goes to its end. */
static void list_update(AioContext *ctx, struct aio_handler *old, struct aio_handler *handler)
{
    struct aio_handler **link = old ? old->link : ctx->watched_last;
    struct aio_handler *next = old ? old->next : NULL;

    if (handler) {
        handler->link = link;
        handler->next = next;
        *link = handler;
        link = &handler->next;
    }
    *link = next;
    if (next)
        next->link = link;
    else
        ctx->watched_last = link;
}

static void count(AioContext *ctx, uint32_t fd, int change)
{
    if ((int)fd != ctx->bell.fd)
        atomic_store_relaxed(&ctx->n_watched, ctx->n_watched + (uint32_t)change); /* COUNT */
}

/* Puts handler, or nothing, in the place of what stood there, which must be owner's where owner is
 * not NULL. Under handler_lock. */
static int replace(AioContext *ctx, uint32_t fd, struct aio_handler *handler, const void *owner)
{
    int r = handler ? reserve_fd(ctx, fd) : 0;

    if (r < 0)
        return r;
    struct aio_handler *old = fd < ctx->handlers_capacity ? ctx->handlers[fd] : NULL;

    if (!old && !handler)
        return 0;
    if (old && owner && old->opaque != owner)
        return -EBUSY;
    r = ctx->monitor->update(ctx, old, handler);
    if (r < 0)
        return r;
    ctx->handlers[fd] = handler;
    list_update(ctx, old, handler);
    count(ctx, fd, !!handler - !!old);
    if (old)
        retire(ctx, old);
    return 0;
}

/* owner is as replace() has it. */
static int set_handler(AioContext *ctx, const struct aio_handler *wanted, const void *owner)
{
    struct aio_handler *handler = NULL;

    if (wanted->fd < 0)
        return -EBADF;
    if (wanted->events) {
        handler = malloc(sizeof *handler);
        if (!handler)
            return -ENOMEM;
        *handler = *wanted;
    }
    pthread_mutex_lock(&ctx->handler_lock);
    int r = replace(ctx, (uint32_t)wanted->fd, handler, owner);
    pthread_mutex_unlock(&ctx->handler_lock);
    if (r < 0) {
        free(handler);
        return r;
    }
    /* A wait that has begun must take the change over, and a turn frees what was taken off. */
    context_nudge(ctx);
    return 0;
}

int aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
    AioPollFn *io_poll, IOHandler *io_poll_ready, void *opaque)
{
    struct aio_handler wanted = describe(fd, io_read, io_write, opaque);

    if (io_poll && io_poll_ready) { /* one without the other is of no use */
        wanted.io_poll = io_poll;
        wanted.io_poll_ready = io_poll_ready;
    }
    return set_handler(ctx, &wanted, NULL);
}

int handler_set_own(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write, void *owner)
{
    const struct aio_handler wanted = describe(fd, io_read, io_write, owner);

    return set_handler(ctx, &wanted, owner);
}

void *handler_owner(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write)
{
    void *owner = NULL;

    pthread_mutex_lock(&ctx->handler_lock);
    if (fd >= 0 && (uint32_t)fd < ctx->handlers_capacity) {
        const struct aio_handler *there = ctx->handlers[fd];

        if (there && (there->io_read == io_read || there->io_write == io_write))
            owner = there->opaque;
    }
    pthread_mutex_unlock(&ctx->handler_lock);
    return owner;
}

/* ---- owner loop ---- */

void fdmon_add_ready(AioContext *ctx, struct aio_handler *handler, uint32_t revents)
{
    if (handler_is_deleted(handler))
        return;
    handler->revents |= revents;
    if (!handler->on_ready_list) {
        handler->on_ready_list = true;
        handler->next_ready = NULL;
        *ctx->ready_last = handler;
        ctx->ready_last = &handler->next_ready;
    }
}

static struct aio_handler *pop_ready(AioContext *ctx)
{
    struct aio_handler *handler = ctx->ready;

    if (handler) {
        ctx->ready = handler->next_ready;
        if (!ctx->ready)
            ctx->ready_last = &ctx->ready;
        handler->on_ready_list = false;
    }
    return handler;
}

/* The loop's own business: no progress, and not counted. */
static bool is_own(const AioContext *ctx, const struct aio_handler *handler)
{
    return handler->fd == ctx->bell.fd || handler->io_read == clock_fd_on_ready;
}

/* Calls back where handler is still there. Returns whether it did. */
static bool call_back(AioContext *ctx, const struct aio_handler *handler, IOHandler *cb)
{
    if (!cb || handler_is_deleted(handler))
        return false;
    if (!is_own(ctx, handler))
        counter_add(&ctx->instruments.counters->fds_dispatched, 1);
    cb(handler->opaque);
    return true;
}

/* What io_poll saw, in the place of what the monitor would have seen. Not to be run again by a turn
 * within it: the handler stays in memory until the outermost turn is over. Returns whether it
 * ran. */
static bool call_poll_ready(AioContext *ctx, struct aio_handler *handler)
{
    bool called;

    handler->poll.is_running = true;
    called = call_back(ctx, handler, handler->io_poll_ready);
    handler->poll.is_running = false;
    return called;
}

/* Returns progress. */
static bool dispatch_one(AioContext *ctx, struct aio_handler *handler)
{
    uint32_t revents = handler->revents;
    bool polled = handler->poll.is_ready;
    /* A hang-up that nobody is told of would come again with every wait. */
    uint32_t write_events = POLLOUT | POLLERR | (handler->io_read ? 0 : POLLHUP);
    bool called = false;

    PROBE3(fd_dispatch, ctx, handler->fd, revents);
    handler->revents = 0;
    handler->poll.is_ready = false;
    if (polled && !(revents & (POLLIN | POLLHUP | POLLERR)))
        called = call_poll_ready(ctx, handler);
    if (revents & (POLLIN | POLLHUP | POLLERR))
        called = call_back(ctx, handler, handler->io_read);
    if (revents & write_events)
        called |= call_back(ctx, handler, handler->io_write);
    return called && !is_own(ctx, handler);
}

bool handlers_dispatch(AioContext *ctx)
{
    bool progress = false;

    for (struct aio_handler *handler; (handler = pop_ready(ctx)) != NULL;)
        progress |= dispatch_one(ctx, handler);
    return progress;
}

void handlers_free_deleted(AioContext *ctx)
{
    pthread_mutex_lock(&ctx->handler_lock);
    struct aio_handler **link = &ctx->deleted_handlers;

    while (*link) {
        struct aio_handler *handler = *link;

        if (handler->on_ready_list || ctx->monitor->keeps_deleted(ctx, handler)) {
            link = &handler->next;
        } else {
            *link = handler->next;
            poll_mode_forget(ctx, handler);
            free(handler);
        }
    }
    pthread_mutex_unlock(&ctx->handler_lock);
}

void handlers_free_all(AioContext *ctx)
{
    for (uint32_t fd = 0; fd < ctx->handlers_capacity; fd++)
        free(ctx->handlers[fd]);
    free(ctx->handlers);
    ctx->handlers = NULL;
    ctx->handlers_capacity = 0;
    ctx->watched = NULL;
    ctx->watched_last = &ctx->watched;
    ctx->n_watched = 0;
    while (ctx->deleted_handlers) {
        struct aio_handler *handler = ctx->deleted_handlers;

        ctx->deleted_handlers = handler->next;
        free(handler);
    }
}
