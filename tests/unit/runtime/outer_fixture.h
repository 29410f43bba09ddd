/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * outer_fixture - a context in a GLib main loop
 *
 * Use:  struct outer outer;
 *       outer_init(&outer, loop);      the source of loop->ctx in a main context of its own
 *       turn_until(&outer, &done);     GLib's turns, none of aio_poll()'s
 *       outer_deinit(&outer);
 */
#include <fcntl.h>
#include <sched.h>

#include "runtime/gsource.h"
#include "tests/unit/runtime/event_fixture.h"

#define DEADLINE_MS 60000

struct outer {
    struct loop *loop;
    AioContext *ctx;
    GMainContext *main;
    GSource *deadline;
};

static inline gboolean fail_at_deadline(gpointer opaque)
{
    loop_fail_late(opaque);
    return G_SOURCE_REMOVE;
}

static inline void attach(AioContext *ctx, GMainContext *main)
{
    GSource *source = aio_get_g_source(ctx);

    assert_non_null(source);
    g_source_attach(source, main);
    g_source_unref(source);
}

static inline void outer_init(struct outer *outer, struct loop *loop)
{
    *outer = (struct outer){.loop = loop, .ctx = loop->ctx, .main = g_main_context_new()};
    outer->deadline = g_timeout_source_new(DEADLINE_MS);
    g_source_set_callback(outer->deadline, fail_at_deadline, NULL, NULL);
    g_source_attach(outer->deadline, outer->main);
    attach(outer->ctx, outer->main);
}

static inline void outer_deinit(struct outer *outer)
{
    GSource *source = aio_get_g_source(outer->ctx);

    g_source_destroy(source);
    g_source_unref(source);
    g_source_destroy(outer->deadline);
    g_source_unref(outer->deadline);
    g_main_context_unref(outer->main);
}

static inline void turn_until(struct outer *outer, const bool *done)
{
    while (!atomic_load_acquire(done))
        g_main_context_iteration(outer->main, TRUE);
}

static inline void turn_until_count(struct outer *outer, const unsigned *count, unsigned target)
{
    while (atomic_load_acquire(count) < target)
        g_main_context_iteration(outer->main, TRUE);
}

/* A file that is gone when its fd is closed. */
static inline int open_unnamed(void)
{
    char path[] = "/tmp/outer_fixture.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);

    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

static inline void event_open_watched(struct event *event, AioContext *ctx)
{
    event_open(event, ctx);
    watch(event);
}

/* ---- bottom halves from another thread ---- */

struct player {
    AioContext *ctx;
    unsigned n_scheduled;
    unsigned n_run;
};

#define N_ROUNDS 1000

static inline void answer(void *opaque)
{
    struct player *player = opaque;

    atomic_store_release(&player->n_run, player->n_run + 1);
}

/* Each time only when the last one has run, so that a wake-up that is lost is not made good. */
static inline void *schedule_again_and_again(void *opaque)
{
    struct player *player = opaque;

    for (unsigned i = 0; i < N_ROUNDS; i++) {
        while (atomic_load_acquire(&player->n_run) < i)
            sched_yield();
        if (i % 16 == 0)
            wait_for_sleep(player->ctx);
        assert_int_equal(aio_bh_schedule_oneshot(player->ctx, answer, player), 0);
    }
    return NULL;
}
