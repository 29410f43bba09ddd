/* SPDX-License-Identifier: MIT */
#include "runtime/aio.h"
/*
 * The order of a turn, and why:
 *
 *   flush            nobody we pushed to may wait for a ring that we sleep on
 *   raise notify_me, fence
 *   look             at `notified`, sources, bottom halves, timers: what came before the fence is
 *                    seen here, what comes after it sees notify_me (SLEEP in doorbell.c)
 *   wait
 *   lower notify_me
 *   accept           before any work is looked for: a notification consumed afterwards could be
 *                    that of work which this turn did not see
 *   disk completions, sources, bottom halves, fds, timers; a flush after each
 *
 * Every queue of the turn is the context's, not the frame's: a nested turn goes on where the outer
 * one stopped, and whoever has emptied it leaves nothing for the other.
 *
 * Time that is awake is measured from wait to wait, where the system call hides the clock's cost;
 * a loop that never waits counts it every TURNS_A_COUNT turns, so that it is not taken for idle.
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
#include "runtime/context.h"

#define DEFAULT_IO_DEPTH    256
#define DEFAULT_MAX_THREADS 16
#define TURNS_A_COUNT       64
#define NEVER_NS            ((int64_t)-1)

/* ---- the thread's context ---- */

static __thread AioContext *current_context;

/* Never inlined: a coroutine may go on in another thread, and must not keep the variable's address
 * of the first. */
__attribute__((noinline)) AioContext *aio_context_current(void)
{
    __asm__ volatile("");
    return current_context;
}

__attribute__((noinline)) void aio_context_set_current(AioContext *ctx)
{
    __asm__ volatile("");
    assert(!current_context || !ctx);
    current_context = ctx;
}

/* ---- notifications ---- */

/* Another context's counters have another writer, so the sender counts what it paid, in its own. */
static void count_ring(const AioContext *receiver, bool sent)
{
    AioContext *sender = aio_context_current();

    if (sender && sender != receiver) {
        struct aio_counters *counters = sender->instruments.counters;

        counter_add(sent ? &counters->rings_sent : &counters->rings_saved, 1);
    }
}

void aio_notify(AioContext *ctx)
{
    count_ring(ctx, doorbell_ring(&ctx->bell));
}

void context_nudge(AioContext *ctx)
{
    if (doorbell_nudge(&ctx->bell))
        count_ring(ctx, true);
}

static void on_doorbell(void *opaque)
{
    AioContext *ctx = opaque;

    doorbell_drain_fd(&ctx->bell);
}

/* ---- sources ---- */

void aio_add_source(AioContext *ctx, struct aio_source *source)
{
    struct aio_source **link = &ctx->sources;

    assert(ctx->sources_visited == 0);
    while (*link)
        link = &(*link)->next;
    source->next = NULL;
    *link = source;
}

void aio_remove_source(AioContext *ctx, struct aio_source *source)
{
    struct aio_source **link = &ctx->sources;

    assert(ctx->sources_visited == 0);
    while (*link != source) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = source->next;
}

static bool sources_pending(AioContext *ctx)
{
    bool pending = false;

    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s && !pending; s = s->next)
        pending = s->pending(s->opaque);
    ctx->sources_visited--;
    return pending;
}

static bool sources_dispatch(AioContext *ctx)
{
    bool progress = false;

    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s; s = s->next)
        progress |= s->dispatch(s->opaque);
    ctx->sources_visited--;
    return progress;
}

/* Hands deferred disk requests to the kernel and rings whom the sources pushed to. */
static void aio_flush(AioContext *ctx)
{
    ctx->engine->flush(ctx);
    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s; s = s->next)
        s->flush(s->opaque);
    ctx->sources_visited--;
}

/* ---- a turn ---- */

static void check_home(AioContext *ctx)
{
    if (!ctx->has_home) {
        ctx->has_home = true;
        ctx->home = pthread_self();
    }
    assert(pthread_equal(ctx->home, pthread_self()));
}

static int64_t earlier_ns(int64_t a, int64_t b)
{
    return (uint64_t)a < (uint64_t)b ? a : b; /* NEVER_NS is the greatest */
}

int64_t aio_compute_timeout(AioContext *ctx)
{
    if (ctx->ready || context_has_completions(ctx))
        return 0;
    int64_t timeout_ns = bh_timeout_ns(ctx);

    return timeout_ns == 0 ? 0 : earlier_ns(timeout_ns, timers_timeout_ns(ctx));
}

static void monitor_wait(AioContext *ctx, int64_t timeout_ns)
{
    int r = ctx->monitor->wait(ctx, timeout_ns);

    if (r < 0)
        bug("%s can't wait: %s", ctx->monitor->name, strerrordesc_np(-r));
}

static void count_busy(AioContext *ctx, int64_t now_ns)
{
    counter_add(&ctx->instruments.counters->busy_ns, (uint64_t)(now_ns - ctx->counted_ns));
    ctx->counted_ns = now_ns;
}

static void count_awake(AioContext *ctx, int64_t now_ns)
{
    struct aio_counters *counters = ctx->instruments.counters;
    uint64_t awake_ns = (uint64_t)(now_ns - ctx->awake_since_ns);

    count_busy(ctx, now_ns);
    if (awake_ns > counters->longest_turn_ns)
        counter_set(&counters->longest_turn_ns, awake_ns);
}

