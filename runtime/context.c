/* SPDX-License-Identifier: MIT */
#include "runtime/context.h"
/*
 * A context's life: which parts it is made of, in which order they come and go, and who refers to
 * it. The last reference may be dropped by any thread, the home thread long gone: nothing here
 * belongs to a thread. It must be none that still turns the context, which is asserted.
 *
 * The eventfd of a context's own doorbell is closed last: whoever still has a reference may ring.
 *
 * Orderings        first               then             ordered by            if broken
 *   SLEEP  (see doorbell.c: a context that takes over a dead one's words is awake)
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/uring.h"

#define DEFAULT_IO_DEPTH       256
#define DEFAULT_MAX_THREADS    16
#define DEFAULT_THREAD_IDLE_NS (10 * AIO_SCALE_S)

/* ---- the thread's context ---- */

/* The one that turns goes before the one that was set: it need not be the same, where a thread is
 * home of several. */
static __thread struct thread_contexts {
    AioContext *current; /* either of the two */
    AioContext *set;
    AioContext *turning; /* in the innermost turn */
} thread;

/* Never inlined: a coroutine may go on in another thread, and must not keep the variable's address
 * of the first. */
__attribute__((noinline)) AioContext *aio_context_current(void)
{
    __asm__ volatile("");
    return thread.current;
}

__attribute__((noinline)) void aio_context_set_current(AioContext *ctx)
{
    __asm__ volatile("");
    assert(!thread.set || !ctx);
    if (ctx)
        context_check_home(ctx); /* what its home thread does needs no atomics, so there is one */
    else if (thread.set && !thread.set->is_bound)
        thread.set->has_home = false;
    thread.set = ctx;
    if (!thread.turning)
        thread.current = ctx;
}

__attribute__((noinline)) AioContext *context_replace_turning(AioContext *ctx)
{
    __asm__ volatile("");
    AioContext *before = thread.turning;

    thread.turning = ctx;
    thread.current = ctx ? ctx : thread.set;
    return before;
}

static void forget_if_current(const AioContext *ctx)
{
    if (thread.set == ctx)
        thread.set = NULL;
    if (thread.current == ctx)
        thread.current = NULL;
}

/* ---- the lock for users ---- */

void aio_context_acquire(AioContext *ctx)
{
    int r = pthread_mutex_lock(&ctx->user_lock);

    if (r != 0)
        bug("a context can't be acquired: %s", strerrordesc_np(r));
}

void aio_context_release(AioContext *ctx)
{
    int r = pthread_mutex_unlock(&ctx->user_lock);

    if (r != 0)
        bug("a context is released by a thread that has not acquired it");
}

/* ---- engines ---- */

/* With the monitor, which it implies. */
static int setup_io_uring(AioContext *ctx)
{
    return fdmon_uring_setup(ctx);
}

static int setup_linux_aio(AioContext *ctx)
{
    int r = fdmon_setup(ctx, ctx->wanted_monitor);

    return r < 0 ? r : engine_linux_aio_setup(ctx, ctx->io_depth);
}

static int setup_threads(AioContext *ctx)
{
    int r = fdmon_setup(ctx, ctx->wanted_monitor);

    return r < 0 ? r : engine_threads_setup(ctx);
}

/* Best first. */
static const struct engine_choice {
    enum aio_engine engine;
    const char *name;
    int (*setup)(AioContext *ctx);
} engine_choices[] = {
    {AIO_ENGINE_IO_URING, "io_uring", setup_io_uring},
    {AIO_ENGINE_LINUX_AIO, "linux-aio", setup_linux_aio},
    {AIO_ENGINE_THREADS, "threads", setup_threads},
};
#define N_ENGINE_CHOICES (sizeof engine_choices / sizeof engine_choices[0])

/* Takes apart what an engine's setup made, or came to make. */
static void drop_engine(AioContext *ctx)
{
    if (ctx->engine) {
        ctx->engine->destroy(ctx);
        ctx->engine = NULL;
    }
    if (ctx->monitor) {
        ctx->monitor->destroy(ctx);
        ctx->monitor = NULL;
    }
    handlers_free_all(ctx);
}

static void on_doorbell(void *opaque)
{
    AioContext *ctx = opaque;

    doorbell_drain_fd(&ctx->bell);
}

static int try_engine(AioContext *ctx, const struct engine_choice *choice)
{
    int r = choice->setup(ctx);

    if (r == 0)
        r = aio_set_fd_handler(ctx, ctx->bell.fd, on_doorbell, NULL, NULL, NULL, ctx);
    if (r < 0)
        drop_engine(ctx);
    return r;
}

static void note_refusal(AioContext *ctx, const struct engine_choice *choice, int error)
{
    char reason[sizeof ctx->engine_flags];

    snprintf(reason, sizeof reason, "%s: %s", choice->name, strerrordesc_np(-error));
    context_add_flags(ctx, reason);
}

/* The io_uring engine is in the ring that is its monitor. */
static bool goes_with_monitor(const AioContext *ctx, enum aio_engine engine)
{
    return engine != AIO_ENGINE_IO_URING || ctx->wanted_monitor == AIO_MONITOR_AUTO ||
           ctx->wanted_monitor == AIO_MONITOR_IO_URING;
}

static int choose_engine(AioContext *ctx, enum aio_engine engine)
{
    int r = -EINVAL;

    for (size_t i = 0; i < N_ENGINE_CHOICES; i++) {
        const struct engine_choice *choice = &engine_choices[i];

        if (engine != AIO_ENGINE_AUTO && engine != choice->engine)
            continue;
        if (!goes_with_monitor(ctx, choice->engine))
            continue;
        r = try_engine(ctx, choice);
        if (r == 0)
            return 0;
        note_refusal(ctx, choice, r);
    }
    return r;
}

