/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * parts - the rest of a loop, for scenarios of bh.c, aio.c, co_mutex.c
 *
 * Why:         those files need a context and coroutines, but not fds, timers, disks and stacks.
 * Use:         begin():    parts_reset(); parts_context_init(&s.ctx);
 *              a thread:   aio_context_set_current(&s.ctx); while (…) aio_poll(&s.ctx, true);
 *              or:         parts_begin_coroutine(&s.ctx); co_mutex_lock(&s.mutex); …
 * Concurrency: one OS thread
 * Lifetime:    the context is the scenario's
 * Not here:    the kernel and the heap (world.c)
 */
#include "runtime/coroutine_inside.h"

void parts_reset(void);
void parts_context_init(AioContext *ctx);
void parts_begin_coroutine(AioContext *ctx);
