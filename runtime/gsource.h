/* SPDX-License-Identifier: MIT */
#ifndef SHERD_GSOURCE_H
#define SHERD_GSOURCE_H
/*
 * gsource - a context inside a GLib main loop
 *
 * Why:         a program with a loop of GLib's (GTK, GStreamer, GDBus) has one already, and bottom
 *              halves, fds, timers, coroutines and disk I/O are to run in its thread too.
 * Use:         AioContext *ctx;
 *              int r = aio_context_new(NULL, &ctx);
 *              aio_context_set_current(ctx);
 *              GSource *source = aio_get_g_source(ctx);
 *              g_source_attach(source, NULL);
 *              g_source_unref(source);
 *              g_main_loop_run(loop);       instead of while (!done) aio_poll(ctx, true);
 *              aio_context_set_current(NULL);
 *              aio_context_unref(ctx);      takes the source off
 * Concurrency: the thread that iterates the GMainContext is the context's home. It may call
 *              aio_poll() too, in callbacks and in between. All that other threads may do to a
 *              context they may do to this one.
 * Lifetime:    the context owns the source and destroys it at its own end, whoever else has a
 *              reference. g_source_destroy() takes it off before.
 * Not here:    the library: link with sherd-glib (pkg-config), which is there where GLib was when
 *              Sherd was built
 *
 * The source costs GLib one fd, with the ppoll monitor one for each fd that is watched. GLib knows
 * timeouts in milliseconds: timers may come up to one late, never early. There is no adaptive
 * polling but in aio_poll(). Each context has one source; a GMainContext may have the sources of
 * several contexts, and aio_context_current() is the right one in the callbacks of each.
 */
#include <glib.h>

#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The context's source, with a reference for the caller. It needs no callback; priority and name
 * may be set. Call it before the context's first turn: a ring that can't wake GLib's poll is opened
 * anew for it, which needs one without requests under way and without registered files or buffers.
 * NULL and errno: EBUSY for that; ENOMEM, EMFILE. Context: owner loop, or before its first turn.
 */
GSource *aio_get_g_source(AioContext *ctx);

#ifdef __cplusplus
}
#endif
#endif
