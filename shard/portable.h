/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * portable - coroutines that go on in other shards
 *
 * Why:         work goes to where its data is with its locals, instead of being cut into messages.
 * Use:         static void coroutine_fn visit(struct mesh *mesh, void *opaque)
 *              {
 *                  uint32_t first = *(const uint32_t *)opaque;
 *                  int r = shard_co_move(&mesh, first);
 *                  if (r < 0) …  still where it was
 *              }
 *              r = portable_start(mesh, visit, &first, "visit", NULL);
 * Concurrency: owner loop and its coroutines, on either side of a move
 * Lifetime:    a coroutine ends with its function, or with the shard that runs it or in which it
 *              waits. On its way it outlives both ends.
 * Not here:    what it may hold while it moves (docs/portable.md), memory for it
 *              (shard/shard_alloc.h), methods that move (shard/service.h)
 *
 * A struct mesh is of one process: each function that may move takes the address of the pointer,
 * and stores the one of where it is now. A pointer kept elsewhere is wrong afterwards.
 */
#include "runtime/coroutine.h"
#include "shard/arena.h"
#include "shard/mesh.h"

typedef void portable_fn(struct mesh *mesh, void *opaque); /* coroutine_fn */

/* Makes one and runs it until it first waits, or ends; opaque need not be valid any longer. name is
 * a constant. ret_co may be NULL. 0; -EAGAIN: all of the instance's are in use. Context: owner loop
 * | coroutine. */
int portable_start(
    struct mesh *mesh, portable_fn *run, void *opaque, const char *name, arena_co *ret_co);

/*
 * The running portable coroutine goes on in shard target. 0: it is there; it was there already.
 * Else it goes on where it was: -ENODEV: no such shard. -EHOSTDOWN: that one is given up, maybe
 * while this was on its way; or the supervisor is gone. -EBUSY: it holds what is of this shard;
 * shard_co_holds() says what. -EFAULT: the scan is to refuse what has a pointer into this shard's
 * own memory (docs/portable.md), and the log says where. -ENOTSUP: a sanitizer can't follow.
 * -ENOMEM. *mesh is right in any case.
 */
int coroutine_fn shard_co_move(struct mesh **mesh, uint32_t target);

/* Waits for shard_co_wake(); one that came before ends it at once. Where shard_co_schedule() wakes
 * it, it goes on in that shard. 0; errors as shard_co_move(). */
int coroutine_fn shard_co_wait(struct mesh **mesh, const char *why);

/* Wakes a coroutine in whatever shard it waits, or lets its next wait end at once; wakes that come
 * together are one. 0; -ESRCH: it has ended; -ENOMEM. Context: owner loop | coroutine. */
int shard_co_wake(struct mesh *mesh, arena_co co);

/* The same, but it goes on in shard target; where it does not wait yet, it goes on where it is. 0,
 * -ESRCH, -ENODEV, -EHOSTDOWN, -ENOMEM. */
int shard_co_schedule(struct mesh *mesh, arena_co co, uint32_t target);

/* The running portable coroutine; 0: what runs is none. */
arena_co shard_co_self(void);

/* Lets others run. Then, where portable coroutines of this shard wait for their turn and another
 * shard sleeps, goes on in that one (docs/portable.md); so what computes for long spreads over the
 * shards. 0; errors as shard_co_move(), and it goes on where it was. */
int coroutine_fn shard_co_yield(struct mesh **mesh);

/* The word at this address, of its stack or of its memory, is known to look like a pointer into
 * this process, and is harmless: the scan passes over it until it is unmarked, or the coroutine
 * ends. 0; -ENOSPC: PORTABLE_MARKS words are marked. Unmarking one that is not marked does
 * nothing. */
#define PORTABLE_MARKS 8
int coroutine_fn shard_co_mark(const void *word);
void coroutine_fn shard_co_unmark(const void *word);

/* Why the running one can't move now; NULL: it can. */
const char *coroutine_fn shard_co_holds(void);