static void blocking_wait(AioContext *ctx, int64_t timeout_ns)
{
    const struct aio_instruments *in = &ctx->instruments;
    int64_t begin_ns = aio_clock_ns();

    counter_add(&in->counters->sleeps, 1);
    count_awake(ctx, begin_ns);
    recorder_note_at(in, (uint64_t)begin_ns, RECORDER_SLEEP, (uint64_t)timeout_ns, 0);

    monitor_wait(ctx, timeout_ns);

    int64_t end_ns = aio_clock_ns();

    ctx->awake_since_ns = ctx->counted_ns = end_ns;
    recorder_note_at(in, (uint64_t)end_ns, RECORDER_WAKE, (uint64_t)(end_ns - begin_ns), 0);
}

static void wait_for_events(AioContext *ctx, bool blocking)
{
    bool may_block = blocking && aio_compute_timeout(ctx) != 0;
    int64_t timeout_ns = 0;

    if (may_block) {
        aio_flush(ctx);
        if (doorbell_prepare_sleep(&ctx->bell) && !sources_pending(ctx))
            timeout_ns = aio_compute_timeout(ctx);
    }
    if (timeout_ns != 0)
        blocking_wait(ctx, timeout_ns);
    else if (ctx->monitor->need_wait(ctx))
        monitor_wait(ctx, 0);
    if (may_block)
        doorbell_end_sleep(&ctx->bell);
    doorbell_accept(&ctx->bell);
}

bool aio_poll(AioContext *ctx, bool blocking)
{
    check_home(ctx);
    assert(!in_coroutine()); /* it would run others on a stack that is not the loop's */
    ctx->nesting++;
    counter_add(&ctx->instruments.counters->polls, 1);
    if (ctx->instruments.counters->polls % TURNS_A_COUNT == 0)
        count_busy(ctx, aio_clock_ns());
    wait_for_events(ctx, blocking);

    bool progress = disk_dispatch_completed(ctx);
    progress |= aio_sqe_dispatch(ctx);
    progress |= sources_dispatch(ctx);
    aio_flush(ctx);
    progress |= bh_poll(ctx);
    aio_flush(ctx);
    progress |= handlers_dispatch(ctx);
    aio_flush(ctx);

    /* The outermost turn: no frame holds a handler any more. */
    if (--ctx->nesting == 0)
        handlers_free_deleted(ctx);
    progress |= timers_run(ctx);
    aio_flush(ctx);
    return progress;
}

/* ---- engines ---- */

static int setup_io_uring(AioContext *ctx)
{
    return fdmon_uring_setup(ctx);
}

static int setup_linux_aio(AioContext *ctx)
{
    int r = fdmon_epoll_setup(ctx);

    return r < 0 ? r : engine_linux_aio_setup(ctx, ctx->io_depth);
}

static int setup_threads(AioContext *ctx)
{
    int r = fdmon_epoll_setup(ctx);

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

static int choose_engine(AioContext *ctx, enum aio_engine engine)
{
    int r = -EINVAL;

    for (size_t i = 0; i < N_ENGINE_CHOICES; i++) {
        const struct engine_choice *choice = &engine_choices[i];

        if (engine != AIO_ENGINE_AUTO && engine != choice->engine)
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

static int setup_instruments(AioContext *ctx, const struct aio_instruments *instruments)
{
    if (instruments) {
        ctx->instruments = *instruments;
        return 0;
    }
    return instruments_alloc(&ctx->instruments, &ctx->own_instruments);
}

static AioContext *context_alloc(const struct aio_config *config)
{
    AioContext *ctx = calloc(1, sizeof *ctx);

    if (!ctx)
        return NULL;
    ctx->refs = 1;
    ctx->bell.fd = -1;
    pthread_mutex_init(&ctx->handler_lock, NULL);
    timers_init(ctx);
    ctx->bh_taken_last = &ctx->bh_taken;
    ctx->ready_last = &ctx->ready;
    ctx->io_depth = config->io_depth ? config->io_depth : DEFAULT_IO_DEPTH;
    ctx->max_threads = config->max_threads ? config->max_threads : DEFAULT_MAX_THREADS;
    disk_init(ctx);
    ctx->awake_since_ns = ctx->counted_ns = aio_clock_ns();
    return ctx;
}

/* Also of one half made. Workers go first, for they schedule bottom halves; the engine before the
 * monitor that watches its fd; what others left queued is looked at when no part can add to it. */
static void context_free(AioContext *ctx)
{
    assert(ctx->nesting == 0);
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
    pthread_mutex_destroy(&ctx->handler_lock);
    free(ctx->own_instruments);
    free(ctx);
}

int aio_context_new(const struct aio_config *config, AioContext **ret_ctx)
{
    static const struct aio_config defaults = {0};
    const struct aio_config *c = config ? config : &defaults;
    AioContext *ctx = context_alloc(c);

    if (!ctx)
        return -ENOMEM;
    int r = setup_instruments(ctx, c->instruments);

    if (r == 0)
        r = setup_bell(ctx, c->doorbell);
    if (r == 0)
        r = choose_engine(ctx, c->engine);
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