void context_add_flags(AioContext *ctx, const char *text)
{
    size_t used = strlen(ctx->engine_flags);

    snprintf(
        ctx->engine_flags + used, sizeof ctx->engine_flags - used, "%s%s", used ? "; " : "", text);
}

enum aio_engine aio_context_engine(const AioContext *ctx)
{
    return ctx->engine->engine;
}

const char *aio_engine_name(enum aio_engine engine)
{
    for (size_t i = 0; i < N_ENGINE_CHOICES; i++)
        if (engine_choices[i].engine == engine)
            return engine_choices[i].name;
    return "auto";
}

const char *aio_context_engine_flags(const AioContext *ctx)
{
    return ctx->engine_flags;
}

void aio_context_instruments(const AioContext *ctx, struct aio_instruments *ret)
{
    *ret = ctx->instruments;
}

/* ---- beginning and end ---- */

static int setup_bell(AioContext *ctx, const struct doorbell *bell)
{
    if (bell) {
        ctx->bell = *bell;
        /* Raised for ever where the one before died in its sleep: each ring would cost a write. */
        atomic_store_release(&bell->words->notify_me, 0); /* SLEEP in doorbell.c: awake */
        return 0;
    }
    ctx->bell =
        (struct doorbell){.words = &ctx->own_words, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    return ctx->bell.fd < 0 ? -errno : 0;
}

/* What was so when the one before died is so no more. */
static int setup_instruments(AioContext *ctx, const struct aio_instruments *instruments)
{
    int r = 0;

    if (instruments)
        ctx->instruments = *instruments;
    else
        r = instruments_alloc(&ctx->instruments, &ctx->own_instruments);
    if (r < 0)
        return r;
    if (!ctx->instruments.running)
        ctx->instruments.running = &ctx->own_running;
    counter_set(ctx->instruments.running, 0);
    counter_set(&ctx->instruments.counters->asleep, 0);
    return 0;
}

static void init_user_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static AioContext *context_alloc(const struct aio_config *config)
{
    AioContext *ctx = aligned_alloc(_Alignof(AioContext), sizeof *ctx);

    if (!ctx)
        return NULL;
    memset(ctx, 0, sizeof *ctx);
    ctx->refs = 1;
    ctx->bell.fd = -1;
    pthread_mutex_init(&ctx->handler_lock, NULL);
    bh_init(ctx);
    init_user_lock(&ctx->user_lock);
    timers_init(ctx);
    ctx->watched_last = &ctx->watched;
    ctx->ready_last = &ctx->ready;
    ctx->wanted_monitor = config->monitor;
    ctx->life_fd = config->life_fd;
    ctx->restricted = config->restricted;
    ctx->lesser_flags = config->lesser_flags;
    ctx->io_depth = config->io_depth ? config->io_depth : DEFAULT_IO_DEPTH;
    ctx->max_threads = config->max_threads ? config->max_threads : DEFAULT_MAX_THREADS;
    ctx->thread_idle_ns = DEFAULT_THREAD_IDLE_NS;
    disk_init(ctx);
    ctx->awake_since_ns = ctx->counted_ns = aio_clock_ns();
    return ctx;
}

/* Also of one half made. Workers go first, for they schedule bottom halves; the engine before the
 * monitor that watches its fd; what others left queued is looked at when no part can add to it. */
static void context_free(AioContext *ctx)
{
    assert(ctx->nesting == 0);
    if (ctx->outer)
        ctx->free_outer(ctx->outer);
    thread_pool_free(ctx->pool);
    if (ctx->engine) {
        ctx->engine->destroy(ctx);
        ctx->engine = NULL;
    }
    coroutine_context_deinit(ctx);
    bh_finalise(ctx);
    timers_finalise(ctx);
    drop_engine(ctx);
    if (ctx->bell.words == &ctx->own_words && ctx->bell.fd >= 0)
        close(ctx->bell.fd);
    if (ctx->life_fd)
        close(ctx->life_fd);
    pthread_mutex_destroy(&ctx->handler_lock);
    pthread_mutex_destroy(&ctx->user_lock);
    disk_deinit(ctx);
    free(ctx->own_instruments);
    forget_if_current(ctx);
    free(ctx);
}

/* Where a ring has it, no plain copy is left. */
static void give_life_fd(AioContext *ctx)
{
    if (!ctx->life_fd || !uring_is_in(ctx) || !uring_guarded_places(uring_of(ctx)))
        return;
    close(ctx->life_fd);
    ctx->life_fd = 0;
}

int aio_context_new(const struct aio_config *config, AioContext **ret_ctx)
{
    static const struct aio_config defaults = {0};
    const struct aio_config *c = config ? config : &defaults;
    AioContext *ctx = context_alloc(c);

    if (!ctx) {
        if (c->life_fd)
            close(c->life_fd);
        return -ENOMEM;
    }
    int r = setup_instruments(ctx, c->instruments);

    if (r == 0)
        r = setup_bell(ctx, c->doorbell);
    if (r == 0)
        r = choose_engine(ctx, c->engine);
    if (r == 0)
        give_life_fd(ctx);
    if (r == 0)
        r = coroutine_context_init(ctx);
    if (r < 0) {
        context_free(ctx);
        return r;
    }
    *ret_ctx = ctx;
    return 0;
}

AioContext *aio_context_ref(AioContext *ctx)
{
    atomic_add_seq(&ctx->refs, 1);
    return ctx;
}

void aio_context_unref(AioContext *ctx)
{
    if (ctx && atomic_add_seq(&ctx->refs, -1) == 1)
        context_free(ctx);
}
