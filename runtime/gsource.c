/* SPDX-License-Identifier: MIT */
#include "runtime/gsource.h"
/*
 * A turn of aio_poll(), in GLib's three steps:
 *
 *   prepare   flush; raise notify_me; look at everything; submit; tell GLib fds and timeout
 *   (GLib waits)
 *   check     lower notify_me; accept; collect; look whether there is something to run
 *   dispatch  run it
 *
 * GLib leaves steps out. A prepare that finds something has no check: it lowers notify_me itself,
 * for nobody will sleep, and dispatch collects. Where a source of a higher priority is ready there
 * may be neither: notify_me stays raised, which costs senders a write, until the next check. So its
 * part of notify_me is a bit and no count. And what check has found may have to wait for its
 * dispatch: it stays in the context's queues, where the next prepare sees it.
 *
 * An idle bottom half asks for a turn within a while that begins with each look, so who looks often
 * would put it off: the earliest moment that a prepare was told stays until the next dispatch.
 *
 * The monitor decides which fds GLib polls. That one of them is ready says only that the monitor
 * should look: what it then reports is its own.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/context.h"
#include "runtime/probe.h"

struct context_source {
    GSource source; /* first: GLib's functions get a pointer to it */
    AioContext *ctx;

    /* The fds that GLib polls for it. */
    GArray *tags;
    const struct fdmon_ops *monitor; /* whose they are */
    uint32_t generation;

    int64_t
        due_ns; /* when there is something to run, as the prepares since the last dispatch knew */
    bool collected; /* since the last prepare */
    bool sleeps;
    int64_t asleep_since_ns;
};

static struct context_source *of(GSource *source)
{
    return (struct context_source *)source;
}

/* ---- what GLib polls ---- */

static void drop_fds(struct context_source *s)
{
    for (guint i = 0; i < s->tags->len; i++)
        g_source_remove_unix_fd(&s->source, g_array_index(s->tags, gpointer, i));
    g_array_set_size(s->tags, 0);
}

static void add_fds(struct context_source *s, const struct fdmon_fds *fds)
{
    for (uint32_t i = 0; i < fds->n; i++) {
        gpointer tag =
            g_source_add_unix_fd(&s->source, fds->fds[i].fd, (GIOCondition)fds->fds[i].events);

        g_array_append_val(s->tags, tag);
    }
}

/* Ns that GLib may wait for the fds. */
static int64_t take_over_fds(struct context_source *s)
{
    AioContext *ctx = s->ctx;
    struct fdmon_fds fds;
    int64_t timeout_ns = ctx->monitor->outer_prepare(ctx, &fds);

    if (ctx->monitor != s->monitor || fds.generation != s->generation) {
        drop_fds(s);
        add_fds(s, &fds);
        s->monitor = ctx->monitor;
        s->generation = fds.generation;
    }
    return timeout_ns;
}

static bool is_fd_ready(struct context_source *s)
{
    for (guint i = 0; i < s->tags->len; i++)
        if (g_source_query_unix_fd(&s->source, g_array_index(s->tags, gpointer, i)))
            return true;
    return false;
}

/* ---- GLib's three steps ---- */

/* Ns until a turn is due. */
static int64_t until_due_ns(struct context_source *s)
{
    int64_t timeout_ns = aio_compute_timeout(s->ctx);
    int64_t now_ns = aio_clock_ns();

    if (timeout_ns >= 0 && timeout_ns < s->due_ns - now_ns)
        s->due_ns = now_ns + timeout_ns;
    if (s->due_ns == INT64_MAX)
        return -1;
    return s->due_ns > now_ns ? s->due_ns - now_ns : 0;
}

/* Ns until there is something to run, as far as anybody knows. */
static int64_t look(struct context_source *s)
{
    AioContext *ctx = s->ctx;
    int64_t timeout_ns = 0;

    if (doorbell_prepare_outer(&ctx->bell) && !poll_mode_leave(ctx) && !sources_pending(ctx) &&
        !sources_prepare(ctx))
        timeout_ns = until_due_ns(s);
    return timeout_min_ns(timeout_ns, take_over_fds(s));
}

static gint to_ms(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return -1;
    int64_t timeout_ms = timeout_ns / AIO_SCALE_MS + (timeout_ns % AIO_SCALE_MS != 0);

    return timeout_ms < INT_MAX ? (gint)timeout_ms : INT_MAX;
}

static gboolean prepare(GSource *source, gint *ret_timeout_ms)
{
    struct context_source *s = of(source);

    context_check_home(s->ctx);
    AioContext *outer = context_replace_turning(s->ctx); /* sources and io_poll are called */

    context_flush(s->ctx);
    s->collected = false;
    int64_t timeout_ns = look(s);

    context_replace_turning(outer);
    *ret_timeout_ms = to_ms(timeout_ns);
    if (timeout_ns == 0) {
        doorbell_end_outer(&s->ctx->bell);
    } else if (!s->sleeps) {
        s->sleeps = true;
        s->asleep_since_ns = context_sleep_begins(s->ctx, timeout_ns);
    }
    return timeout_ns == 0;
}

static void collect(struct context_source *s)
{
    AioContext *ctx = s->ctx;

    if (s->sleeps)
        context_sleep_ends(ctx, s->asleep_since_ns);
    s->sleeps = false;
    s->collected = true;
    doorbell_end_outer(&ctx->bell);
    doorbell_accept(&ctx->bell);
    int r = ctx->monitor->outer_check(ctx, ctx->monitor != s->monitor || is_fd_ready(s));

    if (r < 0)
        bug("%s can't look: %s", ctx->monitor->name, strerrordesc_np(-r));
}

static gboolean check(GSource *source)
{
    struct context_source *s = of(source);
    AioContext *outer = context_replace_turning(s->ctx);

    collect(s);
    bool is_due = until_due_ns(s) == 0 || sources_pending(s->ctx);

    context_replace_turning(outer);
    return is_due;
}

static gboolean dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    struct context_source *s = of(source);
    AioContext *ctx = s->ctx;

    s->due_ns = INT64_MAX;
    PROBE2(poll_begin, ctx, false);
    AioContext *outer = context_begin_turn(ctx);
    if (!s->collected)
        collect(s);
    bool progress = context_end_turn(ctx, outer);

    PROBE2(poll_end, ctx, progress);
    return G_SOURCE_CONTINUE;
}

/* ---- beginning and end ---- */

static void finalise(GSource *source)
{
    g_array_free(of(source)->tags, TRUE);
}

/* The context's end. */
static void free_source(void *opaque)
{
    GSource *source = opaque;

    g_source_destroy(source);
    g_source_unref(source);
}

static GSource *new_source(AioContext *ctx)
{
    static GSourceFuncs funcs = {
        .prepare = prepare, .check = check, .dispatch = dispatch, .finalize = finalise};
    GSource *source = g_source_new(&funcs, sizeof(struct context_source));

    of(source)->ctx = ctx;
    of(source)->due_ns = INT64_MAX;
    of(source)->tags = g_array_new(FALSE, FALSE, sizeof(gpointer));
    g_source_set_can_recurse(source, TRUE); /* as aio_poll() may be nested */
    g_source_set_static_name(source, "AioContext");
    return source;
}

GSource *aio_get_g_source(AioContext *ctx)
{
    if (!ctx->outer) {
        int r = ctx->monitor->outer_setup(ctx);

        if (r < 0) {
            errno = -r;
            return NULL;
        }
        ctx->outer = new_source(ctx);
        ctx->free_outer = free_source;
    }
    return g_source_ref(ctx->outer);
}
